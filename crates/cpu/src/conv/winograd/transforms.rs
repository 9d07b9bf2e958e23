//! The transforms of Winograd's F(4×4, 3×3), for a vector of channels at a time.
//!
//! With interpolation at 0, ±1, ±2 and infinity (Lavin & Gray, "Fast algorithms for convolutional neural networks", 2015)
//! a tile of 4×4 outputs takes 36 products instead of 144. Each two-dimensional transform applies a one-dimensional one to all
//! columns, then to all rows.

use crate::gemm::simd::Simd;
#[cfg(target_arch = "x86_64")]
use crate::gemm::simd::{avx2::F32x8, avx512::F32x16};

/// Points of a transformed tile.
pub(super) const POINTS: usize = 36;

/// A matrix of vectors: element `[i][j]` is at `start + i * row + j * column`.
#[derive(Clone, Copy)]
pub(super) struct Grid<P> {
    pub start: P,
    pub row: usize,
    pub column: usize,
}

#[inline(always)]
unsafe fn number<V: Simd<T = f32>>(x: f32) -> V {
    // SAFETY: the caller's promise that the CPU has V's instructions.
    unsafe { V::splat(x) }
}

/// `a + f * b`
#[inline(always)]
unsafe fn add<V: Simd<T = f32>>(a: V, f: f32, b: V) -> V {
    // SAFETY: as above.
    unsafe { number::<V>(f).fma(b, a) }
}

#[inline(always)]
unsafe fn scaled<V: Simd<T = f32>>(f: f32, a: V) -> V {
    // SAFETY: as above.
    unsafe { number::<V>(f).fma(a, V::zero()) }
}

/// Transforms six pixels to six points.
#[inline(always)]
unsafe fn input<V: Simd<T = f32>>(d: [V; 6]) -> [V; 6] {
    // SAFETY: as above.
    unsafe {
        let (a, b) = (add(d[4], -4.0, d[2]), add(d[3], -4.0, d[1]));
        let (c, e) = (add(d[4], -1.0, d[2]), add(d[3], -1.0, d[1]));
        [
            add(add(d[4], -5.0, d[2]), 4.0, d[0]),
            a.add(b),
            add(a, -1.0, b),
            add(c, 2.0, e),
            add(c, -2.0, e),
            add(add(d[5], -5.0, d[3]), 4.0, d[1]),
        ]
    }
}

/// Transforms three taps to six points.
#[inline(always)]
unsafe fn filter<V: Simd<T = f32>>(g: [V; 3]) -> [V; 6] {
    // SAFETY: as above.
    unsafe {
        let a = scaled(-1.0 / 6.0, g[0].add(g[2]));
        let b = add(scaled(1.0 / 24.0, g[0]), 1.0 / 6.0, g[2]);
        [
            scaled(0.25, g[0]),
            add(a, -1.0 / 6.0, g[1]),
            add(a, 1.0 / 6.0, g[1]),
            add(b, 1.0 / 12.0, g[1]),
            add(b, -1.0 / 12.0, g[1]),
            g[2],
        ]
    }
}

/// Transforms six points to four pixels.
#[inline(always)]
unsafe fn output<V: Simd<T = f32>>(m: [V; 6]) -> [V; 4] {
    // SAFETY: as above.
    unsafe {
        let (a, b) = (m[1].add(m[2]), add(m[1], -1.0, m[2]));
        let (c, d) = (m[3].add(m[4]), add(m[3], -1.0, m[4]));
        [m[0].add(a).add(c), add(b, 2.0, d), add(a, 4.0, c), add(b, 8.0, d).add(m[5])]
    }
}

/// The transpose of [`output`]: four pixels of a gradient to six points.
#[inline(always)]
unsafe fn gradient<V: Simd<T = f32>>(y: [V; 4]) -> [V; 6] {
    // SAFETY: as above.
    unsafe {
        let (a, b) = (y[0].add(y[2]), y[1].add(y[3]));
        let (c, d) = (add(y[0], 4.0, y[2]), add(y[1], 4.0, y[3]));
        [y[0], a.add(b), add(a, -1.0, b), add(c, 2.0, d), add(c, -2.0, d), y[3]]
    }
}

/// The transpose of [`filter`]: six points to the gradients of three taps.
#[inline(always)]
unsafe fn taps<V: Simd<T = f32>>(m: [V; 6]) -> [V; 3] {
    // SAFETY: as above.
    unsafe {
        let (a, b) = (m[1].add(m[2]), add(m[2], -1.0, m[1]));
        let (c, d) = (m[3].add(m[4]), add(m[3], -1.0, m[4]));
        [
            add(add(scaled(0.25, m[0]), -1.0 / 6.0, a), 1.0 / 24.0, c),
            add(scaled(1.0 / 6.0, b), 1.0 / 12.0, d),
            add(add(m[5], -1.0 / 6.0, a), 1.0 / 6.0, c),
        ]
    }
}

/// Reads `I`×`I` vectors, transforms columns and rows, and stores `O`×`O` vectors.
///
/// # Safety
/// The grids are readable and writable, and the CPU has V's instructions.
#[inline(always)]
unsafe fn square<V: Simd<T = f32>, const I: usize, const O: usize>(
    from: Grid<*const f32>,
    to: Grid<*mut f32>,
    line: impl Fn([V; I]) -> [V; O],
    last: impl Fn(V) -> V,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut half = [[V::zero(); I]; O];
        for j in 0..I {
            let mut column = [V::zero(); I];
            for (i, value) in column.iter_mut().enumerate() {
                *value = V::load(from.start.add(i * from.row + j * from.column));
            }
            for (row, value) in half.iter_mut().zip(line(column)) {
                row[j] = value;
            }
        }
        for (i, row) in half.into_iter().enumerate() {
            for (j, value) in line(row).into_iter().enumerate() {
                last(value).store(to.start.add(i * to.row + j * to.column));
            }
        }
    }
}

type Plain = unsafe fn(Grid<*const f32>, Grid<*mut f32>);

/// All transforms for one instruction set, on vectors of as many channels as the matrix kernels have lanes.
pub(super) struct Transforms {
    pub input: Plain,
    pub filter: Plain,
    pub gradient: Plain,
    pub taps: Plain,
    /// Takes a vector to add, and whether ReLU follows.
    pub output: unsafe fn(Grid<*const f32>, Grid<*mut f32>, *const f32, bool),
}

macro_rules! transforms {
    ($(#[$attr:meta])* $module:ident $v:ty) => {
        mod $module {
            use super::*;
            $(#[$attr])*
            unsafe fn input(from: Grid<*const f32>, to: Grid<*mut f32>) {
                // SAFETY: the caller's promise.
                unsafe { square::<$v, 6, 6>(from, to, |d| super::input(d), |x| x) }
            }
            $(#[$attr])*
            unsafe fn filter(from: Grid<*const f32>, to: Grid<*mut f32>) {
                // SAFETY: the caller's promise.
                unsafe { square::<$v, 3, 6>(from, to, |d| super::filter(d), |x| x) }
            }
            $(#[$attr])*
            unsafe fn gradient(from: Grid<*const f32>, to: Grid<*mut f32>) {
                // SAFETY: the caller's promise.
                unsafe { square::<$v, 4, 6>(from, to, |d| super::gradient(d), |x| x) }
            }
            $(#[$attr])*
            unsafe fn taps(from: Grid<*const f32>, to: Grid<*mut f32>) {
                // SAFETY: the caller's promise.
                unsafe { square::<$v, 6, 3>(from, to, |d| super::taps(d), |x| x) }
            }
            $(#[$attr])*
            unsafe fn output(from: Grid<*const f32>, to: Grid<*mut f32>, bias: *const f32, relu: bool) {
                // SAFETY: the caller's promise.
                unsafe {
                    let bias = <$v>::load(bias);
                    let last = |x: $v| if relu { x.add(bias).relu() } else { x.add(bias) };
                    square::<$v, 6, 4>(from, to, |d| super::output(d), last)
                }
            }
            pub(super) static ALL: Transforms = Transforms { input, filter, gradient, taps, output };
        }
    };
}
#[cfg(target_arch = "x86_64")]
transforms!(#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")] avx512 F32x16);
#[cfg(target_arch = "x86_64")]
transforms!(#[target_feature(enable = "avx2,fma")] avx2 F32x8);
transforms!(portable crate::gemm::simd::plain::Plain<f32, 4>);

/// The transforms for a matrix kernel with this many lanes: their instructions are available if the kernel's are.
pub(super) fn transforms(lanes: usize) -> &'static Transforms {
    match lanes {
        #[cfg(target_arch = "x86_64")]
        16 => &avx512::ALL,
        #[cfg(target_arch = "x86_64")]
        8 => &avx2::ALL,
        _ => &portable::ALL,
    }
}

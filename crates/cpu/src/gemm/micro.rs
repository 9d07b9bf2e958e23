//! The register-tiled inner kernel, and the table of kernels per instruction set.
//!
//! One call computes a tile of `rows x (NV * L)` products in registers: for every step of `k`
//! it loads `NV` vectors of the *lane side* (normally rows of B) and multiplies them with one
//! broadcast element per row of the *broadcast side* (normally A). With 14 rows and two
//! AVX-512 vectors that is 28 accumulators, 28 FMAs and only 16 loads per step.
//!
//! Every element is one chain of FMAs in ascending `k`, whichever kernel variant computes it;
//! that is what makes results independent of tiling and of the number of threads.

use super::dots::{Dots, dots_block};
use super::simd::{Simd, prefetch};
use super::slide::{Slide, slide_tile};
use core::any::TypeId;

/// Arguments of one micro-kernel call.
pub(crate) struct Micro<T> {
    /// Steps of `k`; any number.
    pub k: usize,
    /// Rows of the tile, `1..=Kernel::mr`.
    pub rows: usize,
    /// Vectors per row of the tile, 1 or 2.
    pub nv: usize,
    /// Packed broadcast side: `a_kmajor`: element (row, k) at `k * rows + row`,
    /// otherwise at `row * Kernel::lda + k`.
    pub a: *const T,
    pub a_kmajor: bool,
    /// Lane side: `nv * L` readable elements per step, steps `b_rs` apart.
    pub b: *const T,
    pub b_rs: isize,
    /// How many elements ahead the lane side is prefetched.
    pub b_ahead: isize,
    /// If not null: the lane side is also copied here, `nv * L` elements per step.
    pub b_copy: *mut T,
    /// Tile of the result; lanes are contiguous, rows `c_rs` apart, `cols` lanes valid.
    pub c: *mut T,
    pub c_rs: isize,
    pub cols: usize,
    /// Add to what is in C (true) or overwrite it.
    pub load_c: bool,
    /// Null, or a value to add per lane (`cols` readable elements).
    pub bias: *const T,
    pub relu: bool,
}

/// Arguments of the kernel that moves a finished scratch tile to a C whose *rows* of the tile
/// are contiguous, i.e. that stores it transposed.
pub(crate) struct Transposed<T> {
    /// The tile, rows `ld` apart; readable up to a multiple of `L` rows and of `Q` columns.
    pub tile: *const T,
    pub ld: usize,
    pub rows: usize,
    pub cols: usize,
    /// Element (row, col) goes to `c + row + col * c_cs`.
    pub c: *mut T,
    pub c_cs: isize,
    pub load_c: bool,
    /// Null, or a value to add per row of the tile.
    pub bias: *const T,
    pub relu: bool,
}

/// Arguments of the packing kernel for the lane side.
pub(crate) struct PackLanes<T> {
    /// Element (k, lane) at `src + k * k_stride + lane * lane_stride`; one of the two
    /// strides is 1.
    pub src: *const T,
    pub k: usize,
    pub lanes: usize,
    pub k_stride: isize,
    pub lane_stride: isize,
    /// The lanes are cut into panels `panel` wide (but for the last, which is `last` wide);
    /// element (k, j) of the panel starting at lane `l` goes to `dst + l * k_all + k * width + j`.
    /// Lanes of the last panel that do not exist become 0.
    pub dst: *mut T,
    pub panel: usize,
    pub last: usize,
}

/// All code and sizes for one element type on one instruction set.
pub(crate) struct Kernel<T> {
    /// For messages of the tests.
    #[cfg_attr(not(test), allow(dead_code))]
    pub name: &'static str,
    /// Most rows of a tile.
    pub mr: usize,
    /// Lanes of a vector; a tile is two vectors wide.
    pub lanes: usize,
    /// Most steps of `k` per block: the packed broadcast side of a tile (`mr x kc`) takes
    /// about two thirds of L1.
    pub kc: usize,
    /// Row stride of the packed broadcast side: a little more than `kc` and an odd multiple
    /// of a cache line or two, so that rows do not fall into the same L1 sets.
    pub lda: usize,
    /// Most columns per block: the packed lane side (`kc x nc`) takes about half of L2.
    pub nc: usize,
    pub micro: unsafe fn(&Micro<T>),
    pub store_transposed: unsafe fn(&Transposed<T>),
    pub pack_lanes: unsafe fn(&PackLanes<T>),
    pub dots: unsafe fn(&mut Dots<T>),
    /// Rows of a tile that there is a `slide` for, most first; the last is 1.
    pub slides: &'static [usize],
    pub slide: unsafe fn(&Slide<T>),
}

/// Repeats `$body` with `$i` = 0, 1, ... while `$i < $n`, as straight-line code. A plain loop over the accumulators is
/// not reliably unrolled before LLVM decides what lives in registers. `rows` makes 14 copies, `few` 4: the copies
/// that are not needed vanish, but late, and loops within loops multiply, so `few` serves wherever it suffices.
macro_rules! unroll {
    ($i:ident < $n:expr, rows, $body:block) => {
        unroll!(@ $i $n, 14, $body; 0 1 2 3 4 5 6 7 8 9 10 11 12 13)
    };
    ($i:ident < $n:expr, few, $body:block) => {
        unroll!(@ $i $n, 4, $body; 0 1 2 3)
    };
    (@ $i:ident $n:expr, $most:literal, $body:block; $($x:literal)*) => {
        $( if const { assert!($n <= $most); $x < $n } { let $i: usize = $x; $body } )*
    };
}

pub(super) use unroll;

/// The tile kernel. `KM`: the broadcast side is k-major. `COPY`: write the lane side to
/// `b_copy` on the way, which packs it for the following tiles at almost no cost. `finish` is [`finish_tile`] for `V`.
///
/// # Safety
/// As documented at [`Micro`], and `V`'s instruction set must be available.
#[inline(always)]
unsafe fn tile<V: Simd, const MR: usize, const NV: usize, const LDA: usize, const KM: bool, const COPY: bool>(
    m: &Micro<V::T>,
    finish: unsafe fn(&Micro<V::T>, *const V),
) {
    // SAFETY: all pointers are used within the extents that `Micro` promises.
    unsafe {
        let mut acc = [[V::zero(); NV]; MR];
        let (mut a, mut b, mut copy) = (m.a, m.b, m.b_copy);
        let (step_a, row_a) = if KM { (MR, 1) } else { (1, LDA) };
        // The tile of C is needed at the end; fetching it now hides the way to memory. With few
        // steps there is nothing to hide behind.
        if m.k >= 32 {
            for i in 0..MR {
                let c = m.c.offset(i as isize * m.c_rs);
                prefetch(c);
                if NV == 2 {
                    prefetch(c.wrapping_add(V::L));
                    prefetch(c.wrapping_add(2 * V::L - 1));
                }
            }
        }
        macro_rules! step {
            () => {{
                let mut bv = [V::zero(); NV];
                for v in 0..NV {
                    bv[v] = V::load(b.add(v * V::L));
                    prefetch(b.wrapping_offset(m.b_ahead).wrapping_add(v * V::L));
                    if COPY {
                        bv[v].store(copy.add(v * V::L));
                    }
                }
                unroll!(i < MR, rows, {
                    let x = V::splat(*a.add(i * row_a));
                    for v in 0..NV {
                        acc[i][v] = x.fma(bv[v], acc[i][v]);
                    }
                });
                b = b.offset(m.b_rs);
                if COPY {
                    copy = copy.add(NV * V::L);
                }
            }};
        }
        // Not unrolled: a step has enough independent products, and the code of all variants together would be
        // several times as large.
        for _ in 0..m.k {
            step!();
            a = a.add(step_a);
        }
        let _ = (b, copy);
        // Unrolled are only the two ends that most tiles have.
        let whole = m.cols >= NV * V::L && m.bias.is_null() && !m.relu;
        if whole && m.load_c {
            unroll!(i < MR, rows, {
                let c = m.c.offset(i as isize * m.c_rs);
                for v in 0..NV {
                    acc[i][v].add(V::load(c.add(v * V::L))).store(c.add(v * V::L));
                }
            });
        } else if whole {
            unroll!(i < MR, rows, {
                let c = m.c.offset(i as isize * m.c_rs);
                for v in 0..NV {
                    acc[i][v].store(c.add(v * V::L));
                }
            });
        } else {
            // A copy: were the address of the products themselves known elsewhere, they would not stay in registers.
            let products = acc;
            finish(m, products.as_ptr().cast());
        }
    }
}

/// The end of a tile that adds a bias, applies ReLU or is narrower than its vectors: `m.rows x m.nv` vectors of
/// products are at `products`.
///
/// # Safety
/// As documented at [`Micro`], and `V`'s instruction set must be available.
#[inline(always)]
unsafe fn finish_tile<V: Simd>(m: &Micro<V::T>, products: *const V) {
    // SAFETY: C is only touched in lanes that exist.
    unsafe {
        for v in 0..m.nv {
            let n = m.cols.saturating_sub(v * V::L).min(V::L);
            if n == 0 {
                break;
            }
            let bias = if m.bias.is_null() { V::zero() } else { V::load_n(m.bias.add(v * V::L), n) };
            for i in 0..m.rows {
                let c = m.c.offset(i as isize * m.c_rs).add(v * V::L);
                let mut x = *products.add(i * m.nv + v);
                if m.load_c {
                    x = x.add(if n == V::L { V::load(c) } else { V::load_n(c, n) });
                }
                if !m.bias.is_null() {
                    x = x.add(bias);
                }
                if m.relu {
                    x = x.relu();
                }
                if n == V::L { x.store(c) } else { x.store_n(c, n) }
            }
        }
    }
}

/// # Safety
/// As documented at [`Transposed`], and `V`'s instruction set must be available.
#[inline(always)]
unsafe fn store_transposed<V: Simd>(t: &Transposed<V::T>) {
    // SAFETY: the tile is readable in whole L x Q blocks; C is only touched in valid lanes.
    unsafe {
        for i0 in (0..t.rows).step_by(V::L) {
            let n = (t.rows - i0).min(V::L);
            let bias = if t.bias.is_null() { V::zero() } else { V::load_n(t.bias.add(i0), n) };
            for j0 in (0..t.cols).step_by(V::Q) {
                let v = V::transpose(t.tile.add(i0 * t.ld + j0), t.ld as isize);
                for q in 0..V::Q.min(t.cols - j0) {
                    let c = t.c.offset((j0 + q) as isize * t.c_cs).add(i0);
                    let mut x = v[q];
                    if t.load_c {
                        x = x.add(V::load_n(c, n));
                    }
                    if !t.bias.is_null() {
                        x = x.add(bias);
                    }
                    if t.relu {
                        x = x.relu();
                    }
                    x.store_n(c, n);
                }
            }
        }
    }
}

/// How many rows ahead packing prefetches: rows far apart, which the hardware prefetcher does not follow.
const ROWS_AHEAD: isize = 16;

/// # Safety
/// As documented at [`PackLanes`], and `V`'s instruction set must be available.
#[inline(always)]
unsafe fn pack_lanes<V: Simd>(p: &PackLanes<V::T>) {
    // SAFETY: reads stay within k x lanes of the source, writes within the panels.
    unsafe {
        let width = |l: usize| if l + p.panel < p.lanes { p.panel } else { p.last };
        if p.lane_stride == 1 {
            // Along the rows of the source, four at a time: whole cache lines and pages are
            // used up before the next, and the panels are still written in long runs.
            for k0 in (0..p.k).step_by(4) {
                for l in (0..p.lanes).step_by(p.panel) {
                    let w = width(l);
                    for kk in k0..p.k.min(k0 + 4) {
                        let s = p.src.offset(kk as isize * p.k_stride).add(l);
                        let d = p.dst.add(l * p.k + kk * w);
                        for j in (0..w).step_by(V::L) {
                            let n = p.lanes.saturating_sub(l + j).min(V::L);
                            let s = s.wrapping_add(j);
                            prefetch(s.wrapping_offset(ROWS_AHEAD * p.k_stride));
                            let x = if n == V::L { V::load(s) } else { V::load_n(s, n) };
                            if j + V::L <= w { x.store(d.add(j)) } else { x.store_n(d.add(j), w - j) }
                        }
                    }
                }
            }
            return;
        }
        for l in (0..p.lanes).step_by(V::L) {
            let start = l / p.panel * p.panel;
            let w = width(start);
            let n = (p.lanes - l).min(V::L);
            let s = p.src.offset(l as isize * p.lane_stride);
            let d = p.dst.add(start * p.k + (l - start));
            let mut kk = 0;
            while n == V::L && kk + V::Q <= p.k {
                let v = V::transpose(s.add(kk), p.lane_stride);
                for q in 0..V::Q {
                    v[q].store(d.add((kk + q) * w));
                }
                kk += V::Q;
            }
            while kk < p.k {
                V::zero().store(d.add(kk * w));
                for i in 0..n {
                    *d.add(kk * w + i) = *s.offset(i as isize * p.lane_stride).add(kk);
                }
                kk += 1;
            }
        }
    }
}

/// One row of function pointers per combination of (vectors, k-major, copy), indexed by
/// `rows - 1`; then the [`Kernel`] around it.
macro_rules! kernel {
    ($(#[$attr:meta])* $module:ident, $name:literal, $v:ty, $t:ty, lda $lda:literal, kc $kc:literal, nc $nc:literal,
     rows [$($r:literal)*], most $mr:literal, slides [$($s:literal)*]) => {
        pub(crate) mod $module {
            use super::*;
            $(#[$attr])*
            unsafe fn run<const MR: usize, const NV: usize, const KM: bool, const COPY: bool>(m: &Micro<$t>) {
                // SAFETY: forwarded from the caller.
                unsafe { tile::<$v, MR, NV, $lda, KM, COPY>(m, finish) }
            }
            $(#[$attr])*
            unsafe fn finish(m: &Micro<$t>, products: *const $v) {
                // SAFETY: forwarded from the caller.
                unsafe { finish_tile::<$v>(m, products) }
            }
            type Fun = unsafe fn(&Micro<$t>);
            static PLAIN1: [[Fun; $mr]; 2] = [[$(run::<$r, 1, false, false>),*], [$(run::<$r, 1, true, false>),*]];
            static PLAIN2: [[Fun; $mr]; 2] = [[$(run::<$r, 2, false, false>),*], [$(run::<$r, 2, true, false>),*]];
            static COPY2: [[Fun; $mr]; 2] = [[$(run::<$r, 2, false, true>),*], [$(run::<$r, 2, true, true>),*]];
            unsafe fn micro(m: &Micro<$t>) {
                debug_assert!(m.rows >= 1 && m.rows <= $mr && (m.nv == 1 || m.nv == 2));
                debug_assert!(m.b_copy.is_null() || m.nv == 2);
                let table = if m.nv == 1 { &PLAIN1 } else if m.b_copy.is_null() { &PLAIN2 } else { &COPY2 };
                // SAFETY: forwarded from the caller.
                unsafe { table[m.a_kmajor as usize][m.rows - 1](m) }
            }
            $(#[$attr])*
            unsafe fn transposed(t: &Transposed<$t>) {
                // SAFETY: forwarded from the caller.
                unsafe { store_transposed::<$v>(t) }
            }
            $(#[$attr])*
            unsafe fn pack(p: &PackLanes<$t>) {
                // SAFETY: forwarded from the caller.
                unsafe { pack_lanes::<$v>(p) }
            }
            $(#[$attr])*
            unsafe fn dots(d: &mut Dots<$t>) {
                // SAFETY: forwarded from the caller, the block size is that of the variant.
                unsafe {
                    match (d.rows, d.cols) {
                        (4, 4) => dots_block::<$v, 4, 4>(d),
                        (4, 2) => dots_block::<$v, 4, 2>(d),
                        (4, 1) => dots_block::<$v, 4, 1>(d),
                        (2, 4) => dots_block::<$v, 2, 4>(d),
                        (2, 2) => dots_block::<$v, 2, 2>(d),
                        (2, 1) => dots_block::<$v, 2, 1>(d),
                        (1, 4) => dots_block::<$v, 1, 4>(d),
                        (1, 2) => dots_block::<$v, 1, 2>(d),
                        _ => dots_block::<$v, 1, 1>(d),
                    }
                }
            }
            $(#[$attr])*
            unsafe fn slide(s: &Slide<$t>) {
                // SAFETY: forwarded from the caller, the rows are those of the variant.
                unsafe {
                    match s.rows {
                        $($s => slide_tile::<$v, $s>(s),)*
                        rows => debug_assert!(false, "a tile of {rows} rows"),
                    }
                }
            }
            pub(crate) static KERNEL: Kernel<$t> = Kernel {
                name: $name, mr: $mr, lanes: <$v as Simd>::L, kc: $kc, lda: $lda, nc: $nc,
                micro, store_transposed: transposed, pack_lanes: pack, dots,
                slides: &[$($s),*], slide,
            };
        }
    };
}

use super::simd::Plain;
#[cfg(target_arch = "x86_64")]
use super::simd::x86::{F32x8, F32x16, F64x4, F64x8};

#[cfg(target_arch = "x86_64")]
kernel!(#[target_feature(enable = "avx512f,avx512dq")] avx512_f32, "avx512", F32x16, f32,
    lda 528, kc 512, nc 416, rows [1 2 3 4 5 6 7 8 9 10 11 12 13 14], most 14, slides [8 6 4 2 1]);
#[cfg(target_arch = "x86_64")]
kernel!(#[target_feature(enable = "avx512f,avx512dq")] avx512_f64, "avx512", F64x8, f64,
    lda 216, kc 208, nc 384, rows [1 2 3 4 5 6 7 8 9 10 11 12 13 14], most 14, slides [8 6 4 2 1]);
#[cfg(target_arch = "x86_64")]
kernel!(#[target_feature(enable = "avx2,fma")] avx2_f32, "avx2", F32x8, f32,
    lda 400, kc 384, nc 192, rows [1 2 3 4 5 6], most 6, slides [6 4 2 1]);
#[cfg(target_arch = "x86_64")]
kernel!(#[target_feature(enable = "avx2,fma")] avx2_f64, "avx2", F64x4, f64,
    lda 264, kc 256, nc 128, rows [1 2 3 4 5 6], most 6, slides [6 4 2 1]);
kernel!(plain_f32, "portable", Plain<f32, 4>, f32, lda 400, kc 384, nc 128, rows [1 2 3 4], most 4, slides [4 2 1]);
kernel!(plain_f64, "portable", Plain<f64, 2>, f64, lda 264, kc 256, nc 96, rows [1 2 3 4], most 4, slides [4 2 1]);

/// The kernels this machine can run, best first.
pub(crate) fn available<T: 'static>() -> Vec<&'static Kernel<T>> {
    let mut all: Vec<&'static dyn core::any::Any> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq") {
            all.push(&avx512_f32::KERNEL);
            all.push(&avx512_f64::KERNEL);
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            all.push(&avx2_f32::KERNEL);
            all.push(&avx2_f64::KERNEL);
        }
    }
    all.push(&plain_f32::KERNEL);
    all.push(&plain_f64::KERNEL);
    debug_assert!(TypeId::of::<T>() == TypeId::of::<f32>() || TypeId::of::<T>() == TypeId::of::<f64>());
    all.into_iter().filter_map(|k| k.downcast_ref::<Kernel<T>>()).collect()
}

/// The best kernel this machine can run.
pub(crate) fn best<T: 'static>() -> &'static Kernel<T> {
    // There is a portable kernel for both float types, so the list is never empty.
    available::<T>()[0]
}

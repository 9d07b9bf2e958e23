//! Products of two matrices whose elements both lie contiguous along `k`, one of them with
//! few rows (columns): every result is a dot product of two contiguous vectors, and packing
//! either side would cost more than it saves.

use super::canon::Canon;
use super::micro::{Kernel, unroll};
use super::simd::{Simd, prefetch};

/// Arguments of the dot-product kernel: a `rows x cols` block (each at most 4) of dot products
/// of vectors that consist of `runs` contiguous pieces of length `k`.
pub(crate) struct Dots<T> {
    pub k: usize,
    pub runs: usize,
    pub rows: usize,
    pub cols: usize,
    /// The first piece of each vector; the next ones are `a_step` and `b_step` apart.
    pub a: [*const T; 4],
    pub a_step: usize,
    pub b: [*const T; 4],
    pub b_step: usize,
    pub out: [[T; 4]; 4],
}

/// How many elements ahead dot products prefetch. Each of the few streams is read exactly
/// once, at the speed of memory, which the hardware prefetcher alone does not reach.
const AHEAD: usize = 256;

/// # Safety
/// As documented at [`Dots`], and `V`'s instruction set must be available.
#[inline(always)]
pub(super) unsafe fn dots_block<V: Simd, const R: usize, const C: usize>(d: &mut Dots<V::T>) {
    // SAFETY: R = rows and C = cols vectors of length k are read.
    unsafe {
        let mut acc = [[V::zero(); C]; R];
        let (mut pa, mut pb) = ([d.a[0]; R], [d.b[0]; C]);
        pa.copy_from_slice(&d.a[..R]);
        pb.copy_from_slice(&d.b[..C]);
        for _ in 0..d.runs {
            let mut kk = 0;
            while kk + V::L <= d.k {
                let mut b = [V::zero(); C];
                for j in 0..C {
                    let p = pb[j].add(kk);
                    prefetch(p.wrapping_add(AHEAD));
                    b[j] = V::load(p);
                }
                unroll!(i < R, few, {
                    let p = pa[i].add(kk);
                    prefetch(p.wrapping_add(AHEAD));
                    let a = V::load(p);
                    for j in 0..C {
                        acc[i][j] = a.fma(b[j], acc[i][j]);
                    }
                });
                kk += V::L;
            }
            let n = d.k - kk;
            if n > 0 {
                let mut b = [V::zero(); C];
                for j in 0..C {
                    b[j] = V::load_n(pb[j].add(kk), n);
                }
                unroll!(i < R, few, {
                    let a = V::load_n(pa[i].add(kk), n);
                    for j in 0..C {
                        acc[i][j] = a.fma(b[j], acc[i][j]);
                    }
                });
            }
            pa.iter_mut().for_each(|p| *p = p.wrapping_add(d.a_step));
            pb.iter_mut().for_each(|p| *p = p.wrapping_add(d.b_step));
        }
        unroll!(i < R, few, {
            for j in 0..C {
                *d.out.as_mut_ptr().cast::<V::T>().add(i * 4 + j) = acc[i][j].sum();
            }
        });
    }
}

/// Most rows or columns of the smaller side.
const FEW: usize = 16;

/// Whether a product is better computed as dot products.
pub(crate) fn suits<T>(p: &Canon<T>) -> bool {
    p.a_k == 1 && p.b_k == 1 && p.rows.min(p.lanes) <= FEW && p.k >= 16
}

/// Computes rows `rows.0..rows.1` and lanes `lanes.0..lanes.1`.
///
/// # Safety
/// As for `drive::part`; and `suits` must hold.
pub(crate) unsafe fn part<T: super::source::Float>(
    p: &Canon<T>,
    kern: &Kernel<T>,
    rows: (usize, usize),
    lanes: (usize, usize),
) {
    // Blocks of 4, 2 or 1, for which there are kernels.
    let size = |left: usize| if left >= 4 { 4 } else { left.min(2) };
    // The small side is walked innermost: it stays in cache while the other streams by.
    let rows_inside = rows.1 - rows.0 <= lanes.1 - lanes.0;
    let (outer, inner) = if rows_inside { (lanes, rows) } else { (rows, lanes) };
    let mut o = outer.0;
    while o < outer.1 {
        let no = size(outer.1 - o);
        let mut i = inner.0;
        while i < inner.1 {
            let ni = size(inner.1 - i);
            let (r, nr, l, nl) = if rows_inside { (i, ni, o, no) } else { (o, no, i, ni) };
            // SAFETY: the block lies inside the product.
            unsafe {
                let mut d = Dots {
                    k: p.k,
                    runs: 1,
                    rows: nr,
                    cols: nl,
                    // Those behind the block are not read.
                    a: core::array::from_fn(|i| p.a.wrapping_offset((r + i) as isize * p.a_row)),
                    a_step: 0,
                    b: core::array::from_fn(|j| p.b.wrapping_offset((l + j) as isize * p.b_lane)),
                    b_step: 0,
                    out: [[T::ZERO; 4]; 4],
                };
                (kern.dots)(&mut d);
                for (i, row) in (r..r + nr).zip(&d.out) {
                    for (j, x) in (l..l + nl).zip(row) {
                        p.put(i, j, *x);
                    }
                }
            }
            i += ni;
        }
        o += no;
    }
}

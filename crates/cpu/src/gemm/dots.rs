//! Products of two matrices whose elements both lie contiguous along `k`, one of them with
//! few rows (columns): every result is a dot product of two contiguous vectors, and packing
//! either side would cost more than it saves.

use super::canon::Canon;
use super::micro::{Dots, Kernel};

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

//! Matrix products as dot products, if both operands are contiguous along `k` and one of them has few rows or columns:
//! packing either side would cost more than it saves.

use super::{
    kernel::{DotArgs, Kernel},
    problem::GemmProblem,
    source::Float,
};

/// Maximum number of rows or columns of the smaller side.
const FEW: usize = 16;

/// Whether a product is better computed as dot products.
pub(crate) fn suits<T>(p: &GemmProblem<T>) -> bool {
    p.a_k == 1 && p.b_k == 1 && p.rows.min(p.lanes) <= FEW && p.k >= 16
}

/// Computes rows `rows.0..rows.1` and lanes `lanes.0..lanes.1`.
///
/// # Safety
/// As for `blocked::part`; and `suits` must hold.
pub(crate) unsafe fn part<T: Float>(p: &GemmProblem<T>, kern: &Kernel<T>, rows: (usize, usize), lanes: (usize, usize)) {
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
                let mut d = DotArgs {
                    k: p.k,
                    runs: 1,
                    rows: nr,
                    cols: nl,
                    a: core::array::from_fn(|i| p.a.offset((r + i.min(nr - 1)) as isize * p.a_row)),
                    a_step: 0,
                    b: core::array::from_fn(|j| p.b.offset((l + j.min(nl - 1)) as isize * p.b_lane)),
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

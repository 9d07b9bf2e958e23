//! Products of matrices.

use kiln_backend::*;

use crate::support::*;

#[test]
fn products() {
    for dtype in [DType::I64, DType::I32, DType::U8] {
        same("integer matmul", |on| {
            let (a, b) =
                (tensor(on, dtype, &[2, 20, 33], Lie::Turned, 1), tensor(on, dtype, &[2, 33, 18], Lie::Dense, 2));
            let mut out = target(on, dtype, &[2, 20, 18], Lie::Sliced);
            on.matmul(a.view(), b.view(), out.view_mut())?;
            Ok(vec![out])
        });
    }
    for dtype in FLOATS {
        for (la, lb, lo) in [(0, 0, 0), (1, 0, 0), (0, 1, 1), (1, 1, 0), (2, 0, 2), (0, 2, 1)] {
            let (la, lb, lo) = (LIES[la], LIES[lb], LIES[lo]);
            same(&format!("matmul {la:?} {lb:?} {lo:?}"), |on| {
                let (a, b) = (tensor(on, dtype, &[3, 8, 16], la, 1), tensor(on, dtype, &[3, 16, 24], lb, 2));
                let mut out = target(on, dtype, &[3, 8, 24], lo);
                on.matmul(a.view(), b.view(), out.view_mut())?;
                Ok(vec![out])
            });
            for relu in [false, true] {
                same(&format!("linear {la:?} {lb:?} {lo:?} {relu}"), |on| {
                    let (x, w) = (tensor(on, dtype, &[8, 16], la, 1), tensor(on, dtype, &[24, 16], lb, 2));
                    let (bias, mut out) = (tensor(on, dtype, &[24], lo, 3), target(on, dtype, &[8, 24], lo));
                    on.linear(x.view(), w.view(), Some(bias.view()), relu, out.view_mut())?;
                    on.linear(x.view(), w.view(), None, relu, out.view_mut())?;
                    Ok(vec![out])
                });
            }
        }
    }
}

/// Long sums, for which the library takes memory aside, and shapes of one row or column.
#[test]
fn products_of_odd_shapes() {
    for dtype in FLOATS {
        for [m, k, n] in [[5, 300, 7], [1, 200, 33], [33, 1, 2], [1, 1, 1], [130, 257, 65]] {
            for lie in LIES {
                same(&format!("matmul {m} {k} {n} {lie:?}"), |on| {
                    let (a, b) = (tensor(on, dtype, &[m, k], lie, 1), tensor(on, dtype, &[k, n], Lie::Turned, 2));
                    let mut out = target(on, dtype, &[m, n], lie);
                    on.matmul(a.view(), b.view(), out.view_mut())?;
                    Ok(vec![out])
                });
            }
        }
    }
}

/// Plans are kept for so many shapes; with more, they are made anew.
#[test]
fn more_shapes_than_plans_are_kept() {
    same("many shapes", |on| {
        let (a, b) = (tensor(on, DType::F32, &[64, 3], Lie::Dense, 1), tensor(on, DType::F32, &[3, 65], Lie::Dense, 2));
        let mut out = target(on, DType::F32, &[64, 65], Lie::Dense);
        for m in 1..=64 {
            for n in 1..=65 {
                let (x, y) = (a.layout.slice(0, 0, m, 1), b.layout.slice(1, 0, n, 1));
                let (x, y) = (View { buffer: &*a.buffer, layout: &x }, View { buffer: &*b.buffer, layout: &y });
                let to = out.layout.slice(0, 0, m, 1).slice(1, 0, n, 1);
                on.matmul(x, y, ViewMut { buffer: &mut *out.buffer, layout: &to })?;
            }
        }
        Ok(vec![out])
    });
}

//! Reductions, softmax, sorting.

use kiln_backend::*;

use crate::support::*;

#[test]
fn reductions() {
    use ReduceOp as R;
    for dtype in FLOATS {
        for op in [R::Sum, R::Mean, R::Prod, R::Max, R::Min, R::Var { correction: 1.0 }, R::LogSumExp, R::Any, R::All] {
            for (dims, to) in [([5, 300], [5, 1]), ([300, 5], [1, 5]), ([40, 40], [1, 1]), ([3, 4], [3, 4])] {
                if op == R::Prod && dims[0] * dims[1] > 12 || matches!(op, R::Var { .. }) && dims == to {
                    continue;
                }
                same(&format!("{op:?} {dims:?}"), |on| {
                    let x = tensor(on, dtype, &dims, Lie::Turned, 1);
                    let kind = if matches!(op, R::Any | R::All) { DType::Bool } else { dtype };
                    let mut out = target(on, kind, &to, Lie::Dense);
                    on.reduce(op, x.view(), out.view_mut())?;
                    Ok(vec![out])
                });
            }
        }
        for log in [false, true] {
            same("softmax", |on| {
                let (x, g) = (tensor(on, dtype, &[6, 50], Lie::Sliced, 1), tensor(on, dtype, &[6, 50], Lie::Dense, 2));
                let [mut y, mut dx] = [0, 1].map(|_| target(on, dtype, &[6, 50], Lie::Dense));
                on.softmax(x.view(), 1, log, y.view_mut())?;
                on.softmax_grad(g.view(), y.view(), 1, log, dx.view_mut())?;
                Ok(vec![y, dx])
            });
        }
    }
    for dtype in DType::ALL {
        same("arg_reduce, sort, search, cumsum", |on| {
            let x = tensor(on, dtype, &[6, 50], Lie::Turned, 1);
            let (mut best, mut at) =
                (target(on, dtype, &[6, 1], Lie::Dense), target(on, DType::I64, &[6, 1], Lie::Dense));
            on.arg_reduce(ArgReduceOp::Max, x.view(), 1, Some(best.view_mut()), at.view_mut())?;
            let (mut least, mut place) =
                (target(on, dtype, &[6, 1], Lie::Dense), target(on, DType::I64, &[6, 1], Lie::Dense));
            on.arg_reduce(ArgReduceOp::Min, x.view(), 1, Some(least.view_mut()), place.view_mut())?;
            let (mut values, mut order) =
                (target(on, dtype, &[6, 50], Lie::Dense), target(on, DType::I64, &[6, 50], Lie::Dense));
            on.sort(x.view(), 1, true, values.view_mut(), order.view_mut())?;
            on.sort(x.view(), 1, false, values.view_mut(), order.view_mut())?;
            let mut places = target(on, DType::I64, &[6, 50], Lie::Dense);
            on.searchsorted(values.view(), x.view(), true, places.view_mut())?;
            let kind = if dtype.is_float() { dtype } else { DType::I64 };
            let mut sums = target(on, kind, &[6, 50], Lie::Dense);
            on.cumsum(x.view(), 0, sums.view_mut())?;
            Ok(vec![best, at, least, place, values, order, places, sums])
        });
    }
}

#[test]
fn reductions_of_integers() {
    use ReduceOp as R;
    for dtype in [DType::I64, DType::I32, DType::U8, DType::Bool] {
        for op in [R::Sum, R::Prod, R::Max, R::Min, R::Any, R::All] {
            for (dims, to) in [([5, 300], [5, 1]), ([300, 5], [1, 5]), ([3, 4], [3, 4])] {
                same(&format!("{op:?} {dims:?}"), |on| {
                    let x = tensor(on, dtype, &dims, Lie::Turned, 1);
                    let kind = match op {
                        R::Any | R::All => DType::Bool,
                        R::Max | R::Min => dtype,
                        _ => DType::I64,
                    };
                    let mut out = target(on, kind, &to, Lie::Dense);
                    on.reduce(op, x.view(), out.view_mut())?;
                    Ok(vec![out])
                });
            }
        }
    }
}

#[test]
fn long_lines_are_sorted_and_searched() {
    for dtype in [DType::F32, DType::I64] {
        same("sort of many tiles", |on| {
            let x = tensor(on, dtype, &[2, 3000], Lie::Sliced, 1);
            let (mut values, mut order) =
                (target(on, dtype, &[2, 3000], Lie::Dense), target(on, DType::I64, &[2, 3000], Lie::Dense));
            on.sort(x.view(), 1, false, values.view_mut(), order.view_mut())?;
            let (mut least, mut at) =
                (target(on, dtype, &[2, 1], Lie::Dense), target(on, DType::I64, &[2, 1], Lie::Dense));
            on.arg_reduce(ArgReduceOp::Min, x.view(), 1, Some(least.view_mut()), at.view_mut())?;
            Ok(vec![values, order, least, at])
        });
    }
}

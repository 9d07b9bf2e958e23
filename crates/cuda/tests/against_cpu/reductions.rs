//! Reductions, scans, softmax, sorting and searching against the CPU.

use kiln_backend::{
    ArgReduceArgs, Arguments, CumsumArgs, ReduceArgs, ReduceOp as R, SearchsortedArgs, SoftmaxArgs, SoftmaxGradArgs,
    SortArgs, *,
};

use crate::support::*;

/// Along memory, across it, everything, nothing, and what fills more than a warp of teams.
const CASES: [([usize; 2], [usize; 2]); 4] =
    [([5, 300], [5, 1]), ([300, 5], [1, 5]), ([40, 40], [1, 1]), ([3, 4], [3, 4])];

/// A reduction over all dtypes that it takes.
fn reduce(op: R, dtypes: &[DType]) {
    for &dtype in dtypes {
        for (dims, to) in CASES {
            // A variance of one element is none, and a product of many is no number of its type.
            let all: usize = dims.iter().product();
            if op == R::Prod && dtype.is_float() && all > 12 || matches!(op, R::Var { .. }) && dims == to {
                continue;
            }
            same(&format!("{op:?} {dims:?} {dtype}"), |on| {
                let x = tensor(on, dtype, &dims, MemoryLayout::Turned, 1);
                let kind = match op {
                    R::Any | R::All => DType::Bool,
                    R::Sum | R::Prod if !dtype.is_float() => DType::I64,
                    _ => dtype,
                };
                let mut out = target(on, kind, &to, MemoryLayout::Dense);
                on.reduce(ReduceArgs { op, x: x.view(), out: out.view_mut() }.checked()?)?;
                Ok(vec![out])
            });
        }
    }
}

/// So many elements that a thread reads several batches of them.
#[test]
fn long_rows() {
    for (op, dtype, to) in
        [(R::Sum, DType::I32, DType::I64), (R::Max, DType::F32, DType::F32), (R::Min, DType::F16, DType::F16)]
    {
        for memory in [MemoryLayout::Dense, MemoryLayout::Turned] {
            same(&format!("{op:?} of long rows {memory:?} {dtype}"), |on| {
                let x = tensor(on, dtype, &[2, 40_000], memory, 1);
                let mut out = target(on, to, &[2, 1], MemoryLayout::Dense);
                on.reduce(ReduceArgs { op, x: x.view(), out: out.view_mut() }.checked()?)?;
                Ok(vec![out])
            });
        }
    }
}

macro_rules! reductions {
    ($($name:ident: $op:expr, $dtypes:expr;)*) => {$(
        #[test]
        fn $name() {
            reduce($op, &$dtypes);
        }
    )*};
}

reductions! {
    sum: R::Sum, DType::ALL;
    prod: R::Prod, DType::ALL;
    max: R::Max, DType::ALL;
    min: R::Min, DType::ALL;
    any: R::Any, DType::ALL;
    all: R::All, DType::ALL;
    mean: R::Mean, FLOATS;
    var: R::Var { correction: 1.0 }, FLOATS;
    logsumexp: R::LogSumExp, FLOATS;
}

fn softmax_and_gradient(log: bool) {
    for dtype in FLOATS {
        for (dims, dim, memory) in [
            ([6, 50], 1, MemoryLayout::Sliced),
            ([50, 6], 0, MemoryLayout::Sliced),
            ([2, 700], 1, MemoryLayout::Sliced),
            // Rows that teams hold in registers, with and without threads that have nothing, and rows too long for that.
            ([70, 8], 1, MemoryLayout::Dense),
            ([6, 64], 1, MemoryLayout::Dense),
            ([3, 1000], 1, MemoryLayout::Dense),
            ([2, 4096], 1, MemoryLayout::Dense),
            ([1, 8200], 1, MemoryLayout::Dense),
        ] {
            same(&format!("{dtype} {dims:?}"), |on| {
                let (x, g) = (tensor(on, dtype, &dims, memory, 1), tensor(on, dtype, &dims, MemoryLayout::Dense, 2));
                let [mut y, mut dx] = [0, 1].map(|_| target(on, dtype, &dims, MemoryLayout::Dense));
                on.softmax(SoftmaxArgs { x: x.view(), dim, log, out: y.view_mut() }.checked()?)?;
                on.softmax_grad(
                    SoftmaxGradArgs { grad: g.view(), y: y.view(), dim, log, out: dx.view_mut() }.checked()?,
                )?;
                Ok(vec![y, dx])
            });
        }
    }
}

#[test]
fn softmax() {
    softmax_and_gradient(false);
}

#[test]
fn log_softmax() {
    softmax_and_gradient(true);
}

fn arg_reduce(op: ArgReduceOp) {
    for dtype in DType::ALL {
        for (dims, dim, to) in [([6, 50], 1, [6, 1]), ([50, 6], 0, [1, 6]), ([2, 3000], 1, [2, 1])] {
            same(&format!("{dtype} {dims:?}"), |on| {
                let x = tensor(on, dtype, &dims, MemoryLayout::Turned, 1);
                let (mut best, mut at) =
                    (target(on, dtype, &to, MemoryLayout::Dense), target(on, DType::I64, &to, MemoryLayout::Dense));
                on.arg_reduce(
                    ArgReduceArgs { op, x: x.view(), dim, values: Some(best.view_mut()), indices: at.view_mut() }
                        .checked()?,
                )?;
                let mut alone = target(on, DType::I64, &to, MemoryLayout::Dense);
                on.arg_reduce(
                    ArgReduceArgs { op, x: x.view(), dim, values: None, indices: alone.view_mut() }.checked()?,
                )?;
                Ok(vec![best, at, alone])
            });
        }
    }
}

#[test]
fn argmax() {
    arg_reduce(ArgReduceOp::Max);
}

#[test]
fn argmin() {
    arg_reduce(ArgReduceOp::Min);
}

#[test]
fn sort() {
    for dtype in DType::ALL {
        for (dims, dim) in [([6, 50], 1), ([50, 6], 0), ([2, 3000], 1)] {
            if dims[1] > 50 && ![DType::F32, DType::I64].contains(&dtype) {
                continue;
            }
            for descending in [false, true] {
                same(&format!("{dtype} {dims:?} {descending}"), |on| {
                    let x = tensor(on, dtype, &dims, MemoryLayout::Sliced, 1);
                    let (mut values, mut order) = (
                        target(on, dtype, &dims, MemoryLayout::Dense),
                        target(on, DType::I64, &dims, MemoryLayout::Turned),
                    );
                    on.sort(
                        SortArgs { x: x.view(), dim, descending, values: values.view_mut(), indices: order.view_mut() }
                            .checked()?,
                    )?;
                    Ok(vec![values, order])
                });
            }
        }
    }
}

#[test]
fn searchsorted() {
    for dtype in DType::ALL {
        for right in [false, true] {
            same(&format!("{dtype} {right}"), |on| {
                let x = tensor(on, dtype, &[6, 50], MemoryLayout::Turned, 1);
                let (mut values, mut order) = (
                    target(on, dtype, &[6, 50], MemoryLayout::Dense),
                    target(on, DType::I64, &[6, 50], MemoryLayout::Dense),
                );
                on.sort(
                    SortArgs {
                        x: x.view(),
                        dim: 1,
                        descending: false,
                        values: values.view_mut(),
                        indices: order.view_mut(),
                    }
                    .checked()?,
                )?;
                let mut places = target(on, DType::I64, &[6, 50], MemoryLayout::Dense);
                on.searchsorted(
                    SearchsortedArgs { sorted: values.view(), values: x.view(), right, out: places.view_mut() }
                        .checked()?,
                )?;
                Ok(vec![places])
            });
        }
    }
}

#[test]
fn cumsum() {
    for dtype in DType::ALL {
        for (dims, dim) in [([6, 50], 0), ([6, 50], 1), ([2, 700], 1)] {
            same(&format!("{dtype} {dims:?} {dim}"), |on| {
                let x = tensor(on, dtype, &dims, MemoryLayout::Turned, 1);
                let kind = if dtype.is_float() { dtype } else { DType::I64 };
                let mut sums = target(on, kind, &dims, MemoryLayout::Dense);
                on.cumsum(CumsumArgs { x: x.view(), dim, out: sums.view_mut() }.checked()?)?;
                Ok(vec![sums])
            });
        }
    }
}

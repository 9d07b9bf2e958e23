//! Element-wise operations: a test for each row of the tables, over layouts and dtypes.

use kiln_backend::{Arguments, TrilTriuArgs, binary_table, unary_table, *};

use crate::support::*;

const DIMS: [usize; 2] = [4, 9];
const WHOLE: [DType; 3] = [DType::I64, DType::I32, DType::U8];

/// The value for floats and for the integers that the operation takes, and the gradient.
fn unary(op: UnaryOp) {
    for memory in MEMORY_LAYOUTS {
        for dtype in FLOATS {
            same(&format!("{op:?} {memory:?}"), |on| {
                let (x, g) = (tensor(on, dtype, &DIMS, memory, 1), tensor(on, dtype, &DIMS, MemoryLayout::Dense, 2));
                let [mut out, mut grad] = [0, 1].map(|_| target(on, dtype, &DIMS, memory));
                on.unary(UnaryArgs { op, x: x.view(), out: out.view_mut() }.checked()?)?;
                on.unary_grad(
                    UnaryGradArgs { op, grad: g.view(), saved: Some(x.view()), out: grad.view_mut() }.checked()?,
                )?;
                Ok(vec![out, grad])
            });
        }
        for dtype in WHOLE {
            if op.integers() == Integers::Refused {
                continue;
            }
            same(&format!("{op:?} {dtype} {memory:?}"), |on| {
                let (x, mut out) = (tensor(on, dtype, &DIMS, memory, 1), target(on, dtype, &DIMS, MemoryLayout::Dense));
                on.unary(UnaryArgs { op, x: x.view(), out: out.view_mut() }.checked()?)?;
                Ok(vec![out])
            });
        }
    }
}

macro_rules! unary_tests {
    ($names:tt $(UNARY($variant:ident, $method:ident, $($rest:tt)*))*) => {$(
        #[test]
        fn $method() {
            unary(UnaryOp::$variant);
        }
    )*};
}
unary_table!(unary_tests);

/// Two tensors, a tensor and a number, in place; both gradients.
fn arithmetic(op: BinaryOp) {
    for memory in MEMORY_LAYOUTS {
        for dtype in FLOATS {
            same(&format!("{op:?} {memory:?}"), |on| {
                let (a, b) = (tensor(on, dtype, &DIMS, memory, 1), tensor(on, dtype, &DIMS, MemoryLayout::Dense, 2));
                let g = tensor(on, dtype, &DIMS, MemoryLayout::Turned, 3);
                let [mut out, mut da, mut db] = [0, 1, 2].map(|_| target(on, dtype, &DIMS, memory));
                let (x, y) = (Operand::Tensor(a.view()), Operand::Tensor(b.view()));
                on.binary(BinaryArgs { op, a: x, b: y, out: out.view_mut() }.checked()?)?;
                on.binary_assign(
                    BinaryAssignArgs { op, b: Operand::Scalar(Scalar::Float(1.5)), out: out.view_mut() }.checked()?,
                )?;
                on.binary_grad(
                    BinaryGradArgs { op, side: SideOf::Lhs, grad: g.view(), a: x, b: y, out: da.view_mut() }
                        .checked()?,
                )?;
                on.binary_grad(
                    BinaryGradArgs {
                        op,
                        side: SideOf::Rhs,
                        grad: g.view(),
                        a: x,
                        b: Operand::Scalar(Scalar::Int(2)),
                        out: db.view_mut(),
                    }
                    .checked()?,
                )?;
                Ok(vec![out, da, db])
            });
        }
    }
    if !op.takes_integers() {
        return;
    }
    for dtype in WHOLE {
        same(&format!("{op:?} {dtype}"), |on| {
            let (a, mut b) =
                (tensor(on, dtype, &DIMS, MemoryLayout::Turned, 1), tensor(on, dtype, &DIMS, MemoryLayout::Dense, 2));
            // No integer is divided by 0 or taken to a negative power.
            on.unary(UnaryArgs { op: UnaryOp::Square, x: a.view(), out: b.view_mut() }.checked()?)?;
            on.binary_assign(
                BinaryAssignArgs { op: BinaryOp::Add, b: Operand::Scalar(Scalar::Int(1)), out: b.view_mut() }
                    .checked()?,
            )?;
            let [mut out, mut scaled] = [0, 1].map(|_| target(on, dtype, &DIMS, MemoryLayout::Sliced));
            on.binary(
                BinaryArgs { op, a: Operand::Tensor(a.view()), b: Operand::Tensor(b.view()), out: out.view_mut() }
                    .checked()?,
            )?;
            on.binary(
                BinaryArgs {
                    op,
                    a: Operand::Tensor(a.view()),
                    b: Operand::Scalar(Scalar::Int(3)),
                    out: scaled.view_mut(),
                }
                .checked()?,
            )?;
            Ok(vec![out, scaled])
        });
    }
}

/// Truth values of all dtypes, and the numbers on either side.
fn comparison(op: BinaryOp) {
    for dtype in DType::ALL {
        same(&format!("{op:?} {dtype}"), |on| {
            let (a, b) =
                (tensor(on, dtype, &DIMS, MemoryLayout::Turned, 1), tensor(on, dtype, &DIMS, MemoryLayout::Dense, 2));
            let (x, y, one) = (Operand::Tensor(a.view()), Operand::Tensor(b.view()), Operand::Scalar(Scalar::Int(1)));
            [(x, y), (x, one), (one, y), (x, x)]
                .into_iter()
                .map(|(x, y)| {
                    let mut out = target(on, DType::Bool, &DIMS, MemoryLayout::Dense);
                    on.binary(BinaryArgs { op, a: x, b: y, out: out.view_mut() }.checked()?)?;
                    Ok(out)
                })
                .collect()
        });
    }
}

fn bitwise(op: BinaryOp) {
    for dtype in [DType::I64, DType::I32, DType::U8, DType::Bool] {
        same(&format!("{op:?} {dtype}"), |on| {
            let (a, b) =
                (tensor(on, dtype, &DIMS, MemoryLayout::Turned, 1), tensor(on, dtype, &DIMS, MemoryLayout::Dense, 2));
            let mut out = target(on, dtype, &DIMS, MemoryLayout::Dense);
            on.binary(
                BinaryArgs { op, a: Operand::Tensor(a.view()), b: Operand::Tensor(b.view()), out: out.view_mut() }
                    .checked()?,
            )?;
            Ok(vec![out])
        });
    }
}

macro_rules! check {
    (BINARY $op:expr) => {
        arithmetic($op)
    };
    (COMPARISON $op:expr) => {
        comparison($op)
    };
    (BITWISE $op:expr) => {
        bitwise($op)
    };
}

macro_rules! binary_tests {
    ($names:tt $($kind:ident($variant:ident, $method:ident, $($rest:tt)*))*) => {$(
        #[test]
        fn $method() {
            check!($kind BinaryOp::$variant);
        }
    )*};
}
binary_table!(binary_tests);

/// `a > b` is `b < a` on the device.
#[test]
fn gt() {
    comparison(BinaryOp::Gt);
}

#[test]
fn ge() {
    comparison(BinaryOp::Ge);
}

#[test]
fn where_cond() {
    for dtype in DType::ALL {
        same(&format!("{dtype}"), |on| {
            let condition = tensor(on, DType::Bool, &DIMS, MemoryLayout::Turned, 1);
            let (a, b) =
                (tensor(on, dtype, &DIMS, MemoryLayout::Sliced, 2), tensor(on, dtype, &DIMS, MemoryLayout::Dense, 3));
            let (x, y, one) = (Operand::Tensor(a.view()), Operand::Tensor(b.view()), Operand::Scalar(Scalar::Int(1)));
            [(x, y), (x, one), (one, y)]
                .into_iter()
                .map(|(x, y)| {
                    let mut out = target(on, dtype, &DIMS, MemoryLayout::Dense);
                    on.where_cond(
                        WhereCondArgs { condition: condition.view(), a: x, b: y, out: out.view_mut() }.checked()?,
                    )?;
                    Ok(out)
                })
                .collect()
        });
    }
}

#[test]
fn tril_triu() {
    for dtype in DType::ALL {
        for (upper, diagonal) in [(false, 1), (false, -2), (true, 0), (true, 3), (true, -9)] {
            same(&format!("{dtype} {upper} {diagonal}"), |on| {
                let (x, mut out) = (
                    tensor(on, dtype, &[2, 4, 9], MemoryLayout::Sliced, 2),
                    target(on, dtype, &[2, 4, 9], MemoryLayout::Turned),
                );
                on.tril_triu(TrilTriuArgs { upper, diagonal, x: x.view(), out: out.view_mut() }.checked()?)?;
                Ok(vec![out])
            });
        }
    }
}

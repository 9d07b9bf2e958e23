//! Element by element.

use kiln_backend::*;

use crate::support::*;

#[test]
fn element_wise() {
    for dtype in FLOATS {
        for &op in UnaryOp::ALL {
            for lie in LIES {
                same(&format!("{op:?} {lie:?}"), |on| {
                    let (x, g) = (tensor(on, dtype, &[4, 9], lie, 1), tensor(on, dtype, &[4, 9], Lie::Dense, 2));
                    let [mut out, mut grad] = [0, 1].map(|_| target(on, dtype, &[4, 9], lie));
                    on.unary(op, x.view(), out.view_mut())?;
                    on.unary_grad(op, g.view(), Some(x.view()), grad.view_mut())?;
                    Ok(vec![out, grad])
                });
            }
        }
        for &op in BinaryOp::ARITHMETIC {
            for lie in LIES {
                same(&format!("{op:?} {lie:?}"), |on| {
                    let (a, b) = (tensor(on, dtype, &[4, 9], lie, 1), tensor(on, dtype, &[4, 9], Lie::Dense, 2));
                    let g = tensor(on, dtype, &[4, 9], Lie::Turned, 3);
                    let [mut out, mut da, mut db] = [0, 1, 2].map(|_| target(on, dtype, &[4, 9], lie));
                    let (x, y) = (Operand::Tensor(a.view()), Operand::Tensor(b.view()));
                    on.binary(op, x, y, out.view_mut())?;
                    on.binary_assign(op, Operand::Scalar(Scalar::Float(1.5)), out.view_mut())?;
                    on.binary_grad(op, SideOf::Lhs, g.view(), x, y, da.view_mut())?;
                    on.binary_grad(op, SideOf::Rhs, g.view(), x, Operand::Scalar(Scalar::Int(2)), db.view_mut())?;
                    Ok(vec![out, da, db])
                });
            }
        }
    }
    for dtype in DType::ALL {
        for op in [BinaryOp::Eq, BinaryOp::Ne, BinaryOp::Lt, BinaryOp::Le, BinaryOp::Gt, BinaryOp::Ge] {
            same(&format!("{op:?}"), |on| {
                let (a, b) = (tensor(on, dtype, &[4, 9], Lie::Turned, 1), tensor(on, dtype, &[4, 9], Lie::Dense, 2));
                let mut out = target(on, DType::Bool, &[4, 9], Lie::Dense);
                on.binary(op, Operand::Tensor(a.view()), Operand::Tensor(b.view()), out.view_mut())?;
                Ok(vec![out])
            });
        }
        same("select and triangle", |on| {
            let condition = tensor(on, DType::Bool, &[4, 9], Lie::Turned, 1);
            let a = tensor(on, dtype, &[4, 9], Lie::Sliced, 2);
            let [mut out, mut low] = [0, 1].map(|_| target(on, dtype, &[4, 9], Lie::Dense));
            let (x, y) = (Operand::Tensor(a.view()), Operand::Scalar(Scalar::Int(1)));
            on.where_cond(condition.view(), x, y, out.view_mut())?;
            on.tril_triu(false, 1, a.view(), low.view_mut())?;
            Ok(vec![out, low])
        });
    }
}

#[test]
fn integers_and_truth_values() {
    use BinaryOp as B;
    for dtype in [DType::I64, DType::I32, DType::U8] {
        for op in [UnaryOp::Neg, UnaryOp::Abs, UnaryOp::Sign, UnaryOp::Square, UnaryOp::Relu] {
            for lie in LIES {
                same(&format!("{op:?} {lie:?}"), |on| {
                    let (x, mut out) = (tensor(on, dtype, &[4, 9], lie, 1), target(on, dtype, &[4, 9], Lie::Dense));
                    on.unary(op, x.view(), out.view_mut())?;
                    Ok(vec![out])
                });
            }
        }
        for op in [B::Add, B::Sub, B::Mul, B::Pow, B::Maximum, B::Minimum, B::Remainder] {
            same(&format!("{op:?}"), |on| {
                let (a, mut b) =
                    (tensor(on, dtype, &[4, 9], Lie::Turned, 1), tensor(on, dtype, &[4, 9], Lie::Dense, 2));
                // No integer is divided by 0 or taken to a negative power.
                on.unary(UnaryOp::Square, a.view(), b.view_mut())?;
                on.binary_assign(B::Add, Operand::Scalar(Scalar::Int(1)), b.view_mut())?;
                let [mut out, mut scaled] = [0, 1].map(|_| target(on, dtype, &[4, 9], Lie::Sliced));
                on.binary(op, Operand::Tensor(a.view()), Operand::Tensor(b.view()), out.view_mut())?;
                on.binary(op, Operand::Tensor(a.view()), Operand::Scalar(Scalar::Int(3)), scaled.view_mut())?;
                Ok(vec![out, scaled])
            });
        }
    }
    for dtype in [DType::I64, DType::I32, DType::U8, DType::Bool] {
        for op in [B::And, B::Or, B::Xor] {
            same(&format!("{op:?}"), |on| {
                let (a, b) = (tensor(on, dtype, &[4, 9], Lie::Turned, 1), tensor(on, dtype, &[4, 9], Lie::Dense, 2));
                let mut out = target(on, dtype, &[4, 9], Lie::Dense);
                on.binary(op, Operand::Tensor(a.view()), Operand::Tensor(b.view()), out.view_mut())?;
                Ok(vec![out])
            });
        }
    }
}

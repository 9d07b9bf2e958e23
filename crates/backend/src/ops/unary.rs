//! Element-wise operations of one tensor, and their gradients.

use crate::{
    contract::{Arguments, Checked, has_dtype, is_float, same_shape},
    error::{Error, Result},
    op::{Integers, Saved, UnaryOp},
    view::{View, ViewMut},
};

/// Arguments of [`unary`](UnaryBackend::unary).
#[derive(Debug)]
pub struct UnaryArgs<'a> {
    /// The operation.
    pub op: UnaryOp,
    /// The operand: floats, or integers if the operation supports them ([`UnaryOp::integers`]).
    pub x: View<'a>,
    /// The result, of the dtype of `x`.
    pub out: ViewMut<'a>,
}

impl Arguments for UnaryArgs<'_> {
    fn check(&self) -> Result<()> {
        let (op, dtype) = (self.op.name(), self.x.dtype());
        if !dtype.is_int() || self.op.integers() == Integers::Refused {
            is_float(op, dtype)?;
        }
        has_dtype(op, dtype, self.out.dtype())?;
        same_shape(op, &[self.x.layout, self.out.layout])
    }
}

/// Arguments of [`unary_grad`](UnaryBackend::unary_grad), all of one floating-point dtype.
#[derive(Debug)]
pub struct UnaryGradArgs<'a> {
    /// The operation.
    pub op: UnaryOp,
    /// The gradient with respect to the operation's result.
    pub grad: View<'a>,
    /// The tensor that [`UnaryOp::saved`] names; may be `None` if it names none.
    pub saved: Option<View<'a>>,
    /// The gradient with respect to the operation's input.
    pub out: ViewMut<'a>,
}

impl Arguments for UnaryGradArgs<'_> {
    fn check(&self) -> Result<()> {
        let (op, dtype) = (self.op.name(), self.grad.dtype());
        is_float(op, dtype)?;
        has_dtype(op, dtype, self.out.dtype())?;
        same_shape(op, &[self.grad.layout, self.out.layout])?;
        match &self.saved {
            Some(saved) => {
                has_dtype(op, dtype, saved.dtype())?;
                same_shape(op, &[saved.layout, self.out.layout])
            }
            None if self.op.saved() == Saved::Nothing => Ok(()),
            None => Err(Error::argument(op, "its gradient needs a saved tensor")),
        }
    }
}

/// Element-wise operations of one tensor.
pub trait UnaryBackend {
    /// `out = op(x)`.
    fn unary(&self, args: Checked<UnaryArgs>) -> Result<()>;
    /// The gradient of `op`, from the incoming gradient and the saved tensor.
    fn unary_grad(&self, args: Checked<UnaryGradArgs>) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dtype::DType,
        layout::Layout,
        testing::{Memory, layout},
    };

    #[test]
    fn operands_are_checked() {
        let (x, y) = (layout(&[2, 3]), layout(&[3]));
        let check = |op, dtype, lx, out, lo| {
            let (x, mut out) = (Memory(dtype), Memory(out));
            UnaryArgs { op, x: x.view(lx), out: out.view_mut(lo) }.check()
        };
        for (op, dtype, fits) in [
            (UnaryOp::Exp, DType::F16, true),
            (UnaryOp::Exp, DType::I64, false),
            (UnaryOp::Neg, DType::I32, true),
            (UnaryOp::Floor, DType::U8, true),
            (UnaryOp::Neg, DType::Bool, false),
        ] {
            assert_eq!(check(op, dtype, &x, dtype, &x).is_ok(), fits, "{op:?} {dtype}");
        }
        assert!(check(UnaryOp::Neg, DType::F32, &x, DType::F64, &x).is_err());
        assert!(check(UnaryOp::Neg, DType::F32, &y, DType::F32, &x).is_err());
    }

    #[test]
    fn a_gradient_needs_what_its_operation_has_saved() {
        let (x, y) = (layout(&[2, 3]), layout(&[3, 2]));
        let check = |op, dtype, saved: Option<(DType, &Layout)>| {
            let (grad, mut out) = (Memory(dtype), Memory(dtype));
            let saved = saved.map(|(dtype, layout)| (Memory(dtype), layout));
            let saved = saved.as_ref().map(|(memory, layout)| memory.view(layout));
            UnaryGradArgs { op, grad: grad.view(&x), saved, out: out.view_mut(&x) }.check()
        };
        assert!(check(UnaryOp::Exp, DType::F32, Some((DType::F32, &x))).is_ok());
        assert!(check(UnaryOp::Exp, DType::F32, Some((DType::F64, &x))).is_err());
        assert!(check(UnaryOp::Exp, DType::F32, Some((DType::F32, &y))).is_err());
        assert!(check(UnaryOp::Neg, DType::F32, None).is_ok() && check(UnaryOp::Exp, DType::F32, None).is_err());
        assert!(check(UnaryOp::Neg, DType::I64, None).is_err());
    }
}

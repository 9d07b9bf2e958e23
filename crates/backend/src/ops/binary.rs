//! Element-wise operations of two operands, and their gradients.

use crate::{
    contract::{Arguments, Checked, has_dtype, is_float, same_shape},
    dtype::DType,
    error::{Error, Result},
    layout::Layout,
    op::{BinaryOp, SideOf},
    view::{Operand, View, ViewMut},
};

/// Arguments of [`binary`](BinaryBackend::binary).
#[derive(Debug)]
pub struct BinaryArgs<'a> {
    /// The operation.
    pub op: BinaryOp,
    /// The first operand.
    pub a: Operand<'a>,
    /// The second operand, of the same dtype. At least one of the two is a tensor.
    pub b: Operand<'a>,
    /// The result: `bool` for comparisons, else of the operands' dtype.
    pub out: ViewMut<'a>,
}

impl BinaryArgs<'_> {
    /// The dtype of the operands. (If none is a tensor, which [`check`](Arguments::check) refuses, the result's dtype.)
    #[must_use]
    pub fn dtype(&self) -> DType {
        match (&self.a, &self.b) {
            (Operand::Tensor(view), _) | (_, Operand::Tensor(view)) => view.dtype(),
            _ => self.out.dtype(),
        }
    }
}

impl Arguments for BinaryArgs<'_> {
    fn check(&self) -> Result<()> {
        let (op, dtype) = (self.op.name(), self.dtype());
        if let (Operand::Scalar(_), Operand::Scalar(_)) = (&self.a, &self.b) {
            return Err(Error::argument(op, "at least one operand must be a tensor"));
        }
        self.op.takes(dtype)?;
        fits(op, &self.a, dtype, self.out.layout)?;
        fits(op, &self.b, dtype, self.out.layout)?;
        has_dtype(op, if self.op.is_comparison() { DType::Bool } else { dtype }, self.out.dtype())
    }
}

/// Arguments of [`binary_assign`](BinaryBackend::binary_assign).
#[derive(Debug)]
pub struct BinaryAssignArgs<'a> {
    /// The operation.
    pub op: BinaryOp,
    /// The second operand, of the dtype of `out`.
    pub b: Operand<'a>,
    /// The first operand, and the result: `bool` for comparisons.
    pub out: ViewMut<'a>,
}

impl Arguments for BinaryAssignArgs<'_> {
    fn check(&self) -> Result<()> {
        let (op, dtype) = (self.op.name(), self.out.dtype());
        if self.op.is_comparison() && dtype != DType::Bool {
            return Err(Error::dtype(op, dtype, "comparisons write bool tensors"));
        }
        self.op.takes(dtype)?;
        fits(op, &self.b, dtype, self.out.layout)
    }
}

/// Arguments of [`binary_grad`](BinaryBackend::binary_grad), all of one floating-point dtype.
#[derive(Debug)]
pub struct BinaryGradArgs<'a> {
    /// The operation, one of [`BinaryOp::ARITHMETIC`].
    pub op: BinaryOp,
    /// The operand whose gradient it is.
    pub side: SideOf,
    /// The gradient with respect to the operation's result.
    pub grad: View<'a>,
    /// The first operand.
    pub a: Operand<'a>,
    /// The second operand.
    pub b: Operand<'a>,
    /// The gradient with respect to the operand, before it is summed over broadcast dimensions.
    pub out: ViewMut<'a>,
}

impl Arguments for BinaryGradArgs<'_> {
    fn check(&self) -> Result<()> {
        let (op, dtype, layout) = (self.op.name(), self.grad.dtype(), self.out.layout);
        if self.op.is_comparison() || self.op.is_bitwise() {
            return Err(Error::argument(op, "it has no gradient"));
        }
        is_float(op, dtype)?;
        same_shape(op, &[self.grad.layout, layout])?;
        fits(op, &self.a, dtype, layout)?;
        fits(op, &self.b, dtype, layout)?;
        has_dtype(op, dtype, self.out.dtype())
    }
}

/// Checks that an operand is a number, or a tensor of this dtype with the shape of `out`.
pub(super) fn fits(op: &'static str, operand: &Operand, dtype: DType, out: &Layout) -> Result<()> {
    match operand {
        Operand::Tensor(view) => {
            has_dtype(op, dtype, view.dtype())?;
            same_shape(op, &[view.layout, out])
        }
        Operand::Scalar(_) => Ok(()),
    }
}

/// Element-wise operations of two operands.
pub trait BinaryBackend {
    /// `out = op(a, b)`: arithmetic in the operands' dtype, comparisons in any dtype, bitwise operations on integers and
    /// bools ([`BinaryOp::takes`]).
    ///
    /// # Errors
    /// Besides a broken contract: if integers are divided by 0 or raised to a negative power.
    fn binary(&self, args: Checked<BinaryArgs>) -> Result<()>;
    /// The gradient of an arithmetic `op` with respect to one operand.
    fn binary_grad(&self, args: Checked<BinaryGradArgs>) -> Result<()>;
    /// `out = op(out, b)`.
    ///
    /// # Errors
    /// Those of [`binary`](BinaryBackend::binary).
    fn binary_assign(&self, args: Checked<BinaryAssignArgs>) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        scalar::Scalar,
        testing::{Memory, layout},
    };

    #[test]
    fn operands_are_checked() {
        let (x, y) = (layout(&[2, 3]), layout(&[3]));
        let number = || Operand::Scalar(Scalar::Int(1));
        let check = |op, of: DType, (other, lb): (DType, &Layout), to| {
            let (a, b, mut out) = (Memory(of), Memory(other), Memory(to));
            let (a, b) = (Operand::Tensor(a.view(&x)), Operand::Tensor(b.view(lb)));
            BinaryArgs { op, a, b, out: out.view_mut(&x) }.check()
        };
        for (op, dtype, fits) in [
            (BinaryOp::Add, DType::F16, true),
            (BinaryOp::Add, DType::I64, true),
            (BinaryOp::Add, DType::Bool, false),
            (BinaryOp::Div, DType::I32, false),
            (BinaryOp::And, DType::Bool, true),
            (BinaryOp::ShiftLeft, DType::U8, true),
            (BinaryOp::ShiftLeft, DType::Bool, true),
            (BinaryOp::Xor, DType::F32, false),
        ] {
            assert_eq!(check(op, dtype, (dtype, &x), dtype).is_ok(), fits, "{op:?} {dtype}");
        }
        for dtype in DType::ALL {
            assert!(check(BinaryOp::Lt, dtype, (dtype, &x), DType::Bool).is_ok(), "{dtype}");
        }
        assert!(check(BinaryOp::Lt, DType::F32, (DType::F32, &x), DType::F32).is_err());
        assert!(check(BinaryOp::Add, DType::F32, (DType::F64, &x), DType::F32).is_err());
        assert!(check(BinaryOp::Add, DType::F32, (DType::F32, &y), DType::F32).is_err());
        assert!(check(BinaryOp::Add, DType::F32, (DType::F32, &x), DType::F64).is_err());
        let mut out = Memory(DType::F32);
        assert!(BinaryArgs { op: BinaryOp::Add, a: number(), b: number(), out: out.view_mut(&x) }.check().is_err());
    }

    #[test]
    fn operands_in_place_and_of_gradients_are_checked() {
        let (x, y) = (layout(&[2, 3]), layout(&[3]));
        let assign = |op, b: DType, lb, to| {
            let (b, mut out) = (Memory(b), Memory(to));
            BinaryAssignArgs { op, b: Operand::Tensor(b.view(lb)), out: out.view_mut(&x) }.check()
        };
        assert!(assign(BinaryOp::Add, DType::F32, &x, DType::F32).is_ok());
        assert!(assign(BinaryOp::Add, DType::F32, &y, DType::F32).is_err());
        assert!(assign(BinaryOp::Add, DType::I64, &x, DType::F32).is_err());
        assert!(assign(BinaryOp::Eq, DType::Bool, &x, DType::Bool).is_ok());
        assert!(assign(BinaryOp::Eq, DType::F32, &x, DType::F32).is_err());

        let gradient = |op, of, la| {
            let (grad, a, mut out) = (Memory(of), Memory(of), Memory(of));
            let (a, b) = (Operand::Tensor(a.view(la)), Operand::Scalar(Scalar::Int(2)));
            BinaryGradArgs { op, side: SideOf::Lhs, grad: grad.view(&x), a, b, out: out.view_mut(&x) }.check()
        };
        assert!(gradient(BinaryOp::Mul, DType::F32, &x).is_ok());
        assert!(gradient(BinaryOp::Mul, DType::F32, &y).is_err());
        assert!(gradient(BinaryOp::Mul, DType::I64, &x).is_err());
        assert!(gradient(BinaryOp::Eq, DType::F32, &x).is_err() && gradient(BinaryOp::And, DType::F32, &x).is_err());
    }
}

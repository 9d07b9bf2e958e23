//! Element-wise binary operations, and their gradients.

use kiln_backend::{BinaryBackend, BinaryOp, DType, Error, Operand, Result, Scalar, SideOf, View, ViewMut};

use super::{
    launch::{Tag, launch},
    operand::Input,
    values::{number, rounded_number},
};
use crate::{
    device::{CudaBackend, Device},
    params::{Grid, Status},
    view::Tensor,
};

/// The dtype of the operands; at least one is a tensor.
fn dtype_of(op: &'static str, operands: [&Operand; 2]) -> Result<DType> {
    let dtype = operands.into_iter().find_map(|operand| match operand {
        Operand::Tensor(view) => Some(view.dtype()),
        Operand::Scalar(_) => None,
    });
    dtype.ok_or_else(|| Error::argument(op, "at least one operand must be a tensor"))
}

impl BinaryBackend for CudaBackend {
    fn binary(&self, op: BinaryOp, a: Operand, b: Operand, out: ViewMut) -> Result<()> {
        let device = self.0;
        let name = op.name();
        let dtype = dtype_of(name, [&a, &b])?;
        let out = Tensor::write(device, name, out)?;
        let out = out.of(name, if op.is_comparison() { DType::Bool } else { dtype })?;
        let input = |operand| Input::new(device, name, dtype, operand, &out);
        device.binary_kernel(op, dtype, input(a)?, input(b)?, out)
    }

    fn binary_assign(&self, op: BinaryOp, b: Operand, out: ViewMut) -> Result<()> {
        let device = self.0;
        let name = op.name();
        let out = Tensor::write(device, name, out)?;
        let a = Input { place: Some(out.place()), address: out.address, scalar: Scalar::Int(0) };
        let b = Input::new(device, name, out.dtype, b, &out)?;
        if op.is_comparison() {
            out.of(name, DType::Bool)?;
        }
        device.binary_kernel(op, out.dtype, a, b, out)
    }

    fn binary_grad(&self, op: BinaryOp, side: SideOf, grad: View, a: Operand, b: Operand, out: ViewMut) -> Result<()> {
        let device = self.0;
        let name = op.name();
        let out = Tensor::write(device, name, out)?;
        let dtype = out.dtype;
        let input = |operand| Input::new(device, name, dtype, operand, &out);
        let (grad, a, b) = (input(Operand::Tensor(grad))?, input(a)?, input(b)?);
        let grid = Grid::<4>::new(out.layout.dims(), [grad.place, a.place, b.place, Some(out.place())]);
        if grid.numel == 0 {
            return Ok(());
        }
        let (x, y, tag) = (number(dtype, a.scalar), number(dtype, b.scalar), Tag::of(dtype));
        let blocks = grid.blocks(dtype.size());
        let (grad, a, b, out) = (grad.address, a.address, b.address, out.address);
        match side {
            SideOf::Lhs => launch!(device, BINARY_LHS, name, tag, blocks, grid, grad, a, b, out, x, y),
            SideOf::Rhs => launch!(device, BINARY_RHS, name, tag, blocks, grid, grad, a, b, out, x, y),
        }
    }
}

impl Device {
    fn binary_kernel(&self, op: BinaryOp, dtype: DType, a: Input, b: Input, out: Tensor) -> Result<()> {
        // `a > b` is `b < a`.
        let (kernel, a, b) = match op {
            BinaryOp::Gt => (BinaryOp::Lt, b, a),
            BinaryOp::Ge => (BinaryOp::Le, b, a),
            other => (other, a, b),
        };
        let grid = Grid::<3>::new(out.layout.dims(), [a.place, b.place, Some(out.place())]);
        if grid.numel == 0 {
            return Ok(());
        }
        let status = match op {
            BinaryOp::Pow if dtype.is_int() => self.status(Status::EXPONENT, op.name()),
            BinaryOp::Remainder | BinaryOp::Fmod | BinaryOp::FloorDivide | BinaryOp::TruncDivide if dtype.is_int() => {
                self.status(Status::DIVISOR, op.name())
            }
            _ => 0,
        };
        let number = if op.is_comparison() { rounded_number } else { number };
        let (x, y) = (number(dtype, a.scalar), number(dtype, b.scalar));
        let blocks = grid.blocks(dtype.size());
        launch!(
            self,
            BINARY,
            kernel.name(),
            Tag::of(dtype),
            blocks,
            grid,
            a.address,
            b.address,
            out.address,
            x,
            y,
            status
        )
    }
}

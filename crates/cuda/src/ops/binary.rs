//! Element-wise binary operations, and their gradients.

use kiln_backend::{
    BinaryArgs, BinaryAssignArgs, BinaryBackend, BinaryGradArgs, BinaryOp, Checked, DType, Operand, Result, Scalar,
    SideOf,
};

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

impl BinaryBackend for CudaBackend {
    fn binary(&self, args: Checked<BinaryArgs>) -> Result<()> {
        let (device, dtype) = (self.0, args.dtype());
        let BinaryArgs { op, a, b, out } = args.into_inner();
        let name = op.name();
        let out = Tensor::write(device, name, out)?;
        device.binary_kernel(op, dtype, Input::new(device, name, a)?, Input::new(device, name, b)?, out)
    }

    fn binary_assign(&self, args: Checked<BinaryAssignArgs>) -> Result<()> {
        let device = self.0;
        let BinaryAssignArgs { op, b, out } = args.into_inner();
        let name = op.name();
        let out = Tensor::write(device, name, out)?;
        let a = Input { place: Some(out.place()), address: out.address, scalar: Scalar::Int(0) };
        device.binary_kernel(op, out.dtype, a, Input::new(device, name, b)?, out)
    }

    fn binary_grad(&self, args: Checked<BinaryGradArgs>) -> Result<()> {
        let device = self.0;
        let BinaryGradArgs { op, side, grad, a, b, out } = args.into_inner();
        let name = op.name();
        let out = Tensor::write(device, name, out)?;
        let dtype = out.dtype;
        let input = |operand| Input::new(device, name, operand);
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

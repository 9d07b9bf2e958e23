//! Element-wise functions of one tensor, and their gradients.

use kiln_backend::{Checked, Integers, Result, UnaryArgs, UnaryBackend, UnaryGradArgs};

use super::launch::{Tag, launch};
use crate::{
    device::CudaBackend,
    params::Grid,
    view::{Access, Tensor},
};

impl UnaryBackend for CudaBackend {
    fn unary(&self, args: Checked<UnaryArgs>) -> Result<()> {
        let device = self.0;
        let UnaryArgs { op, x, out } = args.into_inner();
        let name = op.name();
        let (x, out) = (Tensor::read(device, name, x)?, Tensor::write(device, name, out)?);
        if x.dtype.is_int() && op.integers() == Integers::Unchanged {
            return device.copy_tensor(x, out);
        }
        let grid = Grid::<2>::new(out.layout.dims(), [Some(x.place()), Some(out.place())]);
        if grid.numel == 0 {
            return Ok(());
        }
        launch!(device, UNARY, name, Tag::of(x.dtype), grid.blocks(x.dtype.size()), grid, x.address, out.address)
    }

    fn unary_grad(&self, args: Checked<UnaryGradArgs>) -> Result<()> {
        let device = self.0;
        let UnaryGradArgs { op, grad, saved, out } = args.into_inner();
        let name = op.name();
        let access = Access { device, op: name };
        let (out, grad, saved) = (access.write(out)?, access.read(grad)?, access.read_if(saved)?);
        let places = [Some(grad.place()), saved.as_ref().map(Tensor::place), Some(out.place())];
        let grid = Grid::<3>::new(out.layout.dims(), places);
        if grid.numel == 0 {
            return Ok(());
        }
        let saved = saved.map_or(0, |tensor| tensor.address);
        let blocks = grid.blocks(out.dtype.size());
        launch!(device, UNARY_GRAD, name, Tag::of(out.dtype), blocks, grid, grad.address, saved, out.address)
    }
}

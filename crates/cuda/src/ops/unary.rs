//! Element-wise functions of one tensor, and their gradients.

use kiln_backend::{Integers, Result, UnaryBackend, UnaryOp, View, ViewMut};

use super::launch::{Tag, launch};
use crate::{device::CudaBackend, params::Grid, view::Tensor};

impl UnaryBackend for CudaBackend {
    fn unary(&self, op: UnaryOp, x: View, out: ViewMut) -> Result<()> {
        let device = self.0;
        let name = op.name();
        let (x, out) = (Tensor::read(device, name, x)?, Tensor::write(device, name, out)?);
        let (x, out) = (x.shaped(name, out.layout)?, out.of(name, x.dtype)?);
        if x.dtype.is_int() && op.integers() == Integers::Unchanged {
            return device.copy_tensor(x, out);
        }
        let grid = Grid::<2>::new(out.layout.dims(), [Some(x.place()), Some(out.place())]);
        if grid.numel == 0 {
            return Ok(());
        }
        launch!(device, UNARY, name, Tag::of(x.dtype), grid.blocks(x.dtype.size()), grid, x.address, out.address)
    }

    fn unary_grad(&self, op: UnaryOp, grad: View, saved: Option<View>, out: ViewMut) -> Result<()> {
        let device = self.0;
        let name = op.name();
        let out = Tensor::write(device, name, out)?;
        let read = |view| Tensor::read(device, name, view)?.of(name, out.dtype)?.shaped(name, out.layout);
        let (grad, saved) = (read(grad)?, saved.map(read).transpose()?);
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

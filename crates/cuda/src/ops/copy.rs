//! Copies between layouts and dtypes.

use kiln_backend::{Checked, CopyArgs, CopyBackend, Result};

use super::launch::{Tag, launch};
use crate::{
    device::{CudaBackend, Device},
    params::Grid,
    view::Tensor,
};

impl CopyBackend for CudaBackend {
    fn copy(&self, args: Checked<CopyArgs>) -> Result<()> {
        let device = self.0;
        let CopyArgs { x, out } = args.into_inner();
        let (x, out) = (Tensor::read(device, "copy", x)?, Tensor::write(device, "copy", out)?);
        device.copy_tensor(x, out)
    }
}

impl Device {
    /// Copies between checked tensors of one shape.
    pub(crate) fn copy_tensor(&self, x: Tensor, out: Tensor) -> Result<()> {
        let grid = Grid::<2>::new(out.layout.dims(), [Some(x.place()), Some(out.place())]);
        let (from, to) = (x.dtype, out.dtype);
        let blocks = grid.blocks(from.size().max(to.size()));
        if grid.numel == 0 {
            return Ok(());
        }
        if from == to {
            launch!(self, COPY, "same", Tag::bits(to), blocks, grid, x.address, out.address)
        } else {
            launch!(self, CAST, from.name(), Tag::of(to), blocks, grid, x.address, out.address)
        }
    }
}

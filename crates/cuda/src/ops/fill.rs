//! Filling with one value or an arithmetic sequence.

use kiln_backend::{Arange, FillBackend, Result, Scalar, ViewMut};

use super::{
    launch::{Tag, launch},
    values::pattern,
};
use crate::{
    device::CudaBackend,
    params::{self, Grid},
    view::Tensor,
};

impl FillBackend for CudaBackend {
    fn fill(&self, value: Scalar, out: ViewMut) -> Result<()> {
        let device = self.0;
        let out = Tensor::write(device, "fill", out)?;
        let grid = Grid::<1>::new(out.layout.dims(), [Some(out.place())]);
        if grid.numel == 0 {
            return Ok(());
        }
        let blocks = grid.blocks(out.dtype.size());
        launch!(device, FILL, "value", Tag::bits(out.dtype), blocks, grid, out.address, pattern(out.dtype, value))
    }

    fn arange(&self, range: Arange, out: ViewMut) -> Result<()> {
        let device = self.0;
        let out = Tensor::write(device, "arange", out)?;
        let grid = Grid::<1>::new(out.layout.dims(), [Some(out.place())]);
        if grid.numel == 0 {
            return Ok(());
        }
        let float = range.start.is_float() || range.step.is_float();
        let bits = |value: Scalar| if float { value.to_f64().to_bits() } else { value.to_i64() as u64 };
        let (kind, tag, blocks) = (if float { "float" } else { "int" }, Tag::of(out.dtype), params::blocks(grid.numel));
        launch!(device, ARANGE, kind, tag, blocks, grid, out.address, bits(range.start), bits(range.step))
    }
}

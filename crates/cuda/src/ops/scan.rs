//! Scans along a dimension: a block takes a line.

use kiln_backend::{DType, Result, ScanBackend, View, ViewMut};

use super::{
    launch::{Tag, launch},
    reduce::check_dim,
};
use crate::{
    device::{CudaBackend, Device},
    params::{self, Lines},
    view::Tensor,
};

impl ScanBackend for CudaBackend {
    fn cumsum(&self, x: View, dim: usize, out: ViewMut) -> Result<()> {
        let device = self.0;
        const OP: &str = "cumsum";
        let (x, out) = (Tensor::read(device, OP, x)?, Tensor::write(device, OP, out)?);
        let out = out.of(OP, if x.dtype.is_float() { x.dtype } else { DType::I64 })?.shaped(OP, x.layout)?;
        check_dim(OP, x.layout, dim)?;
        if out.layout.numel() == 0 {
            return Ok(());
        }
        let lines = Lines::<2>::new(x.layout.dims(), dim, [Some(x.place()), Some(out.place())]);
        let blocks = params::limited_blocks(lines.lines.numel, u64::MAX);
        launch!(device, CUMSUM, "sum", Tag::of(x.dtype), blocks, lines, x.address, out.address)
    }

    fn cummax(&self, x: View, dim: usize, values: ViewMut, indices: ViewMut) -> Result<()> {
        self.0.extremes("cummax", "max", x, dim, values, indices)
    }

    fn cummin(&self, x: View, dim: usize, values: ViewMut, indices: ViewMut) -> Result<()> {
        self.0.extremes("cummin", "min", x, dim, values, indices)
    }
}

impl Device {
    fn extremes(
        &self,
        op: &'static str,
        kernel: &'static str,
        x: View,
        dim: usize,
        values: ViewMut,
        indices: ViewMut,
    ) -> Result<()> {
        let x = Tensor::read(self, op, x)?;
        check_dim(op, x.layout, dim)?;
        let values = Tensor::write(self, op, values)?.of(op, x.dtype)?.shaped(op, x.layout)?;
        let indices = Tensor::write(self, op, indices)?.of(op, DType::I64)?.shaped(op, x.layout)?;
        if values.layout.numel() == 0 {
            return Ok(());
        }
        let places = [Some(x.place()), Some(values.place()), Some(indices.place())];
        let lines = Lines::<3>::new(x.layout.dims(), dim, places);
        let blocks = params::limited_blocks(lines.lines.numel, u64::MAX);
        let tag = Tag::of(x.dtype);
        launch!(self, CUM_EXTREME, kernel, tag, blocks, lines, x.address, values.address, indices.address)
    }
}

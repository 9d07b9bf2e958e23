//! Scans along a dimension: a block takes a line.

use kiln_backend::{DType, Result, ScanBackend, View, ViewMut, has_dim};

use super::launch::{Tag, launch};
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
        has_dim(OP, x.layout, dim)?;
        if out.layout.numel() == 0 {
            return Ok(());
        }
        let lines = Lines::<2>::new(x.layout.dims(), dim, [Some(x.place()), Some(out.place())]);
        let blocks = params::limited_blocks(lines.lines.numel, u64::MAX);
        launch!(device, CUMSUM, "sum", Tag::of(x.dtype), blocks, lines, x.address, out.address)
    }

    fn cummax(&self, x: View, dim: usize, values: ViewMut, indices: ViewMut) -> Result<()> {
        let Some(scan) = Extremes::new(self.0, "cummax", x, dim, values, indices)? else { return Ok(()) };
        let Extremes { tag, blocks, lines, x, values, indices } = scan;
        launch!(self.0, CUMMAX, "max", tag, blocks, lines, x, values, indices)
    }

    fn cummin(&self, x: View, dim: usize, values: ViewMut, indices: ViewMut) -> Result<()> {
        let Some(scan) = Extremes::new(self.0, "cummin", x, dim, values, indices)? else { return Ok(()) };
        let Extremes { tag, blocks, lines, x, values, indices } = scan;
        launch!(self.0, CUMMIN, "min", tag, blocks, lines, x, values, indices)
    }
}

/// A launch of `cummax` or `cummin`: its operands' lines and addresses.
struct Extremes {
    tag: Tag,
    blocks: u32,
    lines: Lines<3>,
    x: u64,
    values: u64,
    indices: u64,
}

impl Extremes {
    /// `None` if there are no elements.
    fn new(
        device: &Device,
        op: &'static str,
        x: View,
        dim: usize,
        values: ViewMut,
        indices: ViewMut,
    ) -> Result<Option<Extremes>> {
        let x = Tensor::read(device, op, x)?;
        has_dim(op, x.layout, dim)?;
        let values = Tensor::write(device, op, values)?.of(op, x.dtype)?.shaped(op, x.layout)?;
        let indices = Tensor::write(device, op, indices)?.of(op, DType::I64)?.shaped(op, x.layout)?;
        if values.layout.numel() == 0 {
            return Ok(None);
        }
        let places = [Some(x.place()), Some(values.place()), Some(indices.place())];
        let lines = Lines::<3>::new(x.layout.dims(), dim, places);
        let blocks = params::limited_blocks(lines.lines.numel, u64::MAX);
        let (tag, x, values, indices) = (Tag::of(x.dtype), x.address, values.address, indices.address);
        Ok(Some(Extremes { tag, blocks, lines, x, values, indices }))
    }
}

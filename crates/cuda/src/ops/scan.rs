//! Scans along a dimension: a block takes a line.

use kiln_backend::{DType, Result, ScanBackend, View, ViewMut};

use super::{
    launch::{Tag, launch},
    reduce::check_dim,
};
use crate::{
    device::CudaBackend,
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
}

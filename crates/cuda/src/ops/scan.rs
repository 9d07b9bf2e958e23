//! Scans along a dimension (`cumsum`, `cummax`, `cummin`): one block per line.

use kiln_backend::{Checked, CumExtreme, CumExtremeArgs, CumsumArgs, Result, ScanBackend};

use super::launch::{Tag, launch};
use crate::{
    device::CudaBackend,
    params::{self, Lines},
    view::Access,
};

impl ScanBackend for CudaBackend {
    fn cumsum(&self, args: Checked<CumsumArgs>) -> Result<()> {
        let device = self.0;
        let access = Access { device, op: "cumsum" };
        let CumsumArgs { x, dim, out } = args.into_inner();
        let (x, out) = (access.read(x)?, access.write(out)?);
        if out.layout.numel() == 0 {
            return Ok(());
        }
        let lines = Lines::<2>::new(x.layout.dims(), dim, [Some(x.place()), Some(out.place())]);
        let blocks = params::limited_blocks(lines.lines.numel, u64::MAX);
        launch!(device, CUMSUM, "sum", Tag::of(x.dtype), blocks, lines, x.address, out.address)
    }

    fn cum_extreme(&self, args: Checked<CumExtremeArgs>) -> Result<()> {
        let device = self.0;
        let CumExtremeArgs { op, x, dim, values, indices } = args.into_inner();
        let access = Access { device, op: op.name() };
        let (x, values, indices) = (access.read(x)?, access.write(values)?, access.write(indices)?);
        if values.layout.numel() == 0 {
            return Ok(());
        }
        let places = [Some(x.place()), Some(values.place()), Some(indices.place())];
        let lines = Lines::<3>::new(x.layout.dims(), dim, places);
        let blocks = params::limited_blocks(lines.lines.numel, u64::MAX);
        let (tag, x, values, indices) = (Tag::of(x.dtype), x.address, values.address, indices.address);
        match op {
            CumExtreme::Cummax => launch!(device, CUMMAX, "max", tag, blocks, lines, x, values, indices),
            CumExtreme::Cummin => launch!(device, CUMMIN, "min", tag, blocks, lines, x, values, indices),
        }
    }
}

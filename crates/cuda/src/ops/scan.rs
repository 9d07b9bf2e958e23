//! Scans along a dimension (`cumsum`, `cummax`, `cummin`): one block per line.

use kiln_backend::{Checked, CumExtremeArgs, CumsumArgs, Result, ScanBackend};

use super::launch::{Tag, launch};
use crate::{
    device::{CudaBackend, Device},
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

    fn cummax(&self, args: Checked<CumExtremeArgs>) -> Result<()> {
        let Some(scan) = Extremes::new(self.0, "cummax", args)? else { return Ok(()) };
        let Extremes { tag, blocks, lines, x, values, indices } = scan;
        launch!(self.0, CUMMAX, "max", tag, blocks, lines, x, values, indices)
    }

    fn cummin(&self, args: Checked<CumExtremeArgs>) -> Result<()> {
        let Some(scan) = Extremes::new(self.0, "cummin", args)? else { return Ok(()) };
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
    fn new(device: &Device, op: &'static str, args: Checked<CumExtremeArgs>) -> Result<Option<Extremes>> {
        let access = Access { device, op };
        let CumExtremeArgs { x, dim, values, indices } = args.into_inner();
        let (x, values, indices) = (access.read(x)?, access.write(values)?, access.write(indices)?);
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

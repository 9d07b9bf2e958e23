//! `tril` and `triu`: lower and upper triangles of matrices.

use kiln_backend::{Checked, Result, TrilTriuArgs, TrilTriuBackend};

use super::launch::{Tag, launch};
use crate::{
    device::CudaBackend,
    params::{self, Grid, Triangle},
    view::Access,
};

impl TrilTriuBackend for CudaBackend {
    fn tril_triu(&self, args: Checked<TrilTriuArgs>) -> Result<()> {
        let device = self.0;
        let access = Access { device, op: args.name() };
        let TrilTriuArgs { upper, diagonal, x, out } = args.into_inner();
        let (x, out) = (access.read(x)?, access.write(out)?);
        let grid = Grid::<2>::new(out.layout.dims(), [Some(x.place()), Some(out.place())]);
        let (&[.., rows, columns], true) = (out.layout.dims(), grid.numel > 0) else { return Ok(()) };
        let shape =
            Triangle { rows: rows as u64, columns: columns as u64, diagonal, upper: u32::from(upper), unused: 0 };
        let blocks = params::blocks(grid.numel);
        launch!(device, TRIL_TRIU, "keep", Tag::bits(out.dtype), blocks, grid, x.address, out.address, shape)
    }
}

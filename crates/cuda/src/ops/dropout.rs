//! Dropout: zeroes random elements and scales up the others.

use kiln_backend::{Checked, DropoutArgs, DropoutBackend, RandomState, Result, bernoulli_threshold};

use super::launch::{Tag, launch};
use crate::{
    device::CudaBackend,
    params::{self, Grid},
    view::Access,
};

impl DropoutBackend for CudaBackend {
    fn dropout(&self, args: Checked<DropoutArgs>) -> Result<()> {
        let device = self.0;
        let access = Access { device, op: "dropout" };
        let DropoutArgs { p, state, x, out } = args.into_inner();
        let (x, out) = (access.read(x)?, access.write(out)?);
        let grid = Grid::<2>::new(out.layout.dims(), [Some(x.place()), Some(out.place())]);
        if grid.numel == 0 {
            return Ok(());
        }
        let scale = 1.0 / (1.0 - p);
        let blocks = params::blocks(grid.numel.div_ceil(4));
        let tag = Tag::of(out.dtype);
        device.generator.draw(state, RandomState::blocks(grid.numel as usize, 1), |at| {
            launch!(
                device,
                DROPOUT,
                "apply",
                tag,
                blocks,
                grid,
                x.address,
                out.address,
                at,
                bernoulli_threshold(p),
                scale
            )
        })
    }
}

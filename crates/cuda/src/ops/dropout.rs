//! Dropout from a seed.

use kiln_backend::{DropoutBackend, Error, RandomState, Result, View, ViewMut};

use super::{
    launch::{Tag, launch},
    values::threshold,
};
use crate::{
    device::CudaBackend,
    params::{self, Grid},
    view::Tensor,
};

impl DropoutBackend for CudaBackend {
    fn dropout(&self, p: f64, state: RandomState, x: View, out: ViewMut) -> Result<()> {
        let device = self.0;
        const OP: &str = "dropout";
        if !(0.0..1.0).contains(&p) {
            return Err(Error::argument(OP, format!("the probability {p} is not in [0, 1)")));
        }
        let out = Tensor::write(device, OP, out)?;
        let x = Tensor::read(device, OP, x)?.of(OP, out.dtype)?.shaped(OP, out.layout)?;
        let grid = Grid::<2>::new(out.layout.dims(), [Some(x.place()), Some(out.place())]);
        if grid.numel == 0 {
            return Ok(());
        }
        let scale = 1.0 / (1.0 - p);
        let blocks = params::blocks(grid.numel.div_ceil(4));
        let tag = Tag::of(out.dtype);
        device.generator.draw(state, RandomState::blocks(grid.numel as usize, 1), |at| {
            launch!(device, DROPOUT, "apply", tag, blocks, grid, x.address, out.address, at, threshold(p), scale)
        })
    }
}

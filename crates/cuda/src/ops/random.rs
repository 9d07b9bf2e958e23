//! Fills tensors with random numbers from the device's generator.

use kiln_backend::{
    Checked, DType, Distribution, RandomArgs, RandomBackend, RandomState, Result, Scalar, bernoulli_threshold,
};

use super::{
    launch::{Tag, launch},
    values::number,
};
use crate::{
    device::CudaBackend,
    params::{self, Grid},
    view::Tensor,
};

/// A number in the type that a float dtype is computed in.
fn computed(dtype: DType, value: f64) -> f64 {
    f64::from_bits(number(dtype.accumulator(), Scalar::Float(value)))
}

impl RandomBackend for CudaBackend {
    fn random(&self, args: Checked<RandomArgs>) -> Result<()> {
        let device = self.0;
        let RandomArgs { distribution, state, out } = args.into_inner();
        let out = Tensor::write(device, distribution.name(), out)?;
        let grid = Grid::<1>::new(out.layout.dims(), [Some(out.place())]);
        if grid.numel == 0 {
            return Ok(());
        }
        let (dtype, tag) = (out.dtype, Tag::of(out.dtype));
        let blocks = params::blocks(grid.numel.div_ceil(4));
        let drawn = RandomState::blocks(grid.numel as usize, distribution.words(dtype));
        let draw = |launch: &dyn Fn(params::RandomState) -> Result<()>| device.generator.draw(state, drawn, launch);
        let out = out.address;
        match distribution {
            Distribution::Uniform { low, high } => {
                let (start, width) = (computed(dtype, low), computed(dtype, high - low));
                let last = if low < high { dtype.largest_below(high).max(start) } else { start };
                draw(&|at| launch!(device, RANDOM, "uniform", tag, blocks, grid, out, at, start, width, last))
            }
            Distribution::Normal { mean, std } => {
                draw(&|at| launch!(device, RANDOM, "normal", tag, blocks, grid, out, at, mean, std, 0.0f64))
            }
            Distribution::Bernoulli { p } => {
                draw(&|at| launch!(device, DRAW, "bernoulli", tag, blocks, grid, out, at, 0u64, bernoulli_threshold(p)))
            }
            Distribution::Integers { low, high } => {
                let count = high.wrapping_sub(low) as u64;
                draw(&|at| launch!(device, DRAW, "integers", tag, blocks, grid, out, at, low as u64, count))
            }
        }
    }
}

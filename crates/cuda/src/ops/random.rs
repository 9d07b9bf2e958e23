//! Random numbers from the device's generator.

use kiln_backend::{DType, Distribution, Error, RandomBackend, RandomState, Result, Scalar, ViewMut};

use super::{
    launch::{Tag, launch},
    values::{accumulated, below, number, threshold},
};
use crate::{
    device::CudaBackend,
    params::{self, Grid},
    view::Tensor,
};

/// A number in the type that a float dtype is computed in.
fn computed(dtype: DType, value: f64) -> f64 {
    f64::from_bits(number(accumulated(dtype), Scalar::Float(value)))
}

impl RandomBackend for CudaBackend {
    fn random(&self, distribution: Distribution, state: RandomState, out: ViewMut) -> Result<()> {
        let device = self.0;
        let op = match distribution {
            Distribution::Uniform { .. } => "uniform",
            Distribution::Normal { .. } => "normal",
            Distribution::Bernoulli { .. } => "bernoulli",
            Distribution::Integers { .. } => "randint",
        };
        let out = Tensor::write(device, op, out)?;
        let grid = Grid::<1>::new(out.layout.dims(), [Some(out.place())]);
        let (dtype, tag) = (out.dtype, Tag::of(out.dtype));
        let blocks = params::blocks(grid.numel.div_ceil(4));
        let drawn = RandomState::blocks(grid.numel as usize, distribution.words(dtype));
        let draw = |launch: &dyn Fn(params::RandomState) -> Result<()>| device.generator.draw(state, drawn, launch);
        let out = out.address;
        match distribution {
            Distribution::Uniform { low, high } => {
                let (start, width) = (computed(dtype, low), computed(dtype, high - low));
                let ordered = low <= high; // false for NaN
                if !ordered || !width.is_finite() {
                    return Err(Error::argument(op, format!("[{low}, {high}) is not an interval of {dtype}")));
                }
                let last = if low < high { below(dtype, high).max(start) } else { start };
                if grid.numel == 0 {
                    return Ok(());
                }
                draw(&|at| launch!(device, RANDOM, "uniform", tag, blocks, grid, out, at, start, width, last))
            }
            Distribution::Normal { mean, std } => {
                if grid.numel == 0 {
                    return Ok(());
                }
                draw(&|at| launch!(device, RANDOM, "normal", tag, blocks, grid, out, at, mean, std, 0.0f64))
            }
            Distribution::Bernoulli { p } => {
                if !(0.0..=1.0).contains(&p) {
                    return Err(Error::argument(op, format!("the probability {p} is not in [0, 1]")));
                }
                if grid.numel == 0 {
                    return Ok(());
                }
                draw(&|at| launch!(device, DRAW, "bernoulli", tag, blocks, grid, out, at, 0u64, threshold(p)))
            }
            Distribution::Integers { low, high } => {
                if low >= high {
                    return Err(Error::argument(op, format!("there are no integers in {low}..{high}")));
                }
                if grid.numel == 0 {
                    return Ok(());
                }
                let count = high.wrapping_sub(low) as u64;
                draw(&|at| launch!(device, DRAW, "integers", tag, blocks, grid, out, at, low as u64, count))
            }
        }
    }
}

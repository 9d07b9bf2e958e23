//! Filling: with one value, with sequences, with random numbers.

use kiln_backend::{DType, Distribution, Error, Ramp, RandomState, Result, Scalar, ViewMut};

use super::{
    launch::{Tag, launch},
    values::{accumulated, below, number, pattern, threshold},
};
use crate::{
    device::Device,
    params::{self, Grid},
    view::Tensor,
};

/// A number in the type that a float dtype is computed in.
fn computed(dtype: DType, value: f64) -> f64 {
    f64::from_bits(number(accumulated(dtype), Scalar::Float(value)))
}

impl Device {
    pub(super) fn fill_impl(&self, value: Scalar, out: ViewMut) -> Result<()> {
        let out = Tensor::write(self, "fill", out)?;
        let grid = Grid::<1>::new(out.layout.dims(), [Some(out.place())]);
        if grid.numel == 0 {
            return Ok(());
        }
        let blocks = grid.blocks(out.dtype.size());
        launch!(self, FILL, "value", Tag::bits(out.dtype), blocks, grid, out.address, pattern(out.dtype, value))
    }

    pub(super) fn ramp_impl(&self, ramp: Ramp, out: ViewMut) -> Result<()> {
        let out = Tensor::write(self, "arange", out)?;
        let grid = Grid::<1>::new(out.layout.dims(), [Some(out.place())]);
        if grid.numel == 0 {
            return Ok(());
        }
        let float = ramp.start.is_float() || ramp.step.is_float();
        let bits = |value: Scalar| if float { value.to_f64().to_bits() } else { value.to_i64() as u64 };
        let (kind, tag, blocks) = (if float { "float" } else { "int" }, Tag::of(out.dtype), params::blocks(grid.numel));
        launch!(self, RAMP, kind, tag, blocks, grid, out.address, bits(ramp.start), bits(ramp.step))
    }

    pub(super) fn random_impl(&self, distribution: Distribution, state: RandomState, out: ViewMut) -> Result<()> {
        let op = match distribution {
            Distribution::Uniform { .. } => "uniform",
            Distribution::Normal { .. } => "normal",
            Distribution::Bernoulli { .. } => "bernoulli",
            Distribution::Integers { .. } => "randint",
        };
        let out = Tensor::write(self, op, out)?;
        let grid = Grid::<1>::new(out.layout.dims(), [Some(out.place())]);
        let (dtype, tag) = (out.dtype, Tag::of(out.dtype));
        let blocks = params::blocks(grid.numel.div_ceil(4));
        let drawn = RandomState::blocks(grid.numel as usize, distribution.words(dtype));
        let draw = |launch: &dyn Fn(params::RandomState) -> Result<()>| self.generator.draw(state, drawn, launch);
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
                draw(&|at| launch!(self, RANDOM, "uniform", tag, blocks, grid, out, at, start, width, last))
            }
            Distribution::Normal { mean, std } => {
                if grid.numel == 0 {
                    return Ok(());
                }
                draw(&|at| launch!(self, RANDOM, "normal", tag, blocks, grid, out, at, mean, std, 0.0f64))
            }
            Distribution::Bernoulli { p } => {
                if !(0.0..=1.0).contains(&p) {
                    return Err(Error::argument(op, format!("the probability {p} is not in [0, 1]")));
                }
                if grid.numel == 0 {
                    return Ok(());
                }
                draw(&|at| launch!(self, DRAW, "bernoulli", tag, blocks, grid, out, at, 0u64, threshold(p)))
            }
            Distribution::Integers { low, high } => {
                if low >= high {
                    return Err(Error::argument(op, format!("there are no integers in {low}..{high}")));
                }
                if grid.numel == 0 {
                    return Ok(());
                }
                let count = high.wrapping_sub(low) as u64;
                draw(&|at| launch!(self, DRAW, "integers", tag, blocks, grid, out, at, low as u64, count))
            }
        }
    }
}

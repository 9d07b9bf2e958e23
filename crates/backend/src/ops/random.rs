//! Random numbers from a counter-based generator (Philox).

use crate::{
    contract::{Arguments, Checked, is_float},
    dtype::DType,
    error::{Error, Result},
    view::ViewMut,
};

/// A distribution to draw from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// Reals in `[low, high)`: `low + u * (high - low)`, where `u` is the fraction made of the draw's top bits, as many
    /// as the dtype's significand has (24 for `f32`, 53 for `f64`, 11 for `f16`, 8 for `bf16`). A result that rounds to
    /// `high` or above becomes the largest number below it.
    Uniform {
        /// The smallest value.
        low: f64,
        /// The exclusive upper bound.
        high: f64,
    },
    /// The normal distribution (Box & Muller, 1958). Elements `2 i` and `2 i + 1` are `mean + std * r cos(2 pi b)` and
    /// `mean + std * r sin(2 pi b)` with `r = sqrt(-2 ln a)`. Here `a = (k + 1) / 2^24`, where `k` is the top 24 bits
    /// of the first element's draw (the top 53 of 64 for `f64`), and `b = k / 2^24` with those of the second's. Half
    /// precision is computed as `f32`. `normal.rs` of the CPU backend spells out the functions.
    Normal {
        /// Mean.
        mean: f64,
        /// Standard deviation.
        std: f64,
    },
    /// 1 with probability `p`, else 0; any dtype.
    Bernoulli {
        /// Probability of 1.
        p: f64,
    },
    /// Integers in `low..high`, `low + (draw * (high - low)) / 2^64`; any dtype that can hold them.
    Integers {
        /// The smallest value.
        low: i64,
        /// The exclusive upper bound.
        high: i64,
    },
}

/// A position in the Philox-4x32-10 stream (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
/// Counter block `offset + i` yields four 32-bit words. Every backend maps elements to blocks in the same way, so one
/// seed gives the same numbers on every device.
///
/// Elements are numbered in row-major order of the output's shape. A 32-bit draw (`f32`, half precision,
/// Bernoulli, dropout) uses word `n % 4` of block `n / 4`; a 64-bit draw (`f64`, integers) uses words
/// `2 (n % 2)` (low half) and `2 (n % 2) + 1` (high half) of block `n / 2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RandomState {
    /// The key.
    pub seed: u64,
    /// The first counter block.
    pub offset: u64,
}

impl RandomState {
    /// How many counter blocks `numel` draws use, with `words` 32-bit words (1 or 2) per draw.
    #[must_use]
    pub fn blocks(numel: usize, words: usize) -> u64 {
        (numel as u64).div_ceil(4 / words as u64)
    }
}

impl Distribution {
    /// The name for errors.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Distribution::Uniform { .. } => "uniform",
            Distribution::Normal { .. } => "normal",
            Distribution::Bernoulli { .. } => "bernoulli",
            Distribution::Integers { .. } => "randint",
        }
    }

    /// How many 32-bit words a draw into `dtype` uses.
    #[must_use]
    pub fn words(&self, dtype: DType) -> usize {
        match self {
            Distribution::Integers { .. } => 2,
            Distribution::Bernoulli { .. } => 1,
            Distribution::Uniform { .. } | Distribution::Normal { .. } => 1 + usize::from(dtype == DType::F64),
        }
    }
}

/// The number of values of a 32-bit draw, out of `2^32`, that stand for an event of probability `p`: those below the
/// result.
#[must_use]
pub fn bernoulli_threshold(p: f64) -> u64 {
    (p * 4_294_967_296.0).ceil() as u64
}

/// Arguments of [`random`](RandomBackend::random).
#[derive(Debug)]
pub struct RandomArgs<'a> {
    /// The distribution to draw from.
    pub distribution: Distribution,
    /// Where the random numbers start in the stream.
    pub state: RandomState,
    /// Receives the numbers.
    pub out: ViewMut<'a>,
}

impl Arguments for RandomArgs<'_> {
    fn check(&self) -> Result<()> {
        let (op, dtype) = (self.distribution.name(), self.out.dtype());
        let valid = |valid: bool, message: String| if valid { Ok(()) } else { Err(Error::argument(op, message)) };
        match self.distribution {
            Distribution::Uniform { low, high } => {
                is_float(op, dtype)?;
                let width = if dtype == DType::F64 { high - low } else { f64::from((high - low) as f32) };
                valid(low <= high && width.is_finite(), format!("[{low}, {high}) is not an interval of {dtype}"))
            }
            Distribution::Normal { .. } => is_float(op, dtype),
            Distribution::Bernoulli { p } => {
                valid((0.0..=1.0).contains(&p), format!("the probability {p} is not in [0, 1]"))
            }
            Distribution::Integers { low, high } => {
                valid(low < high, format!("there are no integers in {low}..{high}"))
            }
        }
    }
}

/// Draws random numbers.
pub trait RandomBackend {
    /// Writes random numbers, as [`RandomState`] and [`Distribution`] define them.
    fn random(&self, args: Checked<RandomArgs>) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Memory, layout};

    #[test]
    fn distributions_are_checked() {
        let check = |distribution, dtype| {
            let (mut memory, layout) = (Memory(dtype), layout(&[3]));
            let (state, out) = (RandomState { seed: 0, offset: 0 }, memory.view_mut(&layout));
            RandomArgs { distribution, state, out }.check().is_ok()
        };
        let (uniform, integers) =
            (|low, high| Distribution::Uniform { low, high }, |low, high| Distribution::Integers { low, high });
        assert!(check(uniform(0.0, 0.0), DType::F16) && !check(uniform(0.0, 1.0), DType::I32));
        assert!(!check(uniform(1.0, 0.0), DType::F32) && !check(uniform(f64::NAN, 1.0), DType::F32));
        // Too wide for `f32`, not for `f64`.
        assert!(!check(uniform(-1e39, 1e39), DType::F32) && check(uniform(-1e39, 1e39), DType::F64));
        assert!(!check(Distribution::Normal { mean: 0.0, std: 1.0 }, DType::Bool));
        for (p, valid) in [(0.0, true), (1.0, true), (-0.1, false), (1.1, false), (f64::NAN, false)] {
            assert_eq!(check(Distribution::Bernoulli { p }, DType::U8), valid, "{p}");
        }
        assert!(check(integers(-1, 0), DType::F32) && !check(integers(0, 0), DType::I64));
        assert_eq!((bernoulli_threshold(0.5), bernoulli_threshold(1.0)), (1 << 31, 1 << 32));
    }
}

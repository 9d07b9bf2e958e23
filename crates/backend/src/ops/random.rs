//! Random numbers.

use crate::{DType, Result, ViewMut};

/// A distribution to draw from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// Reals in `[low, high)`: `low + u * (high - low)`, where `u` is the fraction made of the draw's top bits,
    /// as many as the dtype's significand has (24 for `f32`, 53, 11, 8); a result that rounds to `high` or above
    /// becomes the number below it.
    Uniform {
        /// The smallest value.
        low: f64,
        /// The bound that is not reached.
        high: f64,
    },
    /// The normal distribution (Box & Muller, 1958). Elements `2 i` and `2 i + 1` are `mean + std * r cos(2 pi b)`
    /// and `mean + std * r sin(2 pi b)` with `r = sqrt(-2 ln a)`: `a = (k + 1) / 2^24` where `k` is the top 24
    /// bits of the first's draw (53 of 64 for `f64`), and `b = k / 2^24` with those of the second's. Half
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
        /// The bound that is not reached.
        high: i64,
    },
}

/// A position in the Philox-4x32-10 stream (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
/// 2011). Counter block `offset + i` yields four 32-bit words; every backend maps element number and block
/// alike, so one seed gives the same numbers on every device.
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
    /// How many counter blocks `numel` draws use, with `words` 32-bit words (1 or 2) a draw.
    #[must_use]
    pub fn blocks(numel: usize, words: usize) -> u64 {
        (numel as u64).div_ceil(4 / words as u64)
    }
}

impl Distribution {
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

/// Draws random numbers.
pub trait RandomBackend {
    /// Random numbers; [`RandomState`] says which.
    fn random(&self, distribution: Distribution, state: RandomState, out: ViewMut) -> Result<()>;
}

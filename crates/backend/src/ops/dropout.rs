//! Dropout whose mask follows from a random state, so that no mask is stored for the backward pass.

use crate::{
    contract::{Arguments, Checked, has_dtype, is_float, same_shape},
    error::{Error, Result},
    ops::random::RandomState,
    view::{View, ViewMut},
};

/// Arguments of [`dropout`](DropoutBackend::dropout).
#[derive(Debug)]
pub struct DropoutArgs<'a> {
    /// The probability that an element becomes 0, in `[0, 1)`.
    pub p: f64,
    /// Where the random numbers start in the stream.
    pub state: RandomState,
    /// The input.
    pub x: View<'a>,
    /// The result, in the shape of `x`.
    pub out: ViewMut<'a>,
}

impl Arguments for DropoutArgs<'_> {
    fn check(&self) -> Result<()> {
        const OP: &str = "dropout";
        let DropoutArgs { p, x, out, .. } = self;
        is_float(OP, x.dtype())?;
        has_dtype(OP, x.dtype(), out.dtype())?;
        same_shape(OP, &[x.layout, out.layout])?;
        if (0.0..1.0).contains(p) {
            return Ok(());
        }
        Err(Error::argument(OP, format!("the probability {p} is not in [0, 1)")))
    }
}

/// Dropout.
pub trait DropoutBackend {
    /// Zero with probability `p`, else `x * (1 / (1 - p))`, the factor rounded to the compute type. Element `n` is kept
    /// if its 32-bit random word is at least [`bernoulli_threshold`](crate::bernoulli_threshold). The gradient is the
    /// same function of the incoming gradient.
    fn dropout(&self, args: Checked<DropoutArgs>) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dtype::DType,
        testing::{Memory, layout},
    };

    #[test]
    fn probabilities_are_checked() {
        let (memory, mut to, layout) = (Memory(DType::F32), Memory(DType::F32), layout(&[3]));
        for (p, valid) in [(0.0, true), (0.9, true), (1.0, false), (-0.1, false), (f64::NAN, false)] {
            let state = RandomState { seed: 0, offset: 0 };
            let args = DropoutArgs { p, state, x: memory.view(&layout), out: to.view_mut(&layout) };
            assert_eq!(args.check().is_ok(), valid, "{p}");
        }
    }
}

//! Stochastic depth: while training, residual branches are left out at random (Huang et al., 2016).

use kiln_derive::located;
use kiln_nn::{Module, Training};
use kiln_tensor::{Error, Result, Tensor};

/// While training, sets whole samples of a residual branch `[N, …]` to 0 with a probability, and divides the others by
/// the probability that they stay; in evaluation mode, returns its input. torchvision's `StochasticDepth` with the mode
/// `row` (<https://docs.pytorch.org/vision/stable/generated/torchvision.ops.StochasticDepth.html>).
#[derive(Debug, Module)]
#[module(save, extra_repr = "describe")]
pub struct StochasticDepth {
    p: f64,
    training: Training,
}

#[located(site)]
impl StochasticDepth {
    /// A layer that drops each sample with probability `p`.
    ///
    /// # Errors
    /// If `p` is outside `[0, 1]`.
    pub fn rows(p: f64) -> Result<StochasticDepth> {
        if !(0.0..=1.0).contains(&p) {
            return Err(Error::argument("StochasticDepth", format!("the probability {p} is outside [0, 1]")));
        }
        Ok(StochasticDepth { p, training: Training::default() })
    }

    fn describe(&self) -> String {
        // `{:?}` keeps the `.0` of whole numbers, as Python does.
        format!("p={:?}, mode=row", self.p)
    }
}

#[located(site)]
impl Module for StochasticDepth {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if !self.training.is_on() || self.p == 0.0 {
            return Ok(x.clone());
        }
        if x.rank() == 0 {
            return Err(Error::shape("StochasticDepth", "[N, …]", x.shape()));
        }
        // One number for each sample, which meets all of its elements.
        let mut rows = vec![1; x.rank()];
        rows[0] = x.dims()[0];
        x.mul(&Tensor::ones(&rows[..], x.options())?.dropout(self.p, true)?)
    }
}

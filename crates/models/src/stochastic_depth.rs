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

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;
    use kiln_nn::ModuleTree;
    use kiln_tensor::{Device, manual_seed};

    /// A sample is either 0 or scaled, all of it, and about as many stay as should.
    #[test]
    fn whole_samples_are_dropped() -> Result<()> {
        manual_seed(3);
        let layer = StochasticDepth::rows(0.25)?;
        let x = Tensor::ones([2000, 2, 3], Device::Cpu)?.requires_grad_(true)?;
        let y = layer.forward(&x)?;
        y.sum(())?.backward()?;
        assert_eq!(x.grad().unwrap().to_vec::<f32>()?, y.to_vec::<f32>()?);
        let rows = y.reshape([2000, 6])?.to_vec::<f32>()?;
        let kept = rows.chunks(6).filter(|row| row[0] != 0.0).count();
        assert!(rows.chunks(6).all(|row| row.iter().all(|v| *v == row[0] && (*v == 0.0 || *v == 1.0 / 0.75))));
        assert!((1420..1580).contains(&kept), "{kept}");

        assert_eq!(layer.forward(&Tensor::zeros([0, 3], Device::Cpu)?)?.dims(), [0, 3]);
        assert!(layer.forward(&Tensor::zeros((), Device::Cpu)?).is_err());
        layer.eval();
        assert_eq!(layer.forward(&x)?.to_vec::<f32>()?, x.to_vec::<f32>()?);
        assert_eq!(StochasticDepth::rows(1.0)?.forward(&x)?.sum(())?.item::<f32>()?, 0.0);
        assert!(StochasticDepth::rows(1.5).is_err() && StochasticDepth::rows(f64::NAN).is_err());
        Ok(())
    }
}

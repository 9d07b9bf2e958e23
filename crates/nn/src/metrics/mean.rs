//! The mean of numbers of many batches.

use kiln_derive::located;
use kiln_tensor::{DType, Device, Result, Tensor, no_grad};

use super::{Metric, replace};

/// The mean of anything, as of losses; in `f64`.
#[derive(Debug)]
pub struct Mean {
    total: Tensor,
    weight: Tensor,
}

#[located(site)]
impl Mean {
    /// The mean of no numbers yet.
    ///
    /// # Errors
    /// If the device is not available.
    pub fn new(device: impl Into<Device>) -> Result<Mean> {
        let zero = Tensor::zeros((), (DType::F64, device.into()))?;
        Ok(Mean { weight: zero.copy()?, total: zero })
    }

    /// Adds all numbers of a tensor, of any shape.
    ///
    /// # Errors
    /// If it is on another device.
    pub fn update(&mut self, values: &Tensor) -> Result<()> {
        self.update_weighted(values, values.numel() as f64, false)
    }

    /// Adds the mean of a batch of `count` numbers, as losses are.
    ///
    /// # Errors
    /// If it is not one number, or on another device.
    pub fn update_mean(&mut self, mean: &Tensor, count: usize) -> Result<()> {
        if mean.numel() != 1 {
            return Err(kiln_tensor::Error::shape("Mean::update_mean", "one number", mean.shape()));
        }
        self.update_weighted(mean, count as f64, true)
    }

    fn update_weighted(&mut self, values: &Tensor, weight: f64, times_weight: bool) -> Result<()> {
        // A batch of nothing has a mean that is not a number.
        if weight == 0.0 {
            return Ok(());
        }
        no_grad(|| {
            let sum = values.detach().to_dtype(DType::F64)?.sum(())?;
            let sum = if times_weight { sum.mul(weight)? } else { sum };
            self.total = self.total.add(&sum)?;
            self.weight = self.weight.add(weight)?;
            Ok(())
        })
    }

    /// The mean; NaN of no numbers. Waits for the device.
    ///
    /// # Errors
    /// If an earlier operation failed on the device.
    pub fn compute(&self) -> Result<f64> {
        Ok(self.total.item::<f64>()? / self.weight.item::<f64>()?)
    }
}

impl Metric for Mean {
    fn sums(&self) -> Vec<Tensor> {
        vec![self.total.clone(), self.weight.clone()]
    }

    fn set_sums(&mut self, sums: Vec<Tensor>) -> Result<()> {
        replace("Mean", &mut [&mut self.total, &mut self.weight], sums)
    }
}

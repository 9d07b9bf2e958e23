//! Accuracy, also among the `k` likeliest classes.

use kiln_derive::located;
use kiln_tensor::{DType, Device, Error, Result, Tensor, no_grad};

use super::{Metric, check_targets, replace};

/// The share of samples whose class is the likeliest one, or among the `k` likeliest ones.
#[derive(Debug)]
pub struct Accuracy {
    top_k: usize,
    correct: Tensor,
    samples: Tensor,
}

#[located(site)]
impl Accuracy {
    /// The accuracy of the likeliest class.
    ///
    /// # Errors
    /// If the device is not available.
    pub fn new(device: impl Into<Device>) -> Result<Accuracy> {
        Accuracy::top_k(1, device)
    }

    /// Whether the class is among the `k` likeliest ones.
    ///
    /// # Errors
    /// If `k` is 0, or the device is not available.
    pub fn top_k(k: usize, device: impl Into<Device>) -> Result<Accuracy> {
        if k == 0 {
            return Err(Error::argument("Accuracy", "k must be at least 1"));
        }
        let zero = Tensor::zeros((), (DType::I64, device.into()))?;
        Ok(Accuracy { top_k: k, samples: zero.copy()?, correct: zero })
    }

    /// Adds a batch: scores `[N, classes]` and targets `[N]`. Of equal scores, the first ones count as likelier.
    ///
    /// # Errors
    /// If shapes, dtypes or devices do not fit, or there are fewer than `k` classes.
    pub fn update(&mut self, scores: &Tensor, targets: &Tensor) -> Result<()> {
        const OP: &str = "Accuracy::update";
        let (samples, classes) = scores.dims2()?;
        check_targets(OP, targets, samples)?;
        if classes < self.top_k {
            return Err(Error::argument(
                OP,
                format!("{classes} classes, of which the {} likeliest are asked for", self.top_k),
            ));
        }
        no_grad(|| {
            let targets = targets.to_dtype(DType::I64)?;
            let hits = if self.top_k == 1 {
                scores.detach().argmax(1)?.eq(&targets)?
            } else {
                scores.detach().topk(self.top_k, 1, true)?.1.eq(&targets.unsqueeze(1)?)?
            };
            self.correct = self.correct.add(&hits.to_dtype(DType::I64)?.sum(())?)?;
            self.samples = self.samples.add(samples as i64)?;
            Ok(())
        })
    }

    /// The share, 0 to 1; NaN of no samples. Waits for the device.
    ///
    /// # Errors
    /// If an earlier operation failed on the device.
    pub fn compute(&self) -> Result<f64> {
        Ok(self.correct.item::<i64>()? as f64 / self.samples.item::<i64>()? as f64)
    }
}

impl Metric for Accuracy {
    fn sums(&self) -> Vec<Tensor> {
        vec![self.correct.clone(), self.samples.clone()]
    }

    fn set_sums(&mut self, sums: Vec<Tensor>) -> Result<()> {
        replace("Accuracy", &mut [&mut self.correct, &mut self.samples], sums)
    }
}

//! Metrics over many batches: means, accuracy, confusion matrices with precision, recall and F1, and the area under the ROC
//! curve.
//!
//! A metric is created on a device, is updated with batches there, and is computed in the end: updates only queue work, and
//! `compute` waits for it. The sums of several processes are added by `kiln_distributed::all_reduce_metric`, and the samples of
//! an [`AUROC`] collected by `kiln_distributed::all_gather_auroc`.
//!
//! ```
//! use kiln_nn::metrics::{Accuracy, Average, ConfusionMatrix};
//! use kiln_tensor::{Device, Tensor};
//! # fn main() -> kiln_tensor::Result<()> {
//! let (mut accuracy, mut matrix) = (Accuracy::new(Device::Cpu)?, ConfusionMatrix::new(3, Device::Cpu)?);
//! let scores = Tensor::new(&[[2.0f32, 1.0, 0.0], [0.0, 3.0, 1.0], [5.0, 0.0, 1.0]], Device::Cpu)?;
//! let targets = Tensor::new(&[0i64, 1, 2], Device::Cpu)?;
//! accuracy.update(&scores, &targets)?;
//! matrix.update(&scores, &targets)?;
//! assert_eq!(accuracy.compute()?, 2.0 / 3.0);
//! assert_eq!(matrix.recall(Average::Macro)?, 2.0 / 3.0);
//! # Ok(())
//! # }
//! ```

mod accuracy;
mod auroc;
mod confusion;
mod mean;

pub use accuracy::Accuracy;
pub use auroc::AUROC;
pub use confusion::{Average, ConfusionMatrix};
pub use mean::Mean;

use kiln_derive::located;
use kiln_tensor::{Error, Result, Tensor};

/// A metric whose state is sums: those of several batches or processes add up to the sums of all of them.
pub trait Metric {
    /// The sums, each a tensor on the metric's device. They share memory with the metric's or are copies of them.
    fn sums(&self) -> Vec<Tensor>;

    /// Replaces the sums, as by those of all processes.
    ///
    /// # Errors
    /// If there are not as many as [`sums`](Metric::sums) returns, or a shape or dtype differs.
    fn set_sums(&mut self, sums: Vec<Tensor>) -> Result<()>;

    /// Forgets all batches.
    ///
    /// # Errors
    /// If memory runs out.
    fn reset(&mut self) -> Result<()> {
        let zeros: Result<Vec<Tensor>> = self.sums().iter().map(Tensor::zeros_like).collect();
        self.set_sums(zeros?)
    }
}

/// Replaces the sums of a metric, if they fit.
#[located(site)]
fn replace(op: &'static str, own: &mut [&mut Tensor], new: Vec<Tensor>) -> Result<()> {
    let fits = own.len() == new.len()
        && own.iter().zip(&new).all(|(own, new)| (own.dims(), own.dtype()) == (new.dims(), new.dtype()));
    if !fits {
        return Err(Error::argument(
            op,
            format!("these are not its {} sums, of the same shapes and dtypes", own.len()),
        ));
    }
    for (own, new) in own.iter_mut().zip(new) {
        **own = new;
    }
    Ok(())
}

/// Checks targets `[N]` of integers.
#[located(site)]
fn check_targets(op: &'static str, targets: &Tensor, count: usize) -> Result<()> {
    if targets.dtype().is_float() {
        return Err(Error::dtype(op, targets.dtype(), "targets are integers"));
    }
    if targets.dims() != [count] {
        return Err(Error::shape(op, format!("targets [{count}], one for each prediction"), targets.shape()));
    }
    Ok(())
}

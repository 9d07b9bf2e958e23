//! Samplers: the order in which samples are read.

mod batch;
mod distributed;
mod random;
mod weighted;

pub use batch::{BatchSampler, Batches};
pub use distributed::DistributedSampler;
use kiln_tensor::Result;
pub use random::{RandomSampler, SubsetRandomSampler};
pub use weighted::WeightedRandomSampler;

use crate::epoch::Epoch;

/// The order of samples in each pass over the data. It must be a function of the [`Epoch`] alone (draw from
/// [`Epoch::stream`]), so that runs repeat, and a loader can resume in the middle of an epoch.
pub trait Sampler: Send + Sync {
    /// Number of samples in a pass.
    fn len(&self) -> usize;

    /// Whether a pass has no samples.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The indices of the samples of this pass, in order.
    ///
    /// # Errors
    /// If the sampler's own.
    fn indices(&self, epoch: Epoch) -> Result<Vec<usize>>;
}

impl<S: Sampler + ?Sized> Sampler for Box<S> {
    fn len(&self) -> usize {
        (**self).len()
    }
    fn indices(&self, epoch: Epoch) -> Result<Vec<usize>> {
        (**self).indices(epoch)
    }
}

/// All samples in their own order: PyTorch's `SequentialSampler`.
#[derive(Clone, Copy, Debug)]
pub struct SequentialSampler {
    len: usize,
}

impl SequentialSampler {
    /// The samples `0..len`.
    #[must_use]
    pub fn new(len: usize) -> SequentialSampler {
        SequentialSampler { len }
    }
}

impl Sampler for SequentialSampler {
    fn len(&self) -> usize {
        self.len
    }
    fn indices(&self, _: Epoch) -> Result<Vec<usize>> {
        Ok((0..self.len).collect())
    }
}

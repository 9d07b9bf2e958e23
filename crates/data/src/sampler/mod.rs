//! In which order samples are read.

mod batch;
mod distributed;
mod random;
mod weighted;

pub use batch::{BatchSampler, Batches};
pub use distributed::DistributedSampler;
use kiln_tensor::Result;
pub use random::{RandomSampler, SubsetRandomSampler};
pub use weighted::WeightedRandomSampler;

use crate::Epoch;

/// An order of samples for each pass over the data. It must be a function of the [`Epoch`] alone (draw from
/// [`Epoch::stream`]): that is what makes runs repeat, and lets a loader resume in the middle of one.
pub trait Sampler: Send + Sync {
    /// How many samples a pass reads.
    fn len(&self) -> usize;

    /// Whether a pass reads none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The numbers of the samples that this pass reads, in order.
    ///
    /// # Errors
    /// The sampler's own.
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

/// All samples in their own order, as PyTorch's `SequentialSampler`.
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

//! `DataLoader`: batches of a dataset in the order of a sampler, made ahead of time by worker threads.

mod builder;
mod collator;
mod iter;
mod progress;
mod state;
mod worker_pool;
mod workers;

use std::{any::Any, fmt, marker::PhantomData, sync::Arc};

pub use builder::DataLoaderBuilder;
pub use collator::{Collator, DefaultCollate, FnCollate, MapBatches, OnDevice};
pub use iter::LoaderIter;
use kiln_derive::located;
use kiln_tensor::{Result, Tensor};
use parking_lot::Mutex;
pub use progress::{Progress, ProgressDisplay, clock};
use state::Cursor;
pub use state::LoaderState;
use worker_pool::WorkerPool;

use crate::{collate::Collate, dataset::Dataset, sampler::BatchSampler};

/// A batch of any type, so that the code for threads, channels and ordering is compiled once, rather than for each
/// batch type in each program.
type AnyBatch = Box<dyn Any + Send>;

/// Makes the batch of these samples.
type Fetch = Arc<dyn Fn(&[usize]) -> Result<AnyBatch> + Send + Sync>;

/// Batches of a dataset: PyTorch's `DataLoader`. Its type parameter is the type of a batch, whatever the dataset is, so a
/// function can take `&DataLoader` (batches of `(Tensor, Tensor)`).
///
/// Iterating over `&loader` is one pass over the data. Every further pass is a new epoch, with a new order if the loader
/// shuffles. The batches and their order do not depend on the number of workers. An error names the sample, the dataset and the
/// transform ([`Error::sample`](kiln_tensor::Error::sample)), and ends the epoch.
///
/// ```
/// use kiln_data::{DataLoader, FashionMNIST};
///
/// let loader = DataLoader::builder(FashionMNIST::test().load()?).batch_size(64).shuffle(true).build()?;
/// if let Some(batch) = loader.iter().next() {
///     let (images, labels) = batch?;
///     assert_eq!((images.dims(), labels.dims()), (&[64, 1, 28, 28][..], &[64][..]));
/// }
/// # Ok::<(), kiln_tensor::Error>(())
/// ```
pub struct DataLoader<B = (Tensor, Tensor)> {
    parts: Parts,
    batch: PhantomData<fn() -> B>,
}

/// A loader for batches of any type.
struct Parts {
    fetch: Fetch,
    batches: Box<dyn BatchSampler>,
    batch_size: Option<usize>,
    samples: usize,
    num_workers: usize,
    prefetch: usize,
    pool: Arc<WorkerPool>,
    cursor: Arc<Mutex<Cursor>>,
}

impl DataLoader {
    /// A builder for a loader of `dataset`. To use the dataset elsewhere too, pass an `Arc` of it.
    pub fn builder<D: Dataset>(dataset: D) -> DataLoaderBuilder<D, DefaultCollate> {
        DataLoaderBuilder::new(dataset)
    }
}

#[located(site)]
impl<B> DataLoader<B> {
    /// A loader of batches of `batch_size` samples in the dataset's order. The last batch may be smaller.
    ///
    /// # Errors
    /// If `batch_size` is 0.
    pub fn new<D>(dataset: D, batch_size: usize) -> Result<DataLoader<B>>
    where
        D: Dataset + 'static,
        D::Item: Collate<Batch = B>,
        B: Send + 'static,
    {
        DataLoader::builder(dataset).batch_size(batch_size).build()
    }

    /// Number of batches in an epoch.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts.batches.len()
    }

    /// Whether an epoch has no batch.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of samples in the dataset: PyTorch's `len(loader.dataset)`.
    #[must_use]
    pub fn dataset_len(&self) -> usize {
        self.parts.samples
    }

    /// Number of samples in a batch (the last one may have fewer); `None` with a batch sampler.
    #[must_use]
    pub fn batch_size(&self) -> Option<usize> {
        self.parts.batch_size
    }

    /// Starts the next epoch, counted from 0. After [`set_state`](DataLoader::set_state) it continues the interrupted
    /// epoch. An error of the sampler is the first item.
    pub fn iter(&self) -> LoaderIter<B>
    where
        B: Send + 'static,
    {
        LoaderIter::start(&self.parts)
    }

    /// As [`iter`](DataLoader::iter), with a progress bar on the terminal.
    ///
    /// ```
    /// # use kiln_data::{DataLoader, Samples};
    /// # let loader: DataLoader<_> = DataLoader::builder((0..10i64).collect::<Samples<_>>()).batch_size(4).build()?;
    /// let mut batches = loader.progress();
    /// while let Some(batch) = batches.next() {
    ///     let batch = batch?;
    ///     batches.println(format_args!("{} samples", batch.numel())); // above the bar
    /// }
    /// # Ok::<(), kiln_tensor::Error>(())
    /// ```
    pub fn progress(&self) -> Progress<LoaderIter<B>>
    where
        B: Send + 'static,
    {
        let progress = Progress::new(self.iter());
        let Some(batch_size) = self.parts.batch_size else { return progress };
        let samples = samples_in(progress.len(), batch_size, self.dataset_len());
        progress.samples(samples)
    }

    /// Sets the number of the next epoch. Epochs are counted automatically; this is for loops that start elsewhere.
    pub fn set_epoch(&self, epoch: u64) {
        self.parts.cursor.lock().jump(epoch, 0);
    }

    /// The loader's position: the batch after the last one that the newest iterator returned.
    #[must_use]
    pub fn state(&self) -> LoaderState {
        self.parts.cursor.lock().state(self.len())
    }

    /// Continues from the point at which [`state`](DataLoader::state) was taken: the next iterator returns the batches
    /// that would have come next, bit for bit. The state's seed replaces the loader's.
    ///
    /// # Errors
    /// If the state is from the middle of an epoch with another number of batches.
    pub fn set_state(&self, state: LoaderState) -> Result<()> {
        state.check(self.len())?;
        let mut cursor = self.parts.cursor.lock();
        cursor.seed = state.seed;
        cursor.jump(state.epoch, state.position);
        Ok(())
    }
}

/// The number of samples in so many batches, the last of which may be smaller; with samplers that share a dataset out or
/// repeat its samples, it may be that of full batches.
fn samples_in(batches: usize, batch_size: usize, dataset: usize) -> u64 {
    let full = batches.saturating_mul(batch_size);
    let missing = full.saturating_sub(dataset);
    (if missing < batch_size { full - missing } else { full }) as u64
}

impl<B: Send + 'static> IntoIterator for &DataLoader<B> {
    type Item = Result<B>;
    type IntoIter = LoaderIter<B>;
    fn into_iter(self) -> LoaderIter<B> {
        self.iter()
    }
}

impl<B> fmt::Debug for DataLoader<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataLoader")
            .field("batches", &self.len())
            .field("batch_size", &self.parts.batch_size)
            .field("samples", &self.parts.samples)
            .field("num_workers", &self.parts.num_workers)
            .field("prefetch", &self.parts.prefetch)
            .field("state", &self.state())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_batches() {
        assert_eq!(
            [samples_in(3, 4, 10), samples_in(2, 4, 10), samples_in(3, 4, 12), samples_in(0, 4, 10)],
            [10, 8, 12, 0]
        );
        // A sampler that draws more samples than there are.
        assert_eq!([samples_in(7, 4, 10), samples_in(usize::MAX, 2, 10)], [28, u64::MAX]);
    }
}

//! The options of a loader.

use std::sync::Arc;

use kiln_tensor::{Device, Error, Result};
use parking_lot::Mutex;

use super::{Collator, DataLoader, DefaultCollate, FnCollate, MapBatches, OnDevice, crew::Crew, state::Progress};
use crate::{BatchSampler, Batches, Dataset, RandomSampler, Sampler, SequentialSampler, ToDevice};

const OP: &str = "DataLoader";

/// The options of a [`DataLoader`], with PyTorch's defaults.
#[must_use]
pub struct DataLoaderBuilder<D, C> {
    dataset: D,
    collator: C,
    options: Options,
}

struct Options {
    batch_size: Option<usize>,
    shuffle: bool,
    drop_last: bool,
    sampler: Option<Box<dyn Sampler>>,
    batch_sampler: Option<Box<dyn BatchSampler>>,
    num_workers: usize,
    prefetch: usize,
    persistent: bool,
    seed: u64,
}

impl<D: Dataset> DataLoaderBuilder<D, DefaultCollate> {
    pub(super) fn new(dataset: D) -> Self {
        let options = Options {
            batch_size: None,
            shuffle: false,
            drop_last: false,
            sampler: None,
            batch_sampler: None,
            num_workers: 0,
            prefetch: 2,
            persistent: false,
            seed: 0,
        };
        DataLoaderBuilder { dataset, collator: DefaultCollate, options }
    }

    /// A function from a batch's samples to the batch, PyTorch's `collate_fn`, instead of
    /// [`Collate`](crate::Collate).
    pub fn collate<F, B>(self, f: F) -> DataLoaderBuilder<D, FnCollate<F>>
    where
        F: Fn(Vec<D::Item>) -> Result<B> + Send + Sync,
    {
        DataLoaderBuilder { dataset: self.dataset, collator: FnCollate(f), options: self.options }
    }
}

impl<D: Dataset, C: Collator<D>> DataLoaderBuilder<D, C> {
    fn with(mut self, change: impl FnOnce(&mut Options)) -> Self {
        change(&mut self.options);
        self
    }

    /// Samples in a batch; 1 if not given.
    pub fn batch_size(self, batch_size: usize) -> Self {
        self.with(|options| options.batch_size = Some(batch_size))
    }

    /// Whether each epoch reads the samples in another random order.
    pub fn shuffle(self, shuffle: bool) -> Self {
        self.with(|options| options.shuffle = shuffle)
    }

    /// Whether to leave out the last batch if it is not full.
    pub fn drop_last(self, drop_last: bool) -> Self {
        self.with(|options| options.drop_last = drop_last)
    }

    /// The order of the samples, instead of `shuffle`.
    pub fn sampler(self, sampler: impl Sampler + 'static) -> Self {
        self.with(|options| options.sampler = Some(Box::new(sampler)))
    }

    /// The batches, instead of `batch_size`, `shuffle`, `sampler` and `drop_last`.
    pub fn batch_sampler(self, sampler: impl BatchSampler + 'static) -> Self {
        self.with(|options| options.batch_sampler = Some(Box::new(sampler)))
    }

    /// Threads that make batches ahead of time; with 0, the default, they are made when asked for.
    pub fn num_workers(self, workers: usize) -> Self {
        self.with(|options| options.num_workers = workers)
    }

    /// How many batches each worker may have ready or in the making, 2 if not given: a slow consumer never
    /// makes more than `num_workers * prefetch` of them wait in memory.
    pub fn prefetch(self, batches: usize) -> Self {
        self.with(|options| options.prefetch = batches)
    }

    /// Whether the worker threads stay alive from epoch to epoch, PyTorch's `persistent_workers`; they do not if not said
    /// otherwise. It saves starting them, and what they keep for themselves is warm.
    pub fn persistent_workers(self, persistent: bool) -> Self {
        self.with(|options| options.persistent = persistent)
    }

    /// The seed of shuffles and samplers, 0 if not given: the same seed gives the same batches. It is apart
    /// from [`kiln_tensor::manual_seed`].
    pub fn seed(self, seed: u64) -> Self {
        self.with(|options| options.seed = seed)
    }

    /// Where the batches' tensors shall be.
    pub fn device(self, device: impl Into<Device>) -> DataLoaderBuilder<D, OnDevice<C>>
    where
        C::Batch: ToDevice,
    {
        let collator = OnDevice { collator: self.collator, device: device.into() };
        DataLoaderBuilder { dataset: self.dataset, collator, options: self.options }
    }

    /// Puts the batches' tensors into page-locked memory, on the worker that made them, so that the consumer's
    /// [`Tensor::to_device`](kiln_tensor::Tensor::to_device) needs no copy on the host. With
    /// [`device`](DataLoaderBuilder::device) the workers move the batches themselves, while the GPU computes, and nothing
    /// is left to gain here. Needs a CUDA device.
    #[allow(clippy::type_complexity)] // a plain function as the change
    pub fn pin_memory(self) -> DataLoaderBuilder<D, MapBatches<C, fn(C::Batch) -> Result<C::Batch>>>
    where
        C::Batch: ToDevice,
    {
        self.map_batches(ToDevice::pin_memory as fn(C::Batch) -> Result<C::Batch>)
    }

    /// Changes whole batches, on the worker that made them: after [`device`](DataLoaderBuilder::device) it is where
    /// [`OnBatch`](crate::transforms::OnBatch) prepares pictures on the GPU.
    pub fn map_batches<F, B>(self, f: F) -> DataLoaderBuilder<D, MapBatches<C, F>>
    where
        F: Fn(C::Batch) -> Result<B> + Send + Sync,
    {
        let collator = MapBatches { collator: self.collator, f };
        DataLoaderBuilder { dataset: self.dataset, collator, options: self.options }
    }

    /// The loader.
    ///
    /// # Errors
    /// A batch size or prefetch of 0, or options that exclude each other.
    pub fn build(self) -> Result<DataLoader<C::Batch>>
    where
        D: 'static,
        C: 'static,
    {
        let DataLoaderBuilder { dataset, collator, options } = self;
        let samples = dataset.len();
        let crew = Arc::new(Crew::new(options.persistent));
        let (num_workers, prefetch, seed) = (options.num_workers, options.prefetch, options.seed);
        if prefetch == 0 {
            return Err(Error::argument(OP, "prefetch is 0; at least 1 is expected"));
        }
        let (batches, batch_size) = options.batches(samples)?;
        Ok(DataLoader {
            fetch: Arc::new(move |indices| collator.batch(&dataset, indices)),
            batches,
            batch_size,
            samples,
            num_workers,
            prefetch,
            crew,
            progress: Arc::new(Mutex::new(Progress::new(seed))),
        })
    }
}

impl Options {
    /// The batch sampler, and the batch size if it is known.
    fn batches(self, samples: usize) -> Result<(Box<dyn BatchSampler>, Option<usize>)> {
        if let Some(sampler) = self.batch_sampler {
            if self.batch_size.is_some() || self.shuffle || self.drop_last || self.sampler.is_some() {
                let message = "a batch_sampler excludes batch_size, shuffle, sampler and drop_last";
                return Err(Error::argument(OP, message));
            }
            return Ok((sampler, None));
        }
        let sampler: Box<dyn Sampler> = match self.sampler {
            Some(_) if self.shuffle => return Err(Error::argument(OP, "a sampler excludes shuffle")),
            Some(sampler) => sampler,
            None if self.shuffle => Box::new(RandomSampler::new(samples)),
            None => Box::new(SequentialSampler::new(samples)),
        };
        let batch_size = self.batch_size.unwrap_or(1);
        Ok((Box::new(Batches::new(sampler, batch_size, self.drop_last)?), Some(batch_size)))
    }
}

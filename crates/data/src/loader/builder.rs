//! `DataLoaderBuilder`: the options of a loader.

use std::{marker::PhantomData, sync::Arc};

use kiln_derive::located;
use kiln_tensor::{Device, Error, Result};
use parking_lot::Mutex;

use super::{
    DataLoader, Fetch, Parts,
    collator::{Collator, DefaultCollate, FnCollate, MapBatches, OnDevice},
    state::Cursor,
    worker_pool::WorkerPool,
};
use crate::{
    dataset::Dataset,
    sampler::{BatchSampler, Batches, RandomSampler, Sampler, SequentialSampler},
    to_device::ToDevice,
};

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

#[located(site)]
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

    /// Sets a function that makes a batch from its samples, PyTorch's `collate_fn`, instead of
    /// [`Collate`](crate::Collate).
    pub fn collate<F, B>(self, f: F) -> DataLoaderBuilder<D, FnCollate<F>>
    where
        F: Fn(Vec<D::Item>) -> Result<B> + Send + Sync,
    {
        DataLoaderBuilder { dataset: self.dataset, collator: FnCollate(f), options: self.options }
    }
}

#[located(site)]
impl<D: Dataset, C: Collator<D>> DataLoaderBuilder<D, C> {
    fn with(mut self, change: impl FnOnce(&mut Options)) -> Self {
        change(&mut self.options);
        self
    }

    /// Number of samples in a batch; 1 by default.
    pub fn batch_size(self, batch_size: usize) -> Self {
        self.with(|options| options.batch_size = Some(batch_size))
    }

    /// Whether every epoch reads the samples in a new random order.
    pub fn shuffle(self, shuffle: bool) -> Self {
        self.with(|options| options.shuffle = shuffle)
    }

    /// Whether to drop the last batch if it is not full.
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

    /// Number of threads that make batches ahead of time. With 0, the default, batches are made when they are
    /// requested.
    pub fn num_workers(self, workers: usize) -> Self {
        self.with(|options| options.num_workers = workers)
    }

    /// Number of batches that each worker makes ahead, PyTorch's `prefetch_factor`; 2 by default. At most
    /// `num_workers * prefetch` batches wait in memory.
    pub fn prefetch(self, batches: usize) -> Self {
        self.with(|options| options.prefetch = batches)
    }

    /// Whether the worker threads stay alive between epochs, PyTorch's `persistent_workers`; `false` by default. It
    /// saves starting them, and keeps their thread-local caches warm.
    pub fn persistent_workers(self, persistent: bool) -> Self {
        self.with(|options| options.persistent = persistent)
    }

    /// The seed of shuffles, samplers and random transforms; 0 by default. The same seed gives the same batches. It is
    /// independent of [`kiln_tensor::manual_seed`].
    pub fn seed(self, seed: u64) -> Self {
        self.with(|options| options.seed = seed)
    }

    /// Moves the batches' tensors to a device.
    pub fn device(self, device: impl Into<Device>) -> DataLoaderBuilder<D, OnDevice<C>>
    where
        C::Batch: ToDevice,
    {
        let collator = OnDevice { collator: self.collator, device: device.into() };
        DataLoaderBuilder { dataset: self.dataset, collator, options: self.options }
    }

    /// Puts the batches' tensors into page-locked memory, on the worker that made them, so that the consumer's
    /// [`Tensor::to_device`](kiln_tensor::Tensor::to_device) needs no copy on the host. Not needed with
    /// [`device`](DataLoaderBuilder::device): the workers then move the batches themselves while the GPU computes. Needs a CUDA
    /// device.
    #[allow(clippy::type_complexity)] // a plain function as the change
    pub fn pin_memory(self) -> DataLoaderBuilder<D, MapBatches<C, fn(C::Batch) -> Result<C::Batch>>>
    where
        C::Batch: ToDevice,
    {
        self.map_batches(ToDevice::pin_memory as fn(C::Batch) -> Result<C::Batch>)
    }

    /// Applies a function to whole batches, on the worker that made them. After [`device`](DataLoaderBuilder::device) this is
    /// where [`OnBatch`](crate::transforms::OnBatch) transforms images on the GPU.
    pub fn map_batches<F, B>(self, f: F) -> DataLoaderBuilder<D, MapBatches<C, F>>
    where
        F: Fn(C::Batch) -> Result<B> + Send + Sync,
    {
        let collator = MapBatches { collator: self.collator, f };
        DataLoaderBuilder { dataset: self.dataset, collator, options: self.options }
    }

    /// Builds the loader.
    ///
    /// # Errors
    /// If `batch_size` or `prefetch` is 0, or options exclude each other.
    pub fn build(self) -> Result<DataLoader<C::Batch>>
    where
        D: 'static,
        C: 'static,
        C::Batch: Send + 'static,
    {
        let DataLoaderBuilder { dataset, collator, options } = self;
        let samples = dataset.len();
        let fetch: Fetch = Arc::new(move |indices| Ok(Box::new(collator.batch(&dataset, indices)?)));
        Ok(DataLoader { parts: options.build(samples, fetch)?, batch: PhantomData })
    }
}

impl Options {
    fn build(self, samples: usize, fetch: Fetch) -> Result<Parts> {
        let pool = Arc::new(WorkerPool::new(self.persistent));
        let (num_workers, prefetch, seed) = (self.num_workers, self.prefetch, self.seed);
        if prefetch == 0 {
            return Err(Error::argument(OP, "prefetch must be at least 1"));
        }
        let (batches, batch_size) = self.batches(samples)?;
        let cursor = Arc::new(Mutex::new(Cursor::new(seed)));
        Ok(Parts { fetch, batches, batch_size, samples, num_workers, prefetch, pool, cursor })
    }

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

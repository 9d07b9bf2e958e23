//! `Collator`: how a loader makes a batch from samples.

use kiln_tensor::{Device, Result};

use crate::{
    collate::Collate,
    dataset::{Dataset, samples},
    to_device::ToDevice,
};

/// Makes batches from a dataset's samples; [`DefaultCollate`] by default.
pub trait Collator<D: Dataset>: Send + Sync {
    /// The type of a batch.
    type Batch;

    /// The batch of the samples at these indices.
    ///
    /// # Errors
    /// If a sample cannot be read, or the samples do not fit together.
    fn batch(&self, dataset: &D, indices: &[usize]) -> Result<Self::Batch>;
}

/// [`Dataset::get_batch`]: the rules of [`Collate`], or the dataset's own faster way to the same.
#[derive(Clone, Copy, Debug)]
pub struct DefaultCollate;

impl<D: Dataset> Collator<D> for DefaultCollate
where
    D::Item: Collate,
{
    type Batch = <D::Item as Collate>::Batch;
    fn batch(&self, dataset: &D, indices: &[usize]) -> Result<Self::Batch> {
        dataset.get_batch(indices)
    }
}

/// A user's function from samples to a batch: PyTorch's `collate_fn`.
#[derive(Clone, Copy, Debug)]
pub struct FnCollate<F>(pub(super) F);

impl<D, F, B> Collator<D> for FnCollate<F>
where
    D: Dataset,
    F: Fn(Vec<D::Item>) -> Result<B> + Send + Sync,
{
    type Batch = B;
    fn batch(&self, dataset: &D, indices: &[usize]) -> Result<B> {
        (self.0)(samples(dataset, indices)?)
    }
}

/// Another collator's batches, moved to a device.
#[derive(Clone, Copy, Debug)]
pub struct OnDevice<C> {
    pub(super) collator: C,
    pub(super) device: Device,
}

impl<D: Dataset, C: Collator<D>> Collator<D> for OnDevice<C>
where
    C::Batch: ToDevice,
{
    type Batch = C::Batch;
    fn batch(&self, dataset: &D, indices: &[usize]) -> Result<C::Batch> {
        self.collator.batch(dataset, indices)?.to_device(self.device)
    }
}

/// Another collator's batches, passed through a function.
#[derive(Clone, Copy, Debug)]
pub struct MapBatches<C, F> {
    pub(super) collator: C,
    pub(super) f: F,
}

impl<D, C, F, B> Collator<D> for MapBatches<C, F>
where
    D: Dataset,
    C: Collator<D>,
    F: Fn(C::Batch) -> Result<B> + Send + Sync,
{
    type Batch = B;
    fn batch(&self, dataset: &D, indices: &[usize]) -> Result<B> {
        (self.f)(self.collator.batch(dataset, indices)?)
    }
}

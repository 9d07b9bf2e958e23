//! `Dataset`: samples by index, and adaptors of datasets.

mod concat;
mod folds;
mod map;
mod subset;
mod tensors;

use std::{cell::Cell, sync::Arc};

pub use concat::ConcatDataset;
pub use folds::{Fold, k_fold, stratified_k_fold, stratified_split};
use kiln_tensor::{Error, Result};
pub use map::{DatasetExt, Map, WithTargetTransform, WithTransform};
pub use subset::{Split, Subset, random_split};
pub use tensors::{TensorDataset, TensorTuple};

use crate::collate::Collate;

/// A collection of samples with indices: PyTorch's map-style `Dataset`. Loaders read it from several threads at once.
///
/// ```
/// use kiln_data::Dataset;
/// use kiln_tensor::Result;
///
/// struct Squares;
///
/// impl Dataset for Squares {
///     type Item = (i64, i64);
///     fn len(&self) -> usize {
///         100
///     }
///     fn get(&self, index: usize) -> Result<(i64, i64)> {
///         self.check(index)?;
///         Ok((index as i64, (index * index) as i64))
///     }
/// }
/// # assert_eq!(Squares.get(7)?, (7, 49));
/// # assert!(Squares.get(100).is_err());
/// # Ok::<(), kiln_tensor::Error>(())
/// ```
pub trait Dataset: Send + Sync {
    /// One sample, usually `(input, target)`.
    type Item;

    /// Number of samples.
    fn len(&self) -> usize;

    /// Whether it has no samples.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The sample at `index`, from 0.
    ///
    /// # Errors
    /// If `index` is out of range, or the sample cannot be read.
    fn get(&self, index: usize) -> Result<Self::Item>;

    /// The samples at these indices as a batch. The default uses [`get`](Dataset::get) and
    /// [`collate`](Collate::collate); a dataset that holds its samples in one block can gather them faster.
    ///
    /// # Errors
    /// If a sample cannot be read, or the samples do not fit together.
    fn get_batch(&self, indices: &[usize]) -> Result<<Self::Item as Collate>::Batch>
    where
        Self::Item: Collate,
    {
        Collate::collate(samples(self, indices)?)
    }

    /// The name in error messages: by default that of the type. Adaptors give the name of the dataset inside.
    fn name(&self) -> String {
        short_type_name::<Self>()
    }

    /// Checks that `index` is in range.
    ///
    /// # Errors
    /// [`ErrorKind::IndexOutOfRange`](kiln_tensor::ErrorKind::IndexOutOfRange) if it is not.
    fn check(&self, index: usize) -> Result<()> {
        check_index(index, self.len())
    }
}

/// [`Dataset::check`] for a dataset of `len` samples.
pub(crate) fn check_index(index: usize, len: usize) -> Result<()> {
    if index < len { Ok(()) } else { Err(out_of_range(index, len)) }
}

/// The samples at these indices. Errors name the one that failed.
pub(crate) fn samples<D: Dataset + ?Sized>(dataset: &D, indices: &[usize]) -> Result<Vec<D::Item>> {
    let get = |&index: &usize| {
        let _current = CurrentSample::enter(index);
        dataset.get(index).map_err(|error| error.in_sample(index, || dataset.name()))
    };
    indices.iter().map(get).collect()
}

thread_local! {
    static CURRENT_SAMPLE: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Records which sample this thread is making, for the message of a panic; a panic leaves the record in place. Restores
/// the previous record when dropped, because datasets may read other datasets.
struct CurrentSample(Option<usize>);

impl CurrentSample {
    fn enter(index: usize) -> CurrentSample {
        CurrentSample(CURRENT_SAMPLE.replace(Some(index)))
    }
}

impl Drop for CurrentSample {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            CURRENT_SAMPLE.set(self.0);
        }
    }
}

/// The sample that this thread was making when it panicked, if any.
pub(crate) fn take_panicked_sample() -> Option<usize> {
    CURRENT_SAMPLE.take()
}

/// A type's name without its path and parameters; a closure is "a closure".
pub(crate) fn short_type_name<T: ?Sized>() -> String {
    let name = std::any::type_name::<T>();
    let head = name.split('<').next().unwrap_or(name);
    match head.rsplit("::").next() {
        Some("{{closure}}") | None => "a closure".to_owned(),
        Some(last) => last.trim_start_matches(['&', '(', '[']).to_owned(),
    }
}

fn out_of_range(index: usize, len: usize) -> Error {
    Error::index("Dataset::get", i64::try_from(index).unwrap_or(i64::MAX), len, "a dataset")
}

macro_rules! pointer {
    ($(impl<$($life:lifetime,)? D> for $ty:ty;)*) => {$(
        impl<$($life,)? D: Dataset + ?Sized> Dataset for $ty {
            type Item = D::Item;
            fn len(&self) -> usize {
                (**self).len()
            }
            fn get(&self, index: usize) -> Result<D::Item> {
                (**self).get(index)
            }
            fn get_batch(&self, indices: &[usize]) -> Result<<D::Item as Collate>::Batch>
            where
                D::Item: Collate,
            {
                (**self).get_batch(indices)
            }
            fn name(&self) -> String {
                (**self).name()
            }
        }
    )*};
}
pointer! {
    impl<'a, D> for &'a D;
    impl<D> for Box<D>;
    impl<D> for Arc<D>;
}

/// Samples in memory, as a dataset. (`Vec` itself does not implement it, since its own `get` would clash with
/// [`Dataset::get`].)
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Samples<T>(pub Vec<T>);

impl<T: Clone + Send + Sync> Dataset for Samples<T> {
    type Item = T;
    fn len(&self) -> usize {
        self.0.len()
    }
    fn get(&self, index: usize) -> Result<T> {
        self.0.get(index).cloned().ok_or_else(|| out_of_range(index, self.0.len()))
    }
}

impl<T> FromIterator<T> for Samples<T> {
    fn from_iter<I: IntoIterator<Item = T>>(samples: I) -> Samples<T> {
        Samples(samples.into_iter().collect())
    }
}

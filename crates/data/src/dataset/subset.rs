//! `Subset` and `random_split`: parts of a dataset.

use std::sync::Arc;

use kiln_derive::located;
use kiln_tensor::{Error, Result};

use super::{Dataset, out_of_range};
use crate::{collate::Collate, epoch::Epoch};

/// Some samples of a dataset, in a given order: PyTorch's `Subset`.
#[derive(Clone, Debug)]
pub struct Subset<D> {
    dataset: D,
    indices: Vec<usize>,
}

#[located(site)]
impl<D: Dataset> Subset<D> {
    /// The samples at these indices.
    ///
    /// # Errors
    /// If an index is out of range.
    pub fn new(dataset: D, indices: impl Into<Vec<usize>>) -> Result<Subset<D>> {
        let indices = indices.into();
        indices.iter().try_for_each(|&index| dataset.check(index))?;
        Ok(Subset { dataset, indices })
    }

    /// The indices in the whole dataset.
    pub fn indices(&self) -> &[usize] {
        &self.indices
    }

    /// The whole dataset.
    pub fn inner(&self) -> &D {
        &self.dataset
    }

    fn index(&self, index: usize) -> Result<usize> {
        self.indices.get(index).copied().ok_or_else(|| out_of_range(index, self.indices.len()))
    }
}

impl<D: Dataset> Dataset for Subset<D> {
    type Item = D::Item;

    fn len(&self) -> usize {
        self.indices.len()
    }

    fn get(&self, index: usize) -> Result<D::Item> {
        let index = self.index(index)?;
        self.dataset.get(index).map_err(|error| error.in_sample(index, || self.dataset.name()))
    }

    fn get_batch(&self, indices: &[usize]) -> Result<<D::Item as Collate>::Batch>
    where
        D::Item: Collate,
    {
        let indices = indices.iter().map(|&index| self.index(index)).collect::<Result<Vec<_>>>()?;
        self.dataset.get_batch(&indices)
    }

    fn name(&self) -> String {
        self.dataset.name()
    }
}

/// How to divide a dataset: by lengths (`[50_000, 10_000]`, which must add up to its length) or by fractions (`[0.8, 0.2]`, which
/// must add up to 1). An array gives an array of parts, which can be destructured.
pub trait Split {
    /// One `T` for each part.
    type Parts<T>;

    /// The number of samples in each part of a dataset of `len`.
    ///
    /// # Errors
    /// If the parts do not add up.
    fn lengths(&self, len: usize) -> Result<Vec<usize>>;

    /// Puts the parts into this type.
    ///
    /// # Errors
    /// If the number of parts is wrong.
    fn pack<T>(parts: Vec<T>) -> Result<Self::Parts<T>>;
}

/// A length or a fraction.
trait Share: Copy {
    fn lengths(shares: &[Self], len: usize) -> Result<Vec<usize>>;
}

impl Share for usize {
    fn lengths(shares: &[usize], len: usize) -> Result<Vec<usize>> {
        if shares.iter().try_fold(0usize, |sum, &n| sum.checked_add(n)) != Some(len) {
            let message = format!("lengths {shares:?} do not add up to the dataset's {len} samples");
            return Err(Error::argument("random_split", message));
        }
        Ok(shares.to_vec())
    }
}

impl Share for f64 {
    fn lengths(shares: &[f64], len: usize) -> Result<Vec<usize>> {
        let valid = shares.iter().all(|share| (0.0..=1.0).contains(share));
        if !valid || (shares.iter().sum::<f64>() - 1.0).abs() > 1e-6 {
            return Err(Error::argument("random_split", format!("fractions {shares:?} do not add up to 1")));
        }
        // As in PyTorch: rounded down, then the remaining samples go one each to the first parts.
        let mut lengths: Vec<usize> = shares.iter().map(|share| (share * len as f64).floor() as usize).collect();
        let given: usize = lengths.iter().sum();
        let Some(left) = len.checked_sub(given) else {
            return Err(Error::argument("random_split", format!("fractions {shares:?} add up to more than 1")));
        };
        let parts = lengths.len();
        (0..left).for_each(|i| lengths[i % parts] += 1);
        Ok(lengths)
    }
}

macro_rules! split {
    ($($ty:ty)*) => {$(
        impl<const N: usize> Split for [$ty; N] {
            type Parts<T> = [T; N];
            fn lengths(&self, len: usize) -> Result<Vec<usize>> {
                Share::lengths(self, len)
            }
            fn pack<T>(parts: Vec<T>) -> Result<[T; N]> {
                parts.try_into().map_err(|_| Error::argument("random_split", format!("there are not {N} parts")))
            }
        }
        impl Split for Vec<$ty> {
            type Parts<T> = Vec<T>;
            fn lengths(&self, len: usize) -> Result<Vec<usize>> {
                Share::lengths(self, len)
            }
            fn pack<T>(parts: Vec<T>) -> Result<Vec<T>> {
                Ok(parts)
            }
        }
    )*};
}
split!(usize f64);

/// The purpose of the random streams of splits.
const PURPOSE: u64 = 2;

/// Divides a dataset at random into disjoint parts: PyTorch's `random_split`. The same seed gives the same parts.
///
/// ```
/// use kiln_data::{Dataset, Samples, random_split};
///
/// let [train, valid] = random_split((0..10i64).collect::<Samples<_>>(), [0.8, 0.2], 42)?;
/// assert_eq!((train.len(), valid.len()), (8, 2));
/// # Ok::<(), kiln_tensor::Error>(())
/// ```
///
/// # Errors
/// If the lengths do not add up to the dataset's, or the fractions do not add up to 1.
#[allow(clippy::needless_pass_by_value)] // an array or a vector, written in the call
#[located(site)]
pub fn random_split<D: Dataset, S: Split>(dataset: D, parts: S, seed: u64) -> Result<S::Parts<Subset<Arc<D>>>> {
    let lengths = parts.lengths(dataset.len())?;
    let mut order = Epoch::new(seed, 0).stream(PURPOSE).permutation(dataset.len()).into_iter();
    let dataset = Arc::new(dataset);
    let part = |len| Subset { dataset: dataset.clone(), indices: order.by_ref().take(len).collect() };
    S::pack(lengths.into_iter().map(part).collect())
}

#[cfg(test)]
mod tests {
    use super::{super::Samples, *};

    #[test]
    fn subset_renumbers() -> Result<()> {
        let subset = Subset::new(Samples(vec![10i64, 11, 12, 13]), [3, 1])?;
        assert_eq!((subset.len(), subset.get(0)?, subset.get(1)?), (2, 13, 11));
        assert_eq!(subset.get_batch(&[1, 0, 1])?.to_vec::<i64>()?, [11, 13, 11]);
        assert!(subset.get(2).is_err() && subset.get_batch(&[0, 2]).is_err());
        assert!(Subset::new(Samples(vec![1i64]), [1]).is_err());
        Ok(())
    }

    #[test]
    fn parts_cover_without_overlap() -> Result<()> {
        let all: Samples<usize> = (0..100).collect();
        let [a, b, c] = random_split(all.clone(), [50, 30, 20], 1)?;
        let mut seen: Vec<usize> = [a.indices(), b.indices(), c.indices()].concat();
        assert_ne!(seen, all.0);
        seen.sort_unstable();
        assert_eq!(seen, all.0);
        let [again, ..] = random_split(all.clone(), [50, 30, 20], 1)?;
        assert_eq!(again.indices(), a.indices());
        let [other, ..] = random_split(all, [50, 30, 20], 2)?;
        assert_ne!(other.indices(), a.indices());
        Ok(())
    }

    #[test]
    fn fractions_round_as_pytorch() -> Result<()> {
        let lengths = |shares: Vec<f64>, n| shares.lengths(n);
        assert_eq!(lengths(vec![0.3, 0.3, 0.4], 10)?, [3, 3, 4]);
        assert_eq!(lengths(vec![0.5, 0.5], 101)?, [51, 50]);
        assert_eq!(lengths(vec![1.0 / 3.0; 3], 11)?, [4, 4, 3]);
        for bad in [vec![0.5, 0.4], vec![1.5, -0.5], vec![f64::NAN, 1.0], vec![]] {
            assert!(lengths(bad, 10).is_err());
        }
        assert!(random_split(Samples(vec![1, 2, 3]), [1, 1], 0).is_err());
        assert!(random_split(Samples(vec![1, 2, 3]), vec![usize::MAX, 4], 0).is_err());
        Ok(())
    }
}

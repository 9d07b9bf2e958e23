//! `ConcatDataset`: several datasets as one.

use kiln_derive::located;
use kiln_tensor::{Error, Result};

use super::{Dataset, out_of_range};

/// The samples of several datasets, one after the other: PyTorch's `ConcatDataset`. Datasets of different types with
/// the same item type go into `Box<dyn Dataset<Item = _>>`.
#[derive(Clone, Debug)]
pub struct ConcatDataset<D> {
    parts: Vec<D>,
    /// Number of samples up to and including each part.
    ends: Vec<usize>,
}

#[located(site)]
impl<D: Dataset> ConcatDataset<D> {
    /// Concatenates datasets.
    ///
    /// # Errors
    /// If the total number of samples overflows `usize`.
    pub fn new(parts: impl IntoIterator<Item = D>) -> Result<ConcatDataset<D>> {
        let parts: Vec<D> = parts.into_iter().collect();
        let mut end = 0usize;
        let mut ends = Vec::with_capacity(parts.len());
        for part in &parts {
            let sum = end.checked_add(part.len());
            end = sum.ok_or_else(|| Error::argument("ConcatDataset", "the total number of samples overflows usize"))?;
            ends.push(end);
        }
        Ok(ConcatDataset { parts, ends })
    }
}

impl<D: Dataset> Dataset for ConcatDataset<D> {
    type Item = D::Item;

    fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    fn get(&self, index: usize) -> Result<D::Item> {
        let part = self.ends.partition_point(|&end| end <= index);
        let start = part.checked_sub(1).map_or(0, |before| self.ends[before]);
        let dataset = self.parts.get(part).ok_or_else(|| out_of_range(index, self.len()))?;
        dataset.get(index - start)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{super::Samples, *};

    #[test]
    fn one_after_the_other() -> Result<()> {
        let joined = ConcatDataset::new([vec![1, 2], vec![], vec![3], vec![]].map(Samples))?;
        assert_eq!((0..3).map(|i| joined.get(i)).collect::<Result<Vec<_>>>()?, [1, 2, 3]);
        assert!(joined.get(3).is_err());
        assert!(ConcatDataset::<Samples<i64>>::new([])?.get(0).is_err());

        let mixed: Vec<Box<dyn Dataset<Item = i64>>> =
            vec![Box::new(Samples(vec![1i64])), Box::new(Arc::new(Samples(vec![2i64])))];
        assert_eq!(ConcatDataset::new(mixed)?.get_batch(&[1, 0])?.to_vec::<i64>()?, [2, 1]);
        Ok(())
    }
}

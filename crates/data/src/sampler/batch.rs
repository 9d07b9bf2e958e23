//! `BatchSampler`: the samples of each batch.

use kiln_derive::located;
use kiln_tensor::{Error, Result};

use super::Sampler;
use crate::epoch::Epoch;

/// The batches of each pass over the data. Like a [`Sampler`], it must be a function of the [`Epoch`] alone. Implement it for
/// custom batches, e.g. of texts of similar length.
pub trait BatchSampler: Send + Sync {
    /// Number of batches in a pass.
    fn len(&self) -> usize;

    /// Whether a pass has no batches.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The indices of the samples of each batch of this pass.
    ///
    /// # Errors
    /// If the sampler's own.
    fn batches(&self, epoch: Epoch) -> Result<Vec<Vec<usize>>>;
}

impl<S: BatchSampler + ?Sized> BatchSampler for Box<S> {
    fn len(&self) -> usize {
        (**self).len()
    }
    fn batches(&self, epoch: Epoch) -> Result<Vec<Vec<usize>>> {
        (**self).batches(epoch)
    }
}

/// A sampler's order, cut into batches of one size: PyTorch's `BatchSampler`.
#[derive(Clone, Copy, Debug)]
pub struct Batches<S> {
    sampler: S,
    batch_size: usize,
    drop_last: bool,
}

#[located(site)]
impl<S: Sampler> Batches<S> {
    /// Batches of `batch_size`. A smaller one at the end is dropped if `drop_last`.
    ///
    /// # Errors
    /// If `batch_size` is 0.
    pub fn new(sampler: S, batch_size: usize, drop_last: bool) -> Result<Batches<S>> {
        if batch_size == 0 {
            return Err(Error::argument("DataLoader", "batch_size must be at least 1"));
        }
        Ok(Batches { sampler, batch_size, drop_last })
    }
}

impl<S: Sampler> BatchSampler for Batches<S> {
    fn len(&self) -> usize {
        let samples = self.sampler.len();
        if self.drop_last { samples / self.batch_size } else { samples.div_ceil(self.batch_size) }
    }

    fn batches(&self, epoch: Epoch) -> Result<Vec<Vec<usize>>> {
        let indices = self.sampler.indices(epoch)?;
        let whole = if self.drop_last { indices.len() / self.batch_size * self.batch_size } else { indices.len() };
        Ok(indices.into_iter().take(whole).collect::<Vec<_>>().chunks(self.batch_size).map(<[usize]>::to_vec).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::SequentialSampler;

    #[test]
    fn last_batch() -> Result<()> {
        let of = |n, size, drop_last| Batches::new(SequentialSampler::new(n), size, drop_last);
        let epoch = Epoch::default();
        assert_eq!(of(5, 2, false)?.batches(epoch)?, [vec![0, 1], vec![2, 3], vec![4]]);
        assert_eq!(of(5, 2, true)?.batches(epoch)?, [[0, 1], [2, 3]]);
        for (n, size, drop_last, len) in
            [(5, 2, false, 3), (5, 2, true, 2), (4, 2, false, 2), (0, 2, false, 0), (1, 2, true, 0)]
        {
            let batches = of(n, size, drop_last)?;
            assert_eq!((batches.len(), batches.batches(epoch)?.len()), (len, len));
        }
        assert!(of(5, 0, false).is_err());
        Ok(())
    }
}

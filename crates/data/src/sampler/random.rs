//! `RandomSampler` and `SubsetRandomSampler`: samples in random order.

use kiln_tensor::{Error, Result};

use super::Sampler;
use crate::epoch::Epoch;

/// The purpose of the random streams that shuffle.
const PURPOSE: u64 = 0;

/// Samples in a random order that changes from pass to pass: PyTorch's `RandomSampler`.
///
/// ```
/// use kiln_data::{Epoch, RandomSampler, Sampler};
///
/// let sampler = RandomSampler::new(60_000);
/// let first = sampler.indices(Epoch::new(42, 0))?;
/// assert_eq!(first, sampler.indices(Epoch::new(42, 0))?);
/// assert_ne!(first, sampler.indices(Epoch::new(42, 1))?);
/// # Ok::<(), kiln_tensor::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct RandomSampler {
    samples: usize,
    draws: usize,
    replacement: bool,
}

impl RandomSampler {
    /// Each of the samples `0..len` once.
    #[must_use]
    pub fn new(len: usize) -> RandomSampler {
        RandomSampler { samples: len, draws: len, replacement: false }
    }

    /// Whether to draw with replacement, so that a sample may occur more than once.
    #[must_use]
    pub fn replacement(self, replacement: bool) -> RandomSampler {
        RandomSampler { replacement, ..self }
    }

    /// Sets the number of samples in a pass; by default it is all of them. Without replacement, a pass longer than that
    /// continues with another permutation.
    #[must_use]
    pub fn num_samples(self, draws: usize) -> RandomSampler {
        RandomSampler { draws, ..self }
    }
}

impl Sampler for RandomSampler {
    fn len(&self) -> usize {
        self.draws
    }

    fn indices(&self, epoch: Epoch) -> Result<Vec<usize>> {
        if self.samples == 0 && self.draws > 0 {
            return Err(Error::argument(
                "RandomSampler",
                format!("cannot draw {} samples from an empty dataset", self.draws),
            ));
        }
        let mut stream = epoch.stream(PURPOSE);
        if self.replacement {
            return Ok((0..self.draws).map(|_| stream.below(self.samples)).collect());
        }
        let mut all = stream.permutation(self.samples);
        while all.len() < self.draws {
            all.extend(stream.permutation(self.samples));
        }
        all.truncate(self.draws);
        Ok(all)
    }
}

/// The samples at given indices, in a random order that changes from pass to pass: PyTorch's `SubsetRandomSampler`.
#[derive(Clone, Debug)]
pub struct SubsetRandomSampler {
    indices: Vec<usize>,
}

impl SubsetRandomSampler {
    /// Each of these samples once.
    pub fn new(indices: impl Into<Vec<usize>>) -> SubsetRandomSampler {
        SubsetRandomSampler { indices: indices.into() }
    }
}

impl Sampler for SubsetRandomSampler {
    fn len(&self) -> usize {
        self.indices.len()
    }

    fn indices(&self, epoch: Epoch) -> Result<Vec<usize>> {
        let mut indices = self.indices.clone();
        epoch.stream(PURPOSE).shuffle(&mut indices);
        Ok(indices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_once() -> Result<()> {
        let mut order = RandomSampler::new(1000).indices(Epoch::new(1, 0))?;
        assert!(order.iter().enumerate().any(|(i, &index)| i != index));
        order.sort_unstable();
        assert!(order.into_iter().eq(0..1000));
        let mut subset = SubsetRandomSampler::new([5, 7, 9]).indices(Epoch::new(1, 0))?;
        subset.sort_unstable();
        assert_eq!(subset, [5, 7, 9]);
        Ok(())
    }

    #[test]
    fn more_and_fewer_draws() -> Result<()> {
        let epoch = Epoch::new(3, 2);
        assert_eq!(RandomSampler::new(10).num_samples(4).indices(epoch)?, RandomSampler::new(10).indices(epoch)?[..4]);
        let many = RandomSampler::new(10).num_samples(25).indices(epoch)?;
        for index in 0..10 {
            let count = many.iter().filter(|&&i| i == index).count();
            assert!((2..=3).contains(&count));
        }
        assert!(RandomSampler::new(0).num_samples(1).indices(epoch).is_err());
        assert!(RandomSampler::new(0).indices(epoch)?.is_empty());
        Ok(())
    }

    #[test]
    fn with_replacement() -> Result<()> {
        let mut order = RandomSampler::new(100).replacement(true).indices(Epoch::new(3, 2))?;
        assert_eq!(order.len(), 100);
        order.sort_unstable();
        order.dedup();
        // On average 63.4 different ones; the standard deviation is 3.1.
        assert!((48..79).contains(&order.len()), "{}", order.len());
        Ok(())
    }
}

//! `DistributedSampler`: one process's share of the samples.

use kiln_derive::located;
use kiln_tensor::{Error, Result};

use super::Sampler;
use crate::epoch::Epoch;

/// The purpose of the random streams that shuffle: that of [`RandomSampler`](super::RandomSampler), so that all
/// processes together read what a single one would.
const PURPOSE: u64 = 0;

/// The share of samples of one of several processes that train together: PyTorch's `DistributedSampler`. Process `rank`
/// reads samples `rank`, `rank + world_size`, … of the common order. All processes need the same seed and epoch, which
/// their loaders have if they are built alike. To make the shares equal, the first samples of the order are repeated,
/// or with [`drop_last`](DistributedSampler::drop_last) the last ones are dropped.
///
/// ```
/// use kiln_data::{DistributedSampler, Epoch, Sampler};
///
/// let share = |rank| DistributedSampler::new(10, rank, 4)?.shuffle(false).indices(Epoch::default());
/// assert_eq!([share(0)?, share(1)?, share(2)?, share(3)?], [[0, 4, 8], [1, 5, 9], [2, 6, 0], [3, 7, 1]]);
/// # Ok::<(), kiln_tensor::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct DistributedSampler {
    samples: usize,
    rank: usize,
    world_size: usize,
    shuffle: bool,
    drop_last: bool,
}

#[located(site)]
impl DistributedSampler {
    /// The share of process `rank` of `world_size` in the samples `0..len`, shuffled in each epoch.
    ///
    /// # Errors
    /// If `rank` is not less than `world_size`.
    pub fn new(len: usize, rank: usize, world_size: usize) -> Result<DistributedSampler> {
        if rank >= world_size {
            let message = format!("rank {rank} is out of range for a world size of {world_size}");
            return Err(Error::argument("DistributedSampler", message));
        }
        Ok(DistributedSampler { samples: len, rank, world_size, shuffle: true, drop_last: false })
    }

    /// Whether to shuffle in each epoch; `true` by default.
    #[must_use]
    pub fn shuffle(self, shuffle: bool) -> DistributedSampler {
        DistributedSampler { shuffle, ..self }
    }

    /// Whether to drop samples, instead of repeating some, to make the shares equal.
    #[must_use]
    pub fn drop_last(self, drop_last: bool) -> DistributedSampler {
        DistributedSampler { drop_last, ..self }
    }
}

impl Sampler for DistributedSampler {
    fn len(&self) -> usize {
        if self.drop_last { self.samples / self.world_size } else { self.samples.div_ceil(self.world_size) }
    }

    fn indices(&self, epoch: Epoch) -> Result<Vec<usize>> {
        let order =
            if self.shuffle { epoch.stream(PURPOSE).permutation(self.samples) } else { (0..self.samples).collect() };
        // Without samples every share is empty, so this never indexes an empty order.
        Ok((0..self.len()).map(|i| order[(self.rank + i * self.world_size) % self.samples]).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::random::RandomSampler;

    fn shares(len: usize, world: usize, change: impl Fn(DistributedSampler) -> DistributedSampler) -> Vec<Vec<usize>> {
        let share = |rank| {
            let sampler = change(DistributedSampler::new(len, rank, world).unwrap());
            let indices = sampler.indices(Epoch::new(7, 3)).unwrap();
            assert_eq!(indices.len(), sampler.len());
            indices
        };
        (0..world).map(share).collect()
    }

    // The results of torch.utils.data.DistributedSampler with shuffle=False.
    #[test]
    fn as_pytorch() {
        let plain = |sampler: DistributedSampler| sampler.shuffle(false);
        let dropping = |sampler: DistributedSampler| sampler.shuffle(false).drop_last(true);
        assert_eq!(shares(7, 3, plain), [[0, 3, 6], [1, 4, 0], [2, 5, 1]]);
        assert_eq!(shares(7, 3, dropping), [[0, 3], [1, 4], [2, 5]]);
        assert_eq!(shares(6, 3, plain), shares(6, 3, dropping));
        // With more processes than samples, the order is repeated as often as needed.
        assert_eq!(shares(2, 5, plain), [[0], [1], [0], [1], [0]]);
        assert!(shares(2, 5, dropping).concat().is_empty() && shares(0, 2, plain).concat().is_empty());
        assert!(DistributedSampler::new(5, 2, 2).is_err() && DistributedSampler::new(5, 0, 0).is_err());
    }

    #[test]
    fn together_they_read_what_one_would() {
        let shares = shares(100, 3, |sampler| sampler);
        let whole = RandomSampler::new(100).indices(Epoch::new(7, 3)).unwrap();
        let together: Vec<usize> = (0..100).map(|i| shares[i % 3][i / 3]).collect();
        assert_eq!(together, whole);
        let other = DistributedSampler::new(100, 0, 3).unwrap().indices(Epoch::new(7, 4)).unwrap();
        assert_ne!(other, shares[0]);
    }
}

//! Random streams of transforms. Inside a loader they are keyed by seed, epoch, batch and draw index, so augmentations
//! do not depend on the number of workers, and a sample that occurs twice in an epoch is augmented differently.
//! One thread makes all of a batch, so the draw index is a thread-local counter.

use std::cell::Cell;

use crate::epoch::{Epoch, RandomStream};

/// Purposes from this number on belong to batches; samplers use smaller ones.
const FIRST_BATCH: u64 = 1 << 32;

#[derive(Clone, Copy)]
struct BatchKey {
    epoch: Epoch,
    batch: u64,
    draws: u64,
}

thread_local! {
    static CURRENT_BATCH: Cell<Option<BatchKey>> = const { Cell::new(None) };
}

/// Restores the outer batch's key, also after a panic.
struct Restore(Option<BatchKey>);
impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT_BATCH.set(self.0);
    }
}

/// Runs `make`, whose transforms then draw from the streams of this batch.
pub(crate) fn in_batch<T>(epoch: Epoch, batch: usize, make: impl FnOnce() -> T) -> T {
    let key = BatchKey { epoch, batch: batch as u64, draws: 0 };
    let _restore = Restore(CURRENT_BATCH.replace(Some(key)));
    make()
}

/// The random stream for one application of a transform. Outside a loader it comes from the generator that
/// [`manual_seed`](kiln_tensor::manual_seed) seeds.
pub(crate) fn stream() -> RandomStream {
    match CURRENT_BATCH.get() {
        Some(key) => {
            CURRENT_BATCH.set(Some(BatchKey { draws: key.draws + 1, ..key }));
            key.epoch.numbered_stream(FIRST_BATCH + key.batch, key.draws)
        }
        None => {
            let (seed, offset) = kiln_tensor::take_random_seed();
            Epoch::new(seed, offset).stream(FIRST_BATCH)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_repeats_and_its_draws_differ() {
        let words = || [stream().next_u64(), stream().next_u64()];
        let (epoch, batch) = (Epoch::new(1, 2), 3);
        let first = in_batch(epoch, batch, words);
        assert_ne!(first[0], first[1]);
        assert_eq!(in_batch(epoch, batch, words), first);
        assert_ne!(in_batch(epoch, batch + 1, words), first);
        assert_ne!(in_batch(Epoch::new(1, 3), batch, words), first);
        // A loader inside a transform does not disturb the outer one.
        let nested = in_batch(epoch, batch, || (stream().next_u64(), in_batch(epoch, 9, words), stream().next_u64()));
        assert_eq!([nested.0, nested.2], first);
    }

    #[test]
    fn outside_of_loaders_the_seed_of_tensors_counts() {
        // Other tests of this process draw from the generator as well, so this checks only what they cannot disturb.
        assert_ne!(stream().next_u64(), stream().next_u64());
    }
}

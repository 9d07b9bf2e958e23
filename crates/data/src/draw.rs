//! The random numbers of transforms: which ones the next sample gets.
//!
//! They are a function of the loader's seed, the epoch, the batch and the how-manieth draw it is in the making of that
//! batch, which one thread does from its beginning to its end. So they do not depend on the number of workers, and a
//! sample that comes twice is not changed twice alike.

use std::cell::Cell;

use crate::{Epoch, Stream};

/// Purposes from here on are batches; samplers use those below.
const BATCHES: u64 = 1 << 32;

#[derive(Clone, Copy)]
struct Place {
    epoch: Epoch,
    batch: u64,
    draws: u64,
}

thread_local! {
    static PLACE: Cell<Option<Place>> = const { Cell::new(None) };
}

/// Puts the old place back, also after a panic.
struct Restore(Option<Place>);
impl Drop for Restore {
    fn drop(&mut self) {
        PLACE.set(self.0);
    }
}

/// Runs `make`, whose transforms then draw the numbers of this batch.
pub(crate) fn in_batch<T>(epoch: Epoch, batch: usize, make: impl FnOnce() -> T) -> T {
    let place = Place { epoch, batch: batch as u64, draws: 0 };
    let _restore = Restore(PLACE.replace(Some(place)));
    make()
}

/// Random numbers for one change of one sample. Outside a loader they come from the generator that
/// [`manual_seed`](kiln_tensor::manual_seed) seeds.
pub(crate) fn stream() -> Stream {
    match PLACE.get() {
        Some(place) => {
            PLACE.set(Some(Place { draws: place.draws + 1, ..place }));
            place.epoch.numbered_stream(BATCHES + place.batch, place.draws)
        }
        None => {
            let (seed, offset) = kiln_tensor::take_random_seed();
            Epoch::new(seed, offset).stream(BATCHES)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_repeats_and_its_draws_differ() {
        let words = || [stream().word(), stream().word()];
        let (epoch, batch) = (Epoch::new(1, 2), 3);
        let first = in_batch(epoch, batch, words);
        assert_ne!(first[0], first[1]);
        assert_eq!(in_batch(epoch, batch, words), first);
        assert_ne!(in_batch(epoch, batch + 1, words), first);
        assert_ne!(in_batch(Epoch::new(1, 3), batch, words), first);
        // A loader within a transform does not disturb the outer one.
        let nested = in_batch(epoch, batch, || (stream().word(), in_batch(epoch, 9, words), stream().word()));
        assert_eq!([nested.0, nested.2], first);
    }

    #[test]
    fn outside_of_loaders_the_seed_of_tensors_counts() {
        // Other tests of this process draw, too; so only what cannot be disturbed is checked.
        assert_ne!(stream().word(), stream().word());
    }
}

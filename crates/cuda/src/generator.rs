//! The random number generator's position in device memory, relative to which kernels draw.
//!
//! A kernel that draws gets a position relative to one in device memory ([`GeneratorState`]), which the optimizer's
//! step advances to where the step has left the generator. So the launches of a training step are the same each time,
//! as is needed to capture a step once and launch it often. The arithmetic wraps: whatever the order of draws, the
//! numbers are those of the position that the caller named.

use kiln_backend::{RandomState, Result};
use parking_lot::Mutex;

use crate::{params, pinned::Uploads, stream::Stream};

#[derive(Debug)]
pub(crate) struct Generator {
    /// The address of the [`GeneratorState`](params::GeneratorState).
    pub(crate) address: u64,
    positions: Mutex<Positions>,
}

/// Locked while a launch that depends on them is queued, so that device memory changes in the same order.
#[derive(Debug)]
struct Positions {
    /// What device memory will hold once all queued work is done.
    base: RandomState,
    /// The position after the last numbers that were drawn.
    next: RandomState,
}

impl Generator {
    /// The memory must be zeroed.
    pub(crate) fn new(address: u64) -> Generator {
        let start = RandomState { seed: 0, offset: 0 };
        Generator { address, positions: Mutex::new(Positions { base: start, next: start }) }
    }

    /// Queues a kernel that draws `blocks` counter blocks starting at `state`.
    pub(crate) fn draw(
        &self,
        state: RandomState,
        blocks: u64,
        launch: impl FnOnce(params::RandomState) -> Result<()>,
    ) -> Result<()> {
        let mut positions = self.positions.lock();
        let RandomState { seed, offset } = state;
        // A new seed reaches the device with the next optimizer step.
        launch(if seed == positions.base.seed {
            let offset = offset.wrapping_sub(positions.base.offset);
            params::RandomState { seed: 0, offset, base: self.address }
        } else {
            params::RandomState { seed, offset, base: 0 }
        })?;
        positions.next = RandomState { seed, offset: offset.wrapping_add(blocks) };
        Ok(())
    }

    /// Queues the kernels of an optimizer's step, the first of which advances the position by the amount that it is
    /// given.
    pub(crate) fn step(
        &self,
        stream: &Stream,
        uploads: &Uploads,
        launch: impl FnOnce(&mut Drawn<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut positions = self.positions.lock();
        let Positions { base, next } = &mut *positions;
        if base.seed != next.seed {
            let bytes = [next.seed.to_ne_bytes(), next.offset.to_ne_bytes()].concat();
            // SAFETY: the memory at this address begins with these two numbers.
            unsafe { uploads.send(stream, &bytes, self.address)? };
            *base = *next;
        }
        launch(&mut Drawn { base, next })
    }
}

/// How far a step has to advance the position.
pub(crate) struct Drawn<'a> {
    base: &'a mut RandomState,
    next: &'a RandomState,
}

impl Drawn<'_> {
    /// The distance in counter blocks.
    pub(crate) fn blocks(&self) -> u64 {
        self.next.offset.wrapping_sub(self.base.offset)
    }

    /// Call when a kernel that advances the position has been queued.
    pub(crate) fn counted(&mut self) {
        *self.base = *self.next;
    }
}

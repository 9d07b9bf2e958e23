//! The random number generator's position in device memory, relative to which kernels draw.
//!
//! A kernel that draws gets a position relative to one in device memory ([`GeneratorState`]), which the optimizer's
//! step advances to where the step has left the generator. So the launches of a training step are the same each time,
//! as is needed to capture a step once and launch it often. The arithmetic wraps: whatever the order of draws, the
//! numbers are those of the position that the caller named.

use kiln_backend::{RandomState, Result, refuse_capture};
use parking_lot::Mutex;

use crate::{
    capture::recording,
    params,
    pinned::Uploads,
    positions::{Advance, Positions},
    stream::Stream,
};

#[derive(Debug)]
pub(crate) struct Generator {
    /// The address of the [`GeneratorState`](params::GeneratorState).
    pub(crate) address: u64,
    /// The index of its device.
    device: usize,
    /// Locked while a launch that depends on them is queued, so that device memory changes in the same order.
    positions: Mutex<Positions>,
}

impl Generator {
    /// The memory must be zeroed.
    pub(crate) fn new(device: usize, address: u64) -> Generator {
        Generator { address, device, positions: Mutex::new(Positions::at(RandomState { seed: 0, offset: 0 })) }
    }

    /// Calls `body` with the positions for this thread's work and, if it is captured, the position at the capture's beginning.
    fn with<R>(&self, body: impl FnOnce(&mut Positions, Option<RandomState>) -> Result<R>) -> Result<R> {
        let Some((mut captured, start)) = recording::positions(self.device) else {
            return body(&mut self.positions.lock(), None);
        };
        let result = body(&mut captured, Some(start));
        recording::set_positions(self.device, captured);
        result
    }

    /// Queues a kernel that draws `blocks` counter blocks starting at `state`.
    pub(crate) fn draw(
        &self,
        state: RandomState,
        blocks: u64,
        launch: impl FnOnce(params::RandomState) -> Result<()>,
    ) -> Result<()> {
        self.with(|positions, captured_from| {
            let RandomState { seed, offset } = state;
            // Numbers from an earlier position, or of another seed, would be the same in every launch of the graph.
            if captured_from.is_some_and(|start| start.seed != seed || offset.wrapping_sub(start.offset) > u64::MAX / 2)
            {
                return Err(refuse_capture(
                    "random numbers",
                    "they are drawn from a position before that of the capture's beginning",
                ));
            }
            // A new seed reaches the device with the next optimizer step.
            launch(if seed == positions.base.seed {
                let offset = offset.wrapping_sub(positions.base.offset);
                params::RandomState { seed: 0, offset, base: self.address }
            } else {
                params::RandomState { seed, offset, base: 0 }
            })?;
            let end = RandomState { seed, offset: offset.wrapping_add(blocks) };
            // The backward pass draws again what the forward pass has drawn, and leaves `next` where it is.
            let is_behind = |start: RandomState| {
                end.offset.wrapping_sub(start.offset) <= positions.next.offset.wrapping_sub(start.offset)
            };
            if !captured_from.is_some_and(is_behind) {
                positions.next = end;
            }
            Ok(())
        })
    }

    /// Queues captured work that draws `drawn` counter blocks from `state` on, and adds `moved` to the position in device
    /// memory.
    pub(crate) fn launch(
        &self,
        stream: &Stream,
        uploads: &Uploads,
        state: RandomState,
        Advance { moved, drawn }: Advance,
        launch: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let mut positions = self.positions.lock();
        if drawn == 0 {
            return launch();
        }
        if positions.base != state {
            self.send(stream, uploads, state)?;
            *positions = Positions::at(state);
        }
        launch()?;
        let RandomState { seed, offset } = state;
        let after = |blocks| RandomState { seed, offset: offset.wrapping_add(blocks) };
        *positions = Positions { base: after(moved), next: after(drawn) };
        Ok(())
    }

    fn send(&self, stream: &Stream, uploads: &Uploads, state: RandomState) -> Result<()> {
        let bytes = [state.seed.to_ne_bytes(), state.offset.to_ne_bytes()].concat();
        // SAFETY: the memory at this address begins with these two numbers.
        unsafe { uploads.send(stream, &bytes, self.address) }
    }

    /// Queues the kernels of an optimizer's step, the first of which advances the position by the amount that it is
    /// given.
    pub(crate) fn step(
        &self,
        stream: &Stream,
        uploads: &Uploads,
        launch: impl FnOnce(&mut Drawn<'_>) -> Result<()>,
    ) -> Result<()> {
        self.with(|Positions { base, next }, _| {
            // Never in a capture, which draws from one seed.
            if base.seed != next.seed {
                self.send(stream, uploads, *next)?;
                *base = *next;
            }
            launch(&mut Drawn { base, next })
        })
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

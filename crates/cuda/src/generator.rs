//! The random number generator's position in device memory, relative to which kernels draw.
//!
//! A kernel that draws gets a position relative to one in device memory ([`GeneratorState`]), which the optimizer's
//! step advances to where the step has left the generator. So the launches of a training step are the same each time,
//! as is needed to capture a step once and launch it often. The arithmetic wraps: whatever the order of draws, the
//! numbers are those of the position that the caller named.

use kiln_backend::{RandomState, Result, refuse_capture};
use parking_lot::Mutex;

use crate::{capture, params, pinned::Uploads, stream::Stream};

#[derive(Debug)]
pub(crate) struct Generator {
    /// The address of the [`GeneratorState`](params::GeneratorState).
    pub(crate) address: u64,
    /// The number of its device.
    device: usize,
    positions: Mutex<Positions>,
}

/// Locked while a launch that depends on them is queued, so that device memory changes in the same order. Work that is captured
/// has its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Positions {
    /// What device memory will hold once all queued work is done.
    base: RandomState,
    /// The position after the last numbers that were drawn.
    next: RandomState,
}

impl Generator {
    /// The memory must be zeroed.
    pub(crate) fn new(device: usize, address: u64) -> Generator {
        Generator { address, device, positions: Mutex::new(Positions::at(RandomState { seed: 0, offset: 0 })) }
    }

    /// Runs `body` with the positions that hold for the work of this thread.
    fn with<R>(&self, body: impl FnOnce(&mut Positions, Option<RandomState>) -> Result<R>) -> Result<R> {
        let Some((mut captured, start)) = capture::positions(self.device) else {
            return body(&mut self.positions.lock(), None);
        };
        let result = body(&mut captured, Some(start));
        capture::set_positions(self.device, captured);
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
            // Numbers of an earlier position, or of another seed, would be the same whenever the graph is launched.
            if captured_from.is_some_and(|start| start.seed != seed || offset.wrapping_sub(start.offset) > u64::MAX / 2)
            {
                return Err(refuse_capture("random numbers", "they are drawn from a position of before the capture"));
            }
            // A new seed reaches the device with the next optimizer step.
            launch(if seed == positions.base.seed {
                let offset = offset.wrapping_sub(positions.base.offset);
                params::RandomState { seed: 0, offset, base: self.address }
            } else {
                params::RandomState { seed, offset, base: 0 }
            })?;
            let end = RandomState { seed, offset: offset.wrapping_add(blocks) };
            // The way back draws what the way forward has drawn before it.
            let is_behind = |start: RandomState| {
                end.offset.wrapping_sub(start.offset) <= positions.next.offset.wrapping_sub(start.offset)
            };
            if !captured_from.is_some_and(is_behind) {
                positions.next = end;
            }
            Ok(())
        })
    }

    /// Queues work that was captured at another position, and draws from `state` on: so many blocks, by some of which it moves
    /// the position in device memory on.
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

/// How far work that was captured has come, in counter blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Advance {
    /// What it adds to the position in device memory.
    moved: u64,
    /// What it draws.
    drawn: u64,
}

impl Positions {
    pub(crate) fn at(state: RandomState) -> Positions {
        Positions { base: state, next: state }
    }

    /// How far they have moved from where both were.
    pub(crate) fn since(&self, start: RandomState) -> Advance {
        let since = |state: RandomState| state.offset.wrapping_sub(start.offset);
        Advance { moved: since(self.base), drawn: since(self.next) }
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

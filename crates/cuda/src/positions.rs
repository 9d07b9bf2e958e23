//! The random number generator's positions: where device memory says it is, and where the queued work has left it.

use kiln_backend::RandomState;

/// Positions of the generator, for the work queued so far. Captured work has positions of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Positions {
    /// What device memory will hold once all queued work is done.
    pub(crate) base: RandomState,
    /// The position after the last numbers that were drawn.
    pub(crate) next: RandomState,
}

/// By how many counter blocks captured work moves the positions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Advance {
    /// What it adds to the position in device memory.
    pub(crate) moved: u64,
    /// What it draws.
    pub(crate) drawn: u64,
}

impl Positions {
    pub(crate) fn at(state: RandomState) -> Positions {
        Positions { base: state, next: state }
    }

    /// The distance from `start`, where both were.
    pub(crate) fn since(&self, start: RandomState) -> Advance {
        let since = |state: RandomState| state.offset.wrapping_sub(start.offset);
        Advance { moved: since(self.base), drawn: since(self.next) }
    }
}

//! The position of a loader in its sequence of epochs, for checkpoints.

use kiln_tensor::{Error, Result};
use serde::{Deserialize, Serialize};

/// The position of a loader: PyTorch's `StatefulDataLoader.state_dict`. A checkpoint stores it (with serde), and
/// [`DataLoader::set_state`](crate::DataLoader::set_state) restores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LoaderState {
    /// The loader's seed.
    pub seed: u64,
    /// The epoch that the next batch belongs to.
    pub epoch: u64,
    /// The index of the next batch in its epoch.
    pub position: usize,
    /// Number of batches in an epoch, to detect that the batch size or the dataset has changed.
    pub batches: usize,
}

impl LoaderState {
    pub(super) fn check(&self, batches: usize) -> Result<()> {
        if self.position > 0 && self.batches != batches {
            let message = format!(
                "the state is from batch {} of an epoch of {} batches, this loader's have {batches}",
                self.position, self.batches
            );
            return Err(Error::argument("DataLoader::set_state", message));
        }
        Ok(())
    }
}

/// The position as the loader keeps it. Only the newest iterator writes it.
#[derive(Debug)]
pub(super) struct Cursor {
    pub seed: u64,
    epoch: u64,
    position: usize,
    /// The actual number of batches in the epoch, known once it has started.
    end: Option<usize>,
    /// Whether an iterator has begun this epoch. The next iterator then begins the next epoch.
    begun: bool,
    /// Counts iterators, so that an older one cannot overwrite the newest one's position.
    run: u64,
}

impl Cursor {
    pub fn new(seed: u64) -> Cursor {
        Cursor { seed, epoch: 0, position: 0, end: None, begun: false, run: 0 }
    }

    pub fn jump(&mut self, epoch: u64, position: usize) {
        // An iterator that is still alive belongs to the old position.
        *self = Cursor { epoch, position, end: None, begun: false, run: self.run + 1, ..*self };
    }

    /// Begins an epoch. Returns its number, the position in it, and the number of the run.
    pub fn begin(&mut self) -> (u64, usize, u64) {
        if self.begun {
            self.jump(self.epoch.saturating_add(1), 0);
        }
        self.begun = true;
        self.run += 1;
        (self.epoch, self.position, self.run)
    }

    pub fn planned(&mut self, run: u64, end: usize) {
        if run == self.run {
            self.end = Some(end);
        }
    }

    pub fn advance(&mut self, run: u64, position: usize) {
        if run == self.run {
            self.position = position;
        }
    }

    pub fn state(&self, batches: usize) -> LoaderState {
        // After the last batch comes the next epoch, not the empty remainder of this one.
        let over = self.end.is_some_and(|end| self.position >= end);
        let (epoch, position) = if over { (self.epoch.saturating_add(1), 0) } else { (self.epoch, self.position) };
        LoaderState { seed: self.seed, epoch, position, batches }
    }
}

//! `LoaderIter`: one pass over the data.

use std::{fmt, sync::Arc};

use kiln_tensor::{Error, Result};
use parking_lot::Mutex;

use super::{
    DataLoader, Fetch,
    state::Cursor,
    workers::{Plan, Workers, make},
};
use crate::Epoch;

/// An iterator over the batches of one epoch. It ends after an error. Dropping it stops its workers and waits for the batches
/// that they are making.
#[must_use]
pub struct LoaderIter<B> {
    source: Source<B>,
    position: usize,
    end: usize,
    cursor: Arc<Mutex<Cursor>>,
    run: u64,
}

enum Source<B> {
    /// Batches are made when they are asked for.
    Inline(Fetch<B>, Arc<Plan>),
    Workers(Workers<B>),
    /// The epoch could not be begun: the error is its only item.
    Failed(Error),
    Finished,
}

impl<B: Send + 'static> LoaderIter<B> {
    pub(super) fn start(loader: &DataLoader<B>) -> LoaderIter<B> {
        let (seed, (epoch, position, run)) = {
            let mut cursor = loader.cursor.lock();
            (cursor.seed, cursor.begin())
        };
        let mut iter =
            LoaderIter { source: Source::Finished, position, end: position, cursor: loader.cursor.clone(), run };
        match iter.begin(loader, Epoch::new(seed, epoch)) {
            Ok(()) => {}
            Err(error) => (iter.source, iter.end) = (Source::Failed(error), position + 1),
        }
        iter
    }

    fn begin(&mut self, loader: &DataLoader<B>, epoch: Epoch) -> Result<()> {
        let plan = Arc::new(Plan { epoch, batches: loader.batches.batches(epoch)? });
        let count = plan.batches.len();
        let start = self.position.min(count);
        self.source = match loader.num_workers {
            0 => Source::Inline(loader.fetch.clone(), plan.clone()),
            workers => {
                let (pool, prefetch) = (&loader.pool, loader.prefetch);
                Source::Workers(Workers::start(pool, &loader.fetch, &plan, start, workers, prefetch)?)
            }
        };
        (self.position, self.end) = (start, count);
        self.cursor.lock().planned(self.run, count);
        Ok(())
    }
}

impl<B> Iterator for LoaderIter<B> {
    type Item = Result<B>;

    fn next(&mut self) -> Option<Result<B>> {
        if self.position >= self.end {
            self.source = Source::Finished;
            return None;
        }
        let batch = match &self.source {
            Source::Inline(fetch, plan) => make(fetch, plan, self.position),
            Source::Workers(workers) => workers.receive(self.position),
            Source::Failed(_) | Source::Finished => match std::mem::replace(&mut self.source, Source::Finished) {
                Source::Failed(error) => Err(error),
                _ => return None,
            },
        };
        self.position += 1;
        if batch.is_ok() {
            self.cursor.lock().advance(self.run, self.position);
        } else {
            self.end = self.position;
        }
        if self.position == self.end {
            self.source = Source::Finished;
        }
        Some(batch)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.end.saturating_sub(self.position);
        (left, Some(left))
    }
}

impl<B> ExactSizeIterator for LoaderIter<B> {}
impl<B> std::iter::FusedIterator for LoaderIter<B> {}

impl<B> fmt::Debug for LoaderIter<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoaderIter").field("position", &self.position).field("end", &self.end).finish_non_exhaustive()
    }
}

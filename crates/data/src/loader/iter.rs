//! `LoaderIter`: one pass over the data.

use std::{fmt, marker::PhantomData, sync::Arc};

use kiln_tensor::{Error, Result};
use parking_lot::Mutex;

use super::{
    AnyBatch, Fetch, Parts,
    state::Cursor,
    workers::{Plan, Workers, make},
};
use crate::epoch::Epoch;

/// An iterator over the batches of one epoch. It ends after an error. Dropping it stops its workers and waits for the
/// batches that they are making.
#[must_use]
pub struct LoaderIter<B> {
    pass: Pass,
    batch: PhantomData<fn() -> B>,
}

impl<B: Send + 'static> LoaderIter<B> {
    pub(super) fn start(loader: &Parts) -> LoaderIter<B> {
        LoaderIter { pass: Pass::start(loader), batch: PhantomData }
    }
}

impl<B: 'static> Iterator for LoaderIter<B> {
    type Item = Result<B>;

    fn next(&mut self) -> Option<Result<B>> {
        let batch = match self.pass.next()? {
            Ok(batch) => batch.downcast().map_err(|_| Error::other("DataLoader: a batch of another type")),
            Err(error) => Err(error),
        };
        Some(batch.map(|batch| *batch))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.pass.left();
        (left, Some(left))
    }
}

impl<B: 'static> ExactSizeIterator for LoaderIter<B> {}
impl<B: 'static> std::iter::FusedIterator for LoaderIter<B> {}

impl<B> fmt::Debug for LoaderIter<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Pass { position, end, .. } = &self.pass;
        f.debug_struct("LoaderIter").field("position", position).field("end", end).finish_non_exhaustive()
    }
}

/// One pass over the data, for batches of any type.
struct Pass {
    source: Source,
    position: usize,
    end: usize,
    cursor: Arc<Mutex<Cursor>>,
    run: u64,
}

enum Source {
    /// Batches are made when they are requested.
    Inline(Fetch, Arc<Plan>),
    Workers(Workers),
    /// The epoch could not be started: the error is its only item.
    Failed(Error),
    Finished,
}

impl Pass {
    fn start(loader: &Parts) -> Pass {
        let (seed, (epoch, position, run)) = {
            let mut cursor = loader.cursor.lock();
            (cursor.seed, cursor.begin())
        };
        let mut pass = Pass { source: Source::Finished, position, end: position, cursor: loader.cursor.clone(), run };
        match pass.begin(loader, Epoch::new(seed, epoch)) {
            Ok(()) => {}
            Err(error) => (pass.source, pass.end) = (Source::Failed(error), position + 1),
        }
        pass
    }

    fn begin(&mut self, loader: &Parts, epoch: Epoch) -> Result<()> {
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

    fn next(&mut self) -> Option<Result<AnyBatch>> {
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

    fn left(&self) -> usize {
        self.end.saturating_sub(self.position)
    }
}

//! One pass over the data.

use std::{fmt, sync::Arc};

use kiln_tensor::{Error, Result};
use parking_lot::Mutex;

use super::{
    DataLoader, Fetch,
    state::Progress,
    workers::{Plan, Workers, make},
};
use crate::Epoch;

/// The batches of one epoch. It ends after an error. Dropping it stops its workers and waits for the batches
/// that they are making.
#[must_use]
pub struct LoaderIter<B> {
    source: Source<B>,
    position: usize,
    end: usize,
    progress: Arc<Mutex<Progress>>,
    run: u64,
}

enum Source<B> {
    Here(Fetch<B>, Arc<Plan>),
    Workers(Workers<B>),
    /// Its one item: the epoch could not be begun.
    Failed(Error),
    Over,
}

impl<B: Send + 'static> LoaderIter<B> {
    pub(super) fn start(loader: &DataLoader<B>) -> LoaderIter<B> {
        let (seed, (epoch, position, run)) = {
            let mut progress = loader.progress.lock();
            (progress.seed, progress.begin())
        };
        let mut iter =
            LoaderIter { source: Source::Over, position, end: position, progress: loader.progress.clone(), run };
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
            0 => Source::Here(loader.fetch.clone(), plan.clone()),
            workers => {
                let (crew, prefetch) = (&loader.crew, loader.prefetch);
                Source::Workers(Workers::start(crew, &loader.fetch, &plan, start, workers, prefetch)?)
            }
        };
        (self.position, self.end) = (start, count);
        self.progress.lock().planned(self.run, count);
        Ok(())
    }
}

impl<B> Iterator for LoaderIter<B> {
    type Item = Result<B>;

    fn next(&mut self) -> Option<Result<B>> {
        if self.position >= self.end {
            self.source = Source::Over;
            return None;
        }
        let batch = match &self.source {
            Source::Here(fetch, plan) => make(fetch, plan, self.position),
            Source::Workers(workers) => workers.receive(self.position),
            Source::Failed(_) | Source::Over => match std::mem::replace(&mut self.source, Source::Over) {
                Source::Failed(error) => Err(error),
                _ => return None,
            },
        };
        self.position += 1;
        if batch.is_ok() {
            self.progress.lock().advance(self.run, self.position);
        } else {
            self.end = self.position;
        }
        if self.position == self.end {
            self.source = Source::Over;
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

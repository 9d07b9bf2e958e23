//! Threads that make batches ahead of time.
//!
//! Worker `w` of `n` makes every `n`-th batch, from the `w`-th on, and hands them over through a channel of
//! its own; the consumer asks the channels in turn. So the order needs no bookkeeping, and the channels'
//! capacity bounds what waits in memory.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crossbeam_channel::{Receiver, Sender, bounded};
use kiln_tensor::{Error, Result, no_grad};

use super::{
    Fetch,
    crew::{Crew, Hand},
};
use crate::{Epoch, dataset::take_panicked_sample, draw};

/// The samples of each batch of an epoch.
pub(super) struct Plan {
    pub epoch: Epoch,
    pub batches: Vec<Vec<usize>>,
}

/// Makes batch number `position`. A panic of the dataset, a transform or the collate function becomes an
/// error here, so that it is the same with and without workers, and never a consumer that waits for ever.
pub(super) fn make<B>(fetch: &Fetch<B>, plan: &Plan, position: usize) -> Result<B> {
    let indices = plan.batches.get(position).map_or(&[][..], Vec::as_slice);
    // Recording is off: whether it is on is a matter of the thread, and would differ with workers. So would random
    // numbers that a thread kept for itself; each batch has its own.
    let batch = || draw::in_batch(plan.epoch, position, || no_grad(|| fetch(indices)));
    let batch = catch_unwind(AssertUnwindSafe(batch));
    batch.unwrap_or_else(|panic| {
        let sample = take_panicked_sample().map_or(String::new(), |index| format!(" at sample {index}"));
        Err(Error::other(format!("DataLoader: making batch {position} panicked{sample}: {}", message(&*panic))))
    })
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("(no message)")
}

pub(super) struct Workers<B> {
    lanes: Vec<Receiver<Result<B>>>,
    hands: Vec<Hand>,
    crew: Arc<Crew>,
    start: usize,
    stop: Arc<AtomicBool>,
    /// Closed when all workers are done: each holds a sender that it never uses.
    done: Receiver<()>,
}

impl<B: Send + 'static> Workers<B> {
    /// Sets `count` threads on the batches from `start` on, each at most `prefetch` batches ahead.
    pub fn start(
        crew: &Arc<Crew>,
        fetch: &Fetch<B>,
        plan: &Arc<Plan>,
        start: usize,
        count: usize,
        prefetch: usize,
    ) -> Result<Workers<B>> {
        let (at_work, done) = bounded(0);
        let stop = Arc::new(AtomicBool::new(false));
        let mut workers = Workers { lanes: Vec::new(), hands: Vec::new(), crew: crew.clone(), start, stop, done };
        for worker in 0..count.min(plan.batches.len().saturating_sub(start)) {
            // One batch is in the worker's hand while the others wait in the channel.
            let (sender, receiver) = bounded(prefetch.saturating_sub(1));
            let job = (fetch.clone(), plan.clone(), workers.stop.clone(), sender, at_work.clone());
            let hand = crew.employ(Box::new(move || {
                let (fetch, plan, stop, sender, at_work) = job;
                run(&fetch, &plan, start + worker, count, &sender, &stop);
                drop((fetch, plan, sender));
                // Only now, when it holds nothing of the loader's any more, is it done.
                drop(at_work);
            }))?;
            workers.lanes.push(receiver);
            workers.hands.push(hand);
        }
        Ok(workers)
    }
}

fn run<B>(fetch: &Fetch<B>, plan: &Plan, first: usize, step: usize, out: &Sender<Result<B>>, stop: &AtomicBool) {
    for position in (first..plan.batches.len()).step_by(step) {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let batch = make(fetch, plan, position);
        let last = batch.is_err();
        // Sending fails when the consumer has gone.
        if out.send(batch).is_err() || last {
            return;
        }
    }
}

impl<B> Workers<B> {
    /// Batch number `position`; they must be asked for in order.
    pub fn receive(&self, position: usize) -> Result<B> {
        let gone = || Error::other(format!("DataLoader: the worker that makes batch {position} has died"));
        let lane = (position - self.start).checked_rem(self.lanes.len()).ok_or_else(gone)?;
        self.lanes[lane].recv().map_err(|_| gone())?
    }
}

impl<B> Drop for Workers<B> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes workers that wait for room in their channel.
        self.lanes.clear();
        while self.done.recv().is_ok() {}
        self.crew.dismiss(std::mem::take(&mut self.hands));
    }
}

//! Prefetching: worker threads that make the batches of an epoch ahead of time.
//!
//! Worker `w` of `n` makes batches `w`, `w + n`, `w + 2n` … and sends them through its own channel; the consumer
//! receives from the channels in turn. So the order needs no bookkeeping, and the channels' capacity bounds how many
//! batches wait.

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
    AnyBatch, Fetch,
    worker_pool::{WorkerPool, WorkerThread},
};
use crate::{dataset::take_panicked_sample, epoch::Epoch, random};

/// The sample indices of each batch of an epoch.
pub(super) struct Plan {
    pub epoch: Epoch,
    pub batches: Vec<Vec<usize>>,
}

/// Makes the batch at `position`. A panic in the dataset, a transform or the collate function becomes an error, so that
/// the outcome is the same with and without workers, and a consumer never waits forever.
pub(super) fn make(fetch: &Fetch, plan: &Plan, position: usize) -> Result<AnyBatch> {
    let indices = plan.batches.get(position).map_or(&[][..], Vec::as_slice);
    // Gradient recording and random state are per thread, so they would depend on the number of workers: recording is
    // off, and each batch has its own random streams.
    let batch = || random::in_batch(plan.epoch, position, || no_grad(|| fetch(indices)));
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

pub(super) struct Workers {
    receivers: Vec<Receiver<Result<AnyBatch>>>,
    threads: Vec<WorkerThread>,
    pool: Arc<WorkerPool>,
    start: usize,
    stop: Arc<AtomicBool>,
    /// Disconnected when all workers are done: each holds a sender that it never uses.
    done: Receiver<()>,
}

impl Workers {
    /// Starts `count` threads on the batches from `start` on. Each is at most `prefetch` batches ahead of the consumer.
    pub fn start(
        pool: &Arc<WorkerPool>,
        fetch: &Fetch,
        plan: &Arc<Plan>,
        start: usize,
        count: usize,
        prefetch: usize,
    ) -> Result<Workers> {
        let (working, done) = bounded(0);
        let stop = Arc::new(AtomicBool::new(false));
        let mut workers = Workers { receivers: Vec::new(), threads: Vec::new(), pool: pool.clone(), start, stop, done };
        for worker in 0..count.min(plan.batches.len().saturating_sub(start)) {
            // One batch is in the worker while the others wait in the channel.
            let (sender, receiver) = bounded(prefetch.saturating_sub(1));
            let job = (fetch.clone(), plan.clone(), workers.stop.clone(), sender, working.clone());
            let thread = pool.submit(Box::new(move || {
                let (fetch, plan, stop, sender, working) = job;
                run(&fetch, &plan, start + worker, count, &sender, &stop);
                drop((fetch, plan, sender));
                // Only now is the worker done: it no longer holds anything of the loader's.
                drop(working);
            }))?;
            workers.receivers.push(receiver);
            workers.threads.push(thread);
        }
        Ok(workers)
    }
}

fn run(fetch: &Fetch, plan: &Plan, first: usize, step: usize, out: &Sender<Result<AnyBatch>>, stop: &AtomicBool) {
    for position in (first..plan.batches.len()).step_by(step) {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let batch = make(fetch, plan, position);
        let last = batch.is_err();
        // Sending fails when the consumer is gone.
        if out.send(batch).is_err() || last {
            return;
        }
    }
}

impl Workers {
    /// The batch at `position`. Positions must be requested in order.
    pub fn receive(&self, position: usize) -> Result<AnyBatch> {
        let gone = || Error::other(format!("DataLoader: the worker thread that makes batch {position} has ended"));
        let worker = (position - self.start).checked_rem(self.receivers.len()).ok_or_else(gone)?;
        self.receivers[worker].recv().map_err(|_| gone())?
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes workers that wait for room in their channel.
        self.receivers.clear();
        while self.done.recv().is_ok() {}
        self.pool.release(std::mem::take(&mut self.threads));
    }
}

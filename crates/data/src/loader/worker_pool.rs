//! The worker threads of a loader, and their reuse from epoch to epoch.

use std::thread::{self, JoinHandle};

use crossbeam_channel::{Sender, unbounded};
use kiln_tensor::{Error, Result};
use parking_lot::Mutex;

type Job = Box<dyn FnOnce() + Send>;

/// The threads of a loader. An epoch takes some and releases them at its end. With persistent workers they then wait for the
/// next epoch; otherwise they end.
pub(super) struct WorkerPool {
    idle: Mutex<Vec<WorkerThread>>,
    persistent: bool,
}

/// One thread. Dropping it waits for its end.
pub(super) struct WorkerThread {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl WorkerPool {
    pub fn new(persistent: bool) -> WorkerPool {
        WorkerPool { idle: Mutex::default(), persistent }
    }

    /// Runs a job on an idle thread, or on a new one.
    pub fn submit(&self, mut job: Job) -> Result<WorkerThread> {
        loop {
            let idle = self.idle.lock().pop();
            let new = idle.is_none();
            let worker = idle.map_or_else(WorkerThread::spawn, Ok)?;
            match worker.jobs.as_ref().map(|jobs| jobs.send(job)) {
                Some(Err(refused)) if !new => job = refused.into_inner(), // a panic has ended that thread
                Some(Ok(())) => return Ok(worker),
                _ => return Err(Error::other("DataLoader: a worker thread ended as soon as it was started")),
            }
        }
    }

    /// Takes back threads that have finished their jobs.
    pub fn release(&self, workers: Vec<WorkerThread>) {
        if self.persistent {
            self.idle.lock().extend(workers);
        }
    }
}

impl WorkerThread {
    fn spawn() -> Result<WorkerThread> {
        let (jobs, inbox) = unbounded::<Job>();
        let thread = thread::Builder::new()
            .name("kiln-loader".into())
            .spawn(move || inbox.into_iter().for_each(|job| job()))
            .map_err(|error| Error::other(format!("DataLoader: cannot start a worker thread: {error}")))?;
        Ok(WorkerThread { jobs: Some(jobs), thread: Some(thread) })
    }
}

impl Drop for WorkerThread {
    fn drop(&mut self) {
        self.jobs = None;
        // A panic can only come from dropping a batch that is no longer needed.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

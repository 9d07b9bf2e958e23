//! Threads that wait for work.

use std::thread::{self, JoinHandle};

use crossbeam_channel::{Sender, unbounded};
use kiln_tensor::{Error, Result};
use parking_lot::Mutex;

type Job = Box<dyn FnOnce() + Send>;

/// The threads of a loader. An epoch takes some and gives them back; those given back stay for the next epoch if the
/// loader shall have persistent workers, and end if not.
pub(super) struct Crew {
    idle: Mutex<Vec<Hand>>,
    persistent: bool,
}

/// One thread. Dropping it waits for its end.
pub(super) struct Hand {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Crew {
    pub fn new(persistent: bool) -> Crew {
        Crew { idle: Mutex::default(), persistent }
    }

    /// Puts a thread that has nothing to do, or a new one, to work.
    pub fn employ(&self, mut job: Job) -> Result<Hand> {
        loop {
            let idle = self.idle.lock().pop();
            let new = idle.is_none();
            let hand = idle.map_or_else(Hand::hire, Ok)?;
            match hand.jobs.as_ref().map(|jobs| jobs.send(job)) {
                Some(Err(refused)) if !new => job = refused.into_inner(), // it has died of a panic
                Some(Ok(())) => return Ok(hand),
                _ => return Err(Error::other("DataLoader: a worker has died at once")),
            }
        }
    }

    /// Takes back threads that have done their jobs.
    pub fn dismiss(&self, hands: Vec<Hand>) {
        if self.persistent {
            self.idle.lock().extend(hands);
        }
    }
}

impl Hand {
    fn hire() -> Result<Hand> {
        let (jobs, inbox) = unbounded::<Job>();
        let thread = thread::Builder::new()
            .name("kiln-loader".into())
            .spawn(move || inbox.into_iter().for_each(|job| job()))
            .map_err(|error| Error::other(format!("DataLoader: cannot start a worker: {error}")))?;
        Ok(Hand { jobs: Some(jobs), thread: Some(thread) })
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        self.jobs = None;
        // A panic can only come from dropping a batch that nobody wants any more.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

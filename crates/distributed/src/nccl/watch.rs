//! Watches the collectives of a rank: the host does not wait for them, so a thread looks for those that do not end, and for
//! ranks that have failed, and gives the group up then.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock, Weak},
    thread::{self, Builder, JoinHandle, Thread},
    time::{Duration, Instant},
};

use kiln_backend::{Backend, Communicator, Transfer};
use parking_lot::{Mutex, MutexGuard};

use super::control::Control;
use crate::error::DistributedError;

/// How often the thread looks.
const LOOK: Duration = Duration::from_millis(100);
/// Younger collectives are not asked for: each question is a call of the driver.
const YOUNG: Duration = Duration::from_secs(2);

/// A collective that was started and is not known to be done.
struct Running {
    number: u64,
    text: String,
    since: Instant,
    /// Its end. A launch of a captured one has none yet: it is marked when it is first looked for.
    end: Option<Arc<dyn Transfer>>,
}

#[derive(Default)]
struct State {
    failed: Option<DistributedError>,
    /// How many collectives were started.
    calls: u64,
    running: VecDeque<Running>,
    over: bool,
}

pub(crate) struct Watch {
    rank: usize,
    size: usize,
    timeout: Duration,
    backend: &'static dyn Backend,
    control: Box<dyn Control>,
    /// Set before anything is started.
    communicator: OnceLock<Mutex<Option<Arc<dyn Communicator>>>>,
    state: Mutex<State>,
}

impl Watch {
    pub(super) fn new(
        (rank, size): (usize, usize),
        timeout: Duration,
        backend: &'static dyn Backend,
        control: Box<dyn Control>,
    ) -> Arc<Watch> {
        let (communicator, state) = (OnceLock::new(), Mutex::default());
        Arc::new(Watch { rank, size, timeout, backend, control, communicator, state })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub(super) fn control(&self) -> &dyn Control {
        &*self.control
    }

    pub(super) fn set_communicator(&self, communicator: Arc<dyn Communicator>) {
        let _ = self.communicator.set(Mutex::new(Some(communicator)));
    }

    /// The communicator, unless the rank has left.
    pub(super) fn communicator(&self) -> Option<Arc<dyn Communicator>> {
        self.communicator.get()?.lock().clone()
    }

    /// Starts the thread.
    pub(super) fn begin(this: &Arc<Watch>) -> Result<JoinHandle<()>, DistributedError> {
        let watch = Arc::downgrade(this);
        let status = watch.clone();
        this.control.begin(Arc::new(move || {
            status.upgrade().map_or_else(|| "has left the group".into(), |watch: Arc<Watch>| watch.status())
        }));
        let body = move || {
            while let Some(watch) = Weak::upgrade(&watch).filter(|watch| !watch.state().over) {
                watch.look();
                drop(watch);
                thread::park_timeout(LOOK);
            }
        };
        Builder::new().name("kiln-nccl".into()).spawn(body).map_err(|error| DistributedError::Unavailable {
            engine: "NCCL",
            reason: format!("no thread can be started: {error}"),
        })
    }

    /// The number of a collective that is being started.
    pub(super) fn next(&self) -> u64 {
        let mut state = self.state();
        state.calls += 1;
        state.calls
    }

    pub(super) fn calls(&self) -> u64 {
        self.state().calls
    }

    /// A collective was started.
    pub(super) fn note(&self, number: u64, text: String, end: Option<Arc<dyn Transfer>>) {
        self.state().running.push_back(Running { number, text, since: Instant::now(), end });
    }

    /// Why the group has failed.
    pub(super) fn failure(&self) -> Option<DistributedError> {
        self.state().failed.clone()
    }

    /// The error of a call on a group that has failed.
    pub(super) fn refusal(&self, collective: impl FnOnce() -> String) -> Option<DistributedError> {
        let reason = self.failure()?.to_string();
        Some(DistributedError::Aborted { rank: self.rank, size: self.size, collective: collective(), reason })
    }

    /// What this rank is doing, for others that wait for it.
    pub(crate) fn status(&self) -> String {
        self.forget_done();
        let state = self.state();
        match state.running.front() {
            Some(Running { number, text, .. }) => format!("waits in call {number}, {text}"),
            None => format!("has made {} calls and is busy with something else", state.calls),
        }
    }

    /// Ends all that is under way, and tells the others. The first error is kept.
    pub(super) fn give_up(&self, error: DistributedError) {
        let reason = {
            let mut state = self.state();
            if state.failed.is_some() {
                return;
            }
            let reason = error.to_string();
            state.failed = Some(error);
            reason
        };
        // Before anything is undefined.
        self.backend.distrust(&reason);
        self.control.fail(&reason);
        if let Some(communicator) = self.communicator() {
            communicator.abort();
        }
        self.state().running.clear();
    }

    /// Drops what is done from the front of the queue.
    fn forget_done(&self) {
        loop {
            let end = match self.state().running.front() {
                Some(Running { end: Some(end), .. }) => end.clone(),
                _ => return,
            };
            // A device that has failed says so itself to who uses it.
            if matches!(end.is_done(), Ok(false)) {
                return;
            }
            let mut state = self.state();
            if state.running.front().is_some_and(|first| first.end.as_ref().is_some_and(|one| Arc::ptr_eq(one, &end))) {
                state.running.pop_front();
            }
        }
    }

    /// Waits until all that was started is done, or the group has failed.
    pub(super) fn finish(&self) {
        const NAP: Duration = Duration::from_micros(200);
        loop {
            self.mark_launches();
            self.forget_done();
            let state = self.state();
            if state.running.is_empty() || state.failed.is_some() {
                return;
            }
            drop(state);
            thread::sleep(NAP);
        }
    }

    /// Gives launches of captured collectives an end: whatever is queued by now comes after them.
    fn mark_launches(&self) {
        let all_have = self.state().running.iter().all(|one| one.end.is_some());
        let Some(communicator) = self.communicator().filter(|_| !all_have) else { return };
        let Ok(end) = communicator.mark() else { return };
        let end: Arc<dyn Transfer> = end.into();
        for one in self.state().running.iter_mut().filter(|one| one.since.elapsed() > YOUNG / 4) {
            one.end.get_or_insert_with(|| end.clone());
        }
    }

    fn look(&self) {
        if self.state().failed.is_some() {
            return;
        }
        let (rank, size) = (self.rank, self.size);
        let first = || {
            let state = self.state();
            state.running.front().map(|one| (one.number, one.text.clone(), one.since.elapsed()))
        };
        let now = || {
            self.forget_done();
            first().map_or_else(|| "the next collective".into(), |(_, text, _)| text)
        };
        if let Some(reason) = self.control.failure() {
            return self.give_up(DistributedError::Peer { rank, size, collective: now(), reason });
        }
        if let Some(reason) = self.communicator().and_then(|communicator| communicator.failure()) {
            // NCCL does not say which rank is gone; the notes do, at about the same time.
            let noticed = Instant::now();
            while noticed.elapsed() < LOOK * 5 && self.control.failure().is_none() {
                thread::sleep(LOOK / 10);
            }
            if let Some(reason) = self.control.failure() {
                return self.give_up(DistributedError::Peer { rank, size, collective: now(), reason });
            }
            return self.give_up(DistributedError::Library { rank, size, collective: now(), reason });
        }
        let Some((number, text, age)) = first() else { return };
        if let Some((other, calls)) = self.control.left().filter(|(_, calls)| *calls < number) {
            let reason =
                format!("rank {other} has left the group after {calls} collectives, and this is number {number}");
            return self.give_up(DistributedError::Peer { rank, size, collective: text, reason });
        }
        if age > YOUNG.min(self.timeout / 2) {
            self.mark_launches();
            self.forget_done();
        }
        let Some((number, text, age)) = first() else { return };
        if age > self.timeout {
            let (collective, others) = (format!("call {number}, {text},"), self.control.ask());
            // Somebody else may have been the first to notice.
            if let Some(reason) = self.control.failure().filter(|_| others.is_empty()) {
                return self.give_up(DistributedError::Peer { rank, size, collective: text, reason });
            }
            self.give_up(DistributedError::Timeout { rank, size, collective, timeout: self.timeout, others });
        }
    }

    /// Ends the thread, and the rank's part in the group.
    pub(super) fn leave(&self, thread: &Thread) {
        self.finish();
        self.state().over = true;
        thread.unpark();
        let communicator = self.communicator.get().and_then(|communicator| communicator.lock().take());
        let Some(communicator) = communicator else { return };
        if self.failure().is_some() {
            communicator.abort();
            return self.control.leave_failed();
        }
        self.control.leave(self.calls(), communicator);
    }
}

//! Watches the collectives of a rank: the host does not wait for them, so a thread looks for those that do not end, calls
//! that do not return, and ranks that have failed, and gives the group up then.

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

/// How long a call that hangs in the library may take to return after the communicator was aborted.
const RETURN: Duration = Duration::from_secs(5);

/// How it can be known that a collective is done.
#[derive(Clone)]
enum End {
    /// The call that starts it has not returned yet.
    Starting,
    /// A launch of a captured one: an end is marked when it is first looked for.
    Unmarked,
    Marked(Arc<dyn Transfer>),
}

/// A collective that was started and is not known to be done.
struct Running {
    number: u64,
    text: String,
    since: Instant,
    end: End,
}

impl Running {
    fn is_starting(&self) -> bool {
        matches!(self.end, End::Starting)
    }
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

    fn push(&self, text: String, end: End) -> u64 {
        let mut state = self.state();
        state.calls += 1;
        let number = state.calls;
        state.running.push_back(Running { number, text, since: Instant::now(), end });
        number
    }

    /// A collective is being started. Returns its number.
    pub(super) fn begin_call(&self, text: String) -> u64 {
        self.push(text, End::Starting)
    }

    /// The call has returned. Without an end it became part of a graph, and none has been started.
    pub(super) fn end_call(&self, number: u64, end: Option<Arc<dyn Transfer>>) {
        let mut state = self.state();
        let Some(at) = state.running.iter().position(|one| one.number == number) else { return };
        match end {
            Some(end) => state.running[at].end = End::Marked(end),
            None => {
                state.running.remove(at);
                state.calls -= 1;
            }
        }
    }

    /// A graph with a collective in it is being launched.
    pub(super) fn launch(&self, text: String) {
        self.push(text, End::Unmarked);
    }

    pub(super) fn calls(&self) -> u64 {
        self.state().calls
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
            Some(Running { number, text, end: End::Starting, .. }) => {
                format!("is in a call of NCCL that does not return, that of call {number}, {text}")
            }
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
        self.state().running.retain(Running::is_starting);
        self.expect_return(&reason);
    }

    /// Ends the process if a thread of the program stays in a call of the library although the communicator was aborted:
    /// there is no other way to end such a call, and the launcher ends the other ranks only when a process has ended.
    fn expect_return(&self, reason: &str) {
        let aborted = Instant::now();
        while self.state().running.iter().any(Running::is_starting) {
            if aborted.elapsed() > RETURN {
                eprintln!(
                    "{reason}. The call has not returned although its communicator was aborted: the process ends."
                );
                std::process::abort();
            }
            thread::sleep(LOOK / 10);
        }
    }

    /// Drops what is done from the front of the queue.
    fn forget_done(&self) {
        loop {
            let end = match self.state().running.front() {
                Some(Running { end: End::Marked(end), .. }) => end.clone(),
                _ => return,
            };
            // The next call on a device that has failed reports it.
            if matches!(end.is_done(), Ok(false)) {
                return;
            }
            let mut state = self.state();
            let is_same = |first: &Running| matches!(&first.end, End::Marked(one) if Arc::ptr_eq(one, &end));
            if state.running.front().is_some_and(is_same) {
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
        let is_due = |one: &&Running| matches!(one.end, End::Unmarked) && one.since.elapsed() > YOUNG / 4;
        let due: Vec<u64> = self.state().running.iter().filter(is_due).map(|one| one.number).collect();
        let Some(communicator) = self.communicator().filter(|_| !due.is_empty()) else { return };
        let Ok(end) = communicator.mark() else { return };
        let end: Arc<dyn Transfer> = end.into();
        for one in self.state().running.iter_mut().filter(|one| due.contains(&one.number)) {
            one.end = End::Marked(end.clone());
        }
    }

    /// Gives the group up after an error of the library, which does not say which rank is gone; the notes do, at about the
    /// same time.
    pub(super) fn library_failed(&self, collective: String, reason: String) {
        let (rank, size, noticed) = (self.rank, self.size, Instant::now());
        while noticed.elapsed() < LOOK * 5 && self.control.failure().is_none() {
            thread::sleep(LOOK / 10);
        }
        self.give_up(match self.control.failure() {
            Some(reason) => DistributedError::Peer { rank, size, collective, reason },
            None => DistributedError::Library { rank, size, collective, reason },
        });
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
            return self.library_failed(now(), reason);
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

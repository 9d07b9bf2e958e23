//! State that the communication thread shares with the threads that use a group.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use parking_lot::Mutex;

use crate::notes::{Note, Peers, Status};

/// What the threads of a group share.
#[derive(Default)]
pub(super) struct Shared {
    /// Why the group cannot be used any more.
    failed: Mutex<Option<String>>,
    /// How many threads wait for a collective now.
    awaited: AtomicUsize,
    /// The process exits.
    exits: AtomicBool,
    /// The communication thread has left the group.
    left: AtomicBool,
    /// What is known about the other ranks, once MPI has started.
    pub(super) peers: OnceLock<Peers>,
    /// Notes to all others, which the communication thread sends.
    pub(super) outbox: Mutex<Vec<Note>>,
    /// What this rank says that it is doing, if it makes its collectives on NCCL.
    pub(super) status: OnceLock<Status>,
}

impl Shared {
    /// Marks the group as failed; the first reason is kept.
    pub(super) fn fail(&self, reason: &str) {
        self.failed.lock().get_or_insert_with(|| reason.to_owned());
    }

    /// Calls `wait`, during which the calling thread computes nothing.
    pub(super) fn during<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.awaited.fetch_add(1, Ordering::Relaxed);
        let done = wait();
        self.awaited.fetch_sub(1, Ordering::Relaxed);
        done
    }

    /// Whether a thread waits, so that its core is free.
    pub(super) fn is_awaited(&self) -> bool {
        self.awaited.load(Ordering::Relaxed) > 0
    }

    /// The process exits: the communication thread is to leave the group.
    pub(super) fn exit(&self) {
        self.exits.store(true, Ordering::Release);
    }

    pub(super) fn exits(&self) -> bool {
        self.exits.load(Ordering::Acquire)
    }

    /// The communication thread has left.
    pub(super) fn leave(&self) {
        self.left.store(true, Ordering::Release);
    }

    pub(super) fn has_left(&self) -> bool {
        self.left.load(Ordering::Acquire)
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.failed.lock().clone()
    }
}

/// The rank of this process and the sizes of the group.
#[derive(Clone, Debug)]
pub(super) struct Placement {
    pub(super) rank: usize,
    pub(super) size: usize,
    pub(super) local_rank: usize,
    pub(super) local_size: usize,
    pub(super) all_have_gpus: bool,
    pub(super) library: String,
}

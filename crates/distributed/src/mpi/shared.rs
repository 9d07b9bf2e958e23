//! State that the communication thread shares with the threads that use a group.

use parking_lot::Mutex;

/// What the threads of a group share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Why the group cannot be used any more.
    failed: Mutex<Option<String>>,
}

impl Shared {
    /// Marks the group as failed; the first reason is kept.
    pub(super) fn fail(&self, reason: &str) {
        self.failed.lock().get_or_insert_with(|| reason.to_owned());
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
    pub(super) library: String,
}

//! How the ranks of a group on NCCL talk to each other beside the collectives: to exchange the id, and to tell of failures,
//! which NCCL's own ranks would wait for without end.

use std::{sync::Arc, thread, time::Duration};

use kiln_backend::Communicator;
use parking_lot::Mutex;

use crate::{
    error::DistributedError,
    group::ProcessGroup,
    mpi::Mpi,
    notes::{Kind, Note, Peers, Status},
};

/// The interval at which it looks for notes.
pub(super) const LOOK: Duration = Duration::from_millis(20);

pub(super) trait Control: Send + Sync {
    /// Gives all ranks the text of rank 0.
    fn share(&self, text: &str) -> Result<String, DistributedError>;

    /// From now on the rank says this of itself.
    fn begin(&self, status: Status);

    /// The failure of another rank: which rank, and why.
    fn failure(&self) -> Option<String>;

    /// A rank that has left, with the number of collectives that it had started.
    fn left(&self) -> Option<(usize, u64)>;

    /// Tells the other ranks that this one has failed.
    fn fail(&self, reason: &str);

    /// What the other ranks say that they are doing, each as `; rank 1 …`.
    fn ask(&self) -> String;

    /// Ends this rank's part, with its communicator, when the others end theirs.
    fn leave(&self, calls: u64, communicator: Arc<dyn Communicator>);

    /// Ends this rank's part after a failure: nobody is waited for.
    fn leave_failed(&self) {}
}

/// Processes that MPI connects. Its notes are used.
pub(super) struct ByMpi(pub(super) Arc<Mpi>);

impl Control for ByMpi {
    fn share(&self, text: &str) -> Result<String, DistributedError> {
        let group: &dyn ProcessGroup = &*self.0;
        group.broadcast_text(text).map_err(|error| DistributedError::Rendezvous(error.to_string()))
    }

    fn begin(&self, status: Status) {
        self.0.set_status(status);
    }

    fn failure(&self) -> Option<String> {
        let exited = || {
            let rank = self.0.peers().has_exited()?;
            Some(format!("rank {rank} has failed: its process has exited without leaving the group"))
        };
        self.0.failure().or_else(exited)
    }

    fn left(&self) -> Option<(usize, u64)> {
        self.0.peers().left(Kind::LeftNccl)
    }

    fn fail(&self, reason: &str) {
        self.0.abort(reason);
    }

    fn ask(&self) -> String {
        let query = || self.0.send(Note { kind: Kind::Query, calls: 0, text: String::new() });
        self.0.peers().ask(query, || thread::sleep(LOOK))
    }

    /// MPI's own end, which comes next, tells the others if this rank has failed.
    fn leave(&self, calls: u64, communicator: Arc<dyn Communicator>) {
        self.0.send(Note { kind: Kind::LeftNccl, calls, text: String::new() });
        leave_with_all(self.0.peers(), Kind::LeftNccl, &*communicator);
    }
}

/// Ends the communicator when all others end theirs. Ranks that are still working are waited for without limit. Returns
/// `false`, after an abort, if one of them has failed.
pub(super) fn leave_with_all(peers: &Peers, how: Kind, communicator: &dyn Communicator) -> bool {
    while !peers.all_have_left(how) {
        if peers.failure().is_some() {
            communicator.abort();
            return false;
        }
        thread::sleep(LOOK / 4);
    }
    communicator.leave();
    true
}

/// Ranks of one process.
pub(super) struct Threads {
    pub(super) rank: usize,
    pub(super) shared: Arc<Together>,
}

/// What ranks of one process share.
#[derive(Default)]
pub(super) struct Together {
    /// NCCL's id.
    pub(super) id: String,
    pub(super) size: usize,
    pub(super) failed: Mutex<Option<(usize, String)>>,
    pub(super) statuses: Mutex<Vec<(usize, Status)>>,
    pub(super) left: Mutex<Vec<(usize, u64)>>,
    /// Communicators of ranks that have left, which end together.
    pub(super) ended: Mutex<Vec<Arc<dyn Communicator>>>,
}

impl Control for Threads {
    /// The id was made before the ranks' threads were started.
    fn share(&self, _: &str) -> Result<String, DistributedError> {
        Ok(self.shared.id.clone())
    }

    fn begin(&self, status: Status) {
        self.shared.statuses.lock().push((self.rank, status));
    }

    fn failure(&self) -> Option<String> {
        let failed = self.shared.failed.lock();
        let (rank, reason) = failed.as_ref().filter(|(rank, _)| *rank != self.rank)?;
        Some(format!("rank {rank} has failed: {reason}"))
    }

    fn left(&self) -> Option<(usize, u64)> {
        self.shared.left.lock().iter().copied().min_by_key(|(_, calls)| *calls)
    }

    fn fail(&self, reason: &str) {
        self.shared.failed.lock().get_or_insert_with(|| (self.rank, reason.to_owned()));
    }

    fn ask(&self) -> String {
        let statuses = self.shared.statuses.lock().clone();
        let others = statuses.iter().filter(|(rank, _)| *rank != self.rank);
        others.map(|(rank, status)| format!("; rank {rank} {}", status())).collect()
    }

    fn leave(&self, calls: u64, communicator: Arc<dyn Communicator>) {
        self.shared.left.lock().push((self.rank, calls));
        let all = {
            let mut ended = self.shared.ended.lock();
            ended.push(communicator);
            if ended.len() < self.shared.size {
                return;
            }
            std::mem::take(&mut *ended)
        };
        // Each waits for the others.
        thread::scope(|scope| all.iter().for_each(|one| drop(scope.spawn(|| one.leave()))));
    }
}

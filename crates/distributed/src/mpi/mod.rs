//! The MPI engine. A separate thread makes all calls, in the order in which collectives are started, so that they
//! overlap the backward pass and a library that supports calls from only one thread is sufficient.

mod communicator;
mod exit;
mod library;
mod shared;
mod worker;

use std::{
    fmt,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, TryRecvError, channel},
    },
    thread::{Builder, JoinHandle},
    time::Duration,
};

use kiln_derive::located;
use kiln_tensor::{Device, Error, Result, captured::unless_capturing};

use self::{
    shared::{Placement, Shared},
    worker::{Job, Worker},
};
use crate::{
    collective::Collective,
    error::DistributedError,
    group::{Pending, ProcessGroup, Work},
    notes::{Note, Peers, Status},
};

/// The processes that `mpiexec` has launched. When the last handle is dropped, the rank leaves: it waits for the
/// others, and finalizes MPI.
pub(crate) struct Mpi {
    placement: Placement,
    shared: Arc<Shared>,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Mpi {
    /// Initializes MPI. Ranks tell each other whether they have a GPU.
    ///
    /// # Errors
    /// [`DistributedError::Unavailable`].
    pub(crate) fn start(timeout: Duration, debug: bool, has_gpu: bool) -> Result<Mpi, DistributedError> {
        let shared = Arc::new(Shared::default());
        let (tell, told) = channel();
        let (jobs, queue) = channel();
        let theirs = shared.clone();
        let unavailable = |reason: String| DistributedError::Unavailable { engine: "MPI", reason };
        let body = move || match Worker::start(theirs, timeout, debug, has_gpu) {
            Ok(worker) => {
                if tell.send(Ok(worker.placement())).is_ok() {
                    worker.run(&queue);
                }
            }
            Err(reason) => drop(tell.send(Err(reason))),
        };
        let thread = Builder::new().name("kiln-mpi".into()).spawn(body);
        let thread = thread.map_err(|error| unavailable(format!("no thread can be started: {error}")))?;
        let placement = told.recv().map_err(|_| unavailable("its thread has ended".into()))?.map_err(unavailable)?;
        exit::leave_at_exit(&shared);
        Ok(Mpi { placement, shared, jobs: Some(jobs), thread: Some(thread) })
    }

    /// Whether each rank has a GPU of its own that NCCL can use.
    pub(crate) fn all_have_gpus(&self) -> bool {
        self.placement.all_have_gpus
    }

    /// Why the group has failed, here or elsewhere.
    pub(crate) fn failure(&self) -> Option<String> {
        self.shared.failure()
    }

    /// What is known about the other ranks.
    pub(crate) fn peers(&self) -> &Peers {
        self.shared.peers.get_or_init(|| Peers::new(self.placement.rank, self.placement.size))
    }

    /// Sends a note to all others.
    pub(crate) fn send(&self, note: Note) {
        self.shared.outbox.lock().push(note);
    }

    /// From now on the rank says this of itself.
    pub(crate) fn set_status(&self, status: Status) {
        let _ = self.shared.status.set(status);
    }

    /// The number of processes on this machine.
    pub(crate) fn local_size(&self) -> usize {
        self.placement.local_size
    }
}

impl fmt::Debug for Mpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Placement { rank, size, library, .. } = &self.placement;
        write!(f, "rank {rank} of {size} on {library}")
    }
}

#[located(site)]
impl ProcessGroup for Mpi {
    fn rank(&self) -> usize {
        self.placement.rank
    }

    fn size(&self) -> usize {
        self.placement.size
    }

    fn local_rank(&self) -> usize {
        self.placement.local_rank
    }

    fn engine(&self) -> &'static str {
        "MPI"
    }

    fn start(&self, call: Collective) -> Result<Work> {
        call.check(self.size())?;
        const REASON: &str =
            "MPI moves the data at once, and not when the step is launched; NCCL's collectives can be captured";
        unless_capturing(call.kind.op(), REASON)?;
        let (rank, size) = (self.rank(), self.size());
        if let Some(reason) = self.shared.failure() {
            let collective = call.to_string();
            return Err(DistributedError::Aborted { rank, size, collective, reason }.into());
        }
        let (done, result) = channel();
        let ended = || {
            let (collective, reason) = ("a collective".into(), "its thread has ended".into());
            DistributedError::Aborted { rank, size, collective, reason }
        };
        let jobs = self.jobs.as_ref().ok_or_else(ended)?;
        jobs.send(Job { call, done }).map_err(|_| ended())?;
        Ok(Work::new(Begun { result, arrived: None, shared: self.shared.clone() }))
    }

    fn abort(&self, reason: &str) {
        self.shared.fail(reason);
    }

    /// MPI accesses host memory: tensors of a GPU are copied there and back.
    fn device(&self) -> Device {
        Device::Cpu
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.fail("a thread of it panicked");
        }
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

/// A collective in the queue of the thread.
struct Begun {
    result: Receiver<Result<(), Error>>,
    arrived: Option<Result<(), Error>>,
    shared: Arc<Shared>,
}

impl Begun {
    fn ended() -> Error {
        Error::argument("wait", "the thread of MPI has ended before the collective was done")
    }
}

impl Pending for Begun {
    fn is_completed(&mut self) -> bool {
        if self.arrived.is_none() {
            self.arrived = match self.result.try_recv() {
                Ok(result) => Some(result),
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Disconnected) => Some(Err(Begun::ended())),
            };
        }
        self.arrived.is_some()
    }

    fn wait(self: Box<Self>) -> Result<()> {
        match self.arrived {
            Some(result) => result,
            None => self.shared.during(|| self.result.recv()).unwrap_or_else(|_| Err(Begun::ended())),
        }
    }
}

//! The communication thread: performs collectives one after the other, handles notes in between, and leaves the group
//! at the end.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use kiln_tensor::{DType, Device, Error, Result, Tensor, no_grad};

use super::{
    communicator::{Communicator, Request},
    shared::{Placement, Shared},
};
use crate::{
    collective::{Collective, CollectiveKind, ReduceOp},
    error::DistributedError,
    notes::{ANSWER, Kind, Note, Peers},
};

/// A collective to perform.
pub(super) struct Job {
    pub(super) call: Collective,
    pub(super) done: Sender<Result<(), Error>>,
}

/// How often a waiting thread checks for notes and timeouts.
const LOOK: Duration = Duration::from_millis(2);
/// How often an idle thread checks for notes.
const IDLE: Duration = Duration::from_millis(20);
/// How long ranks have to print what has happened to them: a launcher ends them all when the first one is gone.
const GRACE: Duration = Duration::from_millis(200);
/// A library call that takes longer has moved data, and there may be more immediately.
const MOVED: Duration = Duration::from_micros(3);
/// How long a thread polls before it sleeps between polls.
const SPIN: Duration = Duration::from_micros(30);
/// The same while a thread of the program waits: the core has nothing else to do then.
const SPIN_AWAITED: Duration = Duration::from_millis(2);
const SLEEP: Duration = Duration::from_micros(50);

pub(super) struct Worker {
    mpi: Communicator,
    shared: Arc<Shared>,
    timeout: Duration,
    debug: bool,
    /// How many collectives were started.
    calls: u64,
    /// The one in progress.
    now: Option<String>,
    /// Whether the others have been told of the failure.
    told: bool,
    all_have_gpus: bool,
}

impl Worker {
    pub(super) fn start(shared: Arc<Shared>, timeout: Duration, debug: bool, has_gpu: bool) -> Result<Worker, String> {
        let mpi = Communicator::start()?;
        let _ = shared.peers.set(Peers::new(mpi.rank, mpi.size));
        let (all_have_gpus, told) = (false, false);
        let mut this = Worker { mpi, shared, timeout, debug, calls: 0, now: None, told, all_have_gpus };
        this.all_have_gpus = this.all(has_gpu).map_err(|error| error.to_string())?;
        Ok(this)
    }

    /// Whether something is so on all ranks: not one of the collectives of the group's users.
    fn all(&mut self, here: bool) -> Result<bool> {
        let least = Tensor::from_slice(&[i32::from(here)], 1, Device::Cpu)?;
        let call = Collective::all_reduce(&least, ReduceOp::Min).named("whether all have a GPU");
        self.transfer(&call, None, Some(&least), 1)?;
        Ok(least.item::<i32>()? != 0)
    }

    pub(super) fn placement(&self) -> Placement {
        let Communicator { rank, size, local_rank, local_size, .. } = self.mpi;
        Placement { rank, size, local_rank, local_size, all_have_gpus: self.all_have_gpus, library: self.mpi.version() }
    }

    /// Performs collectives until the group is dropped, or the process exits.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        let _ended = Ended(self.shared.clone());
        loop {
            match jobs.recv_timeout(IDLE) {
                Ok(Job { call, done }) => {
                    let result = self.perform(&call);
                    drop(call);
                    if let Err(error) = &result {
                        self.shared.fail(&error.to_string());
                    }
                    // The receiver may have stopped waiting.
                    let _ = done.send(result);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.shared.exits() {
                break;
            }
            self.read_notes();
            self.tell_of_failure();
        }
        self.leave();
    }

    // ---- collectives ----

    fn perform(&mut self, call: &Collective) -> Result<()> {
        if let Some(reason) = self.shared.failure() {
            let (rank, size, collective) = (self.mpi.rank, self.mpi.size, call.to_string());
            return Err(DistributedError::Aborted { rank, size, collective, reason }.into());
        }
        self.calls += 1;
        self.now = Some(call.to_string());
        let done = if self.debug { self.compare(call) } else { Ok(()) };
        let done = done.and_then(|()| no_grad(|| self.dispatch(call)));
        self.now = None;
        done
    }

    /// Converts the tensors to a form that MPI supports.
    fn dispatch(&mut self, call: &Collective) -> Result<()> {
        let (size, kind) = (self.mpi.size, call.kind);
        let Some(output) = &call.output else { return self.transfer(call, None, None, 0) };
        if output.numel() == 0 && call.input.as_ref().is_none_or(|input| input.numel() == 0) {
            // The ranks still wait for each other, so that a missing one is noticed as in other collectives.
            return self.transfer(&Collective { kind: CollectiveKind::Barrier, ..call.clone() }, None, None, 0);
        }
        let (dtype, by) = (output.dtype(), kind.reduces_by());
        if let (Some(op @ (ReduceOp::Min | ReduceOp::Max)), true) = (by, dtype.is_float()) {
            return self.extremes(call, op);
        }
        // Half precision is summed in `f32`; data that are only moved are not converted.
        let wide = if by.is_some() && dtype.is_half() { DType::F32 } else { dtype };
        let host = |tensor: &Tensor| tensor.to_device(Device::Cpu)?.to_dtype(wide)?.contiguous();
        let input = call.input.as_ref().map(host).transpose()?;
        let reads_output = call.input.is_none();
        let is_usable = output.device() == Device::Cpu && output.dtype() == wide && output.is_contiguous();
        // Two tensors that share memory cannot both be locked.
        let shares = input.as_ref().is_some_and(|input| input.shares_memory(output));
        let staged = match (is_usable, reads_output) {
            (true, _) if !shares => output.clone(),
            (_, true) => host(output)?,
            _ => Tensor::zeros(output.shape(), Device::Cpu)?.to_dtype(wide)?,
        };
        let count = match kind {
            CollectiveKind::AllGather => staged.numel() / size,
            _ => staged.numel(),
        };
        self.transfer(call, input.as_ref(), Some(&staged), count)?;
        if by == Some(ReduceOp::Mean) {
            staged.div_(size as f64)?;
        }
        if staged.is_same(output) { Ok(()) } else { output.copy_(&staged) }
    }

    /// Minimum and maximum of floats, whose result MPI leaves undefined for NaN: the values are gathered, and then
    /// combined here.
    fn extremes(&mut self, call: &Collective, op: ReduceOp) -> Result<()> {
        let (size, rank) = (self.mpi.size, self.mpi.rank);
        let Some(output) = &call.output else { return Ok(()) };
        let source = call.input.as_ref().unwrap_or(output);
        let source = source.to_device(Device::Cpu)?.contiguous()?.reshape(source.numel())?;
        let all = Tensor::zeros([size, source.numel()], (source.dtype(), Device::Cpu))?;
        let gather = Collective { kind: CollectiveKind::AllGather, ..call.clone() };
        self.transfer(&gather, Some(&source), Some(&all), source.numel())?;
        let part = all.narrow(1, if call.input.is_some() { rank * output.numel() } else { 0 }, output.numel())?;
        let extreme = if op == ReduceOp::Min { part.amin(0)? } else { part.amax(0)? };
        output.copy_(&extreme.reshape(output.shape())?)
    }

    /// Calls MPI on contiguous CPU tensors, and waits.
    fn transfer(
        &mut self,
        call: &Collective,
        input: Option<&Tensor>,
        output: Option<&Tensor>,
        count: usize,
    ) -> Result<()> {
        let Some(output) = output else {
            // SAFETY: a barrier has no memory.
            let request = unsafe {
                self.mpi.begin(CollectiveKind::Barrier, DType::U8, std::ptr::null(), std::ptr::null_mut(), 0)
            };
            return self.finish(request, call).map_err(|(error, _)| error.into());
        };
        let dtype = output.dtype();
        let mut outcome = Ok(());
        let mut run = |this: &mut Worker, input: *const u8, output: *mut u8| {
            // SAFETY: both are locked for this thread until the request is done, or are never freed nor used again (`lend`).
            let request = unsafe { this.mpi.begin(call.kind, dtype, input, output, count) };
            let done = this.finish(request, call);
            let abandoned = matches!(done, Err((_, true)));
            outcome = done.map_err(|(error, _)| error.into());
            abandoned
        };
        match input {
            None => lend(output, |output| run(self, std::ptr::null(), output))?,
            Some(input) => {
                let mut inner = Ok(());
                lend(input, |input| {
                    let mut abandoned = false;
                    inner = lend(output, |output| {
                        abandoned = run(self, input, output);
                        abandoned
                    });
                    abandoned
                })?;
                inner?;
            }
        }
        outcome
    }

    /// Waits for a request. An error is returned with whether MPI may still access the memory.
    fn finish(&mut self, request: Result<Request, String>, call: &Collective) -> Result<(), (DistributedError, bool)> {
        let library = |this: &Worker, reason: String| DistributedError::Library {
            rank: this.mpi.rank,
            size: this.mpi.size,
            collective: call.to_string(),
            reason,
        };
        let mut request = request.map_err(|reason| (library(self, reason), false))?;
        let started = Instant::now();
        let (mut looked, mut moved) = (started, started);
        loop {
            let before = Instant::now();
            match self.mpi.test(&mut request) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(reason) => return Err((library(self, reason), true)),
            }
            let now = Instant::now();
            if now - before > MOVED {
                moved = now;
            }
            if now - looked > LOOK {
                looked = now;
                self.read_notes();
                if let Some(error) = self.hindrance(call) {
                    return Err((error, true));
                }
                if now - started > self.timeout {
                    return Err((self.timed_out(call), true));
                }
            }
            let spin = if self.shared.is_awaited() { SPIN_AWAITED } else { SPIN };
            if now - moved > spin { thread::sleep(SLEEP) } else { thread::yield_now() }
        }
    }

    /// Why the call in progress will never complete.
    fn hindrance(&self, call: &Collective) -> Option<DistributedError> {
        let (rank, size) = (self.mpi.rank, self.mpi.size);
        let peer = |reason| DistributedError::Peer { rank, size, collective: call.to_string(), reason };
        if let Some(reason) = self.peers().failure() {
            return Some(peer(reason));
        }
        if let Some((other, calls)) = self.peers().left(Kind::Left).filter(|(_, calls)| *calls < self.calls) {
            return Some(peer(format!(
                "rank {other} has left the group after {calls} collectives, and this is number {}",
                self.calls
            )));
        }
        let collective = call.to_string();
        self.shared.failure().map(|reason| DistributedError::Aborted { rank, size, collective, reason })
    }

    /// The error of a call that timed out, with what the others say that they are doing.
    fn timed_out(&self, call: &Collective) -> DistributedError {
        let (rank, size) = (self.mpi.rank, self.mpi.size);
        let query = || self.send_all(Kind::Query, "");
        let answers = || {
            thread::sleep(LOOK);
            self.read_notes();
        };
        let others = self.peers().ask(query, answers);
        let collective = format!("call {}, {call},", self.calls);
        DistributedError::Timeout { rank, size, collective, timeout: self.timeout, others }
    }

    /// Compares the call with those of the other ranks, before it sends anything.
    fn compare(&mut self, call: &Collective) -> Result<()> {
        const LENGTH: usize = 256;
        let mut own = call.signature().into_bytes();
        own.truncate(LENGTH);
        own.resize(LENGTH, 0);
        let own = Tensor::from_bytes(&own, DType::U8, LENGTH, Device::Cpu)?;
        let all = Tensor::zeros([self.mpi.size, LENGTH], (DType::U8, Device::Cpu))?;
        let check = Collective { kind: CollectiveKind::AllGather, ..call.clone() };
        self.transfer(&check, Some(&own), Some(&all), LENGTH)?;
        let all = all.to_vec::<u8>()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
        let calls: Vec<String> = all.chunks_exact(LENGTH).map(text).collect();
        if calls.iter().all(|other| *other == calls[0]) {
            return Ok(());
        }
        let listed: Vec<String> = calls.iter().enumerate().map(|(rank, call)| format!("rank {rank} {call}")).collect();
        let (rank, size) = (self.mpi.rank, self.mpi.size);
        let calls = format!("as call {}, {}; here it is {call}", self.calls, listed.join(", "));
        Err(DistributedError::Mismatch { rank, size, calls }.into())
    }

    // ---- notes ----

    fn peers(&self) -> &Peers {
        self.shared.peers.get_or_init(|| Peers::new(self.mpi.rank, self.mpi.size))
    }

    fn send_all(&self, kind: Kind, text: &str) {
        self.send(&Note { kind, calls: self.calls, text: text.to_owned() });
    }

    fn send(&self, note: &Note) {
        self.peers().others().for_each(|rank| self.mpi.send_note(rank, note.bytes()));
    }

    /// What this rank is doing.
    fn status(&self) -> String {
        match (&self.now, self.shared.status.get()) {
            (Some(call), _) => format!("waits in call {}, {call}", self.calls),
            (None, Some(status)) => status(),
            (None, None) => format!("has made {} calls and is busy with something else", self.calls),
        }
    }

    /// Sends and receives notes.
    fn read_notes(&self) {
        std::mem::take(&mut *self.shared.outbox.lock()).iter().for_each(|note| self.send(note));
        while let Some((from, bytes)) = self.mpi.next_note() {
            let Some(note) = Note::read(&bytes) else { continue };
            if note.kind == Kind::Query {
                let answer = Note { kind: Kind::Status, calls: self.calls, text: self.status() };
                self.mpi.send_note(from, answer.bytes());
            }
            self.peers().receive(from, note);
        }
        if let (None, Some(reason)) = (self.shared.failure(), self.peers().failure()) {
            self.shared.fail(&reason);
        }
    }

    fn tell_of_failure(&mut self) {
        if let (false, Some(reason)) = (self.told, self.shared.failure()) {
            self.told = true;
            self.send_all(Kind::Failed, &reason);
        }
    }

    // ---- the end ----

    /// Ends this rank's part. Other ranks may still wait for a collective that this one will never call: they are told.
    /// MPI is finalized when all have left, but not after a failure, so that the launcher terminates all processes.
    fn leave(mut self) {
        self.tell_of_failure();
        self.send_all(Kind::Left, "");
        let started = Instant::now();
        loop {
            self.read_notes();
            self.tell_of_failure();
            let failed = self.shared.failure().is_some();
            let gone = if failed { self.peers().all_are_gone() } else { self.peers().all_have_left(Kind::Left) };
            if gone && !failed {
                return self.mpi.finalize();
            }
            // The others should be able to report what has happened to them. Ranks that are still working are waited
            // for without limit: if this process exited, the launcher would terminate them too.
            if failed && (gone || started.elapsed() > ANSWER) {
                thread::sleep(GRACE);
                return;
            }
            thread::sleep(LOOK);
        }
    }
}

/// Notes the end of the thread, also by a panic, for those who wait for it when the process exits.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// Calls `f` with the memory of a contiguous CPU tensor, which is not accessed otherwise meanwhile. If `f` says that
/// MPI may still access it, the memory is never freed, and the tensor gets new memory.
fn lend(tensor: &Tensor, f: impl FnOnce(*mut u8) -> bool) -> Result<()> {
    tensor.with_raw_memory(|memory| {
        let (dtype, len) = (memory.buffer.dtype(), memory.buffer.len());
        let (start, count) = (memory.layout.offset() * dtype.size(), memory.layout.numel() * dtype.size());
        let bytes = memory.buffer.host_bytes_mut().and_then(|bytes| bytes.get_mut(start..start + count));
        let Some(bytes) = bytes else {
            return Err(Error::argument("all_reduce", "the tensor is not in host memory"));
        };
        if f(bytes.as_mut_ptr()) {
            let other = memory.backend.alloc(dtype, len).or_else(|_| memory.backend.alloc(dtype, 0))?;
            Box::leak(std::mem::replace(memory.buffer, other));
        }
        Ok(())
    })
}

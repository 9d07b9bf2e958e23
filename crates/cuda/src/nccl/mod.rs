//! Communication between devices by NCCL: a communicator is one rank, with a stream of its own for its collectives.
//!
//! A collective waits for the work that is queued on the compute stream when it is started, and the compute stream waits
//! for it when its result is first needed; in between both run beside each other. Neither wait involves the host. The
//! memory of a collective belongs to the compute stream's order: whoever starts one keeps its tensors until the compute
//! stream waits for it, so that the allocator hands them out only to work behind it.
//!
//! While a thread captures, its collectives go to a second stream, which joins the capture, and so into the graph.

use std::{
    ffi::c_int,
    fmt,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use cudarc::driver::sys::CUstream;
use kiln_backend::{
    CollectiveOp, Communicator, CommunicatorBackend, DType, DeviceCollective, Error, Result, Transfer, View, ViewMut,
    is_capturing, refuse_capture, unless_capturing,
};
use parking_lot::Mutex;

use crate::{
    capture::recording,
    context::{Context, unavailable},
    device::{CudaBackend, Device},
    error::CudaError,
    libs::{Comm, NCCL, Nccl, NcclId, nccl},
    mark::Mark,
    stream::WAITS,
    view::Access,
};

const OP: &str = "collective";
/// How long an abort waits for a call that is under way, which may itself wait for a rank that is gone.
const PATIENCE: Duration = Duration::from_secs(1);

impl CommunicatorBackend for CudaBackend {
    fn communicator_library(&self) -> Result<String> {
        nccl().map(describe).map_err(|reason| unavailable(self.index(), reason))
    }

    fn communicator_id(&self) -> Result<Vec<u8>> {
        let library = nccl().map_err(|reason| unavailable(self.index(), reason))?;
        self.0.stream.context.bind()?;
        let mut id = NcclId([0; 128]);
        // SAFETY: writes the id.
        let code = unsafe { (library.get_unique_id)(&raw mut id) };
        check(library, self.0, "ncclGetUniqueId", code, || "a new group".into())?;
        Ok(id.0.to_vec())
    }

    fn join(&self, id: &[u8], rank: usize, size: usize) -> Result<Box<dyn Communicator>> {
        unless_capturing("join", WAITS)?;
        let device = self.0;
        let library = nccl().map_err(|reason| unavailable(self.index(), reason))?;
        let context = device.stream.context;
        let (Ok(id), Ok(number), Ok(count)) = (<[u8; 128]>::try_from(id), c_int::try_from(rank), c_int::try_from(size))
        else {
            return Err(Error::argument("join", format!("rank {rank} of {size}, with an id of {} bytes", id.len())));
        };
        let [stream, captured] = [context.new_stream()?, context.new_stream()?].map(Lane);
        context.bind()?;
        let mut comm: Comm = std::ptr::null_mut();
        // SAFETY: the handle is written to a variable that lives until the call ends; the context is current, which is
        // where NCCL finds the device.
        let code = unsafe { (library.comm_init_rank)(&raw mut comm, count, NcclId(id), number) };
        check(library, device, "ncclCommInitRank", code, || format!("rank {rank} of {size}"))?;
        let comm = Mutex::new(Some(Handle(comm)));
        let ended = AtomicBool::new(false);
        Ok(Box::new(NcclRank { device, library, comm, stream, captured, marks: Marks::leaked(), ended, rank, size }))
    }

    fn distrust(&self, reason: &str) {
        let _ = self.0.distrusted.set(reason.to_owned());
    }
}

fn describe(library: &Nccl) -> String {
    format!("NCCL {} ({})", library.version(), library.path().display())
}

fn check(
    library: &Nccl,
    device: &Device,
    call: &'static str,
    code: c_int,
    problem: impl FnOnce() -> String,
) -> Result<()> {
    if code == 0 {
        return Ok(());
    }
    let (device, status) = (device.index(), library.describe(code));
    Err(CudaError::Library { device, call, problem: problem(), status }.into())
}

/// A stream for collectives.
#[derive(Clone, Copy, Debug)]
struct Lane(CUstream);

// SAFETY: a stream may be used from any thread.
unsafe impl Send for Lane {}
// SAFETY: as above.
unsafe impl Sync for Lane {}

/// The library's communicator.
#[derive(Clone, Copy, Debug)]
struct Handle(Comm);

// SAFETY: a communicator may be used from any thread, by one at a time, which the lock around it sees to.
unsafe impl Send for Handle {}

/// Events that no collective uses now. They live as long as the process, as its devices do.
#[derive(Debug, Default)]
struct Marks(Mutex<Vec<Mark>>);

impl Marks {
    /// Transfers may outlive their communicator.
    fn leaked() -> &'static Marks {
        Box::leak(Box::default())
    }

    fn take(&self, context: &Context) -> Result<Mark> {
        let spare = self.0.lock().pop();
        spare.map_or_else(|| Mark::new(context), Ok)
    }

    fn put_back(&self, mark: Mark) {
        self.0.lock().push(mark);
    }
}

/// A rank of a group.
struct NcclRank {
    device: &'static Device,
    library: &'static Nccl,
    /// `None` once it was aborted or left.
    comm: Mutex<Option<Handle>>,
    stream: Lane,
    /// Joins captures.
    captured: Lane,
    marks: &'static Marks,
    /// It was aborted or left. The communicator may still be there, if an abort could not wait for a call under way.
    ended: AtomicBool,
    rank: usize,
    size: usize,
}

impl fmt::Debug for NcclRank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} of {} on {}", self.rank, self.size, self.library())
    }
}

impl NcclRank {
    /// Addresses and the number of elements of the smaller operand.
    fn operands(
        &self,
        call: DeviceCollective,
        input: Option<View<'_>>,
        output: ViewMut<'_>,
    ) -> Result<(u64, u64, usize, DType)> {
        let access = Access { device: self.device, op: OP };
        let (dtype, numel) = (output.dtype(), output.layout.numel());
        let is_dense = output.layout.is_contiguous() && input.is_none_or(|input| input.layout.is_contiguous());
        let (small, large) = match (call, input) {
            (DeviceCollective::AllGather, Some(input)) => (input.layout.numel() * self.size, numel),
            (DeviceCollective::ReduceScatter(_), Some(input)) => (numel * self.size, input.layout.numel()),
            (DeviceCollective::AllReduce(_) | DeviceCollective::Broadcast { .. }, None) => (numel, numel),
            _ => return Err(Error::argument(OP, format!("{call:?} with these operands"))),
        };
        if !is_dense || small != large || input.is_some_and(|input| input.dtype() != dtype) {
            return Err(Error::argument(OP, format!("the operands of {call:?} do not fit each other")));
        }
        let input = input.map(|input| access.read(input)).transpose()?;
        let count = match (&input, call) {
            (Some(input), DeviceCollective::AllGather) => input.layout.numel(),
            _ => numel,
        };
        let output = access.write(output)?;
        Ok((input.map_or(output.address, |input| input.address), output.address, count, dtype))
    }

    /// The stream that the compute stream's work of this thread is in, and the one for its collectives.
    fn streams(&self) -> (CUstream, CUstream) {
        (self.device.stream.raw(), if is_capturing() { self.captured.0 } else { self.stream.0 })
    }

    fn usable(&self, comm: &Option<Handle>) -> Option<Handle> {
        comm.filter(|_| !self.ended.load(Ordering::Acquire))
    }

    fn given_up(&self) -> Error {
        let device = self.device.index();
        let status = "the communicator was aborted".into();
        CudaError::Library { device, call: "NCCL", problem: "a collective".into(), status }.into()
    }

    fn transfer(&self, done: Mark) -> Box<dyn Transfer> {
        Box::new(Queued { device: self.device, done, marks: self.marks, captured: is_capturing() })
    }
}

/// The library's numbers for a dtype that is combined.
fn data_type(dtype: DType) -> Result<c_int> {
    match dtype {
        DType::F32 => Ok(NCCL::FLOAT32),
        DType::F64 => Ok(NCCL::FLOAT64),
        DType::F16 => Ok(NCCL::FLOAT16),
        DType::BF16 => Ok(NCCL::BFLOAT16),
        DType::I64 => Ok(NCCL::INT64),
        DType::I32 => Ok(NCCL::INT32),
        DType::U8 => Ok(NCCL::UINT8),
        other => Err(Error::dtype(OP, other, "NCCL does not combine it")),
    }
}

fn operation(by: CollectiveOp) -> c_int {
    match by {
        CollectiveOp::Sum => NCCL::SUM,
        CollectiveOp::Mean => NCCL::AVG,
        CollectiveOp::Min => NCCL::MIN,
        CollectiveOp::Max => NCCL::MAX,
    }
}

impl Communicator for NcclRank {
    fn library(&self) -> String {
        describe(self.library)
    }

    fn start(&self, call: DeviceCollective, input: Option<View<'_>>, output: ViewMut<'_>) -> Result<Box<dyn Transfer>> {
        let (send, receive, count, dtype) = self.operands(call, input, output)?;
        let context = &self.device.stream.context;
        context.bind()?;
        let (compute, lane) = self.streams();
        let [ready, done] = [self.marks.take(context)?, self.marks.take(context)?];
        ready.record(context, compute)?;
        // SAFETY: the event and the stream are of this context, which is current.
        unsafe { ready.awaited_by(context, lane)? };
        // Its record has been waited for; it may be recorded again at once.
        self.marks.put_back(ready);
        let guard = self.comm.lock();
        let Some(Handle(comm)) = self.usable(&guard) else { return Err(self.given_up()) };
        let library = self.library;
        // Data that are only moved are moved as bytes.
        let (byte, bytes) = (NCCL::UINT8, count * dtype.size());
        // SAFETY: the addresses are of contiguous tensors of this device with as many elements, which the caller keeps until
        // the compute stream waits for the collective.
        let (name, code) = unsafe {
            match call {
                DeviceCollective::AllReduce(by) => {
                    let dtype = data_type(dtype)?;
                    let code = (library.all_reduce)(send, receive, count, dtype, operation(by), comm, lane);
                    ("ncclAllReduce", code)
                }
                DeviceCollective::ReduceScatter(by) => {
                    let dtype = data_type(dtype)?;
                    let code = (library.reduce_scatter)(send, receive, count, dtype, operation(by), comm, lane);
                    ("ncclReduceScatter", code)
                }
                DeviceCollective::Broadcast { root } => {
                    let root = c_int::try_from(root).unwrap_or(-1);
                    ("ncclBroadcast", (library.broadcast)(send, receive, bytes, byte, root, comm, lane))
                }
                DeviceCollective::AllGather => {
                    ("ncclAllGather", (library.all_gather)(send, receive, bytes, byte, comm, lane))
                }
            }
        };
        drop(guard);
        let queued = check(library, self.device, name, code, || format!("{count} elements of {dtype}"));
        let queued = queued.and_then(|()| done.record(context, lane));
        if let Err(error) = queued {
            if is_capturing() {
                drop(refuse_capture(name, error.to_string()));
            }
            return Err(error);
        }
        if is_capturing() {
            recording::check_device(self.device.index(), name)?;
        }
        Ok(self.transfer(done))
    }

    fn mark(&self) -> Result<Box<dyn Transfer>> {
        let context = &self.device.stream.context;
        let done = self.marks.take(context)?;
        done.record(context, self.device.stream.own())?;
        Ok(self.transfer(done))
    }

    fn failure(&self) -> Option<String> {
        // A call that is under way says itself what fails.
        let guard = self.comm.try_lock()?;
        let Handle(comm) = self.usable(&guard)?;
        self.device.stream.context.bind().ok()?;
        let mut state = 0;
        // SAFETY: a communicator that exists; one number is written.
        let code = unsafe { (self.library.comm_get_async_error)(comm, &raw mut state) };
        [code, state].into_iter().find(|code| *code != 0).map(|code| self.library.describe(code))
    }

    fn abort(&self) {
        if self.ended.swap(true, Ordering::AcqRel) || self.device.stream.context.bind().is_err() {
            return;
        }
        match self.comm.try_lock_for(PATIENCE) {
            Some(mut guard) => {
                if let Some(Handle(comm)) = guard.take() {
                    // SAFETY: a communicator that exists, and that nobody uses any more.
                    unsafe { (self.library.comm_abort)(comm) };
                }
            }
            None => {
                // A call of another thread hangs in the library, which ends when the communicator is aborted.
                // SAFETY: the pointer is only read, and the thread that holds the lock does not change it.
                let handle = unsafe { *self.comm.data_ptr() };
                if let Some(Handle(comm)) = handle {
                    // SAFETY: NCCL lets another thread abort a communicator while a call hangs. It is used by nobody
                    // afterwards, since `ended` is set.
                    unsafe { (self.library.comm_abort)(comm) };
                }
            }
        }
    }

    fn leave(&self) {
        if self.ended.swap(true, Ordering::AcqRel) || self.device.stream.context.bind().is_err() {
            return;
        }
        if let Some(Handle(comm)) = self.comm.lock().take() {
            // SAFETY: a communicator that exists, and that nobody uses any more.
            unsafe { (self.library.comm_destroy)(comm) };
        }
    }
}

impl Drop for NcclRank {
    fn drop(&mut self) {
        self.abort();
    }
}

/// A collective in the stream for collectives.
struct Queued {
    device: &'static Device,
    done: Mark,
    marks: &'static Marks,
    /// It is part of a graph, and has an end only there.
    captured: bool,
}

impl Transfer for Queued {
    fn is_done(&self) -> Result<bool> {
        if self.captured {
            return Ok(false);
        }
        self.done.is_done(&self.device.stream.context)
    }

    fn wait(&self) -> Result<()> {
        let context = &self.device.stream.context;
        context.bind()?;
        // SAFETY: the event and the stream are of this context, which is current.
        unsafe { self.done.awaited_by(context, self.device.stream.raw()) }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.marks.put_back(self.done);
    }
}

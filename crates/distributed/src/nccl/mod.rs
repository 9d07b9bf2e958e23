//! The NCCL engine: ranks with a GPU each, as processes or as threads of one process. Collectives are queued on the device,
//! and the device's queue waits for them; the host does not. What goes wrong is noticed by a thread (`watch`), and told to
//! the other ranks beside NCCL (`control`).

mod control;
mod tcp;
mod watch;

use std::{
    fmt,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use control::{ByMpi, Control, Threads, Together};
use kiln_backend::{Backend, CollectiveOp, Communicator, DeviceCollective, Transfer};
use kiln_derive::located;
use kiln_tensor::{
    DType, Device, Error, Result, Tensor,
    captured::{before_launch, is_capturing},
    no_grad,
};
use tcp::{ByTcp, Star};
use watch::Watch;

use crate::{
    collective::{Collective, CollectiveKind, ReduceOp},
    error::DistributedError,
    group::{Pending, ProcessGroup, Work},
    launch::Launch,
    mpi::Mpi,
    options::GroupOptions,
};

/// Bytes of a call's description when calls are compared.
const SIGNATURE: usize = 256;

/// One rank. When the last handle is dropped, the rank leaves: it waits for its own collectives, and for the others.
pub(crate) struct Nccl {
    rank: usize,
    size: usize,
    local_rank: usize,
    device: Device,
    debug: bool,
    library: String,
    watch: Arc<Watch>,
    thread: Option<JoinHandle<()>>,
}

/// The backend of a device that NCCL can use.
///
/// # Errors
/// If the device is not usable, or NCCL is not there.
pub(crate) fn usable(device: Device) -> Result<&'static dyn Backend> {
    if !device.is_cuda() {
        return Err(Error::argument("init_process_group", format!("NCCL connects GPUs, and {device} is none")));
    }
    let backend = Tensor::zeros(1, (DType::U8, device))?.with_raw_memory(|memory| Ok(memory.backend))?;
    backend.communicator_library()?;
    Ok(backend)
}

impl Nccl {
    /// Ranks that MPI connects.
    pub(crate) fn by_mpi(mpi: Arc<Mpi>, options: &GroupOptions) -> Result<Nccl> {
        let (rank, size, local_rank) = (mpi.rank(), mpi.size(), mpi.local_rank());
        Nccl::join((rank, size, local_rank), Device::Cuda(local_rank), options, Box::new(ByMpi(mpi)))
    }

    /// Ranks that a launcher without MPI has started: they meet at rank 0's address.
    pub(crate) fn by_tcp(launch: &Launch, options: &GroupOptions) -> Result<Nccl> {
        let star = Arc::new(Star::meet(launch, options.timeout)?);
        let place = (launch.rank, launch.size, launch.local_rank);
        Nccl::join(place, Device::Cuda(launch.local_rank), options, Box::new(ByTcp(star)))
    }

    /// Joins the group. Rank 0 makes the id, and the others get it.
    fn join(
        (rank, size, local_rank): (usize, usize, usize),
        device: Device,
        options: &GroupOptions,
        control: Box<dyn Control>,
    ) -> Result<Nccl> {
        /// Before a reason why there is no id.
        const WRONG: &str = "!";
        let prepared = usable(device);
        let made = match (&prepared, rank) {
            (Ok(backend), 0) => backend.communicator_id().map(|id| hex(&id)),
            (Err(error), 0) => Err(Error::argument("init_process_group", error.to_string())),
            _ => Ok(String::new()),
        };
        let text = made.as_ref().map_or_else(|error| format!("{WRONG}{error}"), Clone::clone);
        let id = control.share(&text)?;
        made?;
        let backend = prepared.inspect_err(|error| control.fail(&error.to_string()))?;
        if let Some(reason) = id.strip_prefix(WRONG) {
            return Err(DistributedError::Rendezvous(format!("rank 0 has no communicator: {reason}")).into());
        }
        let watch = Watch::new((rank, size), options.timeout, backend, control);
        let thread = Watch::begin(&watch)?;
        let id = bytes(&id);
        // Joining waits for all ranks, and has no limit of its own.
        let joined = wait_for(&watch, options.timeout, move || backend.join(&id, rank, size));
        let communicator: Arc<dyn Communicator> = match joined {
            Ok(communicator) => communicator.into(),
            Err(error) => {
                watch.control().fail(&error.to_string());
                watch.leave(thread.thread());
                return Err(error);
            }
        };
        let library = communicator.library();
        watch.set_communicator(communicator);
        let (debug, thread) = (options.debug, Some(thread));
        Ok(Nccl { rank, size, local_rank, device, debug, library, watch, thread })
    }

    fn error(&self) -> Result<()> {
        self.watch.failure().map_or(Ok(()), |error| Err(error.into()))
    }

    /// Converts tensors to what NCCL combines, as the contract of the group asks.
    fn dispatch(&self, call: &Collective, output: &Tensor) -> Result<Work> {
        let (kind, dtype, by) = (call.kind, output.dtype(), call.kind.reduces_by());
        if let (Some(op @ (ReduceOp::Min | ReduceOp::Max)), true) = (by, dtype.is_float()) {
            return self.extremes(call, output, op);
        }
        // Half precision is summed in `f32`; data that are only moved are not converted.
        let wide = if by.is_some() && dtype.is_half() { DType::F32 } else { dtype };
        let dense = |tensor: &Tensor| tensor.to_dtype(wide)?.contiguous();
        let input = call.input.as_ref().map(dense).transpose()?;
        // Two tensors that share memory cannot both be locked.
        let shares = input.as_ref().is_some_and(|input| input.shares_memory(output));
        let staged = match &input {
            _ if output.is_contiguous() && dtype == wide && !shares => output.clone(),
            None => dense(output)?,
            Some(_) => Tensor::zeros(output.shape(), (wide, self.device))?,
        };
        let finish: Option<Finish> = (!staged.is_same(output)).then(|| {
            let (staged, output) = (staged.clone(), output.clone());
            Box::new(move || output.copy_(&staged)) as Finish
        });
        self.launch(call.to_string(), kind, input, staged, finish)
    }

    /// Minimum and maximum of floats. NCCL's may lose a NaN, so the values are gathered, and combined here.
    fn extremes(&self, call: &Collective, output: &Tensor, op: ReduceOp) -> Result<Work> {
        let source = call.input.as_ref().unwrap_or(output);
        let source = source.contiguous()?.reshape(source.numel())?;
        let all = Tensor::zeros([self.size, source.numel()], (source.dtype(), self.device))?;
        let start = if call.input.is_some() { self.rank * output.numel() } else { 0 };
        let (gathered, output) = (all.clone(), output.clone());
        let finish = move || {
            let part = gathered.narrow(1, start, output.numel())?;
            let extreme = if op == ReduceOp::Min { part.amin(0)? } else { part.amax(0)? };
            output.copy_(&extreme.reshape(output.shape())?)
        };
        self.launch(call.to_string(), CollectiveKind::AllGather, Some(source), all, Some(Box::new(finish)))
    }

    /// Queues a collective on contiguous tensors. `finish` is done when it is waited for.
    fn launch(
        &self,
        text: String,
        kind: CollectiveKind,
        input: Option<Tensor>,
        output: Tensor,
        finish: Option<Finish>,
    ) -> Result<Work> {
        let op = |op: ReduceOp| match op {
            ReduceOp::Sum => CollectiveOp::Sum,
            ReduceOp::Mean => CollectiveOp::Mean,
            ReduceOp::Min => CollectiveOp::Min,
            ReduceOp::Max => CollectiveOp::Max,
        };
        let call = match kind {
            CollectiveKind::AllReduce(by) => DeviceCollective::AllReduce(op(by)),
            CollectiveKind::ReduceScatter(by) => DeviceCollective::ReduceScatter(op(by)),
            CollectiveKind::Broadcast { root } => DeviceCollective::Broadcast { root },
            CollectiveKind::AllGather => DeviceCollective::AllGather,
            CollectiveKind::Barrier => return Err(Error::argument("barrier", "it has no tensors")),
        };
        let communicator = self.watch.communicator().ok_or_else(|| Error::argument(kind.op(), "the rank has left"))?;
        // Before the call, which may hang.
        let number = self.watch.begin_call(text.clone());
        let started = output.with_raw_memory(|output| {
            let to = kiln_backend::ViewMut { buffer: &mut **output.buffer, layout: output.layout };
            match &input {
                None => communicator.start(call, None, to),
                Some(input) => input.with_raw_memory(|input| {
                    let from = kiln_backend::View { buffer: &**input.buffer, layout: input.layout };
                    communicator.start(call, Some(from), to)
                }),
            }
        });
        let transfer: Result<Arc<dyn Transfer>> = started.map(Arc::from);
        self.watch.end_call(number, transfer.as_ref().ok().filter(|_| !is_capturing()).cloned());
        let transfer = match transfer {
            Ok(transfer) => transfer,
            Err(error) if is_capturing() => return Err(error),
            Err(error) => {
                self.watch.library_failed(text, error.to_string());
                self.error()?;
                return Err(error);
            }
        };
        if is_capturing() {
            let watch = self.watch.clone();
            before_launch(move || {
                if let Some(error) = watch.refusal(|| text.clone()) {
                    return Err(error.into());
                }
                watch.launch(text.clone());
                Ok(())
            });
        }
        let tensors = [Some(output), input];
        Ok(Work::new(Started { watch: self.watch.clone(), transfer, finish, waited: false, _tensors: tensors }))
    }

    /// Compares the call with those of the other ranks, before it is made.
    fn compare(&self, call: &Collective) -> Result<()> {
        let mut own = call.signature().into_bytes();
        own.resize(SIGNATURE, 0);
        let own = Tensor::from_bytes(&own, DType::U8, SIGNATURE, self.device)?;
        let all = Tensor::zeros([self.size, SIGNATURE], (DType::U8, self.device))?;
        let text = format!("the comparison of {call}");
        self.launch(text, CollectiveKind::AllGather, Some(own), all.clone(), None)?.wait()?;
        let all = all.to_vec::<u8>().map_err(|error| self.error().err().unwrap_or(error))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
        let calls: Vec<String> = all.chunks_exact(SIGNATURE).map(text).collect();
        if calls.iter().all(|other| *other == calls[0]) {
            return Ok(());
        }
        let listed: Vec<String> = calls.iter().enumerate().map(|(rank, call)| format!("rank {rank} {call}")).collect();
        let calls = format!("as call {}, {}; here it is {call}", self.watch.calls(), listed.join(", "));
        let error = DistributedError::Mismatch { rank: self.rank, size: self.size, calls };
        self.watch.give_up(error.clone());
        Err(error.into())
    }
}

/// Calls `f` on a thread, and waits for it as long as the group may take. A call that hangs is left behind.
fn wait_for<T: Send + 'static>(
    watch: &Watch,
    timeout: Duration,
    f: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    const LOOK: Duration = Duration::from_millis(50);
    let (tell, told) = mpsc::channel();
    let wrong = |text: String| Error::from(DistributedError::Rendezvous(text));
    let spawned = thread::Builder::new().name("kiln-join".into()).spawn(move || drop(tell.send(f())));
    spawned.map_err(|error| wrong(format!("no thread can be started: {error}")))?;
    let started = std::time::Instant::now();
    loop {
        match told.recv_timeout(LOOK) {
            Ok(done) => return done,
            Err(mpsc::RecvTimeoutError::Disconnected) => return Err(wrong("a thread has ended".into())),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        if let Some(reason) = watch.control().failure() {
            return Err(wrong(reason));
        }
        if started.elapsed() > timeout {
            let others = watch.control().ask();
            return Err(wrong(format!("NCCL's ranks did not join within {} s{others}", timeout.as_secs_f64())));
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).filter_map(|i| u8::from_str_radix(hex.get(2 * i..2 * i + 2)?, 16).ok()).collect()
}

impl fmt::Debug for Nccl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} of {} on {}, {}", self.rank, self.size, self.device, self.library)
    }
}

#[located(site)]
impl ProcessGroup for Nccl {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn local_rank(&self) -> usize {
        self.local_rank
    }

    fn engine(&self) -> &'static str {
        "NCCL"
    }

    fn device(&self) -> Device {
        self.device
    }

    fn start(&self, call: Collective) -> Result<Work> {
        call.check(self.size)?;
        if let Some(error) = self.watch.refusal(|| call.to_string()) {
            return Err(error.into());
        }
        for tensor in call.input.iter().chain(&call.output) {
            if tensor.device() != self.device {
                return Err(Error::devices(call.kind.op(), self.device, tensor.device()));
            }
        }
        let is_empty = |tensor: &Option<Tensor>| tensor.as_ref().is_none_or(|tensor| tensor.numel() == 0);
        if self.debug && !is_capturing() {
            no_grad(|| self.compare(&call))?;
        }
        match &call.output {
            None => {
                kiln_tensor::captured::unless_capturing("barrier", "the host waits in it")?;
                // The host waits for a sum whose value does not matter.
                let one = Tensor::zeros(1, (DType::F32, self.device))?;
                let kind = CollectiveKind::AllReduce(ReduceOp::Sum);
                let work = no_grad(|| self.launch(call.to_string(), kind, None, one, None))?;
                Ok(Work::new(HostWait { watch: self.watch.clone(), work }))
            }
            // All ranks have nothing, since shapes are the same.
            Some(_) if is_empty(&call.output) && is_empty(&call.input) => Ok(Work::done()),
            Some(output) => no_grad(|| self.dispatch(&call, output)),
        }
    }

    fn abort(&self, reason: &str) {
        let (rank, size, collective) = (self.rank, self.size, "what was under way".into());
        self.watch.give_up(DistributedError::Aborted { rank, size, collective, reason: reason.to_owned() });
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        if thread::panicking() {
            self.abort("a thread of it panicked");
        }
        if let Some(thread) = self.thread.take() {
            self.watch.leave(thread.thread());
            let _ended = thread.join();
        }
    }
}

/// What is done with the result of a collective, on the device.
type Finish = Box<dyn FnOnce() -> Result<()> + Send>;

/// A collective in the device's queue. Its tensors are kept until the work that is queued next waits for it.
struct Started {
    watch: Arc<Watch>,
    transfer: Arc<dyn Transfer>,
    finish: Option<Finish>,
    waited: bool,
    _tensors: [Option<Tensor>; 2],
}

impl Started {
    fn order(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.waited, true) {
            return Ok(());
        }
        self.transfer.wait()
    }
}

impl Pending for Started {
    fn is_completed(&mut self) -> bool {
        self.watch.failure().is_some() || self.transfer.is_done().unwrap_or(true)
    }

    fn wait(mut self: Box<Self>) -> Result<()> {
        self.order()?;
        if let Some(error) = self.watch.failure() {
            return Err(error.into());
        }
        self.finish.take().map_or(Ok(()), no_grad)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // Whoever gets the memory next must come after the collective. If this fails, the device has failed.
        let _ = self.order();
    }
}

/// A collective that the host itself waits for.
struct HostWait {
    watch: Arc<Watch>,
    work: Work,
}

impl Pending for HostWait {
    fn is_completed(&mut self) -> bool {
        self.work.is_completed()
    }

    fn wait(mut self: Box<Self>) -> Result<()> {
        const NAP: Duration = Duration::from_micros(50);
        while !self.work.is_completed() {
            thread::sleep(NAP);
        }
        match self.watch.failure() {
            Some(error) => Err(error.into()),
            None => self.work.wait(),
        }
    }
}

/// A group of ranks in this process, one for each GPU: rank `i` has `devices[i]`. Each group is used by a thread of its own,
/// as by a process; collectives wait for the other threads. This has no launcher, and one thread's panic ends all.
///
/// ```no_run
/// use kiln_distributed::{GroupOptions, ReduceOp, local_process_groups};
/// use kiln_tensor::{Device, Result, Tensor};
///
/// fn main() -> Result<()> {
///     let groups = local_process_groups(&[Device::cuda(0)?, Device::cuda(1)?], GroupOptions::default())?;
///     std::thread::scope(|scope| {
///         for group in groups {
///             scope.spawn(move || {
///                 let x = Tensor::ones([4], group.device())?;
///                 group.all_reduce(&x, ReduceOp::Sum)
///             });
///         }
///     });
///     Ok(())
/// }
/// ```
///
/// # Errors
/// If there is no device or one comes twice, one is not a usable GPU, or NCCL is missing or does not start.
#[located(site)]
pub fn local_process_groups(devices: &[Device], options: GroupOptions) -> Result<Vec<Arc<dyn ProcessGroup>>> {
    const OP: &str = "local_process_groups";
    let is_repeated = |(i, device): (usize, &Device)| devices[..i].contains(device);
    if devices.is_empty() || devices.iter().enumerate().any(is_repeated) {
        return Err(Error::argument(OP, format!("each rank needs a GPU of its own, and these are {devices:?}")));
    }
    for &device in devices {
        usable(device)?;
    }
    let size = devices.len();
    let id = hex(&usable(devices[0])?.communicator_id()?);
    let shared = Arc::new(Together { id, size, ..Together::default() });
    thread::scope(|scope| {
        let join = |(rank, &device): (usize, &Device)| {
            let shared = shared.clone();
            let control = Box::new(Threads { rank, shared });
            scope.spawn(move || Nccl::join((rank, size, rank), device, &options, control))
        };
        let threads: Vec<_> = devices.iter().enumerate().map(join).collect();
        let ended = || Error::argument(OP, "a thread that joins has panicked");
        let joined = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(ended())));
        let groups = joined.collect::<Vec<_>>().into_iter().collect::<Result<Vec<_>>>()?;
        Ok(groups.into_iter().map(|group| Arc::new(group) as Arc<dyn ProcessGroup>).collect())
    })
}

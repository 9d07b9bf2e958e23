//! The functions of NCCL, under their own names and with the library's own rules.
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::stream::known;
use crate::arrival;
use crate::kind;
use crate::nccl::call::{Call, Kind, SIZES};
use crate::nccl::link::Link;
use crate::nccl::root::{self, ID};
use crate::nccl::status::NcclStatus;
use crate::nccl::work::Collective;
use crate::nccl::{Comm, VERSION, progress};
use crate::work::Work;
use crate::world::{self, CURRENT, World};

/// `ncclUniqueId`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct UniqueId(pub [u8; ID]);

/// What is done at the end of a group.
enum Job {
    Init { out: usize, ranks: usize, id: UniqueId, rank: usize, device: usize },
    Collective { collective: Collective, stream: usize },
}

#[derive(Default)]
struct Group {
    depth: usize,
    jobs: Vec<Job>,
    failed: Option<NcclStatus>,
}

thread_local! {
    static GROUP: RefCell<Group> = RefCell::default();
}

/// The text of the latest error, which is never freed since the program may still read it.
static LATEST: Mutex<&'static CStr> = Mutex::new(c"");

/// The result of a failed call, whose reason [`ncclGetLastError`] has then.
fn fail(status: NcclStatus, text: &str) -> NcclStatus {
    let text = CString::new(text).unwrap_or_default();
    *LATEST.lock().unwrap_or_else(PoisonError::into_inner) = Box::leak(text.into_boxed_c_str());
    status
}

fn argument(text: &str) -> NcclStatus {
    fail(NcclStatus::INVALID_ARGUMENT, text)
}

/// # Safety
/// `out` is null or may be written.
unsafe fn put<T>(out: *mut T, value: T, function: &str) -> NcclStatus {
    // SAFETY: the caller's promise.
    match unsafe { super::put(out, value) } {
        Ok(()) => NcclStatus::SUCCESS,
        Err(_) => argument(&format!("{function} : out argument is NULL")),
    }
}

/// Whether there is a device. All functions check this first, but those that need none, such as `ncclGetVersion`.
fn has_device() -> bool {
    world::with(|world| world.profile.faults.init == 0 && world.profile.devices > 0)
}

/// Does a job now, or at the end of the group that this thread is in.
fn now_or_later(job: Job) -> NcclStatus {
    GROUP
        .with_borrow_mut(|group| match group.depth {
            0 => Some(job),
            _ => {
                group.jobs.push(job);
                None
            }
        })
        .map_or(NcclStatus::SUCCESS, |job| perform(vec![job]))
}

/// Inits, which wait for other ranks, and therefore run beside each other; then collectives.
fn perform(jobs: Vec<Job>) -> NcclStatus {
    let (inits, collectives): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(|job| matches!(job, Job::Init { .. }));
    let joined: Vec<NcclStatus> = thread::scope(|scope| {
        let threads: Vec<_> = inits.into_iter().map(|job| scope.spawn(|| init(job))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or(NcclStatus::INTERNAL_ERROR)).collect()
    });
    if let Some(failed) = joined.into_iter().find(|status| *status != NcclStatus::SUCCESS) {
        return failed;
    }
    for job in collectives {
        let Job::Collective { collective, stream } = job else { continue };
        let status = world::with(|world| world.queue_collective(collective, stream));
        if status != NcclStatus::SUCCESS {
            return status;
        }
    }
    NcclStatus::SUCCESS
}

fn init(job: Job) -> NcclStatus {
    let Job::Init { out, ranks, id, rank, device } = job else { return NcclStatus::SUCCESS };
    match Link::join(root::name(&id.0), rank, ranks, device) {
        Err(NcclStatus::INVALID_USAGE) => {
            fail(NcclStatus::INVALID_USAGE, "Duplicate GPU detected : two ranks are on one CUDA device")
        }
        Err(status) => fail(status, "the other ranks cannot be reached"),
        Ok(link) => {
            progress::start();
            world::with(|world| {
                let handle = world.handle();
                world.nccl.comms.insert(handle, Comm { link, device, latest: None });
                // SAFETY: the program promised that the handle can be written here until the call, or its group, ends.
                unsafe { (out as *mut usize).write(handle) };
            });
            NcclStatus::SUCCESS
        }
    }
}

impl World {
    /// Queues a collective, after the one before it in its communicator.
    fn queue_collective(&mut self, collective: Collective, stream: usize) -> NcclStatus {
        self.collect_hits();
        let Some(comm) = self.nccl.comms.get(&collective.comm) else { return NcclStatus::INVALID_ARGUMENT };
        if comm.link.gone().is_some() {
            return fail(NcclStatus::REMOTE_ERROR, "a remote process exited");
        }
        let (device, latest, handle) = (comm.device, comm.latest.clone(), collective.comm);
        // NCCL does not notice a stream of another device.
        self.device = device;
        let stream = match known(self, stream).and_then(|stream| self.taking(stream).map(|()| stream)) {
            Ok(stream) => stream,
            Err(status) => {
                return fail(NcclStatus::UNHANDLED_CUDA_ERROR, &format!("Cuda failure {status:?}"));
            }
        };
        if self.streams.device(stream) != device {
            let text = format!(
                "`{}` of a communicator on device {device} is queued in a stream of device {}",
                collective.call,
                self.streams.device(stream)
            );
            self.report.find(kind::Kind::Collective, text);
        }
        let captured = self.captures.has(stream);
        if let (Some((on, moment, clock)), false) = (latest, captured)
            && on != stream
        {
            self.submit(stream, "ncclGroupEnd", Some(&(moment, clock)), Work::Mark(None));
        }
        let name = format!("nccl{:?}", collective.call.kind);
        let moment = self.submit(stream, &name, None, Work::Collective(Box::new(collective)));
        if !captured && let Some(comm) = self.nccl.comms.get_mut(&handle) {
            comm.latest = Some((stream, moment, self.streams.clock(stream)));
        }
        if self.sees_others_waiting() {
            arrival::wake();
        }
        NcclStatus::SUCCESS
    }
}

/// The arguments of a collective.
struct Arguments {
    kind: Kind,
    send: u64,
    receive: u64,
    count: usize,
    data: c_int,
    op: c_int,
    root: c_int,
    comm: usize,
    stream: usize,
}

fn collective(arguments: Arguments) -> NcclStatus {
    let Arguments { kind, send, receive, count, data, op, root, comm, stream } = arguments;
    let name = format!("{kind:?}");
    let checked = (|| {
        if comm == 0 {
            return Err(argument(&format!("{name} : comm argument is NULL")));
        }
        let found = world::with(|world| {
            world.report.called(function(kind));
            world.nccl.comms.get(&comm).map(|comm| comm.link.clone())
        });
        let Some(link) = found else {
            return Err(argument(&format!("{name} : comm argument is not a valid communicator")));
        };
        let data = usize::try_from(data).ok().filter(|data| *data < SIZES.len());
        let data = data.ok_or_else(|| argument(&format!("{name} : invalid type")))?;
        let op = usize::try_from(op).ok().filter(|op| *op < 5);
        let op = op.ok_or_else(|| argument(&format!("{name} : invalid reduction operation")))?;
        let root = usize::try_from(root).ok().filter(|root| *root < link.ranks);
        let root = root.ok_or_else(|| argument(&format!("{name} : invalid root")))?;
        let call = Call { kind, count, data, op, root };
        Ok(Collective { comm, link, call, send, receive, number: None, result: None })
    })();
    match checked {
        Err(status) => {
            GROUP.with_borrow_mut(|group| {
                if group.depth > 0 {
                    group.failed.get_or_insert(status);
                }
            });
            status
        }
        // Nothing is done for no elements.
        Ok(_) if count == 0 => NcclStatus::SUCCESS,
        Ok(Collective { link, .. }) if world::with(|world| world.profile.faults.hang.fails()) => hang(&link),
        Ok(collective) => now_or_later(Job::Collective { collective, stream }),
    }
}

/// A call that waits for something that never comes, as when a connection is lost while it is being made.
fn hang(link: &Link) -> NcclStatus {
    const LOOK: Duration = Duration::from_millis(5);
    while !link.is_aborted() || world::with(|world| world.profile.faults.hang_forever) {
        thread::sleep(LOOK);
    }
    fail(NcclStatus::INTERNAL_ERROR, "the call was aborted")
}

fn function(kind: Kind) -> &'static str {
    match kind {
        Kind::AllReduce => "ncclAllReduce",
        Kind::Broadcast => "ncclBroadcast",
        Kind::AllGather => "ncclAllGather",
        Kind::ReduceScatter => "ncclReduceScatter",
    }
}

/// Defines functions of NCCL.
macro_rules! nccl {
    ($(fn $name:ident($($argument:ident: $kind:ty),*) -> $result:ty $body:block)*) => {$(
        #[doc = concat!("`", stringify!($name), "` of NCCL.")]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $kind),*) -> $result {
            // SAFETY: the pointers are what the library's header requires of a caller; null is checked for.
            #[allow(unused_unsafe, reason = "not every function has pointers")]
            unsafe { $body }
        }
    )*};
}

/// Writes a number about a communicator to `out`.
///
/// # Safety
/// `out` is null or may be written.
unsafe fn about(comm: usize, out: *mut c_int, function: &str, value: impl FnOnce(&Comm) -> c_int) -> NcclStatus {
    if comm == 0 {
        return argument(&format!("{function} : comm argument is NULL"));
    }
    match world::with(|world| world.nccl.comms.get(&comm).map(value)) {
        // SAFETY: the caller's promise.
        Some(value) => unsafe { put(out, value, function) },
        None => argument(&format!("{function} : comm argument is not a valid communicator")),
    }
}

nccl! {
    fn ncclGetVersion(version: *mut c_int) -> NcclStatus {
        put(version, VERSION, "GetVersion")
    }

    fn ncclGetUniqueId(id: *mut UniqueId) -> NcclStatus {
        if id.is_null() {
            return argument("GetUniqueId : out argument is NULL");
        }
        match root::start() {
            Ok(made) => put(id, UniqueId(made), "GetUniqueId"),
            Err(error) => fail(NcclStatus::SYSTEM_ERROR, &error.to_string()),
        }
    }

    fn ncclCommInitRank(comm: *mut usize, ranks: c_int, id: UniqueId, rank: c_int) -> NcclStatus {
        if !has_device() {
            return fail(NcclStatus::UNHANDLED_CUDA_ERROR, "Cuda failure 'no CUDA-capable device is detected'");
        }
        if comm.is_null() {
            return argument("CommInitRank : newcomm argument is NULL");
        }
        let numbers = usize::try_from(ranks).ok().zip(usize::try_from(rank).ok());
        let Some((ranks, rank)) = numbers.filter(|(ranks, rank)| rank < ranks) else {
            return argument(&format!("Invalid rank requested : {rank}/{ranks}"));
        };
        let current = CURRENT.with_borrow(|stack| stack.last().copied().unwrap_or(0));
        let device = world::with(|world| world.context_of(current).unwrap_or(0));
        comm.write(0);
        now_or_later(Job::Init { out: comm as usize, ranks, id, rank, device })
    }

    fn ncclCommDestroy(comm: usize) -> NcclStatus {
        if comm == 0 {
            return NcclStatus::SUCCESS;
        }
        // What is queued is done first; then all ranks leave together.
        world::until(|world| world.finish_collectives(comm));
        match world::with(|world| world.nccl.comms.remove(&comm)) {
            None => argument("CommDestroy : comm argument is not a valid communicator"),
            Some(comm) => {
                comm.link.leave();
                NcclStatus::SUCCESS
            }
        }
    }

    fn ncclCommAbort(comm: usize) -> NcclStatus {
        if comm == 0 {
            return NcclStatus::SUCCESS;
        }
        match world::with(|world| world.nccl.comms.remove(&comm)) {
            None => argument("CommAbort : comm argument is not a valid communicator"),
            Some(comm) => {
                comm.link.abort();
                NcclStatus::SUCCESS
            }
        }
    }

    fn ncclCommGetAsyncError(comm: usize, out: *mut NcclStatus) -> NcclStatus {
        about(comm, out.cast(), "ncclGetAsyncError", |comm| match comm.link.gone() {
            Some(_) => NcclStatus::REMOTE_ERROR.0,
            None => NcclStatus::SUCCESS.0,
        })
    }

    fn ncclCommCount(comm: usize, out: *mut c_int) -> NcclStatus {
        about(comm, out, "CommCount", |comm| comm.link.ranks as c_int)
    }

    fn ncclCommUserRank(comm: usize, out: *mut c_int) -> NcclStatus {
        about(comm, out, "CommUserRank", |comm| comm.link.rank as c_int)
    }

    fn ncclCommCuDevice(comm: usize, out: *mut c_int) -> NcclStatus {
        about(comm, out, "CommCuDevice", |comm| comm.device as c_int)
    }

    fn ncclGetErrorString(code: c_int) -> *const c_char {
        let text = match code {
            0 => c"no error",
            1 => c"unhandled cuda error (run with NCCL_DEBUG=INFO for details)",
            2 => c"unhandled system error (run with NCCL_DEBUG=INFO for details)",
            3 => c"internal error - please report this issue to the NCCL developers",
            4 => c"invalid argument (run with NCCL_DEBUG=WARN for details)",
            5 => c"invalid usage (run with NCCL_DEBUG=WARN for details)",
            6 => c"remote process exited or there was a network error",
            7 => c"NCCL operation in progress",
            8 => c"timeout",
            _ => c"unknown result code",
        };
        text.as_ptr()
    }

    fn ncclGetLastError(_comm: usize) -> *const c_char {
        LATEST.lock().unwrap_or_else(PoisonError::into_inner).as_ptr()
    }

    fn ncclAllReduce(
        send: u64, receive: u64, count: usize, data: c_int, op: c_int, comm: usize, stream: usize
    ) -> NcclStatus {
        collective(Arguments { kind: Kind::AllReduce, send, receive, count, data, op, root: 0, comm, stream })
    }

    fn ncclBroadcast(
        send: u64, receive: u64, count: usize, data: c_int, root: c_int, comm: usize, stream: usize
    ) -> NcclStatus {
        collective(Arguments { kind: Kind::Broadcast, send, receive, count, data, op: 0, root, comm, stream })
    }

    fn ncclAllGather(send: u64, receive: u64, count: usize, data: c_int, comm: usize, stream: usize) -> NcclStatus {
        collective(Arguments { kind: Kind::AllGather, send, receive, count, data, op: 0, root: 0, comm, stream })
    }

    fn ncclReduceScatter(
        send: u64, receive: u64, count: usize, data: c_int, op: c_int, comm: usize, stream: usize
    ) -> NcclStatus {
        collective(Arguments { kind: Kind::ReduceScatter, send, receive, count, data, op, root: 0, comm, stream })
    }

    fn ncclGroupStart() -> NcclStatus {
        GROUP.with_borrow_mut(|group| group.depth += 1);
        NcclStatus::SUCCESS
    }

    fn ncclGroupEnd() -> NcclStatus {
        let done = GROUP.with_borrow_mut(|group| match group.depth {
            0 => None,
            1 => {
                group.depth = 0;
                Some((std::mem::take(&mut group.jobs), group.failed.take()))
            }
            _ => {
                group.depth -= 1;
                Some((Vec::new(), group.failed))
            }
        });
        match done {
            None => fail(NcclStatus::INVALID_USAGE, "ncclGroupEnd: not in a group call."),
            // Nothing of a group with a wrong call is done.
            Some((_, Some(status))) => status,
            Some((jobs, None)) => perform(jobs),
        }
    }
}

// The header passes the id by value, as the simulator takes it.
const _: () = assert!(size_of::<UniqueId>() == ID && size_of::<*const c_void>() == size_of::<usize>());

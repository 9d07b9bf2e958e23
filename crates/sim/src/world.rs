//! The state of the simulated driver and its devices, one per process; `execute` runs queued operations,
//! `collectives` those that wait for other ranks.
mod collectives;
mod execute;

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::arrival::ARRIVED;
use crate::blas::Blas;
use crate::captures::Captures;
use crate::clock::{Clock, Moment};
use crate::dnn::Dnn;
use crate::engine::{self, Access, Range};
use crate::graphs::Graphs;
use crate::history::History;
use crate::intervals::Intervals;
use crate::kind::Kind;
use crate::leaks::Sites;
use crate::memory::{Home, Memory, busy_pages};
use crate::module::{Function, Module};
use crate::nccl::Nccl;
use crate::profile::Profile;
use crate::report::{self, Report};
use crate::status::Status;
use crate::stream::{Event, Streams};
use crate::stream_id::StreamId;
use crate::work::{self, Work};

/// The handle of the first device's primary context; only primary contexts exist.
const CONTEXT: usize = 0x0c7c_0de0;
const CONTEXT_STEP: usize = 16;

/// The handle of a device's primary context.
pub fn context(device: usize) -> usize {
    CONTEXT + CONTEXT_STEP * device
}

/// The device whose primary context this is.
fn device_of(context: usize) -> Option<usize> {
    let offset = context.checked_sub(CONTEXT)?;
    offset.is_multiple_of(CONTEXT_STEP).then_some(offset / CONTEXT_STEP)
}
/// Limit of queued operations; beyond it the oldest work runs, since a program that never waits would queue without
/// end.
const QUEUE: usize = 4096;

/// Pinned memory that an operation uses, until the host has waited for the operation.
struct Use {
    begin: u64,
    bytes: usize,
    host_may: Access,
    moment: Moment,
    text: String,
}

/// The state of the driver and all devices.
pub struct World {
    pub profile: Profile,
    pub memory: Memory,
    pub streams: Streams,
    pub events: HashMap<usize, Event>,
    pub modules: HashMap<usize, Module>,
    pub functions: HashMap<usize, Function>,
    pub blas: Blas,
    pub dnn: Dnn,
    pub nccl: Nccl,
    pub captures: Captures,
    pub graphs: Graphs,
    /// What has been loaded at its first use and has taken memory for it, by device.
    lazy: BTreeSet<(usize, String)>,
    pub report: Report,
    pub initialized: bool,
    /// The device whose context is current on the calling thread.
    pub device: usize,
    /// The retain count of each device's context.
    pub retained: Vec<u32>,
    pub flags: u32,
    pub limits: HashMap<i32, usize>,
    pub pool_threshold: u64,
    /// The error that every call in a device's context returns from now on.
    sticky: Vec<Option<Status>>,
    /// Where live memory was allocated, if leaks are reported.
    pub sites: Sites,
    history: History,
    /// Bytes of device memory that have been written since they were allocated.
    written: Intervals,
    uses: Vec<Use>,
    watched: Vec<(u64, usize)>,
    next_handle: usize,
}

// SAFETY: the raw pointers in queued work are addresses of memory that is valid in any thread, and the reference counts
// are only accessed with the lock held.
unsafe impl Send for World {}

static WORLD: Mutex<Option<World>> = Mutex::new(None);

thread_local! {
    /// The stack of contexts that the thread has made current.
    pub static CURRENT: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// Runs `body` on the simulated driver, which is created from the environment at the first call.
pub fn with<R>(body: impl FnOnce(&mut World) -> R) -> R {
    let mut body = Some(body);
    until(|world| body.take().map(|body| body(world)))
}

/// Calls `body` with the simulated driver until it returns a result; between the calls, other threads may use the driver.
pub fn until<R>(mut body: impl FnMut(&mut World) -> Option<R>) -> R {
    /// When `body` is called again without a signal.
    const LOOK: Duration = Duration::from_millis(1);
    engine::load();
    let mut guard = WORLD.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let world = guard.get_or_insert_with(|| {
            report::at_exit(write_report);
            World::new(Profile::from_env())
        });
        // The main thread's stack no longer exists when the report is written.
        let current = CURRENT.try_with(|stack| stack.borrow().last().copied());
        let current = current.ok().flatten().unwrap_or(0);
        world.device = world.context_of(current).unwrap_or(0);
        if let Some(result) = body(world) {
            return result;
        }
        guard = ARRIVED.wait_timeout(guard, LOOK).unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// Writes the report at the end of the process.
extern "C" fn write_report() {
    with(|world| {
        world.end();
        world.report.write();
    });
}

impl World {
    fn new(profile: Profile) -> Self {
        World {
            memory: Memory::new(profile.memory),
            streams: Streams::new(profile.seed, profile.devices),
            device: 0,
            retained: vec![0; profile.devices],
            sticky: vec![None; profile.devices],
            profile,
            events: HashMap::new(),
            modules: HashMap::new(),
            functions: HashMap::new(),
            blas: Blas::default(),
            dnn: Dnn::default(),
            nccl: Nccl::default(),
            captures: Captures::default(),
            graphs: Graphs::default(),
            lazy: BTreeSet::new(),
            report: Report::default(),
            initialized: false,
            flags: 0,
            limits: HashMap::new(),
            pool_threshold: 0,
            sites: Sites::default(),
            history: History::default(),
            written: Intervals::default(),
            uses: Vec::new(),
            watched: Vec::new(),
            next_handle: 0x5100_0000,
        }
    }

    /// Replaces the device by a fresh one; addresses are not reused.
    pub fn renew(&mut self, profile: Profile) {
        (0..self.profile.devices).for_each(|device| self.reset(device));
        self.memory.set_capacity(profile.memory);
        self.report = Report::default();
        self.blas = Blas::default();
        self.dnn = Dnn::default();
        self.nccl.comms.drain().for_each(|(_, comm)| comm.link.abort());
        self.captures = Captures::default();
        self.graphs = Graphs::default();
        self.initialized = false;
        self.retained = vec![0; profile.devices];
        self.sticky = vec![None; profile.devices];
        self.streams = Streams::new(profile.seed, profile.devices);
        self.history = History::default();
        self.limits.clear();
        self.profile = profile;
    }

    /// Destroys a device's context, with everything in it.
    pub fn reset(&mut self, device: usize) {
        self.unwatch();
        let streams = self.streams.ids(device);
        self.uses.retain(|one| !streams.contains(&one.moment.stream));
        self.streams.reset(device);
        self.captures.reset(device);
        self.graphs.reset(device);
        self.lazy.retain(|(of, _)| *of != device);
        for allocation in self.memory.reset(device) {
            self.forget(Range { begin: allocation.begin, end: allocation.end() });
        }
        self.events.retain(|_, event| event.device != device);
        let gone: Vec<usize> =
            self.modules.iter().filter(|(_, module)| module.device == device).map(|(handle, _)| *handle).collect();
        self.functions.retain(|_, function| !gone.contains(&function.module));
        self.modules.retain(|_, module| module.device != device);
        self.sticky[device] = None;
        self.watch();
    }

    /// The index for a device ordinal, if there is such a device.
    pub fn ordinal(&self, ordinal: i32) -> Result<usize, Status> {
        usize::try_from(ordinal).ok().filter(|one| *one < self.profile.devices).ok_or(Status::INVALID_DEVICE)
    }

    /// The device whose context this is.
    pub fn context_of(&self, context: usize) -> Result<usize, Status> {
        device_of(context).filter(|one| *one < self.profile.devices).ok_or(Status::INVALID_CONTEXT)
    }

    /// Counts what the program holds now.
    pub fn count_held(&mut self) {
        self.report.counts.live = self.memory.used_in_all() as u64;
        self.report.counts.descriptors =
            (self.blas.records.len() + self.dnn.descriptors.len() + self.graphs.held()) as u64;
    }

    /// Whether there is memory for what the driver or a library loads at its first use; it is taken once, and kept.
    pub fn lazy_memory(&mut self, what: &str) -> bool {
        let key = (self.device, what.to_string());
        if self.profile.lazy_memory == 0 || self.lazy.contains(&key) {
            return true;
        }
        let fits = self.memory.reserve(self.profile.lazy_memory, self.device);
        if fits {
            self.lazy.insert(key);
        }
        fits
    }

    /// A fresh handle.
    pub fn handle(&mut self) -> usize {
        self.next_handle += 16;
        self.next_handle
    }

    /// Queues work in a stream, or adds it to the graph that the stream is captured into.
    pub fn submit(&mut self, stream: StreamId, name: &str, after: Option<&(Moment, Clock)>, work: Work) -> Moment {
        if self.captures.add(stream, name, &work, self.next_handle + 16) {
            self.next_handle += 16;
            self.report.counts.captured += 1;
            return Moment { stream, number: 0 };
        }
        if !matches!(work, Work::Mark(_)) {
            self.report.queued(name);
        }
        self.enqueue(stream, name, after, work)
    }

    /// Queues work in a stream that is not captured.
    pub fn enqueue(&mut self, stream: StreamId, name: &str, after: Option<&(Moment, Clock)>, work: Work) -> Moment {
        if let Work::Copy { from, to, bytes } = &work {
            let pinned = |place: &work::Place| match place {
                work::Place::Arena(address) => Some(*address),
                work::Place::Pageable(_) | work::Place::Staged(_) => None,
            };
            let sides = [(pinned(from), Access::Read, "reads"), (pinned(to), Access::None, "writes")];
            let bytes = *bytes;
            let moment = self.streams.submit(stream, name, after, work);
            for (address, host_may, verb) in sides {
                let Some(address) = address else { continue };
                self.note_use(address, bytes, host_may, moment, format!("`{name}`, which {verb} it"));
            }
            self.watch();
            return moment;
        }
        let moment = self.streams.submit(stream, name, after, work);
        if moment.number.is_multiple_of(256) && self.streams.pending().count() > QUEUE {
            // What waits for other ranks stays queued.
            let _ = self.run_until(moment);
        }
        moment
    }

    fn note_use(&mut self, address: u64, bytes: usize, host_may: Access, moment: Moment, text: String) {
        let Some(allocation) = self.memory.find(address, bytes) else { return };
        if allocation.home != Home::Pinned {
            return;
        }
        if let Some((begin, bytes)) = busy_pages(&allocation, address, bytes) {
            self.uses.push(Use { begin, bytes, host_may, moment, text });
        }
    }

    /// Runs everything that has to run before `moment` is done.
    ///
    /// # Errors
    /// [`Status::BLOCKED`] if it waits for other ranks.
    pub fn run_until(&mut self, moment: Moment) -> Result<(), Status> {
        while !self.streams.is_done(moment) {
            let Some(operation) = self.streams.take(moment, self.profile.order) else {
                // Not `is_waiting`: what a collective waits for may have arrived meanwhile.
                let waits = self.streams.pending().any(|operation| operation.work.has_begun());
                return if waits { Err(Status::BLOCKED) } else { Ok(()) };
            };
            self.execute(operation);
        }
        Ok(())
    }

    /// Runs one operation that `moment` waits for.
    pub fn nudge(&mut self, moment: Moment) {
        if let Some(operation) = self.streams.take(moment, self.profile.order) {
            self.execute(operation);
        }
    }

    /// Waits for everything in a stream, so that the host knows that it is done.
    pub fn wait_stream(&mut self, stream: StreamId) -> Result<(), Status> {
        self.run_until(self.streams.tail(stream))?;
        let clock = self.streams.clock(stream);
        self.learn(&clock);
        self.healthy()
    }

    /// Waits for all streams of a device.
    pub fn wait_all(&mut self, device: usize) -> Result<(), Status> {
        for id in self.streams.ids(device) {
            self.wait_stream(id)?;
        }
        self.healthy()
    }

    /// Records that the host knows everything that `clock` covers to have happened.
    pub fn learn(&mut self, clock: &Clock) {
        self.streams.host.join(clock);
        self.history.settle(&self.streams.frontier());
        let host = self.streams.host.clone();
        self.uses.retain(|one| !host.covers(one.moment));
        self.watch();
    }

    /// The sticky error of the calling thread's context, if there is one.
    pub fn healthy(&self) -> Result<(), Status> {
        self.sticky[self.device].map_or(Ok(()), Err)
    }

    /// The end of the process: memory that is still held is a mistake, if leaks are reported.
    pub fn end(&mut self) {
        self.collect_hits();
        self.sites.report(&self.memory, &mut self.report);
        self.count_held();
    }

    /// Forgets everything recorded about a range that was freed.
    fn forget(&mut self, range: Range) {
        self.history.forget(range);
        self.written.remove(range);
    }

    /// Frees memory at once. On the device this waits for all running work, but programs must not rely on that.
    pub fn free(&mut self, address: u64) -> Result<(), Status> {
        let allocation = self.memory.starting(address).ok_or(Status::INVALID_VALUE)?;
        let (begin, end) = (allocation.begin, allocation.end());
        let user = self.streams.pending().find(|operation| operation.work.uses(begin, end));
        if let Some(user) = user {
            let text = format!(
                "{} bytes at {begin:#x} are freed while `{}` in stream {:#x} may still use them",
                allocation.bytes, user.name, user.moment.stream
            );
            self.report.find(Kind::FreeInUse, text);
        }
        self.wait_all(allocation.device)?;
        self.memory.free(address);
        self.forget(Range { begin, end });
        Ok(())
    }

    /// Makes host accesses to pinned memory that is in use fault.
    fn watch(&mut self) {
        self.unwatch();
        self.uses.sort_by_key(|one| (one.begin, std::cmp::Reverse(one.bytes)));
        let mut spans: Vec<(u64, usize, Access)> = Vec::new();
        for one in &self.uses {
            match spans.last_mut() {
                Some((begin, bytes, access)) if one.begin < *begin + *bytes as u64 => {
                    *bytes = (*bytes).max((one.begin - *begin) as usize + one.bytes);
                    *access = (*access).min(one.host_may);
                }
                _ => spans.push((one.begin, one.bytes, one.host_may)),
            }
        }
        for (begin, bytes, access) in spans {
            // SAFETY: whole pages of pinned memory; the simulator unwatches them before it touches them itself.
            unsafe { engine::watch(begin, bytes, access) };
            self.watched.push((begin, bytes));
        }
    }

    fn unwatch(&mut self) {
        for (begin, bytes) in self.watched.drain(..) {
            // SAFETY: as in `watch`.
            unsafe { engine::watch(begin, bytes, Access::Write) };
        }
        self.collect_hits();
    }

    /// Turns early host accesses into findings.
    pub fn collect_hits(&mut self) {
        for hit in engine::watch_hits() {
            let Some(at) = self.uses.iter().position(|one| hit >= one.begin && hit < one.begin + one.bytes as u64)
            else {
                continue;
            };
            // Reported once: from here on the pages are accessible.
            let one = self.uses.remove(at);
            let text = format!("the host touches pinned memory at {hit:#x} before it has waited for {}", one.text);
            self.report.find(Kind::HostTooEarly, text);
        }
    }
}

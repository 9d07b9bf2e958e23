//! Convolutions by cuDNN on one device: plans are chosen once per problem, cached, and executed.

use std::{
    collections::VecDeque,
    ffi::c_void,
    ptr,
    sync::atomic::{AtomicUsize, Ordering},
};

use cudarc::{cudnn::sys::cudnnHandle_t, driver::sys::CUstream};
use kiln_backend::{Error, Result};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::{
    descriptor::{Failed, check},
    graph::uid,
    plan::{Candidate, Plan, Target, candidates},
    problem::{Addresses, Direction, Problem},
};
use crate::{
    context::DeviceInfo,
    fallbacks,
    libs::{Cudnn, Failure},
    memory::DeviceMemory,
    plan_cache::PlanCache,
    plan_limit::max_plans,
    stream::{Stream, Timer},
};

/// The outcome of a call.
#[derive(Debug)]
pub(crate) enum Outcome {
    Queued,
    /// Queued with the best of a fusion's plans, which have just been timed. The parts of the fusion are to be timed too.
    Timed(Problem),
    /// The fusion is to be computed in its parts.
    Declined,
    /// The library has no plan for the problem, for this reason.
    NoPlan(Error),
}

/// How many plans `convolution_benchmark` times.
const MAX_TIMED: usize = 8;
/// How many it times of a fusion whose engines are compiled at run time, which takes about a second each.
const MAX_COMPILED: usize = 2;
/// The limit on a plan's workspace, as a fraction of the device's memory, unless no plan takes less.
const WORKSPACE_SHARE: usize = 4;

/// The plans for a problem, best first, and the candidates that no plan has been made of yet.
#[derive(Default)]
struct Entry {
    plans: Vec<Plan>,
    rest: VecDeque<Candidate>,
    /// Why the last one that could not be used could not.
    reason: Option<Failed>,
    /// Whether it is a fusion that is computed in its parts.
    is_declined: bool,
    /// Whether the plans have just been timed.
    is_timed: bool,
    /// Whether candidates were dropped after a plan had worked: they take memory, and can be requested again. So can those
    /// that a plan from the cache stands for.
    is_trimmed: bool,
    /// The first plan is in the cache.
    is_kept: bool,
}

/// A device's handle with its plans.
pub(crate) struct Dnn {
    library: &'static Cudnn,
    memory: &'static DeviceMemory,
    handle: cudnnHandle_t,
    /// The limit on a plan's workspace in bytes, unless no plan takes less.
    workspace_limit: usize,
    /// Plans of earlier processes, unless the cache is off.
    pub(crate) cache: Option<PlanCache>,
    /// Where the handle's work goes, as a number; changed by who holds `entries`.
    target: AtomicUsize,
    /// Also held during a call: a handle serves one thread at a time.
    entries: Mutex<FxHashMap<Problem, Entry>>,
}

// SAFETY: handle and descriptors may be used from any thread, one at a time, which the mutex ensures.
unsafe impl Send for Dnn {}
// SAFETY: as above.
unsafe impl Sync for Dnn {}

/// Whether a call failed, or may have failed, because the library had no memory.
fn lacks_memory<T>(memory: &DeviceMemory, result: &Result<T, Failed>) -> bool {
    result.as_ref().is_err_and(|failed| match Failure::of(failed.code) {
        Failure::OutOfMemory => true,
        Failure::Other => memory.may_lack_memory(),
        Failure::Unsupported | Failure::Environment => false,
    })
}

impl Dnn {
    /// A handle whose work goes to `stream`, whose context must be current, on this device.
    pub(crate) fn new(
        library: &'static Cudnn,
        stream: &Stream,
        memory: &'static DeviceMemory,
        info: &DeviceInfo,
    ) -> Result<Dnn> {
        let mut handle = ptr::null_mut();
        let create = || {
            // SAFETY: writes the handle.
            check(library, "cudnnCreate", unsafe { (library.create)(&raw mut handle) })
        };
        let created = memory.with_room(create, |made| lacks_memory(memory, made));
        let workspace_limit = info.total_memory / WORKSPACE_SHARE;
        let cache = library.version().and_then(|version| PlanCache::open(version, &info.kind()));
        let (target, entries) = (AtomicUsize::new(0), Mutex::default());
        let dnn = Dnn { library, memory, handle, workspace_limit, cache, target, entries };
        created.and_then(|()| dnn.send_to(stream.raw())).map_err(|failed| dnn.error("this device", failed))?;
        Ok(dnn)
    }

    /// Lets the handle's work go to a stream of the current context that lives as long as the process.
    fn send_to(&self, stream: CUstream) -> Result<(), Failed> {
        if self.target.load(Ordering::Relaxed) == stream as usize {
            return Ok(());
        }
        // SAFETY: as described above.
        check(self.library, "cudnnSetStream", unsafe { (self.library.set_stream)(self.handle, stream.cast()) })?;
        self.target.store(stream as usize, Ordering::Relaxed);
        Ok(())
    }

    fn with_room<T>(&self, call: impl FnMut() -> Result<T, Failed>) -> Result<T, Failed> {
        self.memory.with_room(call, |result| lacks_memory(self.memory, result))
    }

    fn error(&self, problem: &str, failed: Failed) -> Error {
        let (device, code, call) = (self.memory.device_index(), failed.code, failed.call);
        let error = self.library.error(device, call, problem, (code, failed.said));
        match Failure::of(code) {
            Failure::OutOfMemory => self.memory.out_of_memory(call, &error.to_string()),
            _ => error.into(),
        }
    }

    /// Queues a convolution, or reports that the library has none. `aside` provides memory that may be reused as soon
    /// as the call has been queued.
    ///
    /// # Safety
    /// The addresses are those of tensors as `problem` describes them, in memory that work queued before has written,
    /// and `aside` returns addresses of as many bytes as it is asked for.
    pub(crate) unsafe fn run<W>(
        &self,
        stream: &Stream,
        problem: &Problem,
        at: Addresses,
        mut aside: impl FnMut(usize) -> Result<(u64, W)>,
    ) -> Result<Outcome> {
        stream.context.bind()?;
        let mut entries = self.entries.lock();
        self.send_to(stream.raw()).map_err(|failed| self.error("this device", failed))?;
        if !entries.contains_key(problem) {
            if entries.len() >= max_plans() {
                entries.clear();
            }
            let entry = match self.kept(problem) {
                Some(plan) => Entry { plans: vec![plan], is_trimmed: true, is_kept: true, ..Entry::default() },
                // SAFETY: by this function's contract.
                None => unsafe { self.entry(stream, problem, at, &mut aside)? },
            };
            entries.insert(*problem, entry);
        }
        let Some(entry) = entries.get_mut(problem) else { return Ok(Outcome::NoPlan(self.nothing(problem, None))) };
        if entry.is_declined {
            return Ok(Outcome::Declined);
        }
        // SAFETY: by this function's contract.
        let mut queued = unsafe { self.execute(stream, problem, entry, at, &mut aside) };
        if entry.is_trimmed && !matches!(queued, Ok(Some(_))) {
            // SAFETY: as above.
            unsafe {
                *entry = self.entry(stream, problem, at, &mut aside)?;
                queued = self.execute(stream, problem, entry, at, &mut aside);
            }
        }
        if queued.is_err() {
            // The next call requests plans again.
            entries.remove(problem);
            return queued.map(|_| Outcome::Queued);
        }
        if let Ok(Some(used)) = queued {
            entry.is_trimmed |= !entry.rest.is_empty();
            entry.rest = VecDeque::new();
            let timed = std::mem::take(&mut entry.is_timed);
            if timed && problem.direction.is_fused() {
                // It is cached if its parts turn out to be slower (`settle`).
                entry.is_kept = true;
                return Ok(Outcome::Timed(*problem));
            }
            // A plan chosen only because memory was short is not cached.
            if !entry.is_kept && used == 0 {
                entry.is_kept = true;
                self.keep(problem, &entry.plans[0]);
            }
            return Ok(Outcome::Queued);
        }
        let reason = match entry.reason.clone() {
            Some(failed) if Failure::of(failed.code) != Failure::Unsupported => {
                self.error(&format!("{problem:?}"), failed)
            }
            failed => self.nothing(problem, failed),
        };
        let failure = entry.reason.as_ref().map(|failed| Failure::of(failed.code));
        if problem.direction.is_fused() {
            // That no fused plan exists is remembered; a lack of memory is not, since the next call may find some.
            entry.is_declined = failure != Some(Failure::OutOfMemory);
            if entry.is_declined {
                let device = self.memory.device_index();
                let what = match problem.direction {
                    Direction::ForwardBias => "a convolution and its bias",
                    Direction::ForwardBiasRelu => "a convolution, its bias and its ReLU",
                    _ => "a convolution and what could be fused to it",
                };
                fallbacks::note(format!("cuda:{device}: {what} by separate calls: {reason}"));
            } else {
                entries.remove(problem);
            }
            return Ok(Outcome::Declined);
        }
        match failure {
            // The lack of any plan is remembered too.
            None | Some(Failure::Unsupported) => Ok(Outcome::NoPlan(reason)),
            Some(_) => {
                entries.remove(problem);
                Err(reason)
            }
        }
    }

    /// Ends the search for a fusion's fastest way: its plan is cached, or dropped if its parts are faster.
    pub(crate) fn settle(&self, problem: &Problem, parts_are_faster: bool) {
        let mut entries = self.entries.lock();
        if parts_are_faster {
            entries.insert(*problem, Entry { is_declined: true, ..Entry::default() });
        } else if let Some(plan) = entries.get(problem).and_then(|entry| entry.plans.first()) {
            self.keep(problem, plan);
        }
    }

    /// The error when the library has no plan, with what it said of the last candidate that it declined.
    fn nothing(&self, problem: &Problem, failed: Option<Failed>) -> Error {
        let why = failed.map_or_else(|| "its heuristics propose no engine that may be used".into(), |f| f.to_string());
        let reason = format!("cuDNN has no plan for {problem:?}: {why}");
        Error::unsupported(operation_name(problem.direction), format!("cuda:{}", self.memory.device_index()), reason)
    }

    /// The cached plan, of an earlier process or built ahead of time.
    fn kept(&self, problem: &Problem) -> Option<Plan> {
        let cache = self.cache.as_ref()?;
        let text = cache.read(problem)?;
        let plan = Plan::from_text(self.library, Target::Handle(self.handle), problem, &text);
        plan.map_err(|reason| cache.refuse(problem, reason)).ok()
    }

    fn keep(&self, problem: &Problem, plan: &Plan) {
        if let Some(cache) = &self.cache
            && let Ok(text) = plan.text()
        {
            cache.write(problem, &text);
        }
    }

    /// Queues the best plan that there is memory for and that the library accepts; returns its index, or `None` if there is
    /// none.
    ///
    /// # Safety
    /// As for [`run`](Dnn::run).
    unsafe fn execute<W>(
        &self,
        stream: &Stream,
        problem: &Problem,
        entry: &mut Entry,
        at: Addresses,
        aside: &mut impl FnMut(usize) -> Result<(u64, W)>,
    ) -> Result<Option<usize>> {
        let name = operation_name(problem.direction);
        let (mut i, mut no_memory) = (0, None);
        // The smallest workspace among the plans that there was no memory for.
        let mut least = usize::MAX;
        while i < entry.plans.len() || self.make_plan(stream, problem, entry)? {
            let bytes = entry.plans[i].workspace;
            let memory = match bytes {
                0 => Ok(None),
                // Another plan may need less; the next call may find more memory.
                _ if bytes >= least => {
                    i += 1;
                    continue;
                }
                _ => aside(bytes).map(Some),
            };
            let memory = match memory {
                Ok(memory) => memory,
                Err(error) => {
                    (least, no_memory) = (bytes, Some(error));
                    i += 1;
                    continue;
                }
            };
            let workspace = memory.as_ref().map_or(0, |(address, _)| *address);
            // SAFETY: by this function's contract.
            unsafe { clear_sums(stream, problem, at)? };
            // SAFETY: as above.
            let queue = || unsafe { self.queue(&entry.plans[i], at, workspace) };
            match self.with_room(queue) {
                Ok(()) => return stream.queued(name).map(|()| Some(i)),
                Err(failed) => {
                    entry.plans.remove(i);
                    self.note(stream, problem, entry, failed)?;
                }
            }
        }
        match no_memory {
            Some(error) if entry.reason.is_none() || !entry.plans.is_empty() => Err(error),
            _ => Ok(None),
        }
    }

    /// # Safety
    /// As for [`run`](Dnn::run); the workspace has as many bytes as the plan needs.
    unsafe fn queue(&self, plan: &Plan, at: Addresses, workspace: u64) -> Result<(), Failed> {
        let operands = [(uid::X, at.x), (uid::W, at.w), (uid::Y, at.y), (uid::BIAS, at.bias), (uid::LIKE, at.like)];
        let (mut uids, mut addresses, mut count) = ([0; 5], [ptr::null_mut(); 5], 0);
        for (uid, address) in operands.into_iter().filter(|(_, address)| *address != 0) {
            (uids[count], addresses[count]) = (uid, address as *mut c_void);
            count += 1;
        }
        // SAFETY: by this function's contract.
        unsafe { plan.execute(self.library, self.handle, &uids[..count], &addresses[..count], workspace) }
    }

    /// Records why a plan cannot be used. Failures that no other plan could avoid are returned at once: a broken
    /// installation, or an earlier failure on the stream.
    fn note(&self, stream: &Stream, problem: &Problem, entry: &mut Entry, failed: Failed) -> Result<()> {
        match Failure::of(failed.code) {
            Failure::Environment => return Err(self.error(&format!("{problem:?}"), failed)),
            Failure::Other => stream.check_health()?,
            Failure::Unsupported | Failure::OutOfMemory => {}
        }
        entry.reason = Some(failed);
        Ok(())
    }

    /// Makes the next plan; returns `false` if there is none.
    fn make_plan(&self, stream: &Stream, problem: &Problem, entry: &mut Entry) -> Result<bool> {
        while let Some(candidate) = entry.rest.pop_front() {
            let plan = || candidate.plan(self.library, Target::Handle(self.handle));
            match self.with_room(plan) {
                // The last candidate may take as much workspace as it needs.
                Ok(plan) if plan.workspace <= self.workspace_limit || entry.rest.is_empty() => {
                    entry.plans.push(plan);
                    return Ok(true);
                }
                Ok(_) => {}
                Err(failed) => self.note(stream, problem, entry, failed)?,
            }
        }
        Ok(false)
    }

    /// The heuristics' proposals for a problem, with the best of them timed if that is requested.
    ///
    /// # Safety
    /// As for [`run`](Dnn::run).
    unsafe fn entry<W>(
        &self,
        stream: &Stream,
        problem: &Problem,
        at: Addresses,
        aside: &mut impl FnMut(usize) -> Result<(u64, W)>,
    ) -> Result<Entry> {
        let mut entry = Entry::default();
        if problem.direction.is_compiled_at_run_time() && !problem.benchmark {
            return Ok(Entry { is_declined: true, ..entry });
        }
        let ask = || candidates(self.library, Target::Handle(self.handle), problem);
        match self.with_room(ask) {
            Ok(found) => {
                entry.reason = found.reason;
                // Compilation takes seconds, so it is only for users who asked for a search.
                let usable = |candidate: &Candidate| problem.benchmark || !candidate.engine.is_compiled_at_run_time();
                entry.rest = found.list.into_iter().filter(usable).collect();
            }
            Err(failed) => self.note(stream, problem, &mut entry, failed)?,
        }
        // Timing writes the result, so it is skipped for a result that is added to.
        if problem.benchmark && !problem.accumulate {
            let most = if problem.direction.is_compiled_at_run_time() { MAX_COMPILED } else { MAX_TIMED };
            while entry.plans.len() < most && self.make_plan(stream, problem, &mut entry)? {}
            let mut timed = Vec::new();
            for plan in std::mem::take(&mut entry.plans) {
                // SAFETY: by this function's contract.
                match unsafe { self.time(stream, problem, &plan, at, aside)? } {
                    Ok(time) => timed.push((time, plan)),
                    Err(failed) => self.note(stream, problem, &mut entry, failed)?,
                }
            }
            timed.sort_by(|(a, _), (b, _)| a.total_cmp(b));
            entry.plans = timed.into_iter().map(|(_, plan)| plan).collect();
            entry.is_timed = true;
        }
        Ok(entry)
    }

    /// How many milliseconds a plan's second run takes; infinity if there is no memory for it.
    ///
    /// # Safety
    /// As for [`run`](Dnn::run).
    unsafe fn time<W>(
        &self,
        stream: &Stream,
        problem: &Problem,
        plan: &Plan,
        at: Addresses,
        aside: &mut impl FnMut(usize) -> Result<(u64, W)>,
    ) -> Result<Result<f32, Failed>> {
        let memory = if plan.workspace == 0 { Ok(None) } else { aside(plan.workspace).map(Some) };
        let Ok(memory) = memory else { return Ok(Ok(f32::INFINITY)) };
        let workspace = memory.as_ref().map_or(0, |(address, _)| *address);
        let timer = Timer::new(stream)?;
        // SAFETY: by this function's contract; both write the same, apart from sums, which the caller computes once more.
        unsafe {
            clear_sums(stream, problem, at)?;
            if let Err(failed) = self.queue(plan, at, workspace) {
                return Ok(Err(failed));
            }
            timer.start()?;
            if let Err(failed) = self.queue(plan, at, workspace) {
                return Ok(Err(failed));
            }
        }
        timer.stop().map(Ok)
    }
}

/// Clears the channel sums of a fusion: the library's documentation does not say whether it adds to them.
///
/// # Safety
/// As for [`Dnn::run`].
unsafe fn clear_sums(stream: &Stream, problem: &Problem, at: Addresses) -> Result<()> {
    if !problem.direction.has_channel_sums() {
        return Ok(());
    }
    let size = problem.sums_dtype().size();
    // SAFETY: by the caller's promise the sums are there, one for each channel of the input.
    unsafe { stream.fill_bytes(at.bias, 0, problem.x[1] * size) }
}

/// The operation's name, as the user called it.
pub(crate) fn operation_name(direction: Direction) -> &'static str {
    match direction.parts() {
        (Direction::GradInput, []) => "conv2d_grad_input",
        (Direction::GradInput, _) => "conv2d_relu_grad_input",
        (Direction::GradWeight, _) => "conv2d_grad_weight",
        _ => "conv2d",
    }
}

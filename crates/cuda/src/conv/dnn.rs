//! Convolutions by cuDNN on one device: plans are chosen once per problem, cached, and executed.

use std::{ffi::c_void, ptr};

use kiln_backend::{Conv2dDirection, Conv2dFusion, Error, Result};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::{
    graph::uid,
    problem::{Addresses, Problem},
};
use crate::{
    context::DeviceInfo,
    cudnn::{
        handle::Handle,
        plan::{Candidates, Plan},
    },
    fallbacks,
    libs::{Cudnn, Failed, Failure},
    memory::{Block, DeviceMemory},
    plan_limit::max_plans,
    stream::{Stream, Timer},
};

/// The outcome of a call.
#[derive(Debug)]
pub(crate) enum Outcome<const R: usize, const A: usize> {
    Queued,
    /// Queued with the best of a fusion's plans, which have just been timed. The parts of the fusion are to be timed too.
    Timed(Problem<R, A>),
    /// The fusion is to be computed in its parts.
    Declined,
    /// The library has no plan for the problem, for this reason.
    NoPlan(Error),
}

/// How many plans `convolution_benchmark` times.
const MAX_TIMED: usize = 8;
/// How many it times of a fusion whose engines are compiled at run time, which takes about a second each.
const MAX_COMPILED: usize = 2;
/// What is known of a problem: by default, that there is no plan. A fusion is computed in its parts then.
#[derive(Default)]
struct Entry {
    /// Plans, best first.
    plans: Vec<Plan>,
    /// Whether the library may propose others. Proposals take memory, so they are dropped as soon as a plan works.
    may_continue: bool,
    /// Why the last proposal that could not be used could not.
    reason: Option<Failed>,
    /// Whether the first plan is in the cache on disk, or is not to be put there.
    is_kept: bool,
}

/// A convolution to queue. Whoever makes one vouches for the addresses: they are those of tensors as the problem
/// describes them, in memory that work queued before has written.
struct Call<'a, const R: usize, const A: usize> {
    problem: &'a Problem<R, A>,
    at: Addresses,
}

/// The plans of a device, for images or for volumes.
pub(crate) struct Dnn<const R: usize, const A: usize> {
    handle: Handle,
    /// Also held during a call: a handle serves one thread at a time.
    entries: Mutex<FxHashMap<Problem<R, A>, Entry>>,
}

impl<const R: usize, const A: usize> Dnn<R, A> {
    /// A handle for the work of `stream`, whose context must be current.
    pub(crate) fn new(
        library: &'static Cudnn,
        stream: &'static Stream,
        memory: &'static DeviceMemory,
        info: &DeviceInfo,
    ) -> Result<Self> {
        Ok(Dnn { handle: Handle::new(library, stream, memory, info)?, entries: Mutex::default() })
    }

    /// The state of the cache on disk, unless it is off.
    pub(crate) fn kept_plans(&self) -> Option<String> {
        self.handle.kept_plans()
    }

    /// Queues a convolution, or reports that the library has none.
    ///
    /// # Safety
    /// The addresses are those of tensors as `problem` describes them, in memory that work queued before has written.
    pub(crate) unsafe fn run(&self, problem: &Problem<R, A>, at: Addresses) -> Result<Outcome<R, A>> {
        let mut entries = self.entries.lock();
        self.handle.prepare()?;
        if entries.len() >= max_plans() && !entries.contains_key(problem) {
            entries.clear();
        }
        let entry = entries.entry(*problem).or_insert_with(|| self.kept(problem));
        let outcome = self.attempt(&Call { problem, at }, entry);
        if outcome.is_err() {
            // The next call begins anew.
            entries.remove(problem);
        }
        outcome
    }

    /// Queues a convolution by a plan that is known, or by one that the library proposes now.
    fn attempt(&self, call: &Call<R, A>, entry: &mut Entry) -> Result<Outcome<R, A>> {
        let problem = call.problem;
        if problem.fusion.is_some() && entry.plans.is_empty() && !entry.may_continue {
            return Ok(Outcome::Declined);
        }
        let mut queued = self.execute(call, entry, None);
        // Timing writes the result, so it is skipped for a result that is added to.
        let is_timed = problem.benchmark && !problem.accumulate;
        let mut parts_are_to_be_timed = false;
        if entry.may_continue && !matches!(queued, Ok(Some(_))) {
            *entry = Entry::default();
            if problem.is_compiled_at_run_time() && !problem.benchmark {
                return Ok(Outcome::Declined);
            }
            let mut candidates = Candidates::new(self.handle.library, self.handle.target(), problem);
            if is_timed {
                self.time_plans(call, entry, &mut candidates)?;
            }
            queued = self.execute(call, entry, Some(&mut candidates));
            entry.may_continue = candidates.may_continue();
            parts_are_to_be_timed = is_timed && problem.fusion.is_some();
        }
        let Some(used) = queued? else { return self.without_plan(problem, entry) };
        // A plan chosen only because memory was short is not kept; that of a fusion is, if its parts are slower (`settle`).
        if !entry.is_kept && used == 0 && !parts_are_to_be_timed {
            self.handle.keep(problem, &entry.plans[0]);
        }
        entry.is_kept |= used == 0 || parts_are_to_be_timed;
        Ok(if parts_are_to_be_timed { Outcome::Timed(*problem) } else { Outcome::Queued })
    }

    /// The outcome where no plan can be used. That is remembered, but for a lack of memory: the next call may find some.
    fn without_plan(&self, problem: &Problem<R, A>, entry: &mut Entry) -> Result<Outcome<R, A>> {
        let class = entry.reason.as_ref().map_or(Failure::Unsupported, Failed::class);
        let reason = self.no_plan(problem, entry.reason.clone());
        entry.may_continue = class == Failure::OutOfMemory;
        if problem.fusion.is_some() {
            if !entry.may_continue {
                let device = self.handle.memory.device_index();
                let what = match problem.fusion {
                    Some(Conv2dFusion::Bias) => "a convolution and its bias",
                    Some(Conv2dFusion::BiasRelu) => "a convolution, its bias and its ReLU",
                    _ => "a convolution and what could be fused to it",
                };
                fallbacks::note(format!("cuda:{device}: {what} by separate calls: {reason}"));
            }
            return Ok(Outcome::Declined);
        }
        if class == Failure::Unsupported { Ok(Outcome::NoPlan(reason)) } else { Err(reason) }
    }

    /// The error without a plan: a failure, or that the library has none, with what it said of the last candidate.
    fn no_plan(&self, problem: &Problem<R, A>, failed: Option<Failed>) -> Error {
        let why = match failed {
            Some(failed) if failed.class() != Failure::Unsupported => {
                return self.handle.error(&format!("{problem:?}"), failed);
            }
            Some(failed) => failed.to_string(),
            None => "its heuristics propose no engine that may be used".into(),
        };
        let reason = format!("cuDNN has no plan for {problem:?}: {why}");
        Error::unsupported(operation_name(problem), format!("cuda:{}", self.handle.memory.device_index()), reason)
    }

    /// Ends the search for a fusion's fastest way: its plan is cached, or dropped if its parts are faster.
    pub(crate) fn settle(&self, problem: &Problem<R, A>, parts_are_faster: bool) {
        let mut entries = self.entries.lock();
        if parts_are_faster {
            entries.insert(*problem, Entry::default());
        } else if let Some(plan) = entries.get(problem).and_then(|entry| entry.plans.first()) {
            self.handle.keep(problem, plan);
        }
    }

    /// What is known of a problem at first: the plan in the cache, of an earlier process or built ahead of time.
    fn kept(&self, problem: &Problem<R, A>) -> Entry {
        let plan = self.handle.kept(problem);
        Entry { is_kept: plan.is_some(), plans: plan.into_iter().collect(), may_continue: true, ..Entry::default() }
    }

    /// Queues the best plan that there is memory for and that the library accepts; returns its index, or `None` if there
    /// is none.
    fn execute(
        &self,
        call: &Call<R, A>,
        entry: &mut Entry,
        mut candidates: Option<&mut Candidates>,
    ) -> Result<Option<usize>> {
        let mut i = 0;
        // The smallest workspace that there was no memory for. Another plan may need less; the next call may find more.
        let mut lacking: Option<(usize, Error)> = None;
        while i < entry.plans.len() || self.make_plan(call, entry, candidates.as_deref_mut())? {
            let plan = &entry.plans[i];
            if lacking.as_ref().is_some_and(|(least, _)| plan.workspace >= *least) {
                i += 1;
                continue;
            }
            let workspace = match self.handle.memory.block(plan.workspace) {
                Ok(workspace) => workspace,
                Err(error) => {
                    lacking = Some((plan.workspace, error));
                    i += 1;
                    continue;
                }
            };
            self.clear_sums(call)?;
            match self.handle.with_room(|| self.queue(call, plan, &workspace)) {
                Ok(()) => return self.handle.stream.queued(operation_name(call.problem)).map(|()| Some(i)),
                Err(failed) => {
                    entry.plans.remove(i);
                    self.note(call, entry, failed)?;
                }
            }
        }
        lacking.map_or(Ok(None), |(_, error)| Err(error))
    }

    /// Queues a plan with its workspace, which may be reused as soon as that is done.
    fn queue(&self, Call { at, .. }: &Call<R, A>, plan: &Plan, workspace: &Block) -> Result<(), Failed> {
        let operands = [(uid::X, at.x), (uid::W, at.w), (uid::Y, at.y), (uid::BIAS, at.bias), (uid::LIKE, at.like)];
        let (mut uids, mut addresses, mut count) = ([0; 5], [ptr::null_mut(); 5], 0);
        for (uid, address) in operands.into_iter().filter(|(_, address)| *address != 0) {
            (uids[count], addresses[count]) = (uid, address as *mut c_void);
            count += 1;
        }
        // SAFETY: who made the call vouches for the addresses, and the workspace is that of this plan.
        unsafe { plan.execute(self.handle.raw(), &uids[..count], &addresses[..count], workspace.address()) }
    }

    /// Clears the channel sums of a fusion: the library's documentation does not say whether it adds to them.
    fn clear_sums(&self, Call { problem, at }: &Call<R, A>) -> Result<()> {
        if !problem.has_channel_sums() {
            return Ok(());
        }
        let bytes = problem.x[1] * problem.sums_dtype().size();
        // SAFETY: who made the call vouches that the sums are there, one for each channel of the input.
        unsafe { self.handle.stream.fill_bytes(at.bias, 0, bytes) }
    }

    /// Records why a plan cannot be used. Failures that no other plan could avoid are returned at once: a broken
    /// installation, or an earlier failure on the stream.
    fn note(&self, call: &Call<R, A>, entry: &mut Entry, failed: Failed) -> Result<()> {
        match failed.class() {
            Failure::Environment => return Err(self.handle.error(&format!("{:?}", call.problem), failed)),
            Failure::Other => self.handle.stream.check_health()?,
            Failure::Unsupported | Failure::OutOfMemory => {}
        }
        entry.reason = Some(failed);
        Ok(())
    }

    /// Makes a plan of the next candidate that may be used; returns `false` if there is none.
    fn make_plan(&self, call: &Call<R, A>, entry: &mut Entry, candidates: Option<&mut Candidates>) -> Result<bool> {
        let Some(candidates) = candidates else { return Ok(false) };
        // One that takes more than the limit is used if there is no other.
        let mut large = None;
        loop {
            let candidate = match self.handle.with_room(|| candidates.next().transpose()) {
                Ok(Some(candidate)) => candidate,
                Ok(None) => break,
                Err(failed) => {
                    self.note(call, entry, failed)?;
                    break;
                }
            };
            // Compilation takes seconds, so it is only for users who asked for a search.
            if candidate.engine.is_compiled_at_run_time() && !call.problem.benchmark {
                continue;
            }
            match self.handle.with_room(|| candidate.plan(self.handle.target())) {
                Ok(plan) if plan.workspace > self.handle.workspace_limit => large = Some(plan),
                Ok(plan) => {
                    entry.plans.push(plan);
                    return Ok(true);
                }
                Err(failed) => self.note(call, entry, failed)?,
            }
        }
        entry.reason = entry.reason.take().or_else(|| candidates.reason.take());
        let found = large.is_some();
        entry.plans.extend(large);
        Ok(found)
    }

    /// Makes plans of the best candidates, and sorts them by the time that they take.
    fn time_plans(&self, call: &Call<R, A>, entry: &mut Entry, candidates: &mut Candidates) -> Result<()> {
        let most = if call.problem.is_compiled_at_run_time() { MAX_COMPILED } else { MAX_TIMED };
        while entry.plans.len() < most && self.make_plan(call, entry, Some(candidates))? {}
        let mut timed = Vec::new();
        for plan in std::mem::take(&mut entry.plans) {
            match self.time(call, &plan)? {
                Ok(time) => timed.push((time, plan)),
                Err(failed) => self.note(call, entry, failed)?,
            }
        }
        timed.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        entry.plans = timed.into_iter().map(|(_, plan)| plan).collect();
        Ok(())
    }

    /// How many milliseconds a plan's second run takes; infinity if there is no memory for it. Both runs write the same,
    /// apart from sums, which the caller computes once more.
    fn time(&self, call: &Call<R, A>, plan: &Plan) -> Result<Result<f32, Failed>> {
        let Ok(workspace) = self.handle.memory.block(plan.workspace) else { return Ok(Ok(f32::INFINITY)) };
        let run = || self.queue(call, plan, &workspace);
        let timer = Timer::new(self.handle.stream)?;
        self.clear_sums(call)?;
        let first = run();
        timer.start()?;
        let second = first.and_then(|()| run());
        let time = timer.stop()?;
        Ok(second.map(|()| time))
    }
}

/// The operation's name, as the user called it.
fn operation_name<const R: usize, const A: usize>(problem: &Problem<R, A>) -> &'static str {
    let names = match (problem.direction, problem.fusion) {
        (Conv2dDirection::Forward, _) => ["conv2d", "conv3d"],
        (Conv2dDirection::GradInput, None) => ["conv2d_grad_input", "conv3d_grad_input"],
        // Nothing of the kind is fused for volumes.
        (Conv2dDirection::GradInput, Some(_)) => ["conv2d_relu_grad_input"; 2],
        (Conv2dDirection::GradWeight, _) => ["conv2d_grad_weight", "conv3d_grad_weight"],
    };
    names[usize::from(A == 3)]
}

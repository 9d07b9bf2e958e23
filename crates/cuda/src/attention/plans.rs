//! Attention by cuDNN on one device: a plan per problem, compiled when the problem is first met.

use std::{ffi::c_void, ptr};

use kiln_backend::{Result, is_capturing};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::{graph::uid, problem::Problem};
use crate::{
    context::DeviceInfo,
    cudnn::{
        handle::Handle,
        plan::{Candidates, Plan},
    },
    fallbacks,
    libs::{Cudnn, Failed, Failure},
    memory::DeviceMemory,
    plan_limit::max_plans,
    stream::Stream,
};

/// The most plans that a process compiles, which takes about half a second each: programs of few shapes have them all, and
/// those of ever new ones do not spend their time with it. Plans that are read from disk do not count.
const MAX_COMPILED: usize = 64;

/// What is known: the plan of each problem, or that there is none; and how many were compiled.
#[derive(Default)]
struct State {
    plans: FxHashMap<Problem, Option<Plan>>,
    compiled: usize,
}

/// A device's plans of attention.
pub(crate) struct AttentionPlans {
    handle: Handle,
    /// Also held during a call: a handle serves one thread at a time.
    state: Mutex<State>,
}

/// Attention to queue. Whoever makes one vouches for the addresses: they are those of tensors as the problem describes them, in
/// memory that work queued before has written.
pub(crate) struct Call<'a> {
    pub(crate) problem: &'a Problem,
    /// The factor of the scores.
    pub(crate) scale: f32,
    /// Unique ids with addresses.
    pub(crate) at: &'a [(i64, u64)],
}

impl AttentionPlans {
    /// A handle for the work of `stream`, whose context must be current.
    pub(crate) fn new(
        library: &'static Cudnn,
        stream: &'static Stream,
        memory: &'static DeviceMemory,
        info: &DeviceInfo,
    ) -> Result<AttentionPlans> {
        Ok(AttentionPlans { handle: Handle::new(library, stream, memory, info)?, state: Mutex::default() })
    }

    /// The state of the cache on disk, unless it is off.
    pub(crate) fn kept_plans(&self) -> Option<String> {
        self.handle.kept_plans()
    }

    /// Queues attention; returns `false` if the library has no plan for it.
    ///
    /// # Safety
    /// As [`Call`] says.
    pub(crate) unsafe fn run(&self, call: &Call) -> Result<bool> {
        let mut state = self.state.lock();
        self.handle.prepare()?;
        let mut is_new = false;
        if !state.plans.contains_key(call.problem) {
            let Some(plan) = self.find(call.problem, &mut state, &mut is_new)? else { return Ok(false) };
            if state.plans.len() >= max_plans() {
                state.plans.clear();
            }
            state.plans.insert(*call.problem, plan);
        }
        let Some(Some(plan)) = state.plans.get(call.problem) else { return Ok(false) };
        let workspace = self.handle.memory.block(plan.workspace)?;
        // SAFETY: who made the call vouches for the addresses, and the workspace is that of this plan.
        match self.handle.with_room(|| unsafe { self.queue(call, plan, workspace.address()) }) {
            Ok(()) => {
                if is_new {
                    self.handle.keep(call.problem, plan);
                }
                self.handle.stream.queued("scaled_dot_product_attention").map(|()| true)
            }
            Err(failed) => {
                state.plans.insert(*call.problem, None);
                self.decline(call.problem, failed).map(|()| false)
            }
        }
    }

    /// The plan of a problem that is met for the first time: of an earlier process, or compiled now, which sets `is_new`. The outer
    /// `None` says that it may be found later.
    fn find(&self, problem: &Problem, state: &mut State, is_new: &mut bool) -> Result<Option<Option<Plan>>> {
        if let Some(plan) = self.handle.kept(problem) {
            return Ok(Some(Some(plan)));
        }
        // The code of a plan cannot be loaded while work is recorded.
        if is_capturing() {
            return Ok(None);
        }
        if state.compiled >= MAX_COMPILED {
            self.note(&format!("{MAX_COMPILED} plans have been compiled, which is the most per process"));
            return Ok(Some(None));
        }
        (state.compiled, *is_new) = (state.compiled + 1, true);
        self.compile(problem).map(Some)
    }

    /// The first of the library's proposals that it can compile.
    fn compile(&self, problem: &Problem) -> Result<Option<Plan>> {
        let Handle { library, .. } = self.handle;
        let mut candidates = Candidates::new(library, self.handle.target(), problem);
        let mut refused = None;
        loop {
            let candidate = match self.handle.with_room(|| candidates.next().transpose()) {
                Ok(Some(candidate)) => candidate,
                Ok(None) => break,
                Err(failed) => return self.decline(problem, failed).map(|()| None),
            };
            match self.handle.with_room(|| candidate.plan(self.handle.target())) {
                Ok(plan) if plan.workspace <= self.handle.workspace_limit => return Ok(Some(plan)),
                Ok(_) => {}
                Err(failed) if failed.class() == Failure::Unsupported => refused = Some(failed),
                Err(failed) => return self.decline(problem, failed).map(|()| None),
            }
        }
        match refused.or(candidates.reason) {
            Some(failed) => self.note(&failed.to_string()),
            None => self.note(&format!("cuDNN proposes no engine for {problem:?}")),
        }
        Ok(None)
    }

    /// Lets attention be composed of products after a call that failed, unless nothing else would work either.
    fn decline(&self, problem: &Problem, failed: Failed) -> Result<()> {
        match failed.class() {
            Failure::OutOfMemory => return Err(self.handle.error(&format!("{problem:?}"), failed)),
            Failure::Other => self.handle.stream.check_health()?,
            Failure::Unsupported | Failure::Environment => {}
        }
        self.note(&failed.to_string());
        Ok(())
    }

    fn note(&self, why: &str) {
        let device = self.handle.memory.device_index();
        fallbacks::note(format!("cuda:{device}: attention composed of products and softmax: {why}"));
    }

    /// Queues a plan with its workspace, which may be reused as soon as that is done.
    ///
    /// # Safety
    /// As [`Call`] says; the workspace is of the plan's size.
    unsafe fn queue(&self, call: &Call, plan: &Plan, workspace: u64) -> Result<(), Failed> {
        let Call { problem, scale, at } = call;
        // The library reads them before the call returns.
        let numbers = [(uid::SCALE, *scale), (uid::HIDDEN, f32::NEG_INFINITY), (uid::ONE, 1.0)];
        let (mut uids, mut addresses) = ([0; MAX_BOUND], [ptr::null_mut(); MAX_BOUND]);
        let mut count = 0;
        let mut bind = |uid: i64, address: *mut c_void| {
            (uids[count], addresses[count]) = (uid, address);
            count += 1;
        };
        at.iter().for_each(|(uid, address)| bind(*uid, *address as *mut c_void));
        for (uid, number) in numbers.iter().filter(|(uid, _)| problem.has(*uid)) {
            bind(*uid, ptr::from_ref(number).cast_mut().cast());
        }
        // SAFETY: by this function's contract; the numbers live until the call returns.
        unsafe { plan.execute(self.handle.raw(), &uids[..count], &addresses[..count], workspace) }
    }
}

/// The most tensors with an address in a graph.
const MAX_BOUND: usize = uid::ONE as usize;

//! cuDNN's plans for a computation: the heuristics' proposals, which of them may be used, and how they are executed.

use std::{collections::VecDeque, ffi::c_void, fmt};

use cudarc::cudnn::sys::{
    cudnnBackendAttributeName_t::{self as Name, *},
    cudnnBackendBehaviorNote_t::CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION,
    cudnnBackendDescriptorType_t::*,
    cudnnBackendHeurMode_t::{self, CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK},
    cudnnBackendNumericalNote_t::{self, *},
    cudnnHandle_t,
};

use super::descriptor::{BehaviorNote, Descriptor, NumericalNote, Raw, Value};
use crate::libs::{Cudnn, Failed, Failure};

/// What the library is asked to compute. Its `Debug` text is the key of a plan on disk.
pub(crate) trait Computation: fmt::Debug {
    /// The operation graph for the device of `handle`, or without a handle for a described device.
    fn graph(&self, library: &'static Cudnn, handle: Option<cudnnHandle_t>) -> Result<Descriptor, Failed>;

    /// Whether an engine's results have the precision and determinism that are required.
    fn fits(&self, engine: &Engine) -> bool;
}

/// The device that plans are made for.
#[derive(Clone, Copy)]
pub(crate) enum Target<'a> {
    /// The device of a handle.
    Handle(cudnnHandle_t),
    /// A described device (`CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR`), which need not exist.
    Described(&'a Descriptor),
}

/// An engine as the library describes it: its index among those of the graph, and its notes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Engine {
    index: i64,
    numerical: Vec<NumericalNote>,
    behavior: Vec<BehaviorNote>,
}

/// More notes than any engine has.
const MAX_NOTES: usize = 32;

impl Engine {
    fn of(config: &Descriptor) -> Result<Engine, Failed> {
        let engine = config.descriptor(CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_BACKEND_ENGINE_DESCRIPTOR)?;
        Ok(Engine {
            index: engine.number(CUDNN_ATTR_ENGINE_GLOBAL_INDEX)?,
            numerical: engine.get(CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, MAX_NOTES)?,
            behavior: engine.get(CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE, MAX_NOTES)?,
        })
    }

    pub(crate) fn is(&self, note: cudnnBackendNumericalNote_t) -> bool {
        self.numerical.contains(&NumericalNote(note as u32))
    }

    /// Whether it is compiled when its plan is finalized, which takes up to seconds.
    pub(crate) fn is_compiled_at_run_time(&self) -> bool {
        self.behavior.contains(&BehaviorNote(CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION as u32))
    }
}

impl fmt::Display for Engine {
    /// `eng3`, and its notes as capital letters: `T`ensor cores, `D`own-converted inputs, sums of `R`educed precision,
    /// `F`FT, `N`ondeterministic, `W`inograd, `C`ompiled at run time.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "eng{}", self.index)?;
        let letters = self.numerical.iter().filter_map(|note| "TDRFNW".chars().nth(note.0 as usize));
        let compiled = self.is_compiled_at_run_time().then_some('C');
        letters.chain(compiled).try_for_each(|letter| write!(f, " {letter}"))
    }
}

/// An engine with its settings, as a heuristic proposes it.
pub(crate) struct Candidate {
    config: Descriptor,
    pub(crate) engine: Engine,
}

/// The heuristics' proposals that fit a computation, best first: those of heuristic A, among which engines that accumulate
/// in reduced precision come last, and then the fallback engines, which support almost every problem. A heuristic is
/// asked when its proposals are needed.
pub(crate) struct Candidates<'a> {
    library: &'static Cudnn,
    target: Target<'a>,
    problem: &'a dyn Computation,
    /// The heuristics that have not been asked yet.
    modes: &'static [cudnnBackendHeurMode_t],
    list: VecDeque<Candidate>,
    /// Why there is nothing, or nothing more, in the library's words.
    pub(crate) reason: Option<Failed>,
}

impl<'a> Candidates<'a> {
    pub(crate) fn new(library: &'static Cudnn, target: Target<'a>, problem: &'a dyn Computation) -> Candidates<'a> {
        let modes = &[CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK];
        Candidates { library, target, problem, modes, list: VecDeque::new(), reason: None }
    }

    /// Whether there may be more.
    pub(crate) fn may_continue(&self) -> bool {
        !(self.list.is_empty() && self.modes.is_empty())
    }

    fn proposals(&self, mode: cudnnBackendHeurMode_t) -> Result<Vec<Candidate>, Failed> {
        let Candidates { library, target, problem, .. } = *self;
        let heuristic = Descriptor::new(library, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)?;
        let (handle, heuristic) = match target {
            Target::Handle(handle) => (Some(handle), heuristic),
            Target::Described(device) => (None, heuristic.set(CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, &[device.raw()])?),
        };
        let graph = problem.graph(library, handle)?;
        let heuristic = heuristic
            .set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, &[graph.raw()])?
            .set(CUDNN_ATTR_ENGINEHEUR_MODE, &[mode])?
            .finalize()?;
        let most = heuristic.count::<Raw>(CUDNN_ATTR_ENGINEHEUR_RESULTS)?;
        let configs = heuristic.descriptors(CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, most)?;
        let with_engine = |config: Descriptor| Ok(Candidate { engine: Engine::of(&config)?, config });
        let mut list = configs.into_iter().map(with_engine).collect::<Result<Vec<_>, _>>()?;
        list.retain(|candidate| problem.fits(&candidate.engine));
        list.sort_by_key(|candidate| candidate.engine.is(CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION));
        Ok(list)
    }
}

impl Iterator for Candidates<'_> {
    /// An error if the installation does not work. If the library merely has nothing for the problem, there is nothing.
    type Item = Result<Candidate, Failed>;

    fn next(&mut self) -> Option<Result<Candidate, Failed>> {
        while let (true, [mode, later @ ..]) = (self.list.is_empty(), self.modes) {
            match self.proposals(*mode) {
                Ok(list) => self.list.extend(list),
                Err(failed) if failed.class() == Failure::Unsupported => self.reason = Some(failed),
                Err(failed) => return Some(Err(failed)),
            }
            self.modes = later;
        }
        self.list.pop_front().map(Ok)
    }
}

/// A candidate that is ready to be executed.
pub(crate) struct Plan {
    desc: Descriptor,
    pub(crate) engine: Engine,
    /// Bytes of workspace that it needs.
    pub(crate) workspace: usize,
}

impl Candidate {
    pub(crate) fn plan(&self, target: Target) -> Result<Plan, Failed> {
        Plan::new(self.config.library, target, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, &[self.config.raw()])
    }
}

impl Plan {
    /// A plan by its configuration or by its text.
    fn new<T: Value>(library: &'static Cudnn, target: Target, name: Name, values: &[T]) -> Result<Plan, Failed> {
        let desc = Descriptor::new(library, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)?;
        let desc = match target {
            Target::Handle(handle) => desc.set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, &[handle])?,
            Target::Described(device) => desc.set(CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, &[device.raw()])?,
        };
        let desc = desc.set(name, values)?.finalize()?;
        let config = desc.descriptor(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR)?;
        let workspace = usize::try_from(desc.number(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE)?).unwrap_or(usize::MAX);
        Ok(Plan { desc, engine: Engine::of(&config)?, workspace })
    }

    /// Restores a plan from its text, which is not trusted.
    ///
    /// # Errors
    /// If the library does not accept it, e.g. because it is of another version or device, or `problem` may not use its
    /// engine.
    pub(crate) fn from_text(
        library: &'static Cudnn,
        target: Target,
        problem: &dyn Computation,
        text: &[u8],
    ) -> Result<Plan, String> {
        let plan = Plan::new(library, target, CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION, text);
        let plan = plan.map_err(|failed| failed.to_string())?;
        if problem.fits(&plan.engine) { Ok(plan) } else { Err(format!("{} rounds or adds otherwise", plan.engine)) }
    }

    /// The library's text of it, from which it can be restored.
    pub(crate) fn text(&self) -> Result<Vec<u8>, Failed> {
        self.desc.text(CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION)
    }

    /// Queues the plan on the handle's stream, for tensors of these unique ids at these addresses.
    ///
    /// # Safety
    /// The addresses are those of tensors as the graph describes them, and `workspace` is that of as many bytes as the
    /// plan needs, all in memory that work queued before has written.
    pub(crate) unsafe fn execute(
        &self,
        handle: cudnnHandle_t,
        uids: &[i64],
        addresses: &[*mut c_void],
        workspace: u64,
    ) -> Result<(), Failed> {
        let library = self.desc.library;
        let pack = Descriptor::new(library, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)?
            .set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, uids)?
            .set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, addresses)?
            .set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, &[workspace as *mut c_void])?
            .finalize()?;
        // SAFETY: finalized descriptors; the caller vouches for the addresses.
        let code = unsafe { (library.execute)(handle, self.desc.raw().0, pack.raw().0) };
        library.check("cudnnBackendExecute", code)
    }
}

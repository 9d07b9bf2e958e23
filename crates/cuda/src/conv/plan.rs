//! cuDNN's plans for a problem: the heuristics' proposals, which of them may be used, and how they are executed.

use std::{ffi::c_void, fmt};

use cudarc::cudnn::sys::cudnnHandle_t;
use kiln_backend::DType;

use super::{
    descriptor::{BehaviorNote, Descriptor, Failed, HeuristicMode, Kind, NumericalNote, attribute, check},
    graph::operation_graph,
    problem::Problem,
};
use crate::libs::{Cudnn, Failure};

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
    pub(crate) index: i64,
    pub(crate) numerical: Vec<NumericalNote>,
    pub(crate) behavior: Vec<BehaviorNote>,
}

/// The library returned nothing where there must be a result.
const NO_ENGINE: Failed = Failed { call: "cudnnBackendGetAttribute", code: 4000, said: String::new() };

/// More notes than any engine has.
const MAX_NOTES: usize = 32;

impl Engine {
    fn of(config: &Descriptor) -> Result<Engine, Failed> {
        let engines = config.descriptors(attribute::ENGINE_CONFIG_ENGINE, Kind::Engine, 1)?;
        let engine = engines.first().ok_or(NO_ENGINE)?;
        let (mut numerical, mut behavior) = ([NumericalNote(0); MAX_NOTES], [BehaviorNote(0); MAX_NOTES]);
        Ok(Engine {
            index: engine.number(attribute::ENGINE_GLOBAL_INDEX)?,
            numerical: engine.get(attribute::ENGINE_NUMERICAL_NOTE, &mut numerical)?.to_vec(),
            behavior: engine.get(attribute::ENGINE_BEHAVIOR_NOTE, &mut behavior)?.to_vec(),
        })
    }

    fn is(&self, note: NumericalNote) -> bool {
        self.numerical.contains(&note)
    }

    /// Whether it is compiled when its plan is finalized, which takes up to seconds.
    pub(crate) fn is_compiled_at_run_time(&self) -> bool {
        self.behavior.contains(&BehaviorNote::RUNTIME_COMPILATION)
    }

    /// Whether its results have the precision and determinism that `problem` requires.
    pub(crate) fn fits(&self, problem: &Problem) -> bool {
        // Tensor cores round factors of `f32` to TensorFloat-32, and some engines round them to half precision.
        let keeps_factors = problem.dtype != DType::F32
            || !self.is(NumericalNote::DOWN_CONVERT_INPUTS) && (problem.tf32 || !self.is(NumericalNote::TENSOR_CORE));
        keeps_factors && !(problem.deterministic && self.is(NumericalNote::NONDETERMINISTIC))
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

/// The heuristics' proposals that fit a problem, best first.
pub(crate) struct Candidates {
    pub(crate) list: Vec<Candidate>,
    /// Why there is nothing, or nothing more, in the library's words.
    pub(crate) reason: Option<Failed>,
}

/// Asks heuristic A, and then for the fallback engines, which support almost every problem. Among A's proposals,
/// engines that accumulate in reduced precision come last.
///
/// # Errors
/// If the installation does not work. If the library merely has nothing for the problem, the list is empty.
pub(crate) fn candidates(library: &'static Cudnn, target: Target, problem: &Problem) -> Result<Candidates, Failed> {
    let mut found = Candidates { list: Vec::new(), reason: None };
    let handle = match target {
        Target::Handle(handle) => Some(handle),
        Target::Described(_) => None,
    };
    let graph = match operation_graph(library, handle, problem) {
        Ok(graph) => graph,
        Err(failed) => return declined(found, failed),
    };
    for mode in [HeuristicMode::A, HeuristicMode::FALLBACK] {
        match proposals(library, target, &graph, mode) {
            Ok(mut list) => {
                list.retain(|candidate| candidate.engine.fits(problem));
                list.sort_by_key(|candidate| candidate.engine.is(NumericalNote::REDUCED_PRECISION_REDUCTION));
                found.list.extend(list);
            }
            Err(failed) => found = declined(found, failed)?,
        }
    }
    Ok(found)
}

fn declined(mut found: Candidates, failed: Failed) -> Result<Candidates, Failed> {
    if Failure::of(failed.code) != Failure::Unsupported {
        return Err(failed);
    }
    found.reason = Some(failed);
    Ok(found)
}

fn proposals(
    library: &'static Cudnn,
    target: Target,
    graph: &Descriptor,
    mode: HeuristicMode,
) -> Result<Vec<Candidate>, Failed> {
    let mut heuristic = Descriptor::new(library, Kind::Heuristic)?
        .set_descriptors(attribute::HEURISTIC_OPERATION_GRAPH, &[graph])?
        .set(attribute::HEURISTIC_MODE, &[mode])?;
    if let Target::Described(device) = target {
        heuristic = heuristic.set_descriptors(attribute::HEURISTIC_DEVICE_PROPERTIES, &[device])?;
    }
    let heuristic = heuristic.finalize()?;
    let most = heuristic.count(attribute::HEURISTIC_RESULTS)?;
    let configs = heuristic.descriptors(attribute::HEURISTIC_RESULTS, Kind::EngineConfig, most)?;
    let with_engine = |config: Descriptor| Ok(Candidate { engine: Engine::of(&config)?, config });
    configs.into_iter().map(with_engine).collect()
}

/// A candidate that is ready to be executed.
pub(crate) struct Plan {
    desc: Descriptor,
    pub(crate) engine: Engine,
    /// Bytes of workspace that it needs.
    pub(crate) workspace: usize,
}

impl Candidate {
    pub(crate) fn plan(&self, library: &'static Cudnn, target: Target) -> Result<Plan, Failed> {
        let plan =
            Plan::unfinished(library, target)?.set_descriptors(attribute::PLAN_ENGINE_CONFIG, &[&self.config])?;
        Plan::finished(plan, self.engine.clone())
    }
}

impl Plan {
    fn unfinished(library: &'static Cudnn, target: Target) -> Result<Descriptor, Failed> {
        let plan = Descriptor::new(library, Kind::Plan)?;
        match target {
            Target::Handle(handle) => plan.set(attribute::PLAN_HANDLE, &[handle]),
            Target::Described(device) => plan.set_descriptors(attribute::PLAN_DEVICE_PROPERTIES, &[device]),
        }
    }

    fn finished(desc: Descriptor, engine: impl Into<Option<Engine>>) -> Result<Plan, Failed> {
        let desc = desc.finalize()?;
        let engine = match engine.into() {
            Some(engine) => engine,
            None => {
                let configs = desc.descriptors(attribute::PLAN_ENGINE_CONFIG, Kind::EngineConfig, 1)?;
                Engine::of(configs.first().ok_or(NO_ENGINE)?)?
            }
        };
        let workspace = usize::try_from(desc.number(attribute::PLAN_WORKSPACE_SIZE)?).unwrap_or(usize::MAX);
        Ok(Plan { desc, engine, workspace })
    }

    /// Restores a plan from its text, which is not trusted.
    ///
    /// # Errors
    /// If the library does not accept it, e.g. because it is of another version or device, or `problem` may not use its engine.
    pub(crate) fn from_text(
        library: &'static Cudnn,
        target: Target,
        problem: &Problem,
        text: &[u8],
    ) -> Result<Plan, String> {
        let plan = Plan::unfinished(library, target)
            .and_then(|plan| plan.set(attribute::PLAN_JSON, text))
            .and_then(|plan| Plan::finished(plan, None))
            .map_err(|failed| failed.to_string())?;
        if plan.engine.fits(problem) { Ok(plan) } else { Err(format!("{} rounds or adds otherwise", plan.engine)) }
    }

    /// The library's text of it, from which it can be restored.
    pub(crate) fn text(&self) -> Result<Vec<u8>, Failed> {
        self.desc.text(attribute::PLAN_JSON)
    }

    /// Queues the plan on the handle's stream, for tensors of these unique ids at these addresses.
    ///
    /// # Safety
    /// The addresses are those of tensors as the graph describes them, and `workspace` is that of as many bytes as the
    /// plan needs, all in memory that work queued before has written.
    pub(crate) unsafe fn execute(
        &self,
        library: &'static Cudnn,
        handle: cudnnHandle_t,
        uids: &[i64],
        addresses: &[*mut c_void],
        workspace: u64,
    ) -> Result<(), Failed> {
        let pack = Descriptor::new(library, Kind::VariantPack)?
            .set(attribute::PACK_UNIQUE_IDS, uids)?
            .set(attribute::PACK_DATA_POINTERS, addresses)?
            .set(attribute::PACK_WORKSPACE, &[workspace as *mut c_void])?
            .finalize()?;
        // SAFETY: finalized descriptors; the caller vouches for the addresses.
        let code = unsafe { (library.execute)(handle, self.desc.raw(), pack.raw()) };
        check(library, "cudnnBackendExecute", code)
    }
}

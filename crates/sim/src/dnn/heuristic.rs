//! The engines of each direction: the problems that each takes, its workspace, and its notes. They differ in what a
//! program has to respect, not in what they compute.
use super::direction::Direction;
use super::problem::Problem;
use super::status::DnnStatus;
use crate::blas::problem::{Data, Rounding};
use crate::profile::{Faults, Refused};

/// How an engine computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    /// A GEMM whose factors are gathered from the image as needed.
    ImplicitGemm,
    /// The same, with a table of their offsets in the workspace.
    ImplicitPrecompGemm,
    /// A GEMM of an im2col matrix in the workspace.
    Gemm,
    Fft,
    WinogradNonfused,
}

/// An engine of a graph: its index, its method, and its notes.
#[derive(Clone, Debug)]
pub struct Engine {
    pub index: u32,
    method: Method,
    pub numerical: Vec<i64>,
    pub behavior: Vec<i64>,
}

/// `CUDNN_NUMERICAL_NOTE_TENSOR_CORE` and so on.
const TENSOR_CORE: i64 = 0;
const DOWN_CONVERT_INPUTS: i64 = 1;
const REDUCED_PRECISION_REDUCTION: i64 = 2;
const FFT: i64 = 3;
const NONDETERMINISTIC: i64 = 4;
const WINOGRAD: i64 = 5;
/// `CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION`
const RUNTIME_COMPILATION: i64 = 0;

/// `CUDNN_HEUR_MODE_FALLBACK`
const FALLBACK: i64 = 2;
/// Number of engines of a graph.
pub const ENGINES: i64 = 12;

impl Engine {
    /// All engines that take the problem, best first.
    pub fn all(problem: &Problem, arch: u32) -> Vec<Engine> {
        use Method::*;
        let half = matches!(problem.data, Data::F16 | Data::Bf16);
        let cores = half || problem.data == Data::F32 && arch >= 80;
        let atomic = half.then_some(REDUCED_PRECISION_REDUCTION).into_iter().chain([NONDETERMINISTIC]).collect();
        let backward = problem.direction != Direction::Forward;
        let mut rows: Vec<(u32, Method, Vec<i64>, Vec<i64>)> = Vec::new();
        if problem.is_compiled() {
            rows.push((11, ImplicitPrecompGemm, vec![TENSOR_CORE], vec![RUNTIME_COMPILATION]));
            rows.push((6, ImplicitGemm, vec![TENSOR_CORE], vec![RUNTIME_COMPILATION]));
        } else {
            if cores {
                rows.push((8, ImplicitPrecompGemm, vec![TENSOR_CORE], vec![]));
            }
            if backward {
                rows.push((2, ImplicitGemm, atomic, vec![]));
            }
            rows.push((1, ImplicitPrecompGemm, vec![], vec![]));
            if problem.steps.is_empty() {
                rows.push((7, WinogradNonfused, vec![WINOGRAD], vec![]));
                rows.push((3, Gemm, vec![], vec![]));
                rows.push((4, Fft, vec![FFT], vec![]));
            }
            if problem.data == Data::F32 {
                rows.push((9, ImplicitGemm, vec![TENSOR_CORE, DOWN_CONVERT_INPUTS], vec![]));
            }
            rows.push((0, ImplicitGemm, vec![], vec![]));
            rows.push((10, ImplicitGemm, vec![], vec![RUNTIME_COMPILATION]));
        }
        let engines =
            rows.into_iter().map(|(index, method, numerical, behavior)| Engine { index, method, numerical, behavior });
        engines.filter(|engine| engine.method.supports(problem)).collect()
    }

    /// The heuristic's proposals: by mode, the fast engines, or those that take almost every problem.
    pub fn proposed(problem: &Problem, arch: u32, mode: i64) -> Vec<Engine> {
        let mut all = Engine::all(problem, arch);
        let everywhere = |engine: &Engine| matches!(engine.index, 0 | 1 | 10);
        all.retain(|engine| (mode == FALLBACK) == everywhere(engine) || engine.index == 1);
        all
    }

    /// Bytes of workspace.
    pub fn workspace(&self, problem: &Problem) -> usize {
        self.method.workspace(problem)
    }

    /// How it rounds factors.
    pub fn rounding(&self, problem: &Problem) -> Rounding {
        match problem.data {
            Data::F32 if self.numerical.contains(&DOWN_CONVERT_INPUTS) => Rounding::F16,
            Data::F32 if self.numerical.contains(&TENSOR_CORE) => Rounding::Tf32,
            _ => Rounding::None,
        }
    }

    pub fn is_deterministic(&self) -> bool {
        !self.numerical.contains(&NONDETERMINISTIC)
    }
}

impl Method {
    fn supports(self, problem: &Problem) -> bool {
        let plain = problem.groups == 1 && problem.dilation == [1, 1] && !problem.channels_last();
        let filter = [problem.w.dims[2], problem.w.dims[3]];
        let single = matches!(problem.data, Data::F32 | Data::F16);
        let close = problem.stride == [1, 1] && single && plain && !problem.mirrored;
        let inside = (0..2).all(|axis| problem.padding[axis] < filter[axis]);
        match self {
            Method::ImplicitGemm | Method::ImplicitPrecompGemm => true,
            Method::Gemm => plain,
            Method::Fft => {
                close && inside && (0..2).all(|axis| problem.x.dims[2 + axis] + problem.padding[axis] <= 256)
            }
            Method::WinogradNonfused => close && (filter == [3, 3] || filter == [5, 5]),
        }
    }

    fn workspace(self, problem: &Problem) -> usize {
        let [n, _, h, w] = problem.y.dims;
        let images = problem.x.count() + problem.y.count();
        match self {
            Method::ImplicitGemm => 0,
            Method::ImplicitPrecompGemm => (16 * problem.depth()).next_multiple_of(512),
            Method::Gemm => problem.depth() * problem.groups * h * w * problem.data.bytes(),
            Method::Fft => 8 * (images + 4 * problem.w.count()),
            Method::WinogradNonfused => 64 * problem.w.dims[0] * problem.w.dims[1] + 4 * n.min(8) * images / n,
        }
    }
}

/// The status that the simulator was asked to return for a call: `create`, `heuristic`, `plan`, or a direction, whose
/// engines are numbered.
pub fn refused(faults: &Faults, call: &str, engine: u32) -> Option<DnnStatus> {
    Refused::find(&faults.no_convolutions, call, engine, DnnStatus::NOT_SUPPORTED.0).map(DnnStatus)
}

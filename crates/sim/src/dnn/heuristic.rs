//! The engines of each direction: the problems that each takes, its workspace, and its notes. They differ in what a
//! program has to respect, not in what they compute.
use super::attention::problem::{Attention, Pass};
use super::attributes::Record;
use super::operation::Direction;
use super::problem::Problem;
use crate::blas::problem::{Data, Rounding};

/// What an engine needs of memory, and of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    /// A GEMM whose factors are gathered from the image as needed.
    ImplicitGemm,
    /// The same, with a table of their offsets in the workspace.
    ImplicitPrecompGemm,
    /// A GEMM of an im2col matrix in the workspace.
    Gemm,
    /// FFT or Winograd: images and filters are transformed in the workspace, and problems are few.
    Transform,
    /// Attention without a matrix of scores in memory.
    Attention,
}

/// An engine of a graph: its index, its method, and its notes.
#[derive(Clone, Debug)]
pub struct Engine {
    pub index: u32,
    method: Method,
    numerical: &'static [i64],
    behavior: &'static [i64],
}

/// `CUDNN_NUMERICAL_NOTE_TENSOR_CORE` and so on.
const TENSOR_CORE: i64 = 0;
const DOWN_CONVERT_INPUTS: i64 = 1;
const REDUCED_PRECISION_REDUCTION: i64 = 2;
const FFT: i64 = 3;
const NONDETERMINISTIC: i64 = 4;
const WINOGRAD: i64 = 5;
/// `CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION`, `CUDNN_BEHAVIOR_NOTE_SUPPORTS_CUDA_GRAPH_NATIVE_API`
const RUNTIME_COMPILATION: i64 = 0;
const CUDA_GRAPHS: i64 = 3;

/// `CUDNN_HEUR_MODE_FALLBACK`
pub const FALLBACK: i64 = 2;
/// Number of engines of a graph.
pub const ENGINES: i64 = 12;

impl Engine {
    /// All engines that take the problem, best first.
    pub fn all(problem: &Problem, arch: u32) -> Vec<Engine> {
        use Method::*;
        let half = matches!(problem.data, Data::F16 | Data::Bf16);
        let (single, compiled) = (problem.data == Data::F32, problem.is_compiled());
        let (plain, alone) = (!compiled, problem.steps.is_empty());
        let atomic: &[i64] = if half { &[REDUCED_PRECISION_REDUCTION, NONDETERMINISTIC] } else { &[NONDETERMINISTIC] };
        // Whether there is such an engine, its index, its method, its numerical notes and its behavior notes.
        type Row = (bool, u32, Method, &'static [i64], &'static [i64]);
        let rows: [Row; 11] = [
            (compiled, 11, ImplicitPrecompGemm, &[TENSOR_CORE], &[RUNTIME_COMPILATION]),
            (compiled, 6, ImplicitGemm, &[TENSOR_CORE], &[RUNTIME_COMPILATION]),
            (plain && (half || single && arch >= 80), 8, ImplicitPrecompGemm, &[TENSOR_CORE], &[]),
            (plain && problem.direction != Direction::Forward, 2, ImplicitGemm, atomic, &[]),
            (plain, 1, ImplicitPrecompGemm, &[], &[]),
            (alone, 7, Transform, &[WINOGRAD], &[]),
            (alone, 3, Gemm, &[], &[]),
            (alone, 4, Transform, &[FFT], &[]),
            (plain && single, 9, ImplicitGemm, &[TENSOR_CORE, DOWN_CONVERT_INPUTS], &[]),
            (plain, 0, ImplicitGemm, &[], &[]),
            (plain, 10, ImplicitGemm, &[], &[RUNTIME_COMPILATION]),
        ];
        let there = rows.into_iter().filter(|(there, _, method, ..)| *there && method.supports(problem));
        let engine = |(_, index, method, numerical, behavior)| Engine { index, method, numerical, behavior };
        there.map(engine).collect()
    }

    /// The heuristic's proposals: by mode, the fast engines, or those that take almost every problem.
    pub fn proposed(problem: &Problem, arch: u32, mode: i64) -> Vec<Engine> {
        let mut all = Engine::all(problem, arch);
        let everywhere = |engine: &Engine| matches!(engine.index, 0 | 1 | 10);
        all.retain(|engine| (mode == FALLBACK) == everywhere(engine) || engine.index == 1);
        all
    }

    /// The engines of attention, best first. All are compiled at run time; that the gradient of the queries is added in any order
    /// is not among the notes of the real ones.
    pub fn of_attention(problem: &Attention) -> Vec<Engine> {
        let indices = match problem.pass {
            Pass::Forward => [2, 1],
            Pass::Backward => [6, 7],
        };
        let [numerical, behavior]: [&[i64]; 2] = [&[TENSOR_CORE], &[RUNTIME_COMPILATION, CUDA_GRAPHS]];
        indices.map(|index| Engine { index, method: Method::Attention, numerical, behavior }).into()
    }

    /// Sets the notes of an engine descriptor.
    pub fn describe(&self, engine: &mut Record) {
        engine.put(1303, self.numerical.to_vec());
        engine.put(1305, self.behavior.to_vec());
    }

    /// Bytes of workspace.
    pub fn workspace(&self, problem: &Problem) -> usize {
        let [x, w, y] = problem.images();
        match self.method {
            Method::ImplicitGemm | Method::Attention => 0,
            Method::ImplicitPrecompGemm => (16 * problem.depth()).next_multiple_of(512),
            Method::Gemm => {
                problem.depth() * problem.groups * y.dims[2..].iter().product::<usize>() * problem.data.bytes()
            }
            Method::Transform => 8 * (x.count() + y.count() + 4 * w.count()),
        }
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
        let plain = problem.groups == 1 && problem.dilation == [1; 3] && !problem.channels_last();
        let single = matches!(problem.data, Data::F32 | Data::F16) && !problem.mirrored;
        let [.., height, width] = problem.images()[1].dims;
        match self {
            Method::ImplicitGemm | Method::ImplicitPrecompGemm => true,
            Method::Gemm => plain,
            Method::Attention => false,
            Method::Transform => {
                plain && single && !problem.volumes && problem.stride == [1; 3] && height == width && height <= 5
            }
        }
    }
}

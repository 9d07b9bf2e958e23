//! The algorithms of each direction: which problems each supports, the workspace that it needs, and whether its result is
//! the same each time. What a program has to respect differs between them; what they compute does not.
use super::DnnStatus;
use super::problem::{Direction, Problem};
use crate::blas::problem::{Data, Rounding};
use crate::profile::{Faults, Refused};

/// A `cudnnConvolutionFwdAlgoPerf_t`, or that of another direction.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Choice {
    /// The algorithm's number in its direction.
    pub algorithm: u32,
    /// A `cudnnStatus_t`: whether it takes the problem.
    pub status: u32,
    /// Milliseconds; -1 from a heuristic.
    pub time: f32,
    /// Bytes of the workspace that it needs.
    pub memory: usize,
    /// 1 if the result is the same each time.
    pub determinism: u32,
    /// The math type that it uses.
    pub math: i32,
    reserved: [i32; 3],
}

/// How an algorithm computes, in the words of cuDNN's enums. It decides which problems the algorithm supports.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Method {
    /// A GEMM whose factors are gathered from the image as they are needed.
    ImplicitGemm,
    /// The same, with a table of their offsets in the workspace.
    ImplicitPrecompGemm,
    /// A GEMM of an im2col matrix in the workspace.
    Gemm,
    Fft,
    FftTiling,
    Winograd,
    /// Winograd's transforms as kernels of their own.
    WinogradNonfused,
    /// A number of the enum that the library never supports.
    Unsupported,
}

/// An algorithm: its number, its method, whether it adds with atomics.
type Row = (u32, Method, bool);

/// As the library's enums number them, in the order in which they are offered.
fn rows(direction: Direction) -> &'static [Row] {
    use Method::*;
    match direction {
        Direction::Forward => &[
            (1, ImplicitPrecompGemm, false),
            (7, WinogradNonfused, false),
            (6, Winograd, false),
            (0, ImplicitGemm, false),
            (2, Gemm, false),
            (5, FftTiling, false),
            (4, Fft, false),
            (3, Unsupported, false),
        ],
        Direction::Data => &[
            (0, ImplicitGemm, true),
            (1, ImplicitPrecompGemm, false),
            (5, WinogradNonfused, false),
            (4, Winograd, false),
            (3, FftTiling, false),
            (2, Fft, false),
        ],
        Direction::Filter => &[
            (0, ImplicitGemm, true),
            (1, ImplicitPrecompGemm, false),
            (3, ImplicitPrecompGemm, true),
            (5, WinogradNonfused, false),
            (6, FftTiling, false),
            (2, Fft, false),
            (4, Unsupported, false),
        ],
    }
}

impl Method {
    /// Whether it supports the problem, by the tables in the library's documentation.
    fn supports(self, problem: &Problem, arch: u32) -> bool {
        let plain = problem.groups == 1 && problem.dilation == [1, 1] && !problem.channels_last();
        let filter = [problem.w.dims[2], problem.w.dims[3]];
        let single = matches!(problem.data, Data::F32 | Data::F16);
        let close = problem.stride == [1, 1] && single && plain && !problem.mirrored;
        // Factors of f64 with the channels last are in none of the tables.
        let known = problem.data != Data::F64 || !problem.channels_last();
        let inside = (0..2).all(|axis| problem.padding[axis] < filter[axis]);
        match self {
            Method::ImplicitGemm | Method::ImplicitPrecompGemm => known,
            Method::Gemm => plain,
            Method::Fft => {
                close && inside && (0..2).all(|axis| problem.x.dims[2 + axis] + problem.padding[axis] <= 256)
            }
            Method::FftTiling => close && inside && filter.iter().all(|&taps| taps <= 32) && filter != [1, 1],
            Method::Winograd => close && filter == [3, 3] && arch < 90,
            Method::WinogradNonfused => close && (filter == [3, 3] || filter == [5, 5]),
            Method::Unsupported => false,
        }
    }

    /// Bytes of the workspace that it needs.
    fn workspace(self, problem: &Problem) -> usize {
        let [n, _, h, w] = problem.y.dims;
        let images = problem.x.count() + problem.y.count();
        match self {
            Method::ImplicitGemm | Method::Unsupported => 0,
            Method::ImplicitPrecompGemm => (16 * problem.depth()).next_multiple_of(512),
            Method::Gemm => problem.depth() * problem.groups * h * w * problem.data.bytes(),
            Method::Fft => 8 * (images + 4 * problem.w.count()),
            Method::FftTiling => 4 * (images + 4 * problem.w.count()),
            Method::Winograd => 64 * problem.w.dims[0] * problem.w.dims[1],
            Method::WinogradNonfused => 64 * problem.w.dims[0] * problem.w.dims[1] + 4 * n.min(8) * images / n,
        }
    }

    /// The math type that it uses when it may use that of the problem.
    fn math(self, problem: &Problem) -> i32 {
        match (self, problem.data, problem.rounding) {
            (Method::ImplicitGemm | Method::ImplicitPrecompGemm, _, Rounding::Tf32 | Rounding::F16) => problem.math,
            (Method::ImplicitPrecompGemm | Method::WinogradNonfused, Data::F16 | Data::Bf16, _)
                if problem.math != 3 =>
            {
                1
            }
            (_, Data::F32 | Data::F64, _) => 3,
            _ => {
                if problem.math == 3 {
                    3
                } else {
                    0
                }
            }
        }
    }
}

/// The workspace that an algorithm needs, and whether it is deterministic.
#[derive(Clone, Copy, Debug)]
pub struct Requirements {
    pub memory: usize,
    pub deterministic: bool,
}

/// The requirements of an algorithm for a problem. `None` if there is no algorithm of this number, `Some(None)` if it does
/// not support the problem.
pub fn requirements(problem: &Problem, algorithm: u32, arch: u32) -> Option<Option<Requirements>> {
    let (_, method, atomic) = rows(problem.direction).iter().find(|(number, ..)| *number == algorithm)?;
    Some(
        method
            .supports(problem, arch)
            .then(|| Requirements { memory: method.workspace(problem), deterministic: !atomic }),
    )
}

/// Every algorithm of the direction, those that support the problem first.
pub fn choices(problem: &Problem, arch: u32) -> Vec<Choice> {
    let mut all: Vec<Choice> = rows(problem.direction)
        .iter()
        .map(|&(algorithm, method, atomic)| {
            let supported = method.supports(problem, arch);
            Choice {
                algorithm,
                status: if supported { DnnStatus::SUCCESS } else { DnnStatus::NOT_SUPPORTED }.0,
                time: -1.0,
                memory: if supported { method.workspace(problem) } else { 0 },
                determinism: u32::from(!atomic),
                math: method.math(problem),
                reserved: [0; 3],
            }
        })
        .collect();
    all.sort_by_key(|choice| choice.status != 0);
    all
}

/// What the simulator was asked to answer to a call: `create`, `heuristic`, `search`, or a direction, whose algorithms are
/// told apart.
pub fn refused(faults: &Faults, call: &str, algorithm: u32) -> Option<DnnStatus> {
    Refused::find(&faults.no_convolutions, call, algorithm, DnnStatus::NOT_SUPPORTED.0).map(DnnStatus)
}

//! The algorithms of each direction: which problems each takes, what it needs aside, and whether its result is the
//! same each time. What a program has to respect differs between them; what they compute does not.
use super::DnnStatus;
use super::problem::{Direction, Problem};
use crate::blas::problem::{Data, Rounding};
use crate::profile::Faults;

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
    /// Bytes that it needs aside.
    pub memory: usize,
    /// 1 if the result is the same each time.
    pub determinism: u32,
    /// The math type that it uses.
    pub math: i32,
    reserved: [i32; 3],
}

/// How an algorithm works, which decides what it takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// A product whose factors are found on the way.
    Implicit,
    /// The same, with a table of where they lie.
    Indexed,
    /// A product after the factors have been laid out.
    Explicit,
    Fft,
    FftTiled,
    Winograd,
    WinogradApart,
    /// Not in this library.
    Missing,
}

/// An algorithm: its number, its way, whether it adds with atomics.
type Row = (u32, Way, bool);

/// As the library's enums number them, in the order in which they are offered.
fn rows(direction: Direction) -> &'static [Row] {
    use Way::*;
    match direction {
        Direction::Forward => &[
            (1, Indexed, false),
            (7, WinogradApart, false),
            (6, Winograd, false),
            (0, Implicit, false),
            (2, Explicit, false),
            (5, FftTiled, false),
            (4, Fft, false),
            (3, Missing, false),
        ],
        Direction::Data => &[
            (0, Implicit, true),
            (1, Indexed, false),
            (5, WinogradApart, false),
            (4, Winograd, false),
            (3, FftTiled, false),
            (2, Fft, false),
        ],
        Direction::Filter => &[
            (0, Implicit, true),
            (1, Indexed, false),
            (3, Indexed, true),
            (5, WinogradApart, false),
            (6, FftTiled, false),
            (2, Fft, false),
            (4, Missing, false),
        ],
    }
}

impl Way {
    /// Whether it takes the problem, by the library's tables.
    fn takes(self, problem: &Problem, arch: u32) -> bool {
        let plain = problem.groups == 1 && problem.dilation == [1, 1] && !problem.channels_last();
        let filter = [problem.w.dims[2], problem.w.dims[3]];
        let single = matches!(problem.data, Data::F32 | Data::F16);
        let close = problem.stride == [1, 1] && single && plain && !problem.mirrored;
        // Factors of f64 with the channels last are in none of the tables.
        let known = problem.data != Data::F64 || !problem.channels_last();
        let inside = (0..2).all(|axis| problem.padding[axis] < filter[axis]);
        match self {
            Way::Implicit | Way::Indexed => known,
            Way::Explicit => plain,
            Way::Fft => close && inside && (0..2).all(|axis| problem.x.dims[2 + axis] + problem.padding[axis] <= 256),
            Way::FftTiled => close && inside && filter.iter().all(|&taps| taps <= 32) && filter != [1, 1],
            Way::Winograd => close && filter == [3, 3] && arch < 90,
            Way::WinogradApart => close && (filter == [3, 3] || filter == [5, 5]),
            Way::Missing => false,
        }
    }

    /// Bytes aside.
    fn memory(self, problem: &Problem) -> usize {
        let [n, _, h, w] = problem.y.dims;
        let images = problem.x.count() + problem.y.count();
        match self {
            Way::Implicit | Way::Missing => 0,
            Way::Indexed => (16 * problem.depth()).next_multiple_of(512),
            Way::Explicit => problem.depth() * problem.groups * h * w * problem.data.bytes(),
            Way::Fft => 8 * (images + 4 * problem.w.count()),
            Way::FftTiled => 4 * (images + 4 * problem.w.count()),
            Way::Winograd => 64 * problem.w.dims[0] * problem.w.dims[1],
            Way::WinogradApart => 64 * problem.w.dims[0] * problem.w.dims[1] + 4 * n.min(8) * images / n,
        }
    }

    /// The math type that it uses when it may use that of the problem.
    fn math(self, problem: &Problem) -> i32 {
        match (self, problem.data, problem.rounding) {
            (Way::Implicit | Way::Indexed, _, Rounding::Tf32 | Rounding::F16) => problem.math,
            (Way::Indexed | Way::WinogradApart, Data::F16 | Data::Bf16, _) if problem.math != 3 => 1,
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

/// What an algorithm asks for and promises.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    pub memory: usize,
    pub deterministic: bool,
}

/// The terms of an algorithm for a problem; `None` if it does not take it. The inner `None`: there is no such number.
pub fn terms(problem: &Problem, algorithm: u32, arch: u32) -> Option<Option<Terms>> {
    let (_, way, atomic) = rows(problem.direction).iter().find(|(number, ..)| *number == algorithm)?;
    Some(way.takes(problem, arch).then(|| Terms { memory: way.memory(problem), deterministic: !atomic }))
}

/// Every algorithm of the direction, those that take the problem first.
pub fn choices(problem: &Problem, arch: u32) -> Vec<Choice> {
    let mut all: Vec<Choice> = rows(problem.direction)
        .iter()
        .map(|&(algorithm, way, atomic)| {
            let takes = way.takes(problem, arch);
            Choice {
                algorithm,
                status: if takes { DnnStatus::SUCCESS } else { DnnStatus::NOT_SUPPORTED }.0,
                time: -1.0,
                memory: if takes { way.memory(problem) } else { 0 },
                determinism: u32::from(!atomic),
                math: way.math(problem),
                reserved: [0; 3],
            }
        })
        .collect();
    all.sort_by_key(|choice| choice.status != 0);
    all
}

/// Whether the simulator was asked to answer that it is not supported when it is tried: `forward`, `fused`, `data`,
/// `filter`, or one algorithm of these, as in `data:1`.
pub fn is_refused(faults: &Faults, direction: &str, algorithm: u32) -> bool {
    faults.no_convolutions.iter().any(|text| match text.split_once(':') {
        Some((name, number)) => name == direction && number.parse() == Ok(algorithm),
        None => text == direction,
    })
}

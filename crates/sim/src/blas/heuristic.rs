//! The algorithms that cuBLASLt's heuristic proposes. They differ in what a program has to respect: the alignment of
//! addresses and the workspace.
use super::attributes::Record;
use super::problem::Problem;

/// An algorithm, as stored in the 64 bytes of a `cublasLtMatmulAlgo_t`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Algorithm {
    /// Distinguishes it from 64 arbitrary bytes.
    magic: u64,
    /// The number of bytes that every address must be a multiple of.
    pub alignment: u64,
    /// Bytes of workspace.
    pub workspace: u64,
    /// Bits of `cublasLtReductionScheme_t`.
    pub reduction: u64,
    /// Its index among the candidates.
    rank: u64,
    unused: [u64; 3],
}

const MAGIC: u64 = u64::from_le_bytes(*b"kiln-sim");
/// Partial sums in the compute type.
const REDUCTION_COMPUTE: u64 = 2;

impl Algorithm {
    fn new(alignment: u64, workspace: u64, reduction: u64) -> Algorithm {
        Algorithm { magic: MAGIC, alignment, workspace, reduction, rank: 0, unused: [0; 3] }
    }

    /// Its index among the heuristic's candidates.
    pub fn rank(&self) -> u64 {
        self.rank
    }

    /// The algorithm of a call that names none: it takes every problem.
    pub fn plain(problem: &Problem) -> Algorithm {
        Algorithm::new(problem.d.data.bytes() as u64, 0, 0)
    }

    /// Whether the library made it.
    pub fn is_one(&self) -> bool {
        self.magic == MAGIC
    }
}

/// A candidate, laid out as `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// To pass to `cublasLtMatmul`.
    pub algorithm: Algorithm,
    /// Bytes of workspace.
    pub workspace: usize,
    /// A `cublasStatus_t`; the other fields are valid only if it is 0.
    pub state: u32,
    /// How well it fills the device.
    pub waves: f32,
    /// Reserved by the library.
    pub reserved: [i32; 4],
}

/// All candidates that fit a preference, best first.
pub fn candidates(problem: &Problem, preference: &Record) -> Vec<Candidate> {
    let most = preference.get(1) as u64;
    let reductions = preference.get(3) as u64;
    let alignments = (5..=8).map(|attribute| preference.get(attribute).max(0) as u64);
    let [bias, aux] = [problem.bias, problem.aux].map(|address| match address {
        0 => 256,
        address => 1 << address.trailing_zeros().min(8),
    });
    let extras = [(problem.epilogue.uses_bias(), bias), (problem.epilogue.aux, aux)];
    let used = extras.into_iter().filter(|(used, _)| *used).map(|(_, alignment)| alignment);
    let alignment = alignments.chain(used).min().unwrap_or(256);
    // Long sums are split: one partial result per quarter of k.
    let partial = (problem.m * problem.n * problem.batch * 4 * 4) as u64;
    let element = problem.d.data.bytes() as u64;
    [
        (problem.k >= 128).then(|| Algorithm::new(16, partial, REDUCTION_COMPUTE)),
        Some(Algorithm::new(16, 0, 0)),
        Some(Algorithm::new(element, 0, 0)),
    ]
    .into_iter()
    .flatten()
    .filter(|one| one.alignment <= alignment && one.workspace <= most)
    .filter(|one| one.reduction == 0 || one.reduction & reductions != 0)
    .enumerate()
    .map(|(rank, algorithm)| Candidate {
        algorithm: Algorithm { rank: rank as u64, ..algorithm },
        workspace: algorithm.workspace as usize,
        state: 0,
        waves: 1.0,
        reserved: [0; 4],
    })
    .collect()
}

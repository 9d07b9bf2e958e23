//! A convolution queued in a stream: its addresses, the ranges that it reads and writes, and the rules for overlap.
use super::image::Image;
use super::problem::Problem;
use super::status::{DnnStatus, Refusal, bad};
use crate::blas::problem::Rounding;
use crate::engine::Range;

/// A convolution with its addresses.
#[derive(Clone)]
pub struct Convolution {
    pub problem: Problem,
    pub rounding: Rounding,
    /// The addresses of the problem's tensors.
    pub at: Vec<u64>,
    pub workspace: u64,
    /// The size that the engine needs.
    pub workspace_bytes: usize,
    /// For an engine whose result may vary from run to run: the seed of the variation.
    pub wavers: Option<u64>,
}

impl Convolution {
    fn tensors(&self) -> impl Iterator<Item = (u64, &Image)> {
        self.at.iter().copied().zip(&self.problem.tensors)
    }

    /// The operands that are read, and those that are written, the result first.
    fn operands(&self) -> (Vec<Range>, Vec<Range>) {
        let range = |(begin, image): (u64, &Image)| Range { begin, end: begin + image.bytes() as u64 };
        let mut reads: Vec<Range> = self.tensors().map(range).collect();
        let sums = if self.problem.has_sums() { reads.pop() } else { None };
        let target = reads.remove(self.problem.direction.result());
        (reads, [target].into_iter().chain(sums).collect())
    }

    fn scratch(&self) -> Option<Range> {
        let range = Range { begin: self.workspace, end: self.workspace + self.workspace_bytes as u64 };
        (self.workspace != 0 && self.workspace_bytes > 0).then_some(range)
    }

    /// Multiplications and additions.
    pub fn flops(&self) -> u64 {
        2 * (self.problem.images()[2].count() * self.problem.depth()) as u64
    }

    /// The type in which factors are multiplied.
    pub fn data(&self) -> &'static str {
        self.problem.data.name(self.rounding)
    }

    /// The library's rules for addresses.
    pub fn check(&self) -> Result<(), Refusal> {
        if self.at.contains(&0) {
            return Err(Refusal(DnnStatus::NULL_POINTER, "an operand is at a null pointer"));
        }
        let least = |image: &Image| image.alignment.max(image.data.bytes() as u64);
        if self.tensors().any(|(address, image)| !address.is_multiple_of(least(image))) {
            return Err(Refusal(DnnStatus::MISALIGNED_POINTER, "an operand is less aligned than its descriptor says"));
        }
        if self.workspace_bytes > 0 && (self.workspace == 0 || !self.workspace.is_multiple_of(16)) {
            return Err(bad("the workspace is at a null pointer, or not at a multiple of 16 bytes"));
        }
        Ok(())
    }

    /// Why the result is undefined, if it is.
    pub fn conflict(&self) -> Option<&'static str> {
        let (reads, writes) = self.operands();
        let meets = |one: &Range, all: &[Range]| all.iter().any(|other| one.begin < other.end && other.begin < one.end);
        if writes.iter().any(|target| meets(target, &reads)) || meets(&writes[0], &writes[1..]) {
            return Some("the output lies over an operand");
        }
        let scratch = self.scratch().filter(|scratch| meets(scratch, &reads) || meets(scratch, &writes));
        scratch.map(|_| "the workspace lies over an operand")
    }

    /// The ranges that it reads, and those that it writes.
    pub fn ranges(&self) -> (Vec<Range>, Vec<Range>) {
        let (mut reads, mut writes) = self.operands();
        // Sums are added to what is there.
        reads.extend_from_slice(&writes[usize::from(self.problem.beta == 0.0)..]);
        writes.extend(self.scratch());
        (reads, writes)
    }
}

//! A convolution queued in a stream: its addresses, the ranges that it reads and writes, and the rules for overlap.
use super::problem::{Direction, Image, Problem};
use super::{DnnStatus, Refusal, bad};
use crate::blas::problem::Rounding;
use crate::engine::Range;

/// A convolution with its addresses.
#[derive(Clone)]
pub struct Convolution {
    pub problem: Problem,
    pub rounding: Rounding,
    pub x: u64,
    pub w: u64,
    pub y: u64,
    /// The bias of a fused convolution.
    pub bias: u64,
    pub workspace: u64,
    /// The size that the engine needs.
    pub workspace_bytes: usize,
    /// For an engine whose result may vary from run to run: the seed of the variation.
    pub wavers: Option<u64>,
}

/// A range of `bytes` bytes, if not 0.
fn range(begin: u64, bytes: usize) -> Option<Range> {
    (bytes > 0).then(|| Range { begin, end: begin + bytes as u64 })
}

impl Convolution {
    fn bytes(&self, image: &Image) -> usize {
        image.count() * self.problem.data.bytes()
    }

    /// Addresses and sizes of the operands that are read, and of the one that is written.
    fn operands(&self) -> ([(u64, usize); 2], (u64, usize)) {
        let problem = &self.problem;
        let [x, w, y] =
            [(self.x, &problem.x), (self.w, &problem.w), (self.y, &problem.y)].map(|(at, one)| (at, self.bytes(one)));
        match problem.direction {
            Direction::Forward => ([x, w], y),
            Direction::Data => ([w, y], x),
            Direction::Filter => ([x, y], w),
        }
    }

    /// The address of the output.
    pub fn target(&self) -> u64 {
        self.operands().1.0
    }

    /// The library's rules for addresses.
    pub fn check(&self) -> Result<(), Refusal> {
        let problem = &self.problem;
        let bias = problem.bias.iter().map(|bias| (self.bias, bias));
        for (address, image) in
            [(self.x, &problem.x), (self.w, &problem.w), (self.y, &problem.y)].into_iter().chain(bias)
        {
            if address == 0 {
                return Err(Refusal(DnnStatus::NULL_POINTER, "an operand is at a null pointer"));
            }
            if !address.is_multiple_of(image.alignment.max(problem.data.bytes() as u64)) {
                return Err(Refusal(
                    DnnStatus::MISALIGNED_POINTER,
                    "an operand is less aligned than its descriptor says",
                ));
            }
        }
        if self.workspace_bytes > 0 && (self.workspace == 0 || !self.workspace.is_multiple_of(16)) {
            return Err(bad("the workspace is at a null pointer, or not at a multiple of 16 bytes"));
        }
        Ok(())
    }

    /// Why the result is undefined, if it is.
    pub fn conflict(&self) -> Option<&'static str> {
        let (reads, target) = self.operands();
        let meet =
            |(a, a_bytes): (u64, usize), (b, b_bytes): (u64, usize)| a < b + b_bytes as u64 && b < a + a_bytes as u64;
        if reads.iter().any(|&operand| meet(operand, target)) {
            return Some("the output lies over an operand");
        }
        let aside = (self.workspace, self.workspace_bytes);
        if self.workspace != 0 && reads.iter().chain([&target]).any(|&operand| meet(operand, aside)) {
            return Some("the workspace lies over an operand");
        }
        let bias = self.problem.bias.as_ref()?;
        meet((self.bias, self.bytes(bias)), target).then_some("the output lies over the bias")
    }

    /// The ranges that it reads, and those that it writes.
    pub fn ranges(&self) -> (Vec<Range>, Vec<Range>) {
        let ([a, b], target) = self.operands();
        let mut reads: Vec<Range> = [a, b].into_iter().filter_map(|(at, bytes)| range(at, bytes)).collect();
        let mut writes: Vec<Range> = range(target.0, target.1).into_iter().collect();
        if self.problem.beta != 0.0 {
            reads.extend(&writes);
        }
        if let Some(bias) = &self.problem.bias {
            reads.extend(range(self.bias, self.bytes(bias)));
        }
        if self.workspace != 0 {
            writes.extend(range(self.workspace, self.workspace_bytes));
        }
        (reads, writes)
    }
}

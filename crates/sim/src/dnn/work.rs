//! A convolution queued in a stream: its addresses, the ranges that it reads and writes, the rules for overlap.
use super::heuristic::Requirements;
use super::problem::{Direction, Image, Problem};
use super::{Refusal, bad};
use crate::engine::Range;

/// What a fused convolution adds and does behind it.
#[derive(Clone, Copy, Debug)]
pub struct Fused {
    pub bias: u64,
    pub z: u64,
    /// The factor of `z`.
    pub scale: f64,
    pub relu: bool,
}

/// A convolution with its addresses.
pub struct Convolution {
    pub problem: Problem,
    pub x: u64,
    pub w: u64,
    pub y: u64,
    pub alpha: f64,
    pub beta: f64,
    pub workspace: u64,
    pub workspace_bytes: usize,
    pub fused: Option<Fused>,
    /// Of an algorithm whose result may differ each time: the seed of the difference.
    pub wavers: Option<u64>,
    /// A search: what it leaves in the output is not the result.
    pub search: bool,
}

/// `bytes` of 0 are no range.
fn range(begin: u64, bytes: usize) -> Option<Range> {
    (bytes > 0).then(|| Range { begin, end: begin + bytes as u64 })
}

impl Convolution {
    fn bytes(&self, image: &Image) -> usize {
        image.count() * self.problem.data.bytes()
    }

    /// Addresses of what is read, and of what is written, with their bytes.
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

    /// Where the output lies.
    pub fn target(&self) -> u64 {
        self.operands().1.0
    }

    /// The library's rules for addresses.
    pub fn check(&self, requirements: Requirements) -> Result<(), Refusal> {
        let mut addresses = vec![self.x, self.w, self.y];
        if let Some(fused) = &self.fused {
            addresses.extend([fused.bias, fused.z]);
        }
        if addresses.contains(&0) {
            return Err(bad("an operand is at a null pointer"));
        }
        if addresses.iter().any(|address| !address.is_multiple_of(self.problem.data.bytes() as u64)) {
            return Err(bad("an operand is not aligned as its elements are"));
        }
        if requirements.memory > self.workspace_bytes {
            return Err(bad("the workspace is smaller than the algorithm needs"));
        }
        if requirements.memory > 0 && (self.workspace == 0 || !self.workspace.is_multiple_of(16)) {
            return Err(bad("the workspace is at a null pointer, or not at a multiple of 16 bytes"));
        }
        Ok(())
    }

    /// Why what it computes is not defined, if it is not.
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
        let fused = self.fused.as_ref()?;
        if meet((fused.bias, self.problem.y.dims[1] * self.problem.data.bytes()), target) {
            return Some("the output lies over the bias");
        }
        (fused.z != target.0 && meet((fused.z, target.1), target))
            .then_some("the output lies over the image that is added without being the same")
    }

    /// What it reads and writes.
    pub fn ranges(&self) -> (Vec<Range>, Vec<Range>) {
        let ([a, b], target) = self.operands();
        let mut reads: Vec<Range> = [a, b].into_iter().filter_map(|(at, bytes)| range(at, bytes)).collect();
        let mut writes: Vec<Range> = range(target.0, target.1).into_iter().collect();
        if self.beta != 0.0 {
            reads.extend(&writes);
        }
        if let Some(fused) = &self.fused {
            reads.extend(range(fused.bias, self.problem.y.dims[1] * self.problem.data.bytes()));
            if fused.scale != 0.0 {
                reads.extend(range(fused.z, target.1));
            }
        }
        if self.workspace != 0 {
            writes.extend(range(self.workspace, self.workspace_bytes));
        }
        (reads, writes)
    }
}

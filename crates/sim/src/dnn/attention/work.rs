//! Attention queued in a stream: its addresses, the ranges that it reads and writes, and the rules for overlap.
use super::problem::{Attention, Operand, Pass};
use crate::blas::problem::Rounding;
use crate::dnn::status::{DnnStatus, Refusal, bad};
use crate::engine::Range;

/// Attention with its addresses.
#[derive(Clone)]
pub struct AttentionCall {
    pub problem: Attention,
    /// The addresses of what is read and of what is written.
    pub reads: Vec<u64>,
    pub writes: Vec<u64>,
    /// The scale, what hidden scores are set to, and a 1.
    pub scalars: [f32; 3],
    pub workspace: u64,
    /// The size that the engine needs.
    pub workspace_bytes: usize,
    /// The seed of the variation from run to run: gradients of queries are added in any order.
    pub wavers: Option<u64>,
}

/// The bytes of a tensor: rows, or what they make together.
fn ranges(begin: u64, operand: &Operand) -> Vec<Range> {
    let ([batch, heads, rows, columns], [by_batch, by_head, by_row, _]) = (operand.dims, operand.steps);
    let bytes = operand.data.bytes();
    let mut all: Vec<usize> = (0..batch * heads * rows)
        .map(|i| i / (heads * rows) * by_batch + i / rows % heads * by_head + i % rows * by_row)
        .collect();
    all.sort_unstable();
    let mut ranges: Vec<Range> = Vec::new();
    for first in all {
        let (from, to) = (begin + (first * bytes) as u64, begin + ((first + columns) * bytes) as u64);
        match ranges.last_mut().filter(|last| from <= last.end) {
            Some(last) => last.end = to.max(last.end),
            None => ranges.push(Range { begin: from, end: to }),
        }
    }
    ranges
}

impl AttentionCall {
    fn operands(&self) -> impl Iterator<Item = (u64, &Operand)> {
        let reads = self.reads.iter().copied().zip(&self.problem.reads);
        reads.chain(self.writes.iter().copied().zip(&self.problem.writes))
    }

    fn scratch(&self) -> Option<Range> {
        let range = Range { begin: self.workspace, end: self.workspace + self.workspace_bytes as u64 };
        (self.workspace != 0 && self.workspace_bytes > 0).then_some(range)
    }

    /// Multiplications and additions of the products: two of them forward, five backward.
    pub fn flops(&self) -> u64 {
        let Attention { pass, features, values, .. } = self.problem;
        let each = match pass {
            Pass::Forward => features + values,
            Pass::Backward => 3 * features + 2 * values,
        };
        2 * (self.problem.pairs() * each) as u64
    }

    /// Its kind in the account of a step.
    pub fn kind(&self) -> &'static str {
        match self.problem.pass {
            Pass::Forward => "attention",
            Pass::Backward => "attention_grad",
        }
    }

    /// The type in which factors are multiplied.
    pub fn data(&self) -> &'static str {
        self.problem.data.name(Rounding::None)
    }

    /// The library's rules for addresses.
    pub fn check(&self) -> Result<(), Refusal> {
        if self.operands().any(|(address, _)| address == 0) {
            return Err(Refusal(DnnStatus::NULL_POINTER, "an operand is at a null pointer"));
        }
        let least = |operand: &Operand| operand.alignment.max(operand.data.bytes() as u64);
        if self.operands().any(|(address, operand)| !address.is_multiple_of(least(operand))) {
            return Err(Refusal(DnnStatus::MISALIGNED_POINTER, "an operand is less aligned than its descriptor says"));
        }
        if self.workspace == 0 || !self.workspace.is_multiple_of(16) {
            return Err(bad("the workspace is at a null pointer, or not at a multiple of 16 bytes"));
        }
        Ok(())
    }

    /// Why the result is undefined, if it is.
    pub fn conflict(&self) -> Option<&'static str> {
        let of = |addresses: &[u64], operands: &[Operand]| -> Vec<Vec<Range>> {
            addresses.iter().zip(operands).map(|(at, operand)| ranges(*at, operand)).collect()
        };
        let (reads, writes) = (of(&self.reads, &self.problem.reads), of(&self.writes, &self.problem.writes));
        let meet = |one: &[Range], other: &[Range]| {
            one.iter().any(|one| other.iter().any(|other| one.begin < other.end && other.begin < one.end))
        };
        let over = |i: usize| {
            let others = writes.iter().enumerate().filter(|(other, _)| *other != i).map(|(_, other)| other);
            reads.iter().chain(others).any(|other| meet(&writes[i], other))
        };
        if (0..writes.len()).any(over) {
            return Some("the output lies over an operand");
        }
        let scratch = self.scratch().map(|scratch| [scratch]);
        let met = scratch.is_some_and(|scratch| reads.iter().chain(&writes).any(|other| meet(&scratch, other)));
        met.then_some("the workspace lies over an operand")
    }

    /// The ranges that it reads, and those that it writes.
    pub fn ranges(&self) -> (Vec<Range>, Vec<Range>) {
        let reads = self.reads.iter().zip(&self.problem.reads).flat_map(|(at, operand)| ranges(*at, operand));
        let writes = self.writes.iter().zip(&self.problem.writes).flat_map(|(at, operand)| ranges(*at, operand));
        (reads.collect(), writes.chain(self.scratch()).collect())
    }
}

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
    /// The addresses of x, w and y.
    pub at: [u64; 3],
    /// The operands of fused operations, in the order of [`Problem::extra`].
    pub extra: Vec<u64>,
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

/// The address of an operand, and its bytes.
type Operand = (u64, usize);

impl Convolution {
    /// All tensors with their addresses: x, w, y, and the operands of fused operations.
    fn tensors(&self) -> impl Iterator<Item = (u64, &Image)> {
        let extra = self.extra.iter().copied().zip(self.problem.extra());
        self.at.into_iter().zip(self.problem.images()).chain(extra)
    }

    /// Addresses and sizes of the operands that are read, and of those that are written, the result first.
    fn operands(&self) -> (Vec<Operand>, Vec<Operand>) {
        let mut reads: Vec<Operand> = self.tensors().map(|(at, image)| (at, image.bytes())).collect();
        let sums = self.problem.sums.and_then(|_| reads.pop());
        let target = reads.remove(self.problem.direction.result());
        (reads, [target].into_iter().chain(sums).collect())
    }

    /// Multiplications and additions.
    pub fn flops(&self) -> u64 {
        let numel = |image: &Image| image.dims.iter().map(|&n| n as u64).product::<u64>();
        let (y, w) = (&self.problem.y, &self.problem.w);
        2 * numel(y) * (numel(w) / (w.dims[0] as u64).max(1))
    }

    /// The type in which factors are multiplied.
    pub fn data(&self) -> &'static str {
        self.problem.data.name(self.rounding)
    }

    /// The address of the output.
    pub fn target(&self) -> u64 {
        self.at[self.problem.direction.result()]
    }

    /// The library's rules for addresses.
    pub fn check(&self) -> Result<(), Refusal> {
        for (address, image) in self.tensors() {
            if address == 0 {
                return Err(Refusal(DnnStatus::NULL_POINTER, "an operand is at a null pointer"));
            }
            if !address.is_multiple_of(image.alignment.max(image.data.bytes() as u64)) {
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
        let (reads, writes) = self.operands();
        let meet = |(a, a_bytes): Operand, (b, b_bytes): Operand| a < b + b_bytes as u64 && b < a + a_bytes as u64;
        let over = |one: Operand, others: &[Operand]| others.iter().any(|&other| meet(one, other));
        if writes.iter().any(|&target| over(target, &reads)) || over(writes[0], &writes[1..]) {
            return Some("the output lies over an operand");
        }
        let aside = (self.workspace, self.workspace_bytes);
        let taken = self.workspace != 0 && (over(aside, &reads) || over(aside, &writes));
        taken.then_some("the workspace lies over an operand")
    }

    /// The ranges that it reads, and those that it writes.
    pub fn ranges(&self) -> (Vec<Range>, Vec<Range>) {
        let (reads, writes) = self.operands();
        let ranges =
            |all: Vec<Operand>| -> Vec<Range> { all.into_iter().filter_map(|(at, bytes)| range(at, bytes)).collect() };
        // Sums are added to what is there.
        let old = writes[usize::from(self.problem.beta == 0.0)..].to_vec();
        let (mut reads, mut writes) = (ranges(reads), ranges(writes));
        reads.extend(ranges(old));
        if self.workspace != 0 {
            writes.extend(range(self.workspace, self.workspace_bytes));
        }
        (reads, writes)
    }
}

//! A product queued in a stream: its addresses, the ranges that it reads and writes, and the rules for overlap.
use super::heuristic::Algorithm;
use super::problem::{BiasGradient, Matrix, Problem, Refusal};
use super::status::BlasStatus;
use crate::engine::Range;

/// Alpha or beta: a value, or the address of one.
#[derive(Clone, Copy, Debug)]
pub enum Scalar {
    Value(f64),
    Address(u64),
}

/// A product with its addresses.
#[derive(Clone)]
pub struct Product {
    pub problem: Problem,
    pub a: u64,
    pub b: u64,
    pub c: u64,
    pub d: u64,
    pub alpha: Scalar,
    pub beta: Scalar,
    pub workspace: u64,
    pub workspace_bytes: usize,
}

/// Adds a range, merging it with the last one if they are adjacent.
fn push(ranges: &mut Vec<Range>, begin: u64, bytes: usize) {
    let end = begin + bytes as u64;
    match ranges.last_mut() {
        Some(last) if last.end == begin => last.end = end,
        _ => ranges.push(Range { begin, end }),
    }
}

impl Product {
    /// The library's rules for addresses.
    pub fn check(&self, algorithm: &Algorithm) -> Result<(), Refusal> {
        let invalid = |why| Err(Refusal(BlasStatus::INVALID_VALUE, why));
        let problem = &self.problem;
        if self.a == 0 || self.b == 0 || self.d == 0 || (self.c == 0 && self.reads_c()) {
            return invalid("a matrix is at a null pointer");
        }
        if problem.epilogue.uses_bias() && problem.bias == 0 || problem.epilogue.aux && problem.aux == 0 {
            return invalid("the epilogue's bias or mask is at a null pointer");
        }
        if algorithm.workspace as usize > self.workspace_bytes {
            return invalid("the workspace is smaller than the algorithm needs");
        }
        if algorithm.workspace > 0 && (self.workspace == 0 || !self.workspace.is_multiple_of(256)) {
            return invalid("the workspace is at a multiple of 256 bytes");
        }
        let bias = if problem.epilogue.uses_bias() { problem.bias } else { 0 };
        let aux = if problem.epilogue.aux { problem.aux } else { 0 };
        let c = if self.reads_c() { self.c } else { 0 };
        if [self.a, self.b, c, self.d, bias, aux].iter().any(|address| !address.is_multiple_of(algorithm.alignment)) {
            return invalid("an address is less aligned than the algorithm needs");
        }
        Ok(())
    }

    /// Multiplications and additions.
    pub fn flops(&self) -> u64 {
        let problem = &self.problem;
        2 * [problem.m, problem.n, problem.k, problem.batch].iter().map(|&n| n as u64).product::<u64>()
    }

    /// The type in which factors are multiplied.
    pub fn data(&self) -> &'static str {
        self.problem.a.data.name(self.problem.rounding)
    }

    /// Whether C is read: not if beta is 0.
    pub fn reads_c(&self) -> bool {
        !matches!(self.beta, Scalar::Value(0.0))
    }

    /// Why the result is undefined, if it is.
    pub fn conflict(&self) -> Option<&'static str> {
        let problem = &self.problem;
        let [a, b, c, d] = [(self.a, &problem.a), (self.b, &problem.b), (self.c, &problem.c), (self.d, &problem.d)]
            .map(|(address, matrix)| self.ranges_of(address, matrix));
        let overlap = |left: &[Range], right: &[Range]| {
            let mut all: Vec<(u64, u64, bool)> = left.iter().map(|range| (range.begin, range.end, false)).collect();
            all.extend(right.iter().map(|range| (range.begin, range.end, true)));
            all.sort_unstable();
            // The ends so far of the matrices that began before.
            let mut ends = [0; 2];
            all.into_iter().any(|(begin, end, side)| {
                let own = &mut ends[usize::from(side)];
                *own = end.max(*own);
                begin < ends[usize::from(!side)]
            })
        };
        if overlap(&d, &a) || overlap(&d, &b) {
            return Some("D overlaps an operand");
        }
        if self.reads_c() && (self.c, &problem.c) != (self.d, &problem.d) && overlap(&d, &c) {
            return Some("D overlaps C without being the same matrix");
        }
        let bytes: u64 = d.iter().map(|range| range.end - range.begin).sum();
        let due = problem.m * problem.n * problem.batch * problem.d.data.bytes();
        let mut sorted = d;
        sorted.sort_by_key(|range| range.begin);
        let apart = sorted.windows(2).all(|pair| pair[0].end <= pair[1].begin);
        (!apart || bytes != due as u64).then_some("the matrices of D overlap each other")
    }

    /// The bytes of each matrix of a batch.
    fn ranges_of(&self, address: u64, matrix: &Matrix) -> Vec<Range> {
        let bytes = matrix.data.bytes();
        let (lines, length) = if matrix.row_major { (matrix.rows, matrix.cols) } else { (matrix.cols, matrix.rows) };
        let mut ranges = Vec::new();
        // A matrix that the whole batch shares is read once.
        let batches = if matrix.step == 0 { 1 } else { self.problem.batch };
        for batch in 0..batches {
            let begin = address.wrapping_add_signed(matrix.step * (batch * bytes) as i64);
            for line in 0..lines {
                push(&mut ranges, begin + (line * matrix.ld * bytes) as u64, length * bytes);
            }
        }
        ranges
    }

    /// The bytes of the bias, or of its gradient.
    fn bias_ranges(&self) -> Vec<Range> {
        let problem = &self.problem;
        let length = if problem.epilogue.bias_gradient == Some(BiasGradient::B) { problem.n } else { problem.m };
        let bytes = problem.d.data.bytes();
        let batches = if problem.bias_step == 0 { 1 } else { problem.batch };
        let mut ranges = Vec::new();
        for batch in 0..batches {
            let begin = problem.bias.wrapping_add_signed(problem.bias_step * (batch * bytes) as i64);
            push(&mut ranges, begin, length * bytes);
        }
        ranges
    }

    fn mask_ranges(&self) -> Vec<Range> {
        let problem = &self.problem;
        let mut ranges = Vec::new();
        for batch in 0..problem.batch {
            let begin = problem.aux.wrapping_add_signed(problem.aux_step / 8 * batch as i64);
            for col in 0..problem.n {
                push(&mut ranges, begin + (col * problem.aux_ld / 8) as u64, problem.m.div_ceil(8));
            }
        }
        ranges
    }

    /// The ranges that it reads, and those that it writes.
    pub fn ranges(&self) -> (Vec<Range>, Vec<Range>) {
        let (problem, epilogue) = (&self.problem, &self.problem.epilogue);
        let mut reads = self.ranges_of(self.a, &problem.a);
        reads.extend(self.ranges_of(self.b, &problem.b));
        if self.reads_c() {
            reads.extend(self.ranges_of(self.c, &problem.c));
        }
        let mut writes = self.ranges_of(self.d, &problem.d);
        for scalar in [self.alpha, self.beta] {
            if let Scalar::Address(address) = scalar {
                push(&mut reads, address, problem.scale.bytes());
            }
        }
        if epilogue.uses_bias() {
            let side = if epilogue.bias { &mut reads } else { &mut writes };
            side.extend(self.bias_ranges());
        }
        if epilogue.aux {
            let side = if epilogue.relu { &mut writes } else { &mut reads };
            side.extend(self.mask_ranges());
        }
        if self.workspace_bytes > 0 && self.workspace != 0 {
            push(&mut writes, self.workspace, self.workspace_bytes);
        }
        (reads, writes)
    }
}

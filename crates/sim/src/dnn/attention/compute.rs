//! Computes attention and its gradient head by head in `f64`, as the operations of the graphs say: weights and their gradients
//! are rounded to the operands' type before they are factors, and results once.
use super::problem::{Attention, Operand, Pass};
use super::work::AttentionCall;
use crate::blas::compute::{load, poison, rounded, store};
use crate::blas::kernel::product;
use crate::blas::problem::{Data, Rounding};
use crate::dnn::compute::waver;

/// A matrix of a head, row by row.
struct Matrix {
    columns: usize,
    values: Vec<f64>,
}

impl Matrix {
    fn at(&self, row: usize, column: usize) -> f64 {
        self.values[row * self.columns + column]
    }

    fn new(rows: usize, columns: usize, value: impl Fn(usize, usize) -> f64) -> Matrix {
        let values = (0..rows * columns).map(|i| value(i / columns, i % columns)).collect();
        Matrix { columns, values }
    }

    /// A product of as many rows and columns, with sums over `depth`.
    fn product(
        [rows, columns, depth]: [usize; 3],
        a: impl Fn(usize, usize) -> f64,
        b: impl Fn(usize, usize) -> f64,
    ) -> Matrix {
        let by_column = product([rows, columns, depth], a, b);
        Matrix::new(rows, columns, |row, column| by_column[column * rows + row])
    }
}

/// The address of a head's first element.
fn head_at(begin: u64, operand: &Operand, [batch, head]: [usize; 2]) -> u64 {
    begin + ((batch * operand.steps[0] + head * operand.steps[1]) * operand.data.bytes()) as u64
}

/// # Safety
/// The tensor can be read.
unsafe fn read(begin: u64, operand: &Operand, which: [usize; 2]) -> Matrix {
    let (first, bytes) = (head_at(begin, operand, which), operand.data.bytes());
    Matrix::new(operand.dims[2], operand.dims[3], |row, column| {
        // SAFETY: the caller's promise.
        unsafe { load(operand.data, first + ((row * operand.steps[2] + column) * bytes) as u64) }
    })
}

/// # Safety
/// The tensor can be written.
unsafe fn write(begin: u64, operand: &Operand, which: [usize; 2], matrix: &Matrix) {
    let (first, bytes) = (head_at(begin, operand, which), operand.data.bytes());
    for (i, value) in matrix.values.iter().enumerate() {
        let (row, column) = (i / matrix.columns, i % matrix.columns);
        // SAFETY: the caller's promise.
        unsafe { store(operand.data, first + ((row * operand.steps[2] + column) * bytes) as u64, *value) };
    }
}

/// The rounding of what is not in memory, but in the operands' type.
fn rounding(data: Data) -> Rounding {
    if data == Data::F16 { Rounding::F16 } else { Rounding::Bf16 }
}

/// Computes what `call` describes.
///
/// # Safety
/// Everything in [`AttentionCall::ranges`] is live, and nothing else accesses it.
pub unsafe fn run(call: &AttentionCall) {
    // SAFETY: it is one of the ranges.
    unsafe { poison(call.workspace, call.workspace_bytes) };
    let Attention { batch, groups, .. } = call.problem;
    for (n, group) in (0..batch * groups).map(|i| (i / groups, i % groups)) {
        // SAFETY: the caller's promise, for a part of it.
        unsafe {
            match call.problem.pass {
                Pass::Forward => forward(call, n, group),
                Pass::Backward => backward(call, n, group),
            }
        }
    }
}

/// The scores of a head, with those of keys that a query does not see set to `hidden`.
fn scores(call: &AttentionCall, q: &Matrix, k: &Matrix, less: impl Fn(usize) -> f64) -> Matrix {
    let Attention { is_causal, queries, keys, features, .. } = call.problem;
    let [scale, hidden, _] = call.scalars.map(f64::from);
    let all = Matrix::product([queries, keys, features], |i, e| q.at(i, e), |e, j| k.at(j, e));
    Matrix::new(queries, keys, |i, j| if is_causal && i < j { hidden } else { all.at(i, j) * scale - less(i) })
}

/// # Safety
/// As [`run`], for the heads of queries that share a head of keys.
unsafe fn forward(call: &AttentionCall, n: usize, group: usize) {
    let Attention { heads, groups, queries, keys, values, ref reads, ref writes, data, .. } = call.problem;
    let [to_q, to_k, to_v] = [0, 1, 2].map(|i| (call.reads[i], &reads[i]));
    // SAFETY: the tensors are among the ranges.
    let (k, v) = unsafe { (read(to_k.0, to_k.1, [n, group]), read(to_v.0, to_v.1, [n, group])) };
    for head in group * (heads / groups)..(group + 1) * (heads / groups) {
        // SAFETY: as above.
        let q = unsafe { read(to_q.0, to_q.1, [n, head]) };
        let scores = scores(call, &q, &k, |_| 0.0);
        let row = |i: usize| &scores.values[i * keys..][..keys];
        let max: Vec<f64> = (0..queries).map(|i| row(i).iter().copied().fold(f64::NEG_INFINITY, f64::max)).collect();
        // A maximum does not pass NaN on; the difference does.
        let exponentials = Matrix::new(queries, keys, |i, j| (scores.at(i, j) - max[i]).exp());
        let sums: Vec<f64> = exponentials.values.chunks_exact(keys).map(|row| row.iter().sum()).collect();
        let weights = |i: usize, j: usize| rounded(rounding(data), exponentials.at(i, j) / sums[i]);
        let weights = Matrix::new(queries, keys, weights);
        let out = Matrix::product([queries, values, keys], |i, j| weights.at(i, j), |j, e| v.at(j, e));
        let stats = Matrix::new(queries, 1, |i, _| max[i] + sums[i].ln());
        // SAFETY: as above.
        unsafe {
            write(call.writes[0], &writes[0], [n, head], &out);
            write(call.writes[1], &writes[1], [n, head], &stats);
        }
    }
}

/// # Safety
/// As [`run`], for the heads of queries that share a head of keys.
unsafe fn backward(call: &AttentionCall, n: usize, group: usize) {
    let Attention { heads, groups, queries, keys, features, values, ref reads, ref writes, data, .. } = call.problem;
    let [scale, _, one] = call.scalars.map(f64::from);
    let per_group = heads / groups;
    // SAFETY: the tensors are among the ranges.
    let own = |i: usize, head: usize| unsafe { read(call.reads[i], &reads[i], [n, head]) };
    // SAFETY: as above.
    let put = |i: usize, head: usize, matrix: &Matrix| unsafe { write(call.writes[i], &writes[i], [n, head], matrix) };
    let half = |value: f64| rounded(rounding(data), value);
    let (k, v) = (own(1, group), own(2, group));
    let (mut dk, mut dv) = (Matrix::new(keys, features, |_, _| 0.0), Matrix::new(keys, values, |_, _| 0.0));
    for head in group * per_group..(group + 1) * per_group {
        let [q, o, stats, grad] = [0, 3, 4, 5].map(|i| own(i, head));
        let sums = |i: usize| (0..values).map(|e| grad.at(i, e) * o.at(i, e)).sum::<f64>() * one;
        let sums = Matrix::new(queries, 1, |i, _| sums(i));
        let logs = scores(call, &q, &k, |i| stats.at(i, 0));
        let weights = Matrix::new(queries, keys, |i, j| logs.at(i, j).exp());
        let dw = Matrix::product([queries, keys, values], |i, e| grad.at(i, e), |e, j| v.at(j, e));
        let ds = |i: usize, j: usize| half((dw.at(i, j) - sums.at(i, 0)) * weights.at(i, j) * scale);
        let ds = Matrix::new(queries, keys, ds);
        let of_v = Matrix::product([keys, values, queries], |j, i| half(weights.at(i, j)), |i, e| grad.at(i, e));
        let of_k = Matrix::product([keys, features, queries], |j, i| ds.at(i, j), |i, e| q.at(i, e));
        let mut dq = Matrix::product([queries, features, keys], |i, j| ds.at(i, j), |j, e| k.at(j, e));
        if let Some(seed) = call.wavers {
            waver(&mut dq.values, Data::F32, seed.wrapping_add((n * heads + head) as u64));
        }
        // Gradients of heads that share keys are in the operands' type before they are added.
        let part = |value: f64| if per_group > 1 { half(value) } else { value };
        dk.values.iter_mut().zip(&of_k.values).for_each(|(sum, value)| *sum += part(*value));
        dv.values.iter_mut().zip(&of_v.values).for_each(|(sum, value)| *sum += part(*value));
        let wide = Matrix::new(queries, features, |i, e| f64::from(dq.at(i, e) as f32));
        put(0, head, &wide);
        put(3, head, &sums);
        put(4, head, &wide);
    }
    put(1, group, &dk);
    put(2, group, &dv);
}

//! Multiply-adds of the operations of a trace.

use kiln_tensor::{Tensor, autograd::Step};

/// The number of multiplications, each with an addition, in products and convolutions. Other operations count as 0, as
/// in other tools of this kind.
pub(crate) fn multiply_adds(step: &Step) -> u64 {
    let [first, second, ..] = &step.inputs[..] else { return 0 };
    let numel = |tensor: &Tensor| tensor.numel() as u64;
    match step.op {
        // `[…, k] · [n, k]ᵀ`, and `[…, m, k] · […, k, n]`: `k` for each element of the result.
        Some("linear" | "matmul") => numel(&step.output) * first.dims().last().map_or(1, |&k| k as u64),
        // A weight `[O, C / groups, …]`: all of it but `O` for each element of the result.
        Some("conv2d" | "conv3d") => numel(&step.output) * per_first(second),
        // A weight `[C, O / groups, …]`: all of it but `C` for each element of the input.
        Some("conv_transpose2d" | "conv_transpose3d") => numel(first) * per_first(second),
        _ => 0,
    }
}

/// The number of elements per index of the first dimension.
fn per_first(weight: &Tensor) -> u64 {
    weight.dims().iter().skip(1).map(|&extent| extent as u64).product()
}

//! Products and powers of matrices: `matrix_exp`, `multi_dot`.

use kiln_backend::{Error, Result};
use kiln_derive::located;

use super::{solve::solved, square};
use crate::{autocast::cast_operands, autograd::no_grad, calc, tensor::Tensor};

/// Up to this 1-norm the quotient below is as exact as `f64`.
const LARGEST_NORM: f64 = 5.371_920_351_148_152;

/// More halvings than these are for matrices whose exponential is not finite.
const MOST_HALVINGS: f64 = 64.0;

/// The coefficients of the numerator of the Padé approximant of degree 13, divided by the first one.
const COEFFICIENTS: [f64; 14] = {
    let mut all = [1.0; 14];
    let mut k = 1;
    while k < 14 {
        all[k] = all[k - 1] * (14 - k) as f64 / ((27 - k) * k) as f64;
        k += 1;
    }
    all
};

/// The exponentials of square matrices `[…, n, n]` (<https://docs.pytorch.org/docs/stable/generated/torch.matrix_exp.html>),
/// by halving and squaring with a Padé approximant (Higham, 2005; <https://doi.org/10.1137/04061101X>).
///
/// Half precision is computed in `f32`.
///
/// # Errors
/// If the matrices are not square, not floating-point, or not on the CPU.
#[located]
pub fn matrix_exp(a: &Tensor) -> Result<Tensor> {
    const OP: &str = "matrix_exp";
    cast_operands(OP, [a], [], |[a], []| {
        let (a, dtype) = (&a.widened()?, a.dtype());
        let n = square(OP, a)?;
        if a.numel() == 0 {
            return a.copy()?.to_dtype(dtype);
        }
        // How often each matrix is halved.
        let halvings = no_grad(|| {
            let norms = a.abs()?.sum_keepdim(-2)?.amax_keepdim(-1)?;
            norms.div(LARGEST_NORM)?.log2()?.ceil()?.clamp(0.0, MOST_HALVINGS)
        })?;
        let most = no_grad(|| halvings.max(())?.item::<f64>())?;
        let x = a.mul(&no_grad(|| halvings.neg()?.exp2())?)?;
        let identity = Tensor::eye([n], a.options().requires_grad(false))?;
        let powers = {
            let second = x.matmul(&x)?;
            let fourth = second.matmul(&second)?;
            let sixth = second.matmul(&fourth)?;
            [identity.expand(x.dims())?, second, fourth, sixth]
        };
        // The coefficients `from`, `from` + 2, … times these powers.
        let sum = |from: usize, powers: &[Tensor]| -> Result<Tensor> {
            let mut terms = powers.iter().enumerate().map(|(i, power)| power.mul(COEFFICIENTS[from + 2 * i]));
            let first = terms.next().ok_or_else(|| Error::argument(OP, "no powers"))??;
            terms.try_fold(first, |sum, term| sum.add(&term?))
        };
        let [.., sixth] = &powers;
        let odd = x.matmul(&calc!(sixth.matmul(&sum(9, &powers[1..])?) + sum(1, &powers))?)?;
        let even = calc!(sixth.matmul(&sum(8, &powers[1..])?) + sum(0, &powers))?;
        let mut result = solved(OP, &calc!(even - odd)?, &calc!(even + odd)?, true)?;
        for i in 0..most as usize {
            result = halvings.gt(i as f64)?.where_cond(&result.matmul(&result)?, &result)?;
        }
        result.to_dtype(dtype)
    })
}

/// The product of two or more matrices, in the order that takes the fewest multiplications. The first tensor may be a vector,
/// which counts as a row, and the last one a vector, which counts as a column
/// (<https://docs.pytorch.org/docs/stable/generated/torch.linalg.multi_dot.html>).
///
/// # Errors
/// If there are fewer than two tensors, a shape does not fit to the next one's, or dtypes or devices differ.
#[located]
pub fn multi_dot(tensors: &[&Tensor]) -> Result<Tensor> {
    const OP: &str = "multi_dot";
    let [first, .., last] = tensors else { return Err(Error::argument(OP, "there must be two or more tensors")) };
    let (is_row, is_column) = (first.rank() == 1, last.rank() == 1);
    let mut matrices: Vec<Tensor> = tensors.iter().map(|&tensor| tensor.clone()).collect();
    if is_row {
        matrices[0] = first.unsqueeze(0)?;
    }
    if is_column {
        let end = matrices.len() - 1;
        matrices[end] = last.unsqueeze(1)?;
    }
    if let Some(wrong) = matrices.iter().find(|matrix| matrix.rank() != 2) {
        return Err(Error::shape(OP, "matrices, and vectors only at the ends", wrong.shape()));
    }
    if let Some(pair) = matrices.windows(2).find(|pair| pair[0].dims()[1] != pair[1].dims()[0]) {
        return Err(Error::shapes(OP, pair[0].shape(), pair[1].shape(), "as many columns as the next has rows"));
    }
    let product = product_of(&matrices, &best_splits(&matrices), 0, matrices.len() - 1)?;
    let product = if is_row { product.squeeze(0)? } else { product };
    if is_column { product.squeeze(-1) } else { Ok(product) }
}

/// For each range of factors from `i` to `j`, the last factor of its left half in the cheapest order
/// (<https://en.wikipedia.org/wiki/Matrix_chain_multiplication>).
fn best_splits(matrices: &[Tensor]) -> Vec<Vec<usize>> {
    let count = matrices.len();
    let extents: Vec<f64> = matrices
        .iter()
        .map(|matrix| matrix.dims()[0])
        .chain([matrices[count - 1].dims()[1]])
        .map(|n| n as f64)
        .collect();
    let (mut costs, mut splits) = (vec![vec![0.0; count]; count], vec![vec![0; count]; count]);
    for length in 1..count {
        for i in 0..count - length {
            let j = i + length;
            let cost = |k: usize| costs[i][k] + costs[k + 1][j] + extents[i] * extents[k + 1] * extents[j + 1];
            let best = (i..j).min_by(|&k, &other| cost(k).total_cmp(&cost(other))).unwrap_or(i);
            (costs[i][j], splits[i][j]) = (cost(best), best);
        }
    }
    splits
}

fn product_of(matrices: &[Tensor], splits: &[Vec<usize>], i: usize, j: usize) -> Result<Tensor> {
    if i == j {
        return Ok(matrices[i].clone());
    }
    let k = splits[i][j];
    product_of(matrices, splits, i, k)?.matmul(&product_of(matrices, splits, k + 1, j)?)
}

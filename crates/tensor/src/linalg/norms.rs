//! Norms, condition numbers and powers of matrices: `norm`, `matrix_norm`, `cond`, `matrix_power`.

use kiln_backend::{Dim, Error, Result};
use kiln_derive::located;

use super::{matrices, solve::inv, spectral, square};
use crate::{autocast::cast_operands, calc, ops::check, tensor::Tensor};

/// A norm of matrices.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum MatrixNorm {
    /// The root of the sum of squares; `"fro"` in PyTorch.
    #[default]
    Frobenius,
    /// The sum of singular values; `"nuc"` in PyTorch.
    Nuclear,
    /// 1 and -1: the largest and the smallest sum of absolute values in a column. Infinity and minus infinity: in a row. 2
    /// and -2: the largest and the smallest singular value.
    P(f64),
}

impl From<f64> for MatrixNorm {
    fn from(p: f64) -> MatrixNorm {
        MatrixNorm::P(p)
    }
}

impl From<i32> for MatrixNorm {
    fn from(p: i32) -> MatrixNorm {
        MatrixNorm::P(f64::from(p))
    }
}

/// The norms of matrices `[…, m, n]`: `[…]`
/// (<https://docs.pytorch.org/docs/stable/generated/torch.linalg.matrix_norm.html>).
///
/// # Errors
/// If there is no such norm, the tensor has no matrices or is not floating-point, or singular values are needed and the
/// tensor is not `f32` or `f64` or not on the CPU.
#[located]
pub fn matrix_norm<N: Into<MatrixNorm>>(a: &Tensor, ord: N) -> Result<Tensor> {
    norm_of("matrix_norm", a, ord.into(), [-2, -1], false)
}

/// [`matrix_norm`] of matrices along two other dimensions, which may be kept with extent 1.
///
/// # Errors
/// If a dimension is out of range, or both are the same, and those of [`matrix_norm`].
#[located]
pub fn matrix_norm_with<N: Into<MatrixNorm>>(a: &Tensor, ord: N, dims: [i64; 2], keepdim: bool) -> Result<Tensor> {
    norm_of("matrix_norm_with", a, ord.into(), dims, keepdim)
}

fn norm_of(op: &'static str, a: &Tensor, ord: MatrixNorm, dims: [i64; 2], keepdim: bool) -> Result<Tensor> {
    cast_operands("matrix_norm", [a], [], |[a], []| {
        check::floats(op, a)?;
        if a.rank() < 2 {
            return Err(Error::shape(op, "matrices [..., m, n]", a.shape()));
        }
        let [rows, columns] = [dims[0].resolve(op, a.rank())?, dims[1].resolve(op, a.rank())?];
        if rows == columns {
            return Err(Error::argument(op, format!("dimension {rows} is given twice")));
        }
        let others = (0..a.rank()).filter(|&dim| dim != rows && dim != columns);
        let x = a.permute(others.chain([rows, columns]).collect::<Vec<_>>())?;
        let extreme = |values: &Tensor, is_largest: bool| {
            match values.dims().last() {
                Some(0) => values.sum(-1), // 0, as in PyTorch
                _ if is_largest => values.amax(-1),
                _ => values.amin(-1),
            }
        };
        let singular_values = || {
            matrices(op, &x)?;
            spectral::singular_values(op, &x)
        };
        let norm = match ord {
            MatrixNorm::Frobenius => x.norm(2.0, [-2, -1])?,
            MatrixNorm::Nuclear => singular_values()?.sum(-1)?,
            MatrixNorm::P(p) if p.abs() == 2.0 => extreme(&singular_values()?, p > 0.0)?,
            MatrixNorm::P(p) if p.abs() == 1.0 => extreme(&x.abs()?.sum(-2)?, p > 0.0)?,
            MatrixNorm::P(p) if p.is_infinite() => extreme(&x.abs()?.sum(-1)?, p > 0.0)?,
            MatrixNorm::P(p) => {
                let message = format!("there is no norm of order {p}: orders are 1, 2, infinity and their negatives");
                return Err(Error::argument(op, message));
            }
        };
        if !keepdim {
            return Ok(norm);
        }
        norm.unsqueeze(rows.min(columns))?.unsqueeze(rows.max(columns))
    })
}

/// The norms of vectors along one dimension, or of matrices along two. Without dimensions, the tensor is one vector or matrix;
/// without `ord` as well it is one vector, whatever its shape. Without `ord`, the norm is the root of the sum of squares
/// (<https://docs.pytorch.org/docs/stable/generated/torch.linalg.norm.html>).
///
/// # Errors
/// If there are more dimensions, or a tensor of more dimensions with an `ord`, and those of [`Tensor::norm`] and
/// [`matrix_norm`].
#[located]
pub fn norm(a: &Tensor, ord: Option<MatrixNorm>, dims: &[i64], keepdim: bool) -> Result<Tensor> {
    const OP: &str = "norm";
    let of_vectors = |p: f64| if keepdim { a.norm_keepdim(p, dims) } else { a.norm(p, dims) };
    match (ord, if dims.is_empty() { a.rank() } else { dims.len() }) {
        (None, _) => of_vectors(2.0),
        (Some(MatrixNorm::P(p)), 1) => of_vectors(p),
        (Some(ord), 2) if dims.is_empty() => norm_of(OP, a, ord, [-2, -1], keepdim),
        (Some(ord), 2) => norm_of(OP, a, ord, [dims[0], dims[1]], keepdim),
        _ => Err(Error::shape(OP, "vectors or matrices, for which this order is", a.shape())),
    }
}

/// The condition numbers of matrices `[…, m, n]`, `[…]`: the largest singular value divided by the smallest one
/// (<https://docs.pytorch.org/docs/stable/generated/torch.linalg.cond.html>). Infinite for singular matrices.
///
/// # Errors
/// If a value is not finite (`LinAlg`), the tensor has no matrices, is not `f32` or `f64`, or not on the CPU.
#[located]
pub fn cond(a: &Tensor) -> Result<Tensor> {
    cond_of("cond", a, MatrixNorm::P(2.0))
}

/// [`cond`] in another norm: the norm of the matrix times that of its inverse.
///
/// # Errors
/// Those of [`cond`]; for other norms than 2 and -2 the matrices must be square.
#[located]
pub fn cond_with<N: Into<MatrixNorm>>(a: &Tensor, ord: N) -> Result<Tensor> {
    cond_of("cond_with", a, ord.into())
}

fn cond_of(op: &'static str, a: &Tensor, ord: MatrixNorm) -> Result<Tensor> {
    cast_operands("cond", [a], [], |[a], []| {
        matrices(op, a)?;
        if a.numel() == 0 {
            return a.sum([-2, -1]); // 0, as in PyTorch
        }
        if let MatrixNorm::P(p) = ord
            && p.abs() == 2.0
        {
            let s = spectral::singular_values(op, a)?;
            let [largest, smallest] = [s.select(-1, 0)?, s.select(-1, -1)?];
            return if p > 0.0 { calc!(largest / smallest) } else { calc!(smallest / largest) };
        }
        square(op, a)?;
        let norm = norm_of(op, a, ord, [-2, -1], false)?;
        let inverse = inverse_or_infinite(op, a)?;
        let product = calc!(norm * norm_of(op, &inverse, ord, [-2, -1], false))?;
        let is_singular = product.isnan()?.logical_and(&norm.isfinite()?)?;
        product.masked_fill(&is_singular, f64::INFINITY)
    })
}

/// The inverses, or what is not finite for singular matrices.
fn inverse_or_infinite(op: &'static str, a: &Tensor) -> Result<Tensor> {
    let identity = Tensor::eye([a.dims()[a.rank() - 1]], a.options().requires_grad(false))?.expand(a.dims())?;
    super::solve::solved(op, a, &identity, true)
}

/// The product of square matrices `[…, n, n]` with themselves, `n` times; of their inverses for a negative `n`, and the
/// identity for 0 (<https://docs.pytorch.org/docs/stable/generated/torch.linalg.matrix_power.html>).
///
/// # Errors
/// Those of [`Tensor::matrix_power`], and of [`inv`] for a negative `n`.
#[located]
pub fn matrix_power(a: &Tensor, n: i32) -> Result<Tensor> {
    if n < 0 { inv(a)?.matrix_power(n.unsigned_abs()) } else { a.matrix_power(n.unsigned_abs()) }
}

//! Matrices of any shape and rank: `pinv`, `lstsq`, `matrix_rank`.

use kiln_backend::{DType, Error, Result};
use kiln_derive::located;

use super::{factor, matrices, spectral};
use crate::{
    autocast::cast_operands,
    autograd::{no_grad, one, record},
    calc,
    ops::check,
    tensor::Tensor,
};

/// Up to which value a singular value counts as zero: the larger one of `atol` and `rtol` times the largest singular value.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tolerance {
    /// The absolute tolerance; 0 if it is not given.
    pub atol: Option<f64>,
    /// The relative tolerance; if neither is given, the dtype's epsilon times the larger extent of the matrix.
    pub rtol: Option<f64>,
}

impl Tolerance {
    /// An absolute tolerance.
    #[must_use]
    pub fn atol(atol: f64) -> Tolerance {
        Tolerance { atol: Some(atol), rtol: None }
    }

    /// A relative tolerance.
    #[must_use]
    pub fn rtol(rtol: f64) -> Tolerance {
        Tolerance { atol: None, rtol: Some(rtol) }
    }

    /// Which singular values (`[…, k]`, the largest first) of `m × n` matrices count.
    fn is_above(self, s: &Tensor, m: usize, n: usize) -> Result<Tensor> {
        let epsilon = if s.dtype() == DType::F32 { f64::from(f32::EPSILON) } else { f64::EPSILON };
        let own = if self.atol.is_some() { 0.0 } else { epsilon * m.max(n) as f64 };
        let (atol, rtol) = (self.atol.unwrap_or(0.0), self.rtol.unwrap_or(own));
        if m.min(n) == 0 {
            return s.gt(0.0);
        }
        s.gt(&s.narrow(-1, 0, 1)?.mul(rtol)?.clamp_min(atol)?)
    }
}

/// The Moore-Penrose inverses of matrices `[…, m, n]`: `[…, n, m]`
/// (<https://docs.pytorch.org/docs/stable/generated/torch.linalg.pinv.html>). The gradient is that of matrices of constant
/// rank (Golub & Pereyra, 1973; <https://doi.org/10.1137/0710036>).
///
/// # Errors
/// If a value is not finite (`LinAlg`), the tensor has no matrices, is not `f32` or `f64`, or not on the CPU.
#[located]
pub fn pinv(a: &Tensor) -> Result<Tensor> {
    pinv_of("pinv", a, Tolerance::default())
}

/// [`pinv`] with a tolerance for singular values that count as zero.
///
/// # Errors
/// Those of [`pinv`].
#[located]
pub fn pinv_with(a: &Tensor, tolerance: Tolerance) -> Result<Tensor> {
    pinv_of("pinv_with", a, tolerance)
}

fn pinv_of(op: &'static str, a: &Tensor, tolerance: Tolerance) -> Result<Tensor> {
    cast_operands("pinv", [a], [], |[a], []| {
        let (m, n) = matrices(op, a)?;
        let inverse = no_grad(|| {
            let [u, s, vt] = factor::svd(op, a, false)?;
            let reciprocals = tolerance.is_above(&s, m, n)?.where_cond(&s.reciprocal()?, 0.0)?;
            calc!(vt.mt()? * reciprocals.unsqueeze(-2))?.matmul(&u.mt()?)
        })?;
        record(inverse.clone(), "LinalgPinvBackward0", &[a], &[a, &inverse], |ctx| {
            let (grad, a, inverse) = (ctx.grad()?.mt()?, ctx.saved(0)?, ctx.saved(1)?);
            let transposed = inverse.mt()?;
            let plain = transposed.matmul(&grad.mt()?)?.matmul(&transposed)?;
            let of_columns = grad.matmul(&inverse)?.matmul(&transposed)?;
            let of_rows = transposed.matmul(&inverse.matmul(&grad)?)?;
            let outside_columns = calc!(of_columns - a.matmul(&inverse)?.matmul(&of_columns))?;
            let outside_rows = calc!(of_rows - of_rows.matmul(&inverse)?.matmul(&a))?;
            Ok(one(calc!(outside_columns + outside_rows - plain)?))
        })
    })
}

/// The number of singular values that do not count as zero, `i64` of shape `[…]`, for matrices `[…, m, n]`
/// (<https://docs.pytorch.org/docs/stable/generated/torch.linalg.matrix_rank.html>).
///
/// # Errors
/// Those of [`pinv`].
#[located]
pub fn matrix_rank(a: &Tensor) -> Result<Tensor> {
    rank_of("matrix_rank", a, Tolerance::default())
}

/// [`matrix_rank`] with a tolerance for singular values that count as zero.
///
/// # Errors
/// Those of [`pinv`].
#[located]
pub fn matrix_rank_with(a: &Tensor, tolerance: Tolerance) -> Result<Tensor> {
    rank_of("matrix_rank_with", a, tolerance)
}

fn rank_of(op: &'static str, a: &Tensor, tolerance: Tolerance) -> Result<Tensor> {
    cast_operands("matrix_rank", [a], [], |[a], []| {
        let (m, n) = matrices(op, a)?;
        no_grad(|| tolerance.is_above(&spectral::singular_values(op, a)?, m, n)?.sum(-1))
    })
}

/// What [`lstsq`] finds.
#[derive(Clone, Debug)]
pub struct Lstsq {
    /// `x`, which minimizes `‖a x - b‖`; if several do, the one of least norm.
    pub solution: Tensor,
    /// The squared distances for each column of `b`, `[…, k]`; empty (`[0]`) unless `m > n` and all matrices have full rank.
    pub residuals: Tensor,
    /// The ranks of the matrices, `i64` of shape `[…]`.
    pub rank: Tensor,
    /// Their singular values, `[…, min(m, n)]`.
    pub singular_values: Tensor,
}

/// Least squares: `x` with the least `‖a x - b‖` for matrices `a` `[…, m, n]` and `b` `[…, m, k]`, or vectors `[…, m]` with the
/// batch of `a` (<https://docs.pytorch.org/docs/stable/generated/torch.linalg.lstsq.html>). Matrices may have any rank, as
/// with PyTorch's driver `gelsd`. Gradients go through the solution and the residuals.
///
/// # Errors
/// If shapes do not fit, and those of [`pinv`].
#[located]
pub fn lstsq(a: &Tensor, b: &Tensor) -> Result<Lstsq> {
    lstsq_of("lstsq", a, b, None)
}

/// [`lstsq`] with `rcond`: singular values up to this share of the largest one count as zero.
///
/// # Errors
/// Those of [`lstsq`].
#[located]
pub fn lstsq_with(a: &Tensor, b: &Tensor, rcond: f64) -> Result<Lstsq> {
    lstsq_of("lstsq_with", a, b, Some(rcond))
}

fn lstsq_of(op: &'static str, a: &Tensor, b: &Tensor, rcond: Option<f64>) -> Result<Lstsq> {
    cast_operands("lstsq", [a, b], [], |[a, b], []| {
        let (m, n) = matrices(op, a)?;
        check::same_kind(op, a, &[b])?;
        let is_vector = b.rank() + 1 == a.rank() && b.dims() == &a.dims()[..b.rank()];
        let columns = if is_vector { b.unsqueeze(-1)? } else { b.clone() };
        if columns.rank() < 2 || columns.dims()[columns.rank() - 2] != m {
            let expected = "right sides of shape [..., m, k] or [..., m] for matrices [..., m, n]";
            return Err(Error::shapes(op, a.shape(), b.shape(), expected));
        }
        let tolerance = Tolerance { atol: None, rtol: rcond };
        let x = pinv_of(op, a, tolerance)?.matmul(&columns)?;
        let (rank, singular_values) = no_grad(|| {
            let s = spectral::singular_values(op, a)?;
            Ok::<_, Error>((tolerance.is_above(&s, m, n)?.sum(-1)?, s))
        })?;
        let is_determined = m > n && rank.eq(n as i64)?.all(())?.item::<bool>()?;
        let residuals = if is_determined {
            let squares = calc!(a.matmul(&x) - columns)?.square()?.sum(-2)?;
            if is_vector { squares.squeeze(-1)? } else { squares }
        } else {
            Tensor::zeros([0], a.options().requires_grad(false))?
        };
        Ok(Lstsq { solution: if is_vector { x.squeeze(-1)? } else { x }, residuals, rank, singular_values })
    })
}

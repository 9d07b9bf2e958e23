//! Matrices of any shape and rank: `pinv`, `lstsq`, `matrix_rank`.

use kiln_backend::{DType, Error, Result};
use kiln_derive::located;

use super::{factor, matrices, spectral, square};
use crate::{
    autocast::cast_operands,
    autograd::{no_grad, one, record},
    calc,
    ops::{Rhs, check},
    tensor::Tensor,
};

/// Up to which value a singular value counts as zero: the larger one of `atol` and `rtol` times the largest singular value.
/// Each is a number, or a tensor with a number for each matrix, which broadcasts with the batch.
#[derive(Clone, Debug, Default)]
pub struct Tolerance {
    /// The absolute tolerance; 0 if it is not given.
    pub atol: Option<Rhs>,
    /// The relative tolerance; if it is not given and `atol` is not above 0, the dtype's epsilon times the larger extent of
    /// the matrix.
    pub rtol: Option<Rhs>,
}

impl Tolerance {
    /// An absolute tolerance.
    #[must_use]
    pub fn atol(atol: impl Into<Rhs>) -> Tolerance {
        Tolerance { atol: Some(atol.into()), rtol: None }
    }

    /// A relative tolerance.
    #[must_use]
    pub fn rtol(rtol: impl Into<Rhs>) -> Tolerance {
        Tolerance { atol: None, rtol: Some(rtol.into()) }
    }

    /// Which singular values, or absolute values of eigenvalues (`[…, k]`), of `m × n` matrices count.
    fn is_above(&self, sizes: &Tensor, m: usize, n: usize) -> Result<Tensor> {
        if m.min(n) == 0 {
            return sizes.gt(0.0);
        }
        let epsilon = if sizes.dtype() == DType::F32 { f64::from(f32::EPSILON) } else { f64::EPSILON };
        let own = epsilon * m.max(n) as f64;
        let each = |tolerance: &Rhs| -> Result<Rhs> {
            Ok(match tolerance {
                Rhs::Tensor(each) => each.to_dtype(sizes.dtype())?.unsqueeze(-1)?.into(),
                number => number.clone(),
            })
        };
        let atol = each(self.atol.as_ref().unwrap_or(&Rhs::from(0.0)))?;
        let rtol = match (&self.rtol, &atol) {
            (Some(rtol), _) => each(rtol)?,
            (None, Rhs::Tensor(atol)) => atol.le(0.0)?.to_dtype(sizes.dtype())?.mul(own)?.into(),
            (None, Rhs::Scalar(atol)) => (if atol.to_f64() > 0.0 { 0.0 } else { own }).into(),
        };
        sizes.gt(&sizes.amax_keepdim(-1)?.mul(rtol)?.maximum(atol)?)
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
    pinv_of("pinv", a, &Tolerance::default(), false)
}

/// [`pinv`] with a tolerance for singular values that count as zero.
///
/// # Errors
/// Those of [`pinv`].
#[located]
pub fn pinv_with(a: &Tensor, tolerance: Tolerance) -> Result<Tensor> {
    pinv_of("pinv_with", a, &tolerance, false)
}

/// [`pinv_with`] of symmetric matrices, of which only the lower triangle is read, by their eigenvalues: PyTorch's
/// `pinv(a, hermitian=True)`. It is faster.
///
/// # Errors
/// Those of [`pinv`]; or if the matrices are not square.
#[located]
pub fn pinv_hermitian(a: &Tensor, tolerance: Tolerance) -> Result<Tensor> {
    pinv_of("pinv_hermitian", a, &tolerance, true)
}

fn pinv_of(op: &'static str, a: &Tensor, tolerance: &Tolerance, is_symmetric: bool) -> Result<Tensor> {
    cast_operands("pinv", [a], [], |[a], []| {
        let (m, n) = extents(op, a, is_symmetric)?;
        let inverse = no_grad(|| {
            // The columns of `v diag(values) uᵀ`.
            let [u, values, v] = if is_symmetric {
                let [values, vectors] = factor::eigh(op, a, false)?;
                [vectors.clone(), values, vectors]
            } else {
                let [u, s, vt] = factor::svd(op, a, false)?;
                [u, s, vt.mt()?]
            };
            let reciprocals = tolerance.is_above(&values.abs()?, m, n)?.where_cond(&values.reciprocal()?, 0.0)?;
            calc!(v * reciprocals.unsqueeze(-2))?.matmul(&u.mt()?)
        })?;
        record(inverse.clone(), "LinalgPinvBackward0", &[a], &[a, &inverse], |ctx| {
            let (grad, a, inverse) = (ctx.grad()?.mt()?, ctx.saved(0)?, ctx.saved(1)?);
            let transposed = inverse.mt()?;
            let plain = transposed.matmul(&grad.mt()?)?.matmul(&transposed)?;
            let of_columns = grad.matmul(&inverse)?.matmul(&transposed)?;
            let of_rows = transposed.matmul(&inverse.matmul(&grad)?)?;
            let outside_columns = calc!(of_columns - a.matmul(&inverse)?.matmul(&of_columns))?;
            let outside_rows = calc!(of_rows - of_rows.matmul(&inverse)?.matmul(&a))?;
            Ok(one(calc!(outside_columns + outside_rows - plain)?.sum_to(a.shape())?))
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
    rank_of("matrix_rank", a, &Tolerance::default(), false)
}

/// [`matrix_rank`] with a tolerance for singular values that count as zero.
///
/// # Errors
/// Those of [`pinv`].
#[located]
pub fn matrix_rank_with(a: &Tensor, tolerance: Tolerance) -> Result<Tensor> {
    rank_of("matrix_rank_with", a, &tolerance, false)
}

/// [`matrix_rank_with`] of symmetric matrices, of which only the lower triangle is read, by their eigenvalues: PyTorch's
/// `matrix_rank(a, hermitian=True)`. It is faster.
///
/// # Errors
/// Those of [`pinv`]; or if the matrices are not square.
#[located]
pub fn matrix_rank_hermitian(a: &Tensor, tolerance: Tolerance) -> Result<Tensor> {
    rank_of("matrix_rank_hermitian", a, &tolerance, true)
}

fn rank_of(op: &'static str, a: &Tensor, tolerance: &Tolerance, is_symmetric: bool) -> Result<Tensor> {
    cast_operands("matrix_rank", [a], [], |[a], []| {
        let (m, n) = extents(op, a, is_symmetric)?;
        no_grad(|| {
            let sizes =
                if is_symmetric { factor::eigvalsh(op, a, false)?.abs()? } else { spectral::singular_values(op, a)? };
            tolerance.is_above(&sizes, m, n)?.sum(-1)
        })
    })
}

/// Rows and columns of the matrices; symmetric ones are square.
fn extents(op: &'static str, a: &Tensor, is_symmetric: bool) -> Result<(usize, usize)> {
    if is_symmetric { square(op, a).map(|n| (n, n)) } else { matrices(op, a) }
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
/// batch of `a` (<https://docs.pytorch.org/docs/stable/generated/torch.linalg.lstsq.html>). Gradients go through the solution
/// and the residuals.
///
/// There is no choice of a driver: matrices may have any rank, as with PyTorch's `gelsd` and `gelss`, because all solutions
/// come from the singular value decomposition. `gelsy` and `gels` find the same ones where they may be used.
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
        let tolerance = Tolerance { atol: None, rtol: rcond.map(Rhs::from) };
        let x = pinv_of(op, a, &tolerance, false)?.matmul(&columns)?;
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

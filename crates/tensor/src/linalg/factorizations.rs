//! Factorizations into triangular matrices: `cholesky`, `qr`.

use kiln_backend::{Error, Result};
use kiln_derive::located;

use super::{
    Triangular, factor, matrices, record_part,
    solve::{triangular, triangular_right},
    square,
};
use crate::{
    autocast::cast_operands,
    autograd::{is_recorded, one, record},
    calc,
    tensor::Tensor,
};

/// The lower triangular `l` with `l lᵀ = a`, for symmetric positive definite matrices `[…, n, n]`, of which only the lower
/// triangle is read (<https://docs.pytorch.org/docs/stable/generated/torch.linalg.cholesky.html>). Its transpose is
/// PyTorch's with `upper=True`. The gradient is symmetric (Murray, 2016; <https://arxiv.org/abs/1602.07527>).
///
/// # Errors
/// If a matrix is not positive definite (`LinAlg`), the matrices are not square, not `f32` or `f64`, or not on the CPU.
#[located]
pub fn cholesky(a: &Tensor) -> Result<Tensor> {
    const OP: &str = "cholesky";
    cast_operands(OP, [a], [], |[a], []| {
        square(OP, a)?;
        let l = factor::cholesky(OP, a)?;
        record(l.clone(), "LinalgCholeskyExBackward0", &[a], &[&l], |ctx| {
            let l = ctx.saved(0)?;
            let transposed = l.mt()?;
            let half = transposed.matmul(&ctx.grad()?)?.tril(0)?;
            let symmetric = calc!((half + half.tril(-1)?.mt()) * 0.5)?;
            let left = triangular(&transposed, &symmetric, Triangular::upper())?;
            Ok(one(triangular_right(&l, &left, Triangular::lower())?))
        })
    })
}

/// What [`qr`] returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QrMode {
    /// `q` `[…, m, k]` and `r` `[…, k, n]` with `k = min(m, n)`.
    #[default]
    Reduced,
    /// `q` `[…, m, m]` and `r` `[…, m, n]`.
    Complete,
    /// An empty `q`, and `r` as of `Reduced`.
    R,
}

/// An orthogonal `q` and an upper triangular `r` with `q r = a`, for matrices `[…, m, n]`
/// (<https://docs.pytorch.org/docs/stable/generated/torch.linalg.qr.html>). The signs of the columns of `q` are not
/// determined.
///
/// The gradient (Walter, Lehmann & Lamour, 2012) is that of matrices whose first `k` columns are linearly
/// independent; there is none in mode `R`, nor in mode `Complete` with more rows than columns.
///
/// # Errors
/// If the tensor has no matrices, is not `f32` or `f64`, or not on the CPU.
#[located]
pub fn qr(a: &Tensor, mode: QrMode) -> Result<(Tensor, Tensor)> {
    const OP: &str = "qr";
    cast_operands(OP, [a], [], |[a], []| {
        let (m, n) = matrices(OP, a)?;
        let reason = match mode {
            QrMode::R => "in mode `R` there is no gradient, which needs `q`: use `QrMode::Reduced`",
            QrMode::Complete if m > n => "in mode `Complete` there is no gradient for more rows than columns",
            _ if m < n && is_recorded(&[a]) => {
                // The first columns are factorized; the others are expressed in `q`.
                let (q, first) = decomposed(&a.narrow(-1, 0, m)?)?;
                let others = q.mt()?.matmul(&a.narrow(-1, m, n - m)?)?;
                return Ok((q, Tensor::cat(&[&first, &others], -1)?));
            }
            _ if m >= n => return decomposed(a),
            _ => return factor::qr(a, false).map(<(Tensor, Tensor)>::from),
        };
        let [q, r] = factor::qr(a, mode == QrMode::Complete)?;
        let refused = |out| {
            record(out, "LinalgQrBackward0", &[a], &[], move |_| Err(Error::autograd("LinalgQrBackward0", reason)))
        };
        let q = if mode == QrMode::R { Tensor::zeros([0], a.options().requires_grad(false))? } else { refused(q)? };
        Ok((q, refused(r)?))
    })
}

/// `q` and `r` of matrices with at least as many rows as columns.
fn decomposed(a: &Tensor) -> Result<(Tensor, Tensor)> {
    let again = |a: &Tensor| decomposed(a).map(|(q, r)| vec![q, r]);
    let [q, r] = factor::qr(a, false)?;
    let parts = [q.clone(), r.clone()];
    let q = record_part(q, "LinalgQrBackward0", a, &parts, again, |grad, parts| {
        let [q, r] = parts else { return Err(Error::autograd("LinalgQrBackward0", "needs `q` and `r`")) };
        let inner = q.mt()?.matmul(grad)?.neg()?;
        of_product(q, r, &inner, Some(grad))
    })?;
    let r = record_part(r, "LinalgQrBackward0", a, &parts, again, |grad, parts| {
        let [q, r] = parts else { return Err(Error::autograd("LinalgQrBackward0", "needs `q` and `r`")) };
        of_product(q, r, &grad.matmul(&r.mt()?)?, None)
    })?;
    Ok((q, r))
}

/// `(q (x + xᵀ - diag(x)) + extra) r⁻ᵀ`, with the upper triangle `x` of `inner`.
fn of_product(q: &Tensor, r: &Tensor, inner: &Tensor, extra: Option<&Tensor>) -> Result<Tensor> {
    let symmetric = calc!(inner.triu(0) + inner.triu(1)?.mt())?;
    let mut product = q.matmul(&symmetric)?;
    if let Some(extra) = extra {
        product = product.add(extra)?;
    }
    triangular_right(&r.mt()?, &product, Triangular::lower())
}

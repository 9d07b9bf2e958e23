//! Determinants: `det`, `slogdet`, `logdet`.

use kiln_backend::Result;
use kiln_derive::located;

use super::{factor, solve::solved, spectral, square};
use crate::{
    autocast::cast_operands,
    autograd::{no_grad, one, record},
    calc,
    tensor::Tensor,
};

/// The determinants of square matrices `[…, n, n]`, of shape `[…]`
/// (<https://docs.pytorch.org/docs/stable/generated/torch.linalg.det.html>). Its gradient is that of singular matrices as
/// well; the second derivative needs singular values that differ there.
///
/// # Errors
/// If the matrices are not square, not `f32` or `f64`, or not on the CPU.
#[located]
pub fn det(a: &Tensor) -> Result<Tensor> {
    const OP: &str = "det";
    cast_operands(OP, [a], [], |[a], []| {
        square(OP, a)?;
        let [det, ..] = factor::determinant(a)?;
        record(det.clone(), "LinalgDetBackward0", &[a], &[a, &det], |ctx| {
            let (grad, a, det) = (ctx.grad()?, ctx.saved(0)?, ctx.saved(1)?);
            let has_singular = no_grad(|| det.eq(0.0)?.any(())?.item::<bool>())?;
            if has_singular {
                return Ok(one(cofactors(&grad, &a)?));
            }
            // With the pivots that the determinant is the product of: where it is nearly zero, their errors cancel.
            Ok(one(solved(OP, &a, &on_diagonal(&calc!(grad * det)?, &a)?, false)?.mt()?))
        })
    })
}

/// Diagonal matrices with one number each on the whole diagonal, of the shape of `a`.
fn on_diagonal(numbers: &Tensor, a: &Tensor) -> Result<Tensor> {
    let n = a.dims()[a.rank() - 1];
    calc!(numbers.unsqueeze(-1)?.unsqueeze(-1) * Tensor::eye([n], a.options().requires_grad(false)))
}

/// The gradient of a determinant, `grad` times the matrix of cofactors, which singular matrices have as well. With the
/// singular value decomposition it is `det(u) det(vt) u diag(products of the other singular values) vt`
/// (<https://nhigham.com/2020/06/16/what-is-the-adjugate-of-a-matrix/>).
fn cofactors(grad: &Tensor, a: &Tensor) -> Result<Tensor> {
    let n = a.dims()[a.rank() - 1];
    let [u, s, vt] = spectral::decomposed("det", a, false)?;
    let [[sign, ..], [other_sign, ..]] = [factor::determinant(&u)?, factor::determinant(&vt)?];
    let on_diagonal = Tensor::eye([n], a.device())?.eq(1.0)?;
    let square = factor::with_batch(super::batch_of(a), n, n);
    let others = s.unsqueeze(-2)?.expand(square)?.masked_fill(&on_diagonal, 1.0)?.prod(-1)?;
    let scale = calc!((grad * sign * other_sign)?.unsqueeze(-1) * others)?;
    calc!(u * scale.unsqueeze(-2))?.matmul(&vt)
}

/// The signs of determinants (-1, 0 or 1) and the logarithms of their absolute values, which do not overflow, both of shape
/// `[…]` (<https://docs.pytorch.org/docs/stable/generated/torch.linalg.slogdet.html>). Of a singular matrix they are 0 and
/// `-inf`, and the gradient is not finite.
///
/// # Errors
/// If the matrices are not square, not `f32` or `f64`, or not on the CPU.
#[located]
pub fn slogdet(a: &Tensor) -> Result<(Tensor, Tensor)> {
    const OP: &str = "slogdet";
    cast_operands(OP, [a], [], |[a], []| {
        square(OP, a)?;
        let [_, sign, log_abs] = factor::determinant(a)?;
        // It is constant but where the determinant is zero.
        let sign = record(sign, "LinalgSlogdetBackward0", &[a], &[a], |ctx| Ok(one(ctx.saved(0)?.zeros_like()?)))?;
        let log_abs = record(log_abs, "LinalgSlogdetBackward0", &[a], &[a], |ctx| {
            let (grad, a) = (ctx.grad()?, ctx.saved(0)?);
            Ok(one(solved(OP, &a, &on_diagonal(&grad, &a)?, true)?.mt()?))
        })?;
        Ok((sign, log_abs))
    })
}

/// The logarithms of determinants, `[…]`: `-inf` of singular matrices, NaN where the determinant is negative
/// (<https://docs.pytorch.org/docs/stable/generated/torch.logdet.html>).
///
/// # Errors
/// Those of [`det`].
#[located]
pub fn logdet(a: &Tensor) -> Result<Tensor> {
    let (sign, log_abs) = slogdet(a).map_err(|error| error.of_op("logdet"))?;
    sign.detach().lt(0.0)?.where_cond(f64::NAN, &log_abs)
}

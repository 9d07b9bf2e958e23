//! Singular values, and eigenvalues of symmetric matrices: `svd`, `svdvals`, `eigh`, `eigvalsh`.

use kiln_backend::{Error, Result};
use kiln_derive::located;

use super::{factor, matrices, record_part, square};
use crate::{autocast::cast_operands, autograd::is_recorded, calc, tensor::Tensor};

/// The singular value decomposition `u diag(s) vt` of matrices `[…, m, n]`, with `k = min(m, n)` singular values, the largest
/// first: `u` is `[…, m, k]` and `vt` `[…, k, n]`, or square if `full_matrices`
/// (<https://docs.pytorch.org/docs/stable/generated/torch.linalg.svd.html>). The signs of singular vectors are not
/// determined.
///
/// The gradient (Townsend, 2016; <https://j-towns.github.io/papers/svd-derivative.pdf>) is finite if the singular values
/// differ and, for matrices that are not square, none is zero. It goes through the first `k` singular vectors.
///
/// # Errors
/// If a value is not finite (`LinAlg`), the tensor has no matrices, is not `f32` or `f64`, or not on the CPU.
#[located]
pub fn svd(a: &Tensor, full_matrices: bool) -> Result<(Tensor, Tensor, Tensor)> {
    const OP: &str = "svd";
    cast_operands(OP, [a], [], |[a], []| {
        matrices(OP, a)?;
        decomposed(OP, a, full_matrices).map(|[u, s, vt]| (u, s, vt))
    })
}

/// The singular values of matrices `[…, m, n]`, the largest first: `[…, min(m, n)]`
/// (<https://docs.pytorch.org/docs/stable/generated/torch.linalg.svdvals.html>). Their gradient is always finite.
///
/// # Errors
/// Those of [`svd`].
#[located]
pub fn svdvals(a: &Tensor) -> Result<Tensor> {
    const OP: &str = "svdvals";
    cast_operands(OP, [a], [], |[a], []| {
        matrices(OP, a)?;
        singular_values(OP, a)
    })
}

/// [`svdvals`], with the singular vectors only if the gradient needs them.
pub(super) fn singular_values(op: &'static str, a: &Tensor) -> Result<Tensor> {
    if is_recorded(&[a]) { decomposed(op, a, false).map(|[_, s, _]| s) } else { factor::singular_values(op, a) }
}

/// `u`, `s` and `vt` with their gradients.
pub(super) fn decomposed(op: &'static str, a: &Tensor, full: bool) -> Result<[Tensor; 3]> {
    const NODE: &str = "LinalgSvdBackward0";
    let [u, s, vt] = factor::svd(op, a, full)?;
    let k = s.dims()[s.rank() - 1];
    // Those of singular values; the others are any basis of what is left.
    let first = move |u: &Tensor, s: &Tensor, vt: &Tensor| {
        Ok::<_, Error>(vec![u.narrow(-1, 0, k)?, s.clone(), vt.narrow(-2, 0, k)?])
    };
    let parts = first(&u.detach(), &s.detach(), &vt.detach())?;
    let again = move |a: &Tensor| {
        let [u, s, vt] = decomposed(op, a, full)?;
        first(&u, &s, &vt)
    };
    fn unpacked(parts: &[Tensor]) -> Result<[&Tensor; 3]> {
        let [u, s, vt] = parts else { return Err(Error::autograd(NODE, "needs `u`, `s` and `vt`")) };
        Ok([u, s, vt])
    }
    let u = record_part(u, NODE, a, &parts, again, move |grad, parts| {
        let [u, s, vt] = unpacked(parts)?;
        let (grad, s) = (grad.narrow(-1, 0, k)?, s.unsqueeze(-2)?);
        let within = u.mt()?.matmul(&grad)?;
        let mut product = u.matmul(&calc!(turned(&within, &calc!(s * s)?) * s)?)?;
        if u.dims()[u.rank() - 2] > k {
            product = calc!(product + (grad - u.matmul(&within)) / s)?;
        }
        product.matmul(vt)
    })?;
    let vt = record_part(vt, NODE, a, &parts, again, move |grad, parts| {
        let [u, s, vt] = unpacked(parts)?;
        let (grad, s) = (grad.narrow(-2, 0, k)?, s.unsqueeze(-1)?);
        let within = vt.matmul(&grad.mt()?)?;
        let squares = calc!(s * s)?.mt()?;
        let mut product = calc!(s * turned(&within, &squares))?.matmul(vt)?;
        if vt.dims()[vt.rank() - 1] > k {
            product = calc!(product + (grad - within.mt()?.matmul(vt)) / s)?;
        }
        u.matmul(&product)
    })?;
    let s = record_part(s, NODE, a, &parts, again, |grad, parts| {
        let [u, _, vt] = unpacked(parts)?;
        calc!(u * grad.unsqueeze(-2))?.matmul(vt)
    })?;
    Ok([u, s, vt])
}

/// `(x - xᵀ) / (values[j] - values[i])`, and 0 on the diagonal, for `values` of shape `[…, 1, k]`.
fn turned(x: &Tensor, values: &Tensor) -> Result<Tensor> {
    let ones = Tensor::eye([values.dims()[values.rank() - 1]], values.options().requires_grad(false))?;
    calc!((x - x.mt()?) / (values - values.mt()? + ones))
}

/// The eigenvalues of symmetric matrices `[…, n, n]` in ascending order, `[…, n]`, and the eigenvectors as columns of
/// `[…, n, n]`. Only the lower triangle is read (<https://docs.pytorch.org/docs/stable/generated/torch.linalg.eigh.html>);
/// give the transpose for the upper one. The signs of eigenvectors are not determined.
///
/// The gradient of eigenvectors (Giles, 2008; <https://people.maths.ox.ac.uk/gilesm/files/NA-08-01.pdf>) is finite if the
/// eigenvalues differ.
///
/// # Errors
/// If a value is not finite (`LinAlg`), the matrices are not square, not `f32` or `f64`, or not on the CPU.
#[located]
pub fn eigh(a: &Tensor) -> Result<(Tensor, Tensor)> {
    const OP: &str = "eigh";
    cast_operands(OP, [a], [], |[a], []| {
        square(OP, a)?;
        eigenvectors(OP, a).map(|[values, vectors]| (values, vectors))
    })
}

/// The eigenvalues of symmetric matrices `[…, n, n]` in ascending order, `[…, n]`
/// (<https://docs.pytorch.org/docs/stable/generated/torch.linalg.eigvalsh.html>). Only the lower triangle is read. Their
/// gradient is always finite.
///
/// # Errors
/// Those of [`eigh`].
#[located]
pub fn eigvalsh(a: &Tensor) -> Result<Tensor> {
    const OP: &str = "eigvalsh";
    cast_operands(OP, [a], [], |[a], []| {
        square(OP, a)?;
        if is_recorded(&[a]) { eigenvectors(OP, a).map(|[values, _]| values) } else { factor::eigvalsh(OP, a, false) }
    })
}

fn eigenvectors(op: &'static str, a: &Tensor) -> Result<[Tensor; 2]> {
    const NODE: &str = "LinalgEighBackward0";
    let [values, vectors] = factor::eigh(op, a, false)?;
    let parts = [values.clone(), vectors.clone()];
    let again = move |a: &Tensor| eigenvectors(op, a).map(Vec::from);
    let values = record_part(values, NODE, a, &parts, again, |grad, parts| {
        let [_, v] = parts else { return Err(Error::autograd(NODE, "needs eigenvalues and eigenvectors")) };
        calc!(v * grad.unsqueeze(-2))?.matmul(&v.mt()?)
    })?;
    let vectors = record_part(vectors, NODE, a, &parts, again, |grad, parts| {
        let [values, v] = parts else { return Err(Error::autograd(NODE, "needs eigenvalues and eigenvectors")) };
        let within = turned(&v.mt()?.matmul(grad)?, &values.unsqueeze(-2)?)?;
        calc!(v.matmul(&within)?.matmul(&v.mt()?) * 0.5)
    })?;
    Ok([values, vectors])
}

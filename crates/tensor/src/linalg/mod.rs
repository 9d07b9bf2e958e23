//! Linear algebra, named as in `torch.linalg`: solutions of linear systems, factorizations, eigenvalues, norms.
//!
//! The tensors are batches of matrices, `[…, m, n]`, of `f32` or `f64`, on the CPU. Factorizations are those of `faer`, one
//! matrix at a time; gradients are written in operations on tensors, so they can be differentiated again. Where a
//! matrix has no such factorization, the error is [`ErrorKind::LinAlg`](crate::ErrorKind::LinAlg), as `LinAlgError` in
//! PyTorch. Autocast computes in `f32`.
//!
//! ```
//! use kiln_tensor::{Device, Tensor, linalg};
//!
//! # fn main() -> kiln_tensor::Result<()> {
//! let a = Tensor::new([[4f64, 1.], [1., 3.]], Device::Cpu)?.requires_grad_(true)?;
//! let b = Tensor::new([1f64, 2.], Device::Cpu)?;
//! let x = linalg::solve(&a, &b)?;
//! assert!(a.matmul(&x)?.allclose(&b, 1e-12, 1e-12)?);
//! let (values, vectors) = linalg::eigh(&a)?;
//! let back = vectors.matmul(&values.diag_embed(0, -2, -1)?)?.matmul(&vectors.mt()?)?;
//! assert!(back.allclose(&a, 1e-12, 1e-12)?);
//! linalg::slogdet(&a)?.1.backward()?; // the gradient is the inverse
//! # Ok(())
//! # }
//! ```

mod determinant;
mod factor;
mod factorizations;
mod least_squares;
mod lu;
mod norms;
mod products;
mod solve;
mod spectral;

pub use determinant::{det, logdet, slogdet};
pub use factorizations::{QrMode, cholesky, qr};
pub use least_squares::{
    Lstsq, Tolerance, lstsq, lstsq_with, matrix_rank, matrix_rank_hermitian, matrix_rank_with, pinv, pinv_hermitian,
    pinv_with,
};
pub use lu::{lu, lu_factor, lu_solve};
pub use norms::{MatrixNorm, cond, cond_with, matrix_norm, matrix_norm_with, matrix_power, norm};
pub use products::{matrix_exp, multi_dot};
pub use solve::{
    Triangular, cholesky_inverse, cholesky_solve, inv, solve, solve_right, solve_triangular, tensorinv, tensorsolve,
};
pub use spectral::{eigh, eigvalsh, svd, svdvals};

use kiln_backend::{DType, Error, Result};

use crate::{
    autograd::{one, record},
    device::Device,
    ops::check,
    tensor::Tensor,
};

/// Rows and columns of matrices that can be factorized.
fn matrices(op: &'static str, a: &Tensor) -> Result<(usize, usize)> {
    check::floats(op, a)?;
    if !matches!(a.dtype(), DType::F32 | DType::F64) {
        return Err(Error::dtype(op, a.dtype(), "it takes f32 and f64; convert with `to_dtype`"));
    }
    let &[.., rows, columns] = a.dims() else {
        return Err(Error::shape(op, "matrices [..., m, n]", a.shape()));
    };
    if a.device() != Device::Cpu {
        let reason =
            "factorizations of matrices are computed on the CPU: move the tensor there with `.to_device(Device::Cpu)`";
        return Err(Error::unsupported(op, a.device(), reason));
    }
    Ok((rows, columns))
}

/// The extent of square matrices that can be factorized.
fn square(op: &'static str, a: &Tensor) -> Result<usize> {
    let (rows, columns) = matrices(op, a)?;
    if rows == columns { Ok(rows) } else { Err(Error::shape(op, "square matrices [..., n, n]", a.shape())) }
}

/// The dimensions before those of the matrices.
fn batch_of(a: &Tensor) -> &[usize] {
    &a.dims()[..a.rank().saturating_sub(2)]
}

/// Records one of several results of a factorization of `a`. `parts` are all of them, which `gradient` reads. Gradients of
/// several results add up, so each has a node of its own. When gradients are differentiated themselves, the parts
/// are computed once more, by `again`, with a history.
fn record_part(
    out: Tensor,
    node: &'static str,
    a: &Tensor,
    parts: &[Tensor],
    again: impl Fn(&Tensor) -> Result<Vec<Tensor>> + Send + Sync + 'static,
    gradient: impl Fn(&Tensor, &[Tensor]) -> Result<Tensor> + Send + Sync + 'static,
) -> Result<Tensor> {
    let count = parts.len();
    let saved: Vec<&Tensor> = std::iter::once(a).chain(parts).collect();
    record(out, node, &[a], &saved, move |ctx| {
        let parts = if ctx.create_graph {
            again(&ctx.saved(0)?)?
        } else {
            (1..=count).map(|i| ctx.constant(i)).collect::<Result<_>>()?
        };
        Ok(one(gradient(&ctx.grad()?, &parts)?))
    })
}

//! Linear systems: `solve`, `solve_triangular`, `cholesky_solve`, `inv`, `cholesky_inverse`.

use kiln_backend::{Dim, Error, Result, Shape};
use kiln_derive::located;
use smallvec::smallvec;

use super::{batch_of, factor, matrices, square};
use crate::{
    autocast::cast_operands,
    autograd::{one, record},
    ops::check,
    tensor::Tensor,
};

/// The inverses of square matrices `[…, n, n]` (<https://docs.pytorch.org/docs/stable/generated/torch.linalg.inv.html>).
/// [`solve`] is faster and more accurate than a product with the inverse.
///
/// # Errors
/// If a matrix is singular (`LinAlg`), the matrices are not square, not `f32` or `f64`, or not on the CPU.
#[located]
pub fn inv(a: &Tensor) -> Result<Tensor> {
    const OP: &str = "inv";
    cast_operands(OP, [a], [], |[a], []| {
        square(OP, a)?;
        let inverse = factor::inv(OP, a, false)?;
        record(inverse.clone(), "LinalgInvExBackward0", &[a], &[&inverse], |ctx| {
            let transposed = ctx.saved(0)?.mt()?;
            Ok(one(transposed.matmul(&ctx.grad()?)?.matmul(&transposed)?.neg()?))
        })
    })
}

/// `x` with `a x = b`, for square `a` `[…, n, n]` and `b` `[…, n, k]`, or vectors `[n]` or `[…, n]` with the batch of `a`;
/// batches broadcast (<https://docs.pytorch.org/docs/stable/generated/torch.linalg.solve.html>).
///
/// # Errors
/// If a matrix is singular (`LinAlg`), shapes do not fit, dtypes differ, or are not `f32` or `f64`, or the tensors are
/// not on the CPU.
#[located]
pub fn solve(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    const OP: &str = "solve";
    cast_operands(OP, [a, b], [], |[a, b], []| {
        let n = square(OP, a)?;
        check::same_kind(OP, a, &[b])?;
        let is_vector = b.rank() == 1 || (b.rank() + 1 == a.rank() && b.dims() == &a.dims()[..b.rank()]);
        let columns = if is_vector { b.unsqueeze(-1)? } else { b.clone() };
        let expected = "right sides of shape [..., n, k] or [..., n] for matrices [..., n, n]";
        let (a, columns) = broadcast(OP, a, &columns, n, expected)?;
        let x = solved(OP, &a, &columns, false)?;
        if is_vector { x.squeeze(-1) } else { Ok(x) }
    })
}

/// `x` with `x a = b`, for square `a` `[…, n, n]` and `b` `[…, k, n]`: PyTorch's `solve(a, b, left=False)`.
///
/// # Errors
/// Those of [`solve`].
#[located]
pub fn solve_right(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    const OP: &str = "solve_right";
    square(OP, a)?;
    if b.rank() < 2 || b.dims()[b.rank() - 1] != a.dims()[a.rank() - 1] {
        return Err(Error::shapes(
            OP,
            a.shape(),
            b.shape(),
            "right sides of shape [..., k, n] for matrices [..., n, n]",
        ));
    }
    solve(&a.mt()?, &b.mt()?)?.mt()
}

/// Both operands with their common batch.
pub(super) fn broadcast(
    op: &'static str,
    a: &Tensor,
    b: &Tensor,
    n: usize,
    expected: &str,
) -> Result<(Tensor, Tensor)> {
    let (true, &[.., rows, k]) = (b.rank() >= 2, b.dims()) else {
        return Err(Error::shapes(op, a.shape(), b.shape(), expected));
    };
    if rows != n {
        return Err(Error::shapes(op, a.shape(), b.shape(), expected));
    }
    if factor::same_batch(a, b) {
        return Ok((a.clone(), b.clone()));
    }
    let batch = Shape::broadcast(op, &Shape::new(batch_of(a))?, &Shape::new(batch_of(b))?)?;
    let expand = |t: &Tensor, columns| t.expand(factor::with_batch(batch.dims(), n, columns));
    Ok((expand(a, n)?, expand(b, k)?))
}

/// [`solve`] of operands of one batch. If zero pivots are ignored, what belongs to singular matrices is not finite.
pub(super) fn solved(op: &'static str, a: &Tensor, b: &Tensor, ignore_zero_pivot: bool) -> Result<Tensor> {
    let x = factor::solve(op, a, b, ignore_zero_pivot)?;
    record(x.clone(), "LinalgSolveExBackward0", &[a, b], &[a, &x], move |ctx| {
        let of_b = solved(op, &ctx.saved(0)?.mt()?, &ctx.grad()?, ignore_zero_pivot)?;
        let of_a = ctx.when(0, || of_b.matmul(&ctx.saved(1)?.mt()?)?.neg())?;
        Ok(smallvec![of_a, Some(of_b)])
    })
}

/// Which triangular system [`solve_triangular`] solves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Triangular {
    /// The upper triangle of `a` is read, and not the lower one.
    pub upper: bool,
    /// `x a = b` instead of `a x = b`.
    pub right: bool,
    /// The diagonal is taken for ones, and not read.
    pub unitriangular: bool,
}

impl Triangular {
    /// `a x = b` with the lower triangle.
    #[must_use]
    pub fn lower() -> Triangular {
        Triangular { upper: false, right: false, unitriangular: false }
    }

    /// `a x = b` with the upper triangle.
    #[must_use]
    pub fn upper() -> Triangular {
        Triangular { upper: true, ..Triangular::lower() }
    }

    /// `x a = b`
    #[must_use]
    pub fn right(self) -> Triangular {
        Triangular { right: true, ..self }
    }

    /// With ones on the diagonal.
    #[must_use]
    pub fn unitriangular(self) -> Triangular {
        Triangular { unitriangular: true, ..self }
    }

    /// The system of the transposed matrices.
    fn transposed(self) -> Triangular {
        Triangular { upper: !self.upper, ..self }
    }
}

/// `x` with `a x = b` for triangular `a` `[…, n, n]` and `b` `[…, n, k]`; batches broadcast
/// (<https://docs.pytorch.org/docs/stable/generated/torch.linalg.solve_triangular.html>). A zero on the diagonal gives
/// infinities, as in PyTorch.
///
/// # Errors
/// If shapes do not fit, dtypes differ, or are not `f32` or `f64`, or the tensors are not on the CPU.
#[located]
pub fn solve_triangular(a: &Tensor, b: &Tensor, system: Triangular) -> Result<Tensor> {
    const OP: &str = "solve_triangular";
    cast_operands(OP, [a, b], [], |[a, b], []| {
        let n = square(OP, a)?;
        matrices(OP, b)?;
        check::same_kind(OP, a, &[b])?;
        let expected = "right sides of shape [..., n, k], or [..., k, n] with `right`, for matrices [..., n, n]";
        if system.right {
            // The error has the shape that was given.
            let located = |error: Error| error.with_shape(b.mt().as_ref().unwrap_or(b).shape(), b.shape());
            let (a, columns) = broadcast(OP, &a.mt()?, &b.mt()?, n, expected).map_err(located)?;
            return triangular(&a, &columns, system.transposed())?.mt();
        }
        let (a, columns) = broadcast(OP, a, b, n, expected)?;
        triangular(&a, &columns, system)
    })
}

/// [`solve_triangular`] from the left, of operands of one batch.
pub(super) fn triangular(a: &Tensor, b: &Tensor, system: Triangular) -> Result<Tensor> {
    let x = factor::solve_triangular(a, b, system.upper, system.unitriangular)?;
    record(x.clone(), "LinalgSolveTriangularBackward0", &[a, b], &[a, &x], move |ctx| {
        let of_b = triangular(&ctx.saved(0)?.mt()?, &ctx.grad()?, system.transposed())?;
        let of_a = ctx.when(0, || {
            let full = of_b.matmul(&ctx.saved(1)?.mt()?)?.neg()?;
            let beside = i64::from(system.unitriangular);
            if system.upper { full.triu(beside) } else { full.tril(-beside) }
        })?;
        Ok(smallvec![of_a, Some(of_b)])
    })
}

/// `x` with `x a = b`, for a triangular `a`.
pub(super) fn triangular_right(a: &Tensor, b: &Tensor, system: Triangular) -> Result<Tensor> {
    triangular(&a.mt()?, &b.mt()?, system.transposed())?.mt()
}

/// `x` with `l lᵀ x = b`, for the lower triangular `l` of [`cholesky`](super::cholesky), `[…, n, n]`, and `b` `[…, n, k]`;
/// batches broadcast (<https://docs.pytorch.org/docs/stable/generated/torch.cholesky_solve.html>). Only the lower triangle is
/// read, and has a gradient.
///
/// # Errors
/// Those of [`solve_triangular`].
#[located]
pub fn cholesky_solve(b: &Tensor, l: &Tensor) -> Result<Tensor> {
    let of_op = |error: Error| error.of_op("cholesky_solve");
    let y = solve_triangular(l, b, Triangular::lower()).map_err(of_op)?;
    solve_triangular(&l.mt()?, &y, Triangular::upper()).map_err(of_op)
}

/// The inverses of `l lᵀ`, for the lower triangular `l` of [`cholesky`](super::cholesky), `[…, n, n]`
/// (<https://docs.pytorch.org/docs/stable/generated/torch.cholesky_inverse.html>).
///
/// # Errors
/// Those of [`cholesky_solve`].
#[located]
pub fn cholesky_inverse(l: &Tensor) -> Result<Tensor> {
    let n = square("cholesky_inverse", l)?;
    cholesky_solve(&Tensor::eye([n], l.options().requires_grad(false))?, l)
}

/// The inverse of the map that a tensor is, whose first `split` dimensions have as many elements as the others:
/// `tensorinv(a, 2).tensordot(&b, 2)` is `x` with `a.tensordot(&x, 2)` equal to `b`
/// (<https://docs.pytorch.org/docs/stable/generated/torch.linalg.tensorinv.html>).
///
/// # Errors
/// If the dimensions cannot be split so, and those of [`inv`].
#[located]
pub fn tensorinv(a: &Tensor, split: usize) -> Result<Tensor> {
    const OP: &str = "tensorinv";
    let (first, second) = a.dims().split_at_checked(split).unwrap_or_default();
    let n: usize = first.iter().product();
    if first.is_empty() || n != second.iter().product::<usize>() {
        let expected = format!("as many elements in the first {split} dimensions as in the others");
        return Err(Error::shape(OP, expected, a.shape()));
    }
    inv(&a.reshape([n, n])?).map_err(|error| error.of_op(OP))?.reshape([second, first].concat())
}

/// `x` with `a.tensordot(&x, x.rank())` equal to `b`, whose shape is that of the first dimensions of `a`; `dims` of `a`, if
/// given, are moved behind all others first
/// (<https://docs.pytorch.org/docs/stable/generated/torch.linalg.tensorsolve.html>).
///
/// # Errors
/// If the other dimensions of `a` have more or fewer elements than `b`, a dimension is out of range or named twice, and those
/// of [`solve`].
#[located]
pub fn tensorsolve(a: &Tensor, b: &Tensor, dims: &[i64]) -> Result<Tensor> {
    const OP: &str = "tensorsolve";
    let last: Vec<usize> = dims.iter().map(|dim| dim.resolve(OP, a.rank())).collect::<Result<_>>()?;
    let first = (0..a.rank()).filter(|dim| !last.contains(dim));
    let a = a.permute(first.chain(last.iter().copied()).collect::<Vec<_>>())?;
    let shape = a.dims().get(b.rank()..).unwrap_or_default();
    let n = b.numel();
    if shape.iter().product::<usize>() != n || a.numel() != n * n {
        let expected = "as many elements of the right side as in the last dimensions of the left one";
        return Err(Error::shapes(OP, a.shape(), b.shape(), expected));
    }
    let x = solve(&a.reshape([n, n])?, &b.reshape([n])?).map_err(|error| error.of_op(OP))?;
    x.reshape(shape)
}

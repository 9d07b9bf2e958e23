//! LU factorizations with partial pivoting: `lu`, `lu_factor`, `lu_solve`.

use kiln_backend::{DType, Error, Result};
use kiln_derive::located;

use super::{
    Triangular, batch_of, factor, matrices, record_part,
    solve::{broadcast, triangular, triangular_right},
    square,
};
use crate::{
    autocast::cast_operands,
    autograd::no_grad,
    device::Device,
    ops::{PadMode, check},
    tensor::Tensor,
};

const NODE: &str = "LinalgLuBackward0";

/// A permutation `p` `[…, m, m]`, a lower triangular `l` `[…, m, k]` with ones on the diagonal, and an upper triangular `u`
/// `[…, k, n]` with `p l u = a`, for matrices `[…, m, n]` and `k = min(m, n)`
/// (<https://docs.pytorch.org/docs/stable/generated/torch.linalg.lu.html>). The gradient is that of matrices whose first `k` rows,
/// as they are exchanged, and columns have an inverse.
///
/// # Errors
/// If the tensor has no matrices, is not `f32` or `f64`, or not on the CPU.
#[located]
pub fn lu(a: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
    const OP: &str = "lu";
    cast_operands(OP, [a], [], |[a], []| {
        let (order, l, u) = factors(OP, a)?;
        Ok((permutation(&order, a.dtype())?, l, u))
    })
}

/// What [`lu`] computes in one matrix `[…, m, n]`, `l` below the diagonal and `u` from it on, and the exchanges of rows
/// `[…, min(m, n)]`, `i32`: row `i` was exchanged with this one, counted from 1
/// (<https://docs.pytorch.org/docs/stable/generated/torch.linalg.lu_factor.html>).
///
/// # Errors
/// Those of [`lu`].
#[located]
pub fn lu_factor(a: &Tensor) -> Result<(Tensor, Tensor)> {
    const OP: &str = "lu_factor";
    cast_operands(OP, [a], [], |[a], []| {
        let (m, n) = matrices(OP, a)?;
        let (order, l, u) = factors(OP, a)?;
        let k = m.min(n) as i64;
        let below = l.tril(-1)?.pad(&[0, n as i64 - k, 0, 0], PadMode::Constant(0.0))?;
        let compact = below.add(&u.pad(&[0, 0, 0, m as i64 - k], PadMode::Constant(0.0))?)?;
        Ok((compact, exchanges(&order, k as usize)?))
    })
}

/// `x` with `a x = b`, for `a` that [`lu_factor`] has factorized and `b` `[…, n, k]`; batches broadcast. With `adjoint` `aᵀ x = b`
/// (<https://docs.pytorch.org/docs/stable/generated/torch.linalg.lu_solve.html>; with its `left=False` the transposes solve the
/// other system: `x a = b` is `aᵀ xᵀ = bᵀ`).
///
/// # Errors
/// If the shapes do not fit, exchanges are not `i32` or not among the rows, dtypes differ or are not `f32` or `f64`, or the
/// tensors are not on the CPU.
#[located]
pub fn lu_solve(factors: &Tensor, pivots: &Tensor, b: &Tensor, adjoint: bool) -> Result<Tensor> {
    const OP: &str = "lu_solve";
    cast_operands(OP, [factors, b], [], |[factors, b], []| {
        let n = square(OP, factors)?;
        check::same_kind(OP, factors, &[b])?;
        let order = order_of(OP, pivots, batch_of(factors), n)?;
        let (factors, b) = broadcast(OP, factors, b, n, "right sides of shape [..., n, k] for factors [..., n, n]")?;
        let batch = [batch_of(&b), &[n]].concat();
        let order = order.expand(&batch.iter().map(|&extent| extent as i64).collect::<Vec<_>>()[..])?;
        let (lower, upper) = (Triangular::lower().unitriangular(), Triangular::upper());
        if adjoint {
            let transposed = factors.mt()?;
            let x = triangular(&transposed, &b, Triangular::lower())?;
            return exchanged(&triangular(&transposed, &x, upper.unitriangular())?, &order.argsort(-1, false)?);
        }
        triangular(&factors, &triangular(&factors, &exchanged(&b, &order)?, lower)?, upper)
    })
}

/// The order in which the factorization takes the rows, `[…, m]`, and its factors.
fn factors(op: &'static str, a: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
    matrices(op, a)?;
    let [order, l, u] = no_grad(|| factor::lu(a))?;
    let again = move |a: &Tensor| factors(op, a).map(|(_, l, u)| vec![l, u]);
    let parts = [l.clone(), u.clone()];
    let back = order.argsort(-1, false)?;
    let (of_l, of_u) = (back.clone(), back);
    let l = record_part(l, NODE, a, &parts, again, move |grad, parts| {
        let (l, u, k) = of_square(parts)?;
        let (m, n) = (grad.size(-2)?, parts[1].size(-1)?);
        let first = grad.narrow(-2, 0, k)?;
        let mut inner = l.mt()?.matmul(&first)?.tril(-1)?;
        let rest = grad.narrow(-2, k, m - k)?;
        if m > k {
            inner = inner.sub(&parts[0].narrow(-2, k, m - k)?.mt()?.matmul(&rest)?.triu(0)?)?;
        }
        let top = through(&l, &u, &inner)?.pad(&[0, (n - k) as i64, 0, 0], PadMode::Constant(0.0))?;
        let whole = if m > k { Tensor::cat(&[&top, &right_of(&u, &rest)?], -2)? } else { top };
        exchanged(&whole, &of_l)
    })?;
    let u = record_part(u, NODE, a, &parts, again, move |grad, parts| {
        let (l, u, k) = of_square(parts)?;
        let (m, n) = (parts[0].size(-2)?, grad.size(-1)?);
        let mut inner = grad.narrow(-1, 0, k)?.matmul(&u.mt()?)?.triu(0)?;
        let rest = grad.narrow(-1, k, n - k)?;
        if n > k {
            inner = inner.sub(&rest.matmul(&parts[1].narrow(-1, k, n - k)?.mt()?)?.tril(-1)?)?;
        }
        let left = through(&l, &u, &inner)?;
        let top = if n > k { Tensor::cat(&[&left, &left_of(&l, &rest)?], -1)? } else { left };
        exchanged(&top.pad(&[0, 0, 0, (m - k) as i64], PadMode::Constant(0.0))?, &of_u)
    })?;
    Ok((order, l, u))
}

/// The square parts of both factors, and their extent.
fn of_square(parts: &[Tensor]) -> Result<(Tensor, Tensor, usize)> {
    let [l, u] = parts else { return Err(Error::autograd(NODE, "needs `l` and `u`")) };
    let k = l.size(-1)?;
    Ok((l.narrow(-2, 0, k)?, u.narrow(-1, 0, k)?, k))
}

/// `l⁻ᵀ x u⁻ᵀ`
fn through(l: &Tensor, u: &Tensor, x: &Tensor) -> Result<Tensor> {
    right_of(u, &left_of(l, x)?)
}

/// `l⁻ᵀ x`
fn left_of(l: &Tensor, x: &Tensor) -> Result<Tensor> {
    triangular(&l.mt()?, x, Triangular::upper().unitriangular())
}

/// `x u⁻ᵀ`
fn right_of(u: &Tensor, x: &Tensor) -> Result<Tensor> {
    triangular_right(&u.mt()?, x, Triangular::lower())
}

/// The rows of matrices in this order, `[…, rows]`.
fn exchanged(a: &Tensor, order: &Tensor) -> Result<Tensor> {
    let dims: Vec<i64> = a.dims().iter().map(|&extent| extent as i64).collect();
    a.gather(-2, &order.unsqueeze(-1)?.expand(&dims[..])?)
}

/// The matrix whose product with the rows in this order has them in their own.
fn permutation(order: &Tensor, dtype: DType) -> Result<Tensor> {
    let rows = Tensor::arange(0, order.size(-1)? as i64, (DType::I64, Device::Cpu))?;
    rows.unsqueeze(-1)?.eq(&order.unsqueeze(-2)?)?.to_dtype(dtype)
}

/// The exchanges, one after the other, that bring rows into this order.
fn exchanges(order: &Tensor, count: usize) -> Result<Tensor> {
    let rows = order.size(-1)?;
    let mut pivots = Vec::with_capacity(order.numel());
    for order in order.to_vec::<i64>()?.chunks(rows.max(1)) {
        let mut now: Vec<i64> = (0..rows as i64).collect();
        for (i, wanted) in order.iter().enumerate().take(count) {
            let at = now.iter().position(|row| row == wanted).unwrap_or(i);
            now.swap(i, at);
            pivots.push(at as i32 + 1);
        }
    }
    let batch = &order.dims()[..order.rank() - 1];
    Tensor::from_slice(&pivots, &[batch, &[count]].concat()[..], Device::Cpu)
}

/// The order of rows after these exchanges, `[…, n]`.
fn order_of(op: &'static str, pivots: &Tensor, batch: &[usize], n: usize) -> Result<Tensor> {
    let expected = [batch, &[n]].concat();
    if pivots.dtype() != DType::I32 {
        return Err(Error::dtype(op, pivots.dtype(), "exchanges of rows are i32"));
    }
    if pivots.dims() != expected {
        return Err(Error::shape(op, format!("exchanges {expected:?}"), pivots.shape()));
    }
    let mut orders = Vec::with_capacity(pivots.numel());
    for pivots in pivots.to_vec::<i32>()?.chunks(n.max(1)) {
        let mut order: Vec<i64> = (0..n as i64).collect();
        for (i, &pivot) in pivots.iter().enumerate() {
            let Some(at) = usize::try_from(i64::from(pivot) - 1).ok().filter(|&at| at < n) else {
                return Err(Error::index(op, i64::from(pivot), n, "rows, counted from 1"));
            };
            order.swap(i, at);
        }
        orders.extend(order);
    }
    Tensor::from_slice(&orders, &expected[..], Device::Cpu)
}

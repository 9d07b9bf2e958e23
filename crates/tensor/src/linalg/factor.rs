//! Factorizations of each matrix of a batch, without gradients.

use kiln_backend::{DType, Element, Error, Layout, Result, Shape};
use kiln_linalg::Real;

use super::batch_of;
use crate::{storage::Storage, tensor::Tensor};

/// Runs `$body` with the name `$T` standing for the Rust type of `f32` or `f64`.
macro_rules! with_real {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            DType::F32 => {
                type $T = f32;
                $body
            }
            _ => {
                type $T = f64;
                $body
            }
        }
    };
}

/// The matrices of a batch in row-major order.
struct Batch<'a, T> {
    values: Vec<T>,
    size: usize,
    shape: &'a [usize],
}

impl<'a, T: Element + Real> Batch<'a, T> {
    fn new(a: &'a Tensor) -> Result<Batch<'a, T>> {
        let (shape, matrix) = a.dims().split_at(a.rank() - 2);
        Ok(Batch { values: a.to_vec::<T>()?, size: matrix.iter().product(), shape })
    }

    fn len(&self) -> usize {
        self.shape.iter().product()
    }

    fn matrix(&self, i: usize) -> &[T] {
        &self.values[i * self.size..(i + 1) * self.size]
    }

    /// Calls `f` for each matrix. An error names the matrix, if there are several.
    fn each<F>(
        &self,
        op: &'static str,
        mut f: impl FnMut(&[T]) -> Result<(), F>,
        what: impl Fn(F) -> String,
    ) -> Result<()> {
        (0..self.len()).try_for_each(|i| {
            f(self.matrix(i)).map_err(|failure| {
                let what = what(failure);
                let message = if self.shape.is_empty() { what } else { format!("batch element {i}: {what}") };
                Error::linalg(op, message)
            })
        })
    }

    /// A tensor of results, one after another.
    fn tensor(&self, values: Vec<T>, shape: &[usize], like: &Tensor) -> Result<Tensor> {
        let shape = Shape::new(&[self.shape, shape].concat())?;
        let backend = like.device().backend()?;
        let storage = Storage::new(like.device(), backend, backend.adopt(T::into_host(values))?);
        Ok(Tensor::from_storage(storage, Layout::contiguous(shape)))
    }
}

/// Rows and columns.
fn extents(a: &Tensor) -> (usize, usize) {
    let dims = a.dims();
    (dims[dims.len() - 2], dims[dims.len() - 1])
}

fn singular(pivot: kiln_linalg::ZeroPivot) -> String {
    format!("the matrix is singular: element {} of the diagonal of its LU factorization is zero", pivot.0)
}

fn not_finite(_: kiln_linalg::NoConvergence) -> String {
    "the iteration does not converge, since the matrix has values that are not finite".into()
}

/// `x` with `a x = b`, for square `a` and `b` of the same batch. If zero pivots are ignored, `x` is not finite there.
pub(super) fn solve(op: &'static str, a: &Tensor, b: &Tensor, ignore_zero_pivot: bool) -> Result<Tensor> {
    let (n, k) = extents(b);
    with_real!(a.dtype(), T => {
        let (batch, mut right) = (Batch::<T>::new(a)?, b.to_vec::<T>()?);
        let mut columns = right.chunks_mut((n * k).max(1));
        batch.each(op, |a| T::solve(a, columns.next().unwrap_or_default(), n, k, ignore_zero_pivot), singular)?;
        batch.tensor(right, &[n, k], a)
    })
}

/// The inverses of square matrices.
pub(super) fn inv(op: &'static str, a: &Tensor, ignore_zero_pivot: bool) -> Result<Tensor> {
    let (n, _) = extents(a);
    let identity = Tensor::eye([n], a.options().requires_grad(false))?.expand(a.dims())?;
    solve(op, a, &identity, ignore_zero_pivot)
}

/// `x` with `a x = b`, for triangular `a` and `b` of the same batch.
pub(super) fn solve_triangular(a: &Tensor, b: &Tensor, upper: bool, unit: bool) -> Result<Tensor> {
    let (n, k) = extents(b);
    with_real!(a.dtype(), T => {
        let (batch, mut right) = (Batch::<T>::new(a)?, b.to_vec::<T>()?);
        for (i, columns) in right.chunks_mut((n * k).max(1)).enumerate() {
            T::solve_triangular(batch.matrix(i), columns, n, k, upper, unit);
        }
        batch.tensor(right, &[n, k], a)
    })
}

/// The order in which rows are taken, `[…, m]`, and the factors `l` and `u`.
pub(super) fn lu(a: &Tensor) -> Result<[Tensor; 3]> {
    let (m, n) = extents(a);
    let k = m.min(n);
    with_real!(a.dtype(), T => {
        let (batch, mut order, mut l, mut u) = (Batch::<T>::new(a)?, Vec::new(), Vec::new(), Vec::new());
        for i in 0..batch.len() {
            let found = T::lu(batch.matrix(i), m, n);
            order.extend(found.order.into_iter().map(|row| row as i64));
            l.extend(found.l);
            u.extend(found.u);
        }
        let order = Tensor::from_slice(&order, &[batch.shape, &[m]].concat()[..], a.device())?;
        Ok([order, batch.tensor(l, &[m, k], a)?, batch.tensor(u, &[k, n], a)?])
    })
}

/// Determinants, their signs, and the logarithms of their absolute values.
pub(super) fn determinant(a: &Tensor) -> Result<[Tensor; 3]> {
    let (n, _) = extents(a);
    with_real!(a.dtype(), T => {
        let batch = Batch::<T>::new(a)?;
        let all: Vec<_> = (0..batch.len()).map(|i| T::determinant(batch.matrix(i), n)).collect();
        Ok([
            batch.tensor(all.iter().map(|found| found.det).collect(), &[], a)?,
            batch.tensor(all.iter().map(|found| found.sign).collect(), &[], a)?,
            batch.tensor(all.iter().map(|found| found.log_abs).collect(), &[], a)?,
        ])
    })
}

/// The lower triangular Cholesky factors.
pub(super) fn cholesky(op: &'static str, a: &Tensor) -> Result<Tensor> {
    let (n, _) = extents(a);
    with_real!(a.dtype(), T => {
        let (batch, mut l) = (Batch::<T>::new(a)?, Vec::with_capacity(a.numel()));
        batch.each(op, |a| T::cholesky(a, n).map(|factor| l.extend(factor)), |minor| {
            format!("the matrix is not positive definite: its leading minor of order {} is not positive", minor.0 + 1)
        })?;
        batch.tensor(l, &[n, n], a)
    })
}

/// `q` and `r`; with a square `q` if `complete`.
pub(super) fn qr(a: &Tensor, complete: bool) -> Result<[Tensor; 2]> {
    let (m, n) = extents(a);
    let k = if complete { m } else { m.min(n) };
    with_real!(a.dtype(), T => {
        let (batch, mut q, mut r) = (Batch::<T>::new(a)?, Vec::new(), Vec::new());
        for i in 0..batch.len() {
            let (factor, rest) = T::qr(batch.matrix(i), m, n, complete);
            q.extend(factor);
            r.extend(rest);
        }
        Ok([batch.tensor(q, &[m, k], a)?, batch.tensor(r, &[k, n], a)?])
    })
}

/// `u`, `s` and `vt`; with square `u` and `vt` if `full`.
pub(super) fn svd(op: &'static str, a: &Tensor, full: bool) -> Result<[Tensor; 3]> {
    let (m, n) = extents(a);
    let k = m.min(n);
    let (columns, rows) = if full { (m, n) } else { (k, k) };
    with_real!(a.dtype(), T => {
        let (batch, mut u, mut s, mut vt) = (Batch::<T>::new(a)?, Vec::new(), Vec::new(), Vec::new());
        batch.each(op, |a| T::svd(a, m, n, full).map(|found| {
            u.extend(found.u);
            s.extend(found.s);
            vt.extend(found.vt);
        }), not_finite)?;
        Ok([batch.tensor(u, &[m, columns], a)?, batch.tensor(s, &[k], a)?, batch.tensor(vt, &[rows, n], a)?])
    })
}

/// Singular values in descending order.
pub(super) fn singular_values(op: &'static str, a: &Tensor) -> Result<Tensor> {
    let (m, n) = extents(a);
    with_real!(a.dtype(), T => {
        let (batch, mut s) = (Batch::<T>::new(a)?, Vec::new());
        batch.each(op, |a| T::singular_values(a, m, n).map(|found| s.extend(found)), not_finite)?;
        batch.tensor(s, &[m.min(n)], a)
    })
}

/// Eigenvalues in ascending order, and eigenvectors as columns, of symmetric matrices, of which one triangle is read.
pub(super) fn eigh(op: &'static str, a: &Tensor, upper: bool) -> Result<[Tensor; 2]> {
    let (n, _) = extents(a);
    with_real!(a.dtype(), T => {
        let (batch, mut values, mut vectors) = (Batch::<T>::new(a)?, Vec::new(), Vec::new());
        batch.each(op, |a| T::eigh(a, n, upper).map(|found| {
            values.extend(found.0);
            vectors.extend(found.1);
        }), not_finite)?;
        Ok([batch.tensor(values, &[n], a)?, batch.tensor(vectors, &[n, n], a)?])
    })
}

/// Eigenvalues in ascending order.
pub(super) fn eigvalsh(op: &'static str, a: &Tensor, upper: bool) -> Result<Tensor> {
    let (n, _) = extents(a);
    with_real!(a.dtype(), T => {
        let (batch, mut values) = (Batch::<T>::new(a)?, Vec::new());
        batch.each(op, |a| T::eigvalsh(a, n, upper).map(|found| values.extend(found)), not_finite)?;
        batch.tensor(values, &[n], a)
    })
}

/// The shape of matrices with other rows and columns in a batch.
pub(super) fn with_batch(batch: &[usize], rows: usize, columns: usize) -> Vec<usize> {
    [batch, &[rows, columns]].concat()
}

/// Whether two tensors have the same batch.
pub(super) fn same_batch(a: &Tensor, b: &Tensor) -> bool {
    batch_of(a) == batch_of(b)
}

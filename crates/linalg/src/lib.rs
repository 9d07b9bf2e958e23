//! Factorizations of one dense matrix of `f32` or `f64`, in row-major slices, by `faer`.
//!
//! Tensors, batches and gradients are in `kiln-tensor`. This is a crate of its own so that `faer`, which is generic, is
//! compiled for both types once, and not again with every build of `kiln-tensor`.

#![forbid(unsafe_code)]
#![cfg(feature = "faer")]

use std::cmp::Ordering;

use faer::{MatMut, MatRef, Side, linalg::solvers::Solve, traits::RealField};

/// The element `i` of the diagonal of an LU factorization is zero: the matrix has no inverse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZeroPivot(pub usize);

/// The leading minor of this order is not positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotPositiveDefinite(pub usize);

/// An iteration has not converged: the matrix has values that are not finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoConvergence;

/// A determinant, and its sign and the logarithm of its absolute value, which do not overflow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Determinant<T> {
    /// The determinant.
    pub det: T,
    /// -1, 0 or 1.
    pub sign: T,
    /// `ln(abs(det))`
    pub log_abs: T,
}

/// The singular value decomposition `u * diag(s) * vt` of an `m × n` matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Svd<T> {
    /// `m × min(m, n)`, or `m × m`.
    pub u: Vec<T>,
    /// `min(m, n)` values, the largest first.
    pub s: Vec<T>,
    /// `min(m, n) × n`, or `n × n`.
    pub vt: Vec<T>,
}

/// The LU factorization of an `m × n` matrix with `k = min(m, n)`: row `i` of `l * u` is row `order[i]` of the matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Lu<T> {
    /// The order in which rows are taken.
    pub order: Vec<usize>,
    /// `m × k`, lower triangular with ones on the diagonal.
    pub l: Vec<T>,
    /// `k × n`, upper triangular.
    pub u: Vec<T>,
}

/// Factorizations of matrices of this type.
///
/// # Panics
/// All functions panic if a slice does not have as many elements as its matrix.
pub trait Real: Copy + Sized + 'static {
    /// Solves `a * x = b` for square `a` (`n × n`) and `b` (`n × k`), in place.
    ///
    /// # Errors
    /// If a pivot of the LU factorization is zero, unless `ignore_zero_pivot`: then the solution is not finite.
    fn solve(a: &[Self], b: &mut [Self], n: usize, k: usize, ignore_zero_pivot: bool) -> Result<(), ZeroPivot>;

    /// Solves `a * x = b` for triangular `a` (`n × n`) and `b` (`n × k`), in place. The other triangle of `a` is not read,
    /// and neither is the diagonal if it is a unit one.
    fn solve_triangular(a: &[Self], b: &mut [Self], n: usize, k: usize, upper: bool, unit: bool);

    /// The LU factorization of an `m × n` matrix with partial pivoting. Columns without a pivot are not eliminated.
    fn lu(a: &[Self], m: usize, n: usize) -> Lu<Self>;

    /// The determinant of an `n × n` matrix.
    fn determinant(a: &[Self], n: usize) -> Determinant<Self>;

    /// The lower triangular `l` with `l * lᵀ = a`, of which only the lower triangle is read.
    ///
    /// # Errors
    /// If the matrix is not positive definite.
    fn cholesky(a: &[Self], n: usize) -> Result<Vec<Self>, NotPositiveDefinite>;

    /// An orthogonal `q` and an upper triangular `r` with `q * r = a` (`m × n`): `m × min(m, n)` and `min(m, n) × n`, or, if
    /// `complete`, `m × m` and `m × n`.
    fn qr(a: &[Self], m: usize, n: usize, complete: bool) -> (Vec<Self>, Vec<Self>);

    /// The singular value decomposition, with square `u` and `vt` if `full`.
    ///
    /// # Errors
    /// If values are not finite.
    fn svd(a: &[Self], m: usize, n: usize, full: bool) -> Result<Svd<Self>, NoConvergence>;

    /// The singular values, the largest first.
    ///
    /// # Errors
    /// If values are not finite.
    fn singular_values(a: &[Self], m: usize, n: usize) -> Result<Vec<Self>, NoConvergence>;

    /// The eigenvalues of a symmetric matrix in ascending order, and its eigenvectors as columns. Only one triangle is read.
    ///
    /// # Errors
    /// If values are not finite.
    fn eigh(a: &[Self], n: usize, upper: bool) -> Result<(Vec<Self>, Vec<Self>), NoConvergence>;

    /// The eigenvalues of a symmetric matrix in ascending order.
    ///
    /// # Errors
    /// If values are not finite.
    fn eigvalsh(a: &[Self], n: usize, upper: bool) -> Result<Vec<Self>, NoConvergence>;
}

macro_rules! real {
    ($($ty:ident)*) => {$(
        impl Real for $ty {
            fn solve(a: &[$ty], b: &mut [$ty], n: usize, k: usize, ignore_zero_pivot: bool) -> Result<(), ZeroPivot> {
                solve(a, b, n, k, ignore_zero_pivot)
            }

            fn solve_triangular(a: &[$ty], b: &mut [$ty], n: usize, k: usize, upper: bool, unit: bool) {
                solve_triangular(a, b, n, k, upper, unit);
            }

            fn lu(a: &[$ty], m: usize, n: usize) -> Lu<$ty> {
                lu(a, m, n)
            }

            fn determinant(a: &[$ty], n: usize) -> Determinant<$ty> {
                let (diagonal, is_odd) = pivots(a, n);
                let sign = |value: $ty| if value == 0.0 { 0.0 } else { value.signum() };
                let start: $ty = if is_odd { -1.0 } else { 1.0 };
                Determinant {
                    det: diagonal.iter().fold(start, |product, pivot| product * pivot),
                    sign: diagonal.iter().fold(start, |product, &pivot| product * sign(pivot)),
                    log_abs: diagonal.iter().map(|pivot| pivot.abs().ln()).sum(),
                }
            }

            fn cholesky(a: &[$ty], n: usize) -> Result<Vec<$ty>, NotPositiveDefinite> {
                cholesky(a, n)
            }

            fn qr(a: &[$ty], m: usize, n: usize, complete: bool) -> (Vec<$ty>, Vec<$ty>) {
                qr(a, m, n, complete)
            }

            fn svd(a: &[$ty], m: usize, n: usize, full: bool) -> Result<Svd<$ty>, NoConvergence> {
                if a.iter().any(|value| !value.is_finite()) { Err(NoConvergence) } else { svd(a, m, n, full) }
            }

            fn singular_values(a: &[$ty], m: usize, n: usize) -> Result<Vec<$ty>, NoConvergence> {
                if a.iter().any(|value| !value.is_finite()) { Err(NoConvergence) } else { singular_values(a, m, n) }
            }

            fn eigh(a: &[$ty], n: usize, upper: bool) -> Result<(Vec<$ty>, Vec<$ty>), NoConvergence> {
                if is_triangle_finite(a, n, upper, $ty::is_finite) { eigh(a, n, upper) } else { Err(NoConvergence) }
            }

            fn eigvalsh(a: &[$ty], n: usize, upper: bool) -> Result<Vec<$ty>, NoConvergence> {
                if is_triangle_finite(a, n, upper, $ty::is_finite) { eigvalsh(a, n, upper) } else { Err(NoConvergence) }
            }
        }
    )*};
}
real!(f32 f64);

/// Whether the triangle of a symmetric matrix that is read is finite.
fn is_triangle_finite<T: Copy>(a: &[T], n: usize, upper: bool, is_finite: impl Fn(T) -> bool) -> bool {
    (0..n).all(|row| {
        let columns = if upper { row..n } else { 0..row + 1 };
        columns.into_iter().all(|column| is_finite(a[row * n + column]))
    })
}

fn side(upper: bool) -> Side {
    if upper { Side::Upper } else { Side::Lower }
}

/// The elements in row-major order.
fn elements<T: RealField + Copy>(matrix: MatRef<'_, T>) -> Vec<T> {
    (0..matrix.nrows()).flat_map(|row| (0..matrix.ncols()).map(move |column| matrix[(row, column)])).collect()
}

fn identity<T: RealField + Copy>(n: usize) -> Vec<T> {
    elements(faer::Mat::<T>::identity(n, n).as_ref())
}

fn solve<T: RealField + Copy>(
    a: &[T],
    b: &mut [T],
    n: usize,
    k: usize,
    ignore_zero_pivot: bool,
) -> Result<(), ZeroPivot> {
    if n == 0 {
        return Ok(());
    }
    let lu = MatRef::from_row_major_slice(a, n, n).partial_piv_lu();
    let zero = (0..n).find(|&i| lu.U()[(i, i)] == T::zero_impl());
    if let (Some(i), false) = (zero, ignore_zero_pivot) {
        return Err(ZeroPivot(i));
    }
    if k > 0 {
        lu.solve_in_place(MatMut::from_row_major_slice_mut(b, n, k));
    }
    Ok(())
}

fn solve_triangular<T: RealField + Copy>(a: &[T], b: &mut [T], n: usize, k: usize, upper: bool, unit: bool) {
    if n == 0 || k == 0 {
        return;
    }
    let (a, b) = (MatRef::from_row_major_slice(a, n, n), MatMut::from_row_major_slice_mut(b, n, k));
    match (upper, unit) {
        (false, false) => a.solve_lower_triangular_in_place(b),
        (false, true) => a.solve_unit_lower_triangular_in_place(b),
        (true, false) => a.solve_upper_triangular_in_place(b),
        (true, true) => a.solve_unit_upper_triangular_in_place(b),
    }
}

/// The pivots of the LU factorization, and whether it exchanges rows an odd number of times.
fn pivots<T: RealField + Copy>(a: &[T], n: usize) -> (Vec<T>, bool) {
    if n == 0 {
        return (Vec::new(), false);
    }
    let lu = MatRef::from_row_major_slice(a, n, n).partial_piv_lu();
    let (order, _) = lu.P().arrays();
    let mut visited = vec![false; n];
    let mut is_odd = false;
    for start in 0..n {
        // A cycle of `length` is as many exchanges less one.
        let mut at = order[start];
        while !visited[start] && at != start {
            visited[at] = true;
            is_odd = !is_odd;
            at = order[at];
        }
        visited[start] = true;
    }
    let diagonal: Vec<T> = (0..n).map(|i| lu.U()[(i, i)]).collect();
    // After a zero pivot come quotients by zero. What is not a number before it stays.
    let zero = diagonal
        .iter()
        .take_while(|pivot| pivot.partial_cmp(&&T::zero_impl()).is_some())
        .any(|&pivot| pivot == T::zero_impl());
    (if zero { vec![T::zero_impl(); n] } else { diagonal }, is_odd)
}

fn lu<T: RealField + Copy>(a: &[T], m: usize, n: usize) -> Lu<T> {
    let k = m.min(n);
    if k == 0 {
        return Lu { order: (0..m).collect(), l: Vec::new(), u: Vec::new() };
    }
    let lu = MatRef::from_row_major_slice(a, m, n).partial_piv_lu();
    // `faer` divides by pivots of zero.
    if (0..k).any(|i| lu.U()[(i, i)] == T::zero_impl()) {
        return eliminated(a, m, n);
    }
    Lu { order: lu.P().arrays().0.to_vec(), l: elements(lu.L()), u: elements(lu.U()) }
}

/// [`lu`] of a matrix with columns that have no pivot.
fn eliminated<T: RealField + Copy>(a: &[T], m: usize, n: usize) -> Lu<T> {
    let (k, zero) = (m.min(n), T::zero_impl());
    let size = |x: T| if x < zero { -x } else { x };
    let mut rows: Vec<Vec<T>> = a.chunks(n).map(<[T]>::to_vec).collect();
    let mut order: Vec<usize> = (0..m).collect();
    for step in 0..k {
        let mut pivot = step;
        for row in step + 1..m {
            if size(rows[row][step]) > size(rows[pivot][step]) {
                pivot = row;
            }
        }
        rows.swap(step, pivot);
        order.swap(step, pivot);
        let (above, below) = rows.split_at_mut(step + 1);
        let from = &above[step];
        if from[step] == zero {
            continue;
        }
        for row in below {
            let factor = row[step] / from[step];
            row[step] = factor;
            for (to, &from) in row[step + 1..].iter_mut().zip(&from[step + 1..]) {
                *to -= factor * from;
            }
        }
    }
    let l = |row: usize, column: usize| match row.cmp(&column) {
        Ordering::Less => zero,
        Ordering::Equal => T::one_impl(),
        Ordering::Greater => rows[row][column],
    };
    let u = |row: usize, column: usize| if row > column { zero } else { rows[row][column] };
    Lu {
        l: (0..m).flat_map(|row| (0..k).map(move |column| (row, column))).map(|(row, column)| l(row, column)).collect(),
        u: (0..k).flat_map(|row| (0..n).map(move |column| (row, column))).map(|(row, column)| u(row, column)).collect(),
        order,
    }
}

fn cholesky<T: RealField + Copy>(a: &[T], n: usize) -> Result<Vec<T>, NotPositiveDefinite> {
    if n == 0 {
        return Ok(Vec::new());
    }
    match MatRef::from_row_major_slice(a, n, n).llt(Side::Lower) {
        Ok(llt) => Ok(elements(llt.L())),
        Err(faer::linalg::solvers::LltError::NonPositivePivot { index }) => Err(NotPositiveDefinite(index)),
    }
}

fn qr<T: RealField + Copy>(a: &[T], m: usize, n: usize, complete: bool) -> (Vec<T>, Vec<T>) {
    if m == 0 || n == 0 {
        return (if complete { identity(m) } else { Vec::new() }, Vec::new());
    }
    let qr = MatRef::from_row_major_slice(a, m, n).qr();
    if complete {
        // The rows of `r` below the diagonal are zero.
        let mut r = elements(qr.thin_R());
        r.resize(m * n, T::zero_impl());
        (elements(qr.compute_Q().as_ref()), r)
    } else {
        (elements(qr.compute_thin_Q().as_ref()), elements(qr.thin_R()))
    }
}

fn svd<T: RealField + Copy>(a: &[T], m: usize, n: usize, full: bool) -> Result<Svd<T>, NoConvergence> {
    if m == 0 || n == 0 {
        let square = |n| if full { identity(n) } else { Vec::new() };
        return Ok(Svd { u: square(m), s: Vec::new(), vt: square(n) });
    }
    let a = MatRef::from_row_major_slice(a, m, n);
    let svd = if full { a.svd() } else { a.thin_svd() }.map_err(|_| NoConvergence)?;
    let s = svd.S().column_vector();
    let s = (0..s.nrows()).map(|i| s[i]).collect();
    Ok(Svd { u: elements(svd.U()), s, vt: elements(svd.V().transpose()) })
}

fn singular_values<T: RealField + Copy>(a: &[T], m: usize, n: usize) -> Result<Vec<T>, NoConvergence> {
    if m == 0 || n == 0 {
        return Ok(Vec::new());
    }
    MatRef::from_row_major_slice(a, m, n).singular_values().map_err(|_| NoConvergence)
}

fn eigh<T: RealField + Copy>(a: &[T], n: usize, upper: bool) -> Result<(Vec<T>, Vec<T>), NoConvergence> {
    if n == 0 {
        return Ok((Vec::new(), Vec::new()));
    }
    let a = MatRef::from_row_major_slice(a, n, n);
    let eigen = a.self_adjoint_eigen(side(upper)).map_err(|_| NoConvergence)?;
    let values = eigen.S().column_vector();
    Ok(((0..n).map(|i| values[i]).collect(), elements(eigen.U())))
}

fn eigvalsh<T: RealField + Copy>(a: &[T], n: usize, upper: bool) -> Result<Vec<T>, NoConvergence> {
    if n == 0 {
        return Ok(Vec::new());
    }
    let a = MatRef::from_row_major_slice(a, n, n);
    a.self_adjoint_eigenvalues(side(upper)).map_err(|_| NoConvergence)
}

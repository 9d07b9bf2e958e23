//! Linear algebra: what factorizations are, gradients and second derivatives against finite differences, shapes,
//! and errors. Values and gradients are compared with PyTorch's in `golden_ops`.

use kiln_tensor::{
    DType, Device, Error, ErrorKind, Result, Tensor, autocast,
    autograd::{gradcheck, gradgradcheck},
    linalg::{self, MatrixNorm, QrMode, Tolerance, Triangular},
    manual_seed,
};

fn randn(dims: &[usize]) -> Tensor {
    manual_seed(dims.iter().fold(3, |seed, &extent| seed * 10 + extent as u64));
    Tensor::randn(dims, (DType::F64, Device::Cpu)).unwrap()
}

/// Symmetric with eigenvalues that are apart.
fn symmetric(dims: &[usize]) -> Tensor {
    let x = randn(dims);
    x.add(&x.mt().unwrap()).unwrap()
}

fn assert_close(got: &Tensor, want: &Tensor) {
    let tolerance = if got.dtype() == DType::F32 { 1e-5 } else { 1e-11 };
    assert_eq!(got.shape(), want.shape());
    assert!(got.allclose(want, tolerance, tolerance).unwrap(), "{got}\n{want}");
}

fn transposed(x: &Tensor) -> Tensor {
    x.mt().unwrap()
}

fn is_orthogonal(q: &Tensor) {
    let identity = Tensor::eye(q.size(-1).unwrap(), q.detach().options()).unwrap();
    let product = transposed(q).matmul(q).unwrap();
    assert_close(&product, &identity.expand(product.dims()).unwrap());
}

const SHAPES: &[&[usize]] =
    &[&[3, 3], &[5, 2], &[2, 5], &[2, 3, 4], &[1, 1], &[2, 0, 3, 3], &[0, 0], &[3, 0], &[0, 3], &[2, 0, 0]];

#[test]
fn factors_multiply_to_the_matrix() -> Result<()> {
    for dims in SHAPES {
        for dtype in [DType::F32, DType::F64] {
            // As it is, and as a transposed view.
            for a in [randn(dims).to_dtype(dtype)?, randn(dims).mt()?.to_dtype(dtype)?] {
                for full in [false, true] {
                    let (u, s, vt) = linalg::svd(&a, full)?;
                    is_orthogonal(&u);
                    is_orthogonal(&transposed(&vt));
                    let k = s.size(-1)?;
                    let (u, vt) = (u.narrow(-1, 0, k)?, vt.narrow(-2, 0, k)?);
                    assert_close(&u.mul(&s.unsqueeze(-2)?)?.matmul(&vt)?, &a);
                    assert_close(&linalg::svdvals(&a)?, &s);
                }
                let (p, l, u) = linalg::lu(&a)?;
                is_orthogonal(&p);
                assert_close(&p.matmul(&l)?.matmul(&u)?, &a);
                assert_close(&l.tril(0)?, &l);
                assert_close(&u.triu(0)?, &u);
                let (factors, _) = linalg::lu_factor(&a)?;
                assert_close(&factors.narrow(-2, 0, u.size(-2)?)?.triu(0)?, &u);
                assert_close(&factors.narrow(-1, 0, l.size(-1)?)?.tril(-1)?, &l.tril(-1)?);
                for mode in [QrMode::Reduced, QrMode::Complete] {
                    let (q, r) = linalg::qr(&a, mode)?;
                    is_orthogonal(&q);
                    assert_close(&q.matmul(&r)?, &a);
                    assert_close(&r.triu(0)?, &r);
                }
                let (empty, r) = linalg::qr(&a, QrMode::R)?;
                assert_eq!(empty.dims(), [0]);
                assert_close(&r, &linalg::qr(&a, QrMode::Reduced)?.1);
                let inverse = linalg::pinv(&a)?;
                assert_close(&a.matmul(&inverse)?.matmul(&a)?, &a);
            }
        }
    }
    Ok(())
}

#[test]
fn square_matrices() -> Result<()> {
    for dims in [&[3, 3][..], &[2, 4, 4], &[1, 1], &[2, 0, 3, 3], &[0, 0], &[2, 0, 0]] {
        for dtype in [DType::F32, DType::F64] {
            let a = randn(dims).to_dtype(dtype)?;
            let n = a.size(-1)?;
            let identity = Tensor::eye(n, a.options())?.expand(dims)?;
            let inverse = linalg::inv(&a)?;
            assert!(a.matmul(&inverse)?.allclose(&identity, 1e-4, 1e-4)?);
            assert!(linalg::matrix_power(&a, -2)?.allclose(&inverse.matmul(&inverse)?, 1e-3, 1e-3)?);
            let (sign, log_abs) = linalg::slogdet(&a)?;
            assert_close(&linalg::det(&a)?, &sign.mul(&log_abs.exp()?)?);
            let (values, vectors) = linalg::eigh(&a)?;
            is_orthogonal(&vectors);
            // Only the lower triangle is read.
            let from_lower = a.tril(0)?.add(&a.tril(-1)?.mt()?)?;
            assert_close(&vectors.mul(&values.unsqueeze(-2)?)?.matmul(&vectors.mt()?)?, &from_lower);
            assert_close(&linalg::eigvalsh(&a)?, &values);
            let definite = a.matmul(&a.mt()?)?.add(&identity)?;
            let l = linalg::cholesky(&definite.tril(0)?)?;
            assert_close(&l.matmul(&l.mt()?)?, &definite);
            assert_eq!(l.triu(1)?.abs()?.sum(())?.to_dtype(DType::F64)?.item::<f64>()?, 0.0);
            let count = dims[..dims.len() - 2].iter().product();
            assert_eq!(linalg::matrix_rank(&definite)?.to_vec::<i64>()?, vec![n as i64; count]);
        }
    }
    Ok(())
}

#[test]
fn systems_broadcast() -> Result<()> {
    let shapes: &[(&[usize], &[usize], &[usize])] = &[
        (&[3, 3], &[3], &[3]),
        (&[3, 3], &[3, 2], &[3, 2]),
        (&[2, 3, 3], &[3, 4], &[2, 3, 4]),
        (&[2, 3, 3], &[2, 3], &[2, 3]),
        (&[2, 3, 3], &[3], &[2, 3]),
        (&[3, 3], &[4, 3, 2], &[4, 3, 2]),
        (&[2, 1, 3, 3], &[4, 3, 1], &[2, 4, 3, 1]),
        (&[0, 3, 3], &[0, 3, 2], &[0, 3, 2]),
        (&[3, 3], &[3, 0], &[3, 0]),
        (&[0, 0], &[0, 2], &[0, 2]),
    ];
    for &(a, b, x) in shapes {
        let (a, b) = (randn(a), randn(b));
        let solution = linalg::solve(&a, &b)?;
        assert_eq!(solution.dims(), x);
        let is_vector = solution.rank() < a.rank() || b.rank() == 1;
        let back = if is_vector { a.matmul(&solution.unsqueeze(-1)?)?.squeeze(-1)? } else { a.matmul(&solution)? };
        assert_close(&back, &b.expand(x)?);
        if is_vector {
            continue;
        }
        for system in [
            Triangular::lower(),
            Triangular::upper(),
            Triangular::lower().unitriangular(),
            Triangular::upper().unitriangular(),
        ] {
            let mut triangle = if system.upper { a.triu(0)? } else { a.tril(0)? };
            if system.unitriangular {
                let identity = Tensor::eye(a.size(-1)?, a.options())?;
                triangle = if system.upper { a.triu(1)? } else { a.tril(-1)? }.add(&identity)?;
            }
            // What is not read is still there.
            let solution = linalg::solve_triangular(&a, &b, system)?;
            assert_close(&triangle.matmul(&solution)?, &b.expand(x)?);
            let solution = linalg::solve_triangular(&a, &b.mt()?, system.right())?;
            assert_close(&solution.matmul(&triangle)?, &b.expand(x)?.mt()?);
        }
        assert_close(&linalg::solve_right(&a, &b.mt()?)?.matmul(&a)?, &b.expand(x)?.mt()?);
    }
    Ok(())
}

/// Matrices without full rank, tall and wide ones.
#[test]
fn least_squares() -> Result<()> {
    let (a, b) = (randn(&[2, 5, 3]), randn(&[2, 5, 2]));
    let found = linalg::lstsq(&a, &b)?;
    // The distance is orthogonal to what the matrix reaches.
    let distance = a.matmul(&found.solution)?.sub(&b)?;
    assert!(a.mt()?.matmul(&distance)?.abs()?.max(())?.item::<f64>()? < 1e-12);
    assert_close(&found.residuals, &distance.square()?.sum(-2)?);
    assert_eq!((found.rank.to_vec::<i64>()?, found.singular_values.dims()), (vec![3, 3], &[2, 3][..]));
    let vectors = linalg::lstsq(&a, &b.i((.., .., 0))?)?;
    assert_close(&vectors.solution, &found.solution.i((.., .., 0))?);
    // A matrix of rank 1: the solution of least norm.
    let thin = randn(&[4, 1]).matmul(&randn(&[1, 3]))?;
    let found = linalg::lstsq(&thin, &randn(&[4, 2]))?;
    assert_eq!((found.rank.item::<i64>()?, found.residuals.dims()), (1, &[0][..]));
    assert_close(&linalg::pinv(&thin)?.matmul(&thin)?.matmul(&found.solution)?, &found.solution);
    assert_eq!(linalg::matrix_rank(&thin)?.item::<i64>()?, 1);
    let scales = Tensor::new([1f64, 1e-3, 1e-6], Device::Cpu)?.diag(0)?;
    assert_eq!(linalg::matrix_rank_with(&scales, Tolerance::rtol(1e-4))?.item::<i64>()?, 2);
    assert_eq!(linalg::matrix_rank_with(&scales, Tolerance::atol(1e-2))?.item::<i64>()?, 1);
    assert_eq!(linalg::lstsq_with(&scales, &randn(&[3, 1]), 1e-4)?.rank.item::<i64>()?, 2);
    Ok(())
}

type Function = fn(&[Tensor]) -> Result<Tensor>;

/// A fixed combination of columns that does not depend on their signs.
fn without_signs(columns: &Tensor) -> Result<Tensor> {
    let weights = Tensor::arange(1, columns.size(-1)? + 1, (DType::F64, Device::Cpu))?;
    columns.mul(&weights)?.matmul(&columns.mt()?)
}

fn symmetrized(x: &Tensor) -> Result<Tensor> {
    x.add(&x.mt()?)
}

#[test]
fn gradients_and_second_derivatives() {
    let identity = |n| Tensor::eye(n, (DType::F64, Device::Cpu)).unwrap();
    let square = randn(&[2, 3, 3]).add(&identity(3).mul(2.0).unwrap()).unwrap();
    let singular = randn(&[3, 2]).matmul(&randn(&[2, 3])).unwrap();
    let (tall, wide) = (randn(&[4, 2]), randn(&[2, 4]));
    let right = randn(&[2, 3, 2]);
    let checks: &[(&str, &[&Tensor], Function)] = &[
        ("inv", &[&square], |x| linalg::inv(&x[0])),
        ("solve", &[&square, &right], |x| linalg::solve(&x[0], &x[1])),
        ("solve of a vector", &[&square, &randn(&[3])], |x| linalg::solve(&x[0], &x[1])),
        ("solve_right", &[&square, &randn(&[2, 3])], |x| linalg::solve_right(&x[0], &x[1])),
        ("solve_triangular", &[&square, &right], |x| linalg::solve_triangular(&x[0], &x[1], Triangular::upper())),
        ("solve_triangular, right", &[&square, &randn(&[2, 3])], |x| {
            linalg::solve_triangular(&x[0], &x[1], Triangular::lower().right().unitriangular())
        }),
        ("det", &[&square], |x| linalg::det(&x[0])),
        ("det of singular matrices", &[&singular], |x| linalg::det(&x[0])),
        ("det of a zero matrix", &[&randn(&[3, 3]).mul(0.0).unwrap()], |x| linalg::det(&x[0])),
        ("slogdet", &[&square], |x| linalg::slogdet(&x[0]).map(|(_, log_abs)| log_abs)),
        ("cholesky", &[&square], |x| {
            linalg::cholesky(&x[0].matmul(&x[0].mt()?)?.add(&Tensor::eye(3, x[0].options().requires_grad(false))?)?)
        }),
        ("l", &[&square], |x| linalg::lu(&x[0]).map(|(_, l, _)| l)),
        ("u", &[&square], |x| linalg::lu(&x[0]).map(|(_, _, u)| u)),
        ("l of a tall matrix", &[&tall], |x| linalg::lu(&x[0]).map(|(_, l, _)| l)),
        ("u of a tall matrix", &[&tall], |x| linalg::lu(&x[0]).map(|(_, _, u)| u)),
        ("l of a wide matrix", &[&wide], |x| linalg::lu(&x[0]).map(|(_, l, _)| l)),
        ("u of a wide matrix", &[&wide], |x| linalg::lu(&x[0]).map(|(_, _, u)| u)),
        ("lu_factor of a tall matrix", &[&tall], |x| linalg::lu_factor(&x[0]).map(|(factors, _)| factors)),
        ("lu_factor of a wide matrix", &[&wide], |x| linalg::lu_factor(&x[0]).map(|(factors, _)| factors)),
        ("lu_solve", &[&square, &right], |x| {
            let (factors, pivots) = linalg::lu_factor(&x[0])?;
            linalg::lu_solve(&factors, &pivots, &x[1], false)
        }),
        ("lu_solve, adjoint", &[&square, &right], |x| {
            let (factors, pivots) = linalg::lu_factor(&x[0])?;
            linalg::lu_solve(&factors, &pivots, &x[1], true)
        }),
        ("q", &[&tall], |x| linalg::qr(&x[0], QrMode::Reduced).map(|(q, _)| q)),
        ("r", &[&tall], |x| linalg::qr(&x[0], QrMode::Reduced).map(|(_, r)| r)),
        ("q of a wide matrix", &[&wide], |x| linalg::qr(&x[0], QrMode::Complete).map(|(q, _)| q)),
        ("r of a wide matrix", &[&wide], |x| linalg::qr(&x[0], QrMode::Reduced).map(|(_, r)| r)),
        ("u", &[&tall], |x| without_signs(&linalg::svd(&x[0], true)?.0.narrow(-1, 0, 2)?)),
        ("u of a wide matrix", &[&wide], |x| without_signs(&linalg::svd(&x[0], false)?.0)),
        ("vt", &[&wide], |x| without_signs(&linalg::svd(&x[0], true)?.2.narrow(-2, 0, 2)?.mt()?)),
        ("u and vt", &[&square], |x| {
            let (u, _, vt) = linalg::svd(&x[0], false)?;
            u.mul(&Tensor::arange(1, 4, (DType::F64, Device::Cpu))?)?.matmul(&vt)
        }),
        ("svdvals", &[&tall], |x| linalg::svdvals(&x[0])),
        ("eigh", &[&square], |x| without_signs(&linalg::eigh(&symmetrized(&x[0])?)?.1)),
        ("eigvalsh", &[&square], |x| linalg::eigvalsh(&symmetrized(&x[0])?)),
        ("pinv", &[&tall], |x| linalg::pinv(&x[0])),
        ("pinv of a wide matrix", &[&wide], |x| linalg::pinv(&x[0])),
        ("pinv of a factor", &[&tall], |x| linalg::pinv(&x[0].matmul(&x[0].mt()?)?)),
        ("lstsq", &[&tall, &randn(&[4, 2])], |x| linalg::lstsq(&x[0], &x[1]).map(|found| found.solution)),
        ("residuals", &[&tall, &randn(&[4])], |x| linalg::lstsq(&x[0], &x[1]).map(|found| found.residuals)),
        ("matrix_norm", &[&square], |x| linalg::matrix_norm(&x[0], MatrixNorm::Nuclear)),
        ("matrix_norm, inf", &[&square], |x| linalg::matrix_norm_with(&x[0], f64::INFINITY, [0, 2], true)),
        ("cond", &[&square], |x| linalg::cond(&x[0])),
        ("cond, 1", &[&square], |x| linalg::cond_with(&x[0], 1)),
        ("matrix_power", &[&square], |x| linalg::matrix_power(&x[0], -2)),
        ("matrix_exp", &[&square], |x| linalg::matrix_exp(&x[0])),
        ("matrix_exp of large matrices", &[&square], |x| linalg::matrix_exp(&x[0].mul(3)?)),
        ("multi_dot", &[&randn(&[3]), &randn(&[3, 2]), &wide], |x| linalg::multi_dot(&[&x[0], &x[1], &x[2]])),
        ("logdet", &[&square], |x| linalg::logdet(&x[0].matmul(&x[0].mt()?)?)),
        ("cholesky_solve", &[&right, &square], |x| linalg::cholesky_solve(&x[0], &x[1])),
        ("cholesky_inverse", &[&square], |x| linalg::cholesky_inverse(&x[0])),
        ("tensorinv", &[&randn(&[2, 3, 6])], |x| linalg::tensorinv(&x[0], 2)),
        ("tensorsolve", &[&randn(&[2, 4, 2]), &randn(&[2, 2])], |x| linalg::tensorsolve(&x[0], &x[1], &[1])),
        ("norm", &[&square], |x| linalg::norm(&x[0], Some(MatrixNorm::Frobenius), &[0, 2], true)),
        ("norm of vectors", &[&tall], |x| linalg::norm(&x[0], Some(3.into()), &[-1], false)),
        ("pinv_hermitian", &[&square], |x| linalg::pinv_hermitian(&symmetrized(&x[0])?, Tolerance::default())),
    ];
    let mut failures = Vec::new();
    for (name, inputs, function) in checks {
        if let Err(error) = gradcheck(function, inputs) {
            failures.push(format!("{name}: {error}"));
        } else if let (true, Err(error)) = (!name.starts_with("det of"), gradgradcheck(function, inputs)) {
            // That of a determinant near a singular matrix needs singular values that differ.
            failures.push(format!("{name}, second derivative: {error}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// `exp(v diag(values) vᵀ) = v diag(exp(values)) vᵀ`, for norms from nearly 0 to where the smallest results vanish.
#[test]
fn exponentials_of_symmetric_matrices() -> Result<()> {
    let scales = Tensor::new([1e-9f64, 0.3, 4.0, 40.0], Device::Cpu)?.reshape([4, 1, 1])?;
    let a = symmetric(&[4, 3, 3]).mul(&scales)?;
    let (values, vectors) = linalg::eigh(&a)?;
    let want = vectors.mul(&values.exp()?.unsqueeze(-2)?)?.matmul(&transposed(&vectors))?;
    let sizes = want.abs()?.amax_keepdim([-2, -1])?;
    assert_close(&linalg::matrix_exp(&a)?.div(&sizes)?, &want.div(&sizes)?);
    let halves = a.i(..2)?.to_dtype(DType::BF16)?;
    let wide = linalg::matrix_exp(&halves.to_dtype(DType::F32)?)?;
    assert!(linalg::matrix_exp(&halves)?.equal(&wide.to_dtype(DType::BF16)?)?);
    assert_eq!(linalg::matrix_exp(&randn(&[2, 0, 0]))?.dims(), [2, 0, 0]);
    assert!(linalg::matrix_exp(&a.mul(f64::NAN)?)?.isnan()?.all(())?.item::<bool>()?);
    Ok(())
}

/// A tolerance for each matrix, and matrices of which one triangle is read.
#[test]
fn tolerances_of_batches() -> Result<()> {
    let a = Tensor::new([3f64, 1e-3, 1e-6], Device::Cpu)?.diag(0)?;
    let batch = a.expand([3, 3, 3])?;
    let atol = Tensor::new([0f64, 1e-4, 0.1], Device::Cpu)?;
    let rtol = Tensor::new([1e-9f64, 1e-5, 0.1], Device::Cpu)?;
    let broken = batch.add(&Tensor::full([3, 3], 9.0, a.options())?.triu(1)?)?;
    for tolerance in [Tolerance::atol(&atol), Tolerance::rtol(&rtol)] {
        assert_eq!(linalg::matrix_rank_with(&batch, tolerance.clone())?.to_vec::<i64>()?, [3, 2, 1]);
        assert_eq!(linalg::matrix_rank_with(&a, tolerance.clone())?.to_vec::<i64>()?, [3, 2, 1]);
        assert_eq!(linalg::matrix_rank_hermitian(&broken, tolerance.clone())?.to_vec::<i64>()?, [3, 2, 1]);
        let inverse = linalg::pinv_with(&a, tolerance.clone())?;
        assert_close(&inverse, &linalg::pinv_with(&batch, tolerance.clone())?);
        assert_close(&inverse, &linalg::pinv_hermitian(&broken, tolerance.clone())?);
        let leaf = a.copy()?.requires_grad_(true)?;
        linalg::pinv_with(&leaf, tolerance)?.sum(())?.backward()?;
        assert_eq!(leaf.grad().unwrap().dims(), [3, 3]);
    }
    // One that is not above 0 is none.
    assert_eq!(linalg::matrix_rank_with(&a, Tolerance::atol(0.0))?.item::<i64>()?, 3);
    let negative = a.neg()?;
    assert_close(&linalg::pinv_hermitian(&negative, Tolerance::default())?, &linalg::pinv(&negative)?);
    Ok(())
}

/// The error, by its kind and a part of its message.
fn fails<T>(result: Result<T>, message: &str) -> Error {
    let error = result.err().expect("it was accepted");
    assert!(error.to_string().contains(message), "{error} does not say {message:?}");
    error
}

fn is_linalg<T>(result: Result<T>, message: &str) {
    let error = fails(result, message);
    assert!(matches!(error.kind(), ErrorKind::LinAlg { .. }), "{error:?}");
    assert!(format!("{error:?}").contains("linalg.rs"), "{error:?}");
}

#[test]
fn matrices_without_a_factorization() -> Result<()> {
    let singular = Tensor::new([[1f64, 2.], [2., 4.]], Device::Cpu)?;
    let batch = Tensor::stack(&[Tensor::eye(2, singular.options())?, singular.clone()], 0)?;
    is_linalg(linalg::inv(&singular), "inv: the matrix is singular: element 1 ");
    is_linalg(linalg::inv(&batch), "inv: batch element 1: the matrix is singular");
    is_linalg(linalg::solve(&batch, &batch), "solve: batch element 1: the matrix is singular");
    is_linalg(
        linalg::cholesky(&batch.neg()?),
        "cholesky: batch element 0: the matrix is not positive definite: its leading minor of order 1 ",
    );
    is_linalg(linalg::cholesky(&singular.sub(&Tensor::eye(2, singular.options())?.mul(0.1)?)?), "order 2 ");
    is_linalg(linalg::matrix_power(&singular, -1), "singular");
    assert_eq!(linalg::det(&singular)?.item::<f64>()?, 0.0);
    let (sign, log_abs) = linalg::slogdet(&batch)?;
    assert_eq!((sign.to_vec::<f64>()?, log_abs.to_vec::<f64>()?), (vec![1.0, 0.0], vec![0.0, f64::NEG_INFINITY]));
    assert_eq!(linalg::cond_with(&singular, 1)?.item::<f64>()?, f64::INFINITY);
    for value in [f64::NAN, f64::INFINITY] {
        let wild = Tensor::full([3, 3], value, (DType::F64, Device::Cpu))?;
        is_linalg(linalg::svd(&wild, false), "not finite");
        is_linalg(linalg::svdvals(&wild), "not finite");
        is_linalg(linalg::eigh(&wild), "not finite");
        is_linalg(linalg::eigvalsh(&wild), "not finite");
        is_linalg(linalg::pinv(&wild), "not finite");
        // What needs no iteration has a result, of which nothing is said.
        let _ = (linalg::inv(&wild), linalg::det(&wild)?, linalg::slogdet(&wild)?, linalg::qr(&wild, QrMode::Reduced)?);
        let _ = linalg::cholesky(&wild);
    }
    Ok(())
}

#[test]
fn shapes_and_dtypes_are_checked() -> Result<()> {
    let (a, b) = (randn(&[2, 3]), randn(&[3, 3]));
    for (result, op) in [
        (linalg::inv(&a), "inv"),
        (linalg::det(&a), "det"),
        (linalg::cholesky(&a), "cholesky"),
        (linalg::eigvalsh(&a), "eigvalsh"),
        (linalg::solve(&a, &b), "solve"),
        (linalg::solve_triangular(&a, &b, Triangular::lower()), "solve_triangular"),
        (linalg::cond_with(&a, 1), "cond_with"),
        (linalg::matrix_power(&a, 2), "matrix_power"),
    ] {
        fails(result, &format!("{op}: expected square matrices [..., n, n], got a tensor of shape [2, 3]"));
    }
    for (result, op) in [(linalg::svdvals(&randn(&[3])), "svdvals"), (linalg::pinv(&randn(&[])), "pinv")] {
        fails(result, &format!("{op}: expected matrices [..., m, n]"));
    }
    fails(linalg::solve(&b, &a), "solve: shapes [3, 3] and [2, 3] do not fit");
    fails(linalg::solve_right(&b, &randn(&[3, 2])), "solve_right: shapes [3, 3] and [3, 2] do not fit");
    fails(
        linalg::solve_triangular(&b, &randn(&[3, 2]), Triangular::lower().right()),
        "shapes [3, 3] and [3, 2] do not fit",
    );
    fails(linalg::lstsq(&a, &b), "lstsq: shapes [2, 3] and [3, 3] do not fit");
    fails(linalg::solve(&b, &b.to_dtype(DType::F32)?), "solve: operands have different dtypes");
    fails(linalg::inv(&b.to_dtype(DType::I64)?), "inv: dtype i64");
    fails(linalg::inv(&b.to_dtype(DType::BF16)?), "inv: dtype bf16 is not supported; it takes f32 and f64");
    fails(linalg::matrix_norm(&b, 3), "no norm of order 3");
    fails(linalg::norm(&randn(&[2, 2, 2]), Some(1.into()), &[], false), "norm: expected vectors or matrices");
    fails(linalg::multi_dot(&[&a]), "multi_dot: there must be two or more tensors");
    fails(linalg::multi_dot(&[&a, &a]), "multi_dot: shapes [2, 3] and [2, 3] do not fit");
    fails(linalg::multi_dot(&[&b, &randn(&[3]), &b]), "multi_dot: expected matrices, and vectors only at the ends");
    fails(linalg::tensorinv(&a, 1), "tensorinv: expected as many elements in the first 1 dimensions");
    fails(linalg::tensorinv(&a, 7), "tensorinv: expected as many elements in the first 7 dimensions");
    fails(linalg::tensorsolve(&a, &b, &[]), "tensorsolve: shapes [2, 3] and [3, 3] do not fit");
    fails(linalg::logdet(&a), "logdet: expected square matrices");
    fails(linalg::cholesky_solve(&b, &a), "cholesky_solve: expected square matrices");
    fails(linalg::pinv_hermitian(&a, Tolerance::default()), "pinv_hermitian: expected square matrices");
    fails(linalg::matrix_exp(&b.to_dtype(DType::I64)?), "matrix_exp: dtype i64");
    fails(linalg::matrix_norm_with(&b, 1, [0, -2], false), "given twice");
    let leaf = randn(&[4, 2]).requires_grad_(true)?;
    fails(linalg::qr(&leaf, QrMode::R)?.1.sum(())?.backward(), "mode `R`");
    fails(linalg::qr(&leaf, QrMode::Complete)?.0.sum(())?.backward(), "more rows than columns");
    Ok(())
}

#[test]
fn autocast_computes_in_f32() -> Result<()> {
    let a = randn(&[3, 3]).to_dtype(DType::BF16)?;
    let inverse = autocast(DType::BF16, || linalg::inv(&a))?;
    assert_eq!(inverse.dtype(), DType::F32);
    assert_close(&inverse, &linalg::inv(&a.to_dtype(DType::F32)?)?);
    assert_eq!(autocast(DType::BF16, || linalg::eigh(&a))?.1.dtype(), DType::F32);
    Ok(())
}

/// A result that was changed in place no longer gives a gradient.
#[test]
fn a_changed_factor_is_noticed() -> Result<()> {
    let a = symmetric(&[3, 3]).requires_grad_(true)?;
    let (values, vectors) = linalg::eigh(&a)?;
    vectors.detach().mul_(2.0)?;
    fails(values.sum(())?.backward(), "in-place");
    Ok(())
}

/// A factorization solves what the matrix does, also where rows are exchanged; matrices without an inverse have factors, too.
#[test]
fn factors_of_lu_solve_systems() -> Result<()> {
    let (a, b) = (randn(&[2, 4, 4]), randn(&[4, 3]));
    let (factors, pivots) = linalg::lu_factor(&a)?;
    assert_close(&a.matmul(&linalg::lu_solve(&factors, &pivots, &b, false)?)?, &b.expand([2, 4, 3])?);
    assert_close(&a.mt()?.matmul(&linalg::lu_solve(&factors, &pivots, &b, true)?)?, &b.expand([2, 4, 3])?);
    let singular = Tensor::new([[0f64, 0., 3.], [0., 0., 1.], [2., 4., 5.]], Device::Cpu)?;
    let (p, l, u) = linalg::lu(&singular)?;
    assert_close(&p.matmul(&l)?.matmul(&u)?, &singular);
    assert_eq!(linalg::lu_factor(&singular)?.1.to_vec::<i32>()?, [3, 2, 3]);
    let refused = |pivots: &[i32]| {
        let pivots = Tensor::from_slice(pivots, [3], Device::Cpu)?;
        let error = linalg::lu_solve(&singular, &pivots, &randn(&[3, 1]), false).err();
        assert!(error.is_some_and(|error| error.to_string().starts_with("lu_solve: ")));
        Ok::<_, Error>(())
    };
    refused(&[1, 2, 4])?;
    refused(&[0, 2, 3])?;
    refused(&[i32::MIN, 2, 3])
}

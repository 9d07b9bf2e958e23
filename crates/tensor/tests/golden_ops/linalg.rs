//! Golden calls of linear algebra. Signs of singular vectors, eigenvectors and columns of `q` are not determined: they are
//! chosen here as in `make_opinfo.py`.

use kiln_tensor::{
    Result, Tensor,
    linalg::{self, MatrixNorm, QrMode, Tolerance, Triangular},
    no_grad,
};

use crate::common::args::Args;

/// Columns, and the rows that belong to them, with a sign that does not depend on the algorithm.
fn oriented(columns: &Tensor, rows: &Tensor) -> Result<(Tensor, Tensor)> {
    let signs = no_grad(|| {
        let weights = Tensor::arange(1, columns.size(-2)? + 1, columns.detach().options())?.cos()?.unsqueeze(-1)?;
        columns.mul(&weights)?.sum(-2)?.sign()
    })?;
    Ok((columns.mul(&signs.unsqueeze(-2)?)?, rows.mul(&signs.unsqueeze(-1)?)?))
}

fn eigenvectors(a: &Tensor) -> Result<Vec<Tensor>> {
    let (values, vectors) = linalg::eigh(a)?;
    Ok(vec![values, oriented(&vectors, &vectors.detach())?.0])
}

fn singular_vectors(a: &Tensor, full_matrices: bool) -> Result<Vec<Tensor>> {
    let (u, s, vt) = linalg::svd(a, full_matrices)?;
    let k = s.size(-1)?;
    let (u, vt) = oriented(&u.narrow(-1, 0, k)?, &vt.narrow(-2, 0, k)?)?;
    Ok(vec![u, s, vt])
}

fn orthogonal(a: &Tensor, mode: Option<&str>) -> Result<Vec<Tensor>> {
    let mode = match mode {
        Some("complete") => QrMode::Complete,
        Some("r") => QrMode::R,
        _ => QrMode::Reduced,
    };
    let (q, r) = linalg::qr(a, mode)?;
    if q.numel() == 0 {
        return Ok(vec![q, r]);
    }
    let k = a.size(-1)?.min(a.size(-2)?);
    let (q, r) = oriented(&q.narrow(-1, 0, k)?, &r.narrow(-2, 0, k)?)?;
    Ok(vec![q, r])
}

/// The triangle that is read.
fn lower(a: &Tensor, args: &Args) -> Result<Tensor> {
    if args.text("UPLO") == Some("U") { a.mt() } else { Ok(a.clone()) }
}

/// The lower triangular factor.
fn lower_factor(factor: &Tensor, args: &Args) -> Result<Tensor> {
    if args.flag("upper") { factor.mt() } else { Ok(factor.clone()) }
}

fn order(args: &Args, name: &str) -> Option<MatrixNorm> {
    match args.get(name)?.as_str() {
        Some("fro") => Some(MatrixNorm::Frobenius),
        Some("nuc") => Some(MatrixNorm::Nuclear),
        _ => args.float(name).map(MatrixNorm::P),
    }
}

fn tolerance(x: &[Tensor], args: &Args) -> Tolerance {
    Tolerance { atol: args.operand("atol", x), rtol: args.operand("rtol", x).or(args.operand("rcond", x)) }
}

/// What `pinv` is of: in OpInfo's variant `singular`, a product.
fn matrix(x: &[Tensor], args: &Args) -> Result<Tensor> {
    match x {
        [a, b] if args.get("atol").is_none() && args.get("rtol").is_none() => a.matmul(&b.mt()?),
        _ => Ok(x[0].clone()),
    }
}

fn left(args: &Args) -> bool {
    args.get("left").is_none_or(|value| value.as_bool() == Some(true))
}

table! {
    cholesky => |x, a| {
        let l = linalg::cholesky(&x[0])?;
        if a.flag("upper") { l.mt()? } else { l }
    };
    cholesky_inverse => |x, a| linalg::cholesky_inverse(&lower_factor(&x[0], a)?)?;
    cholesky_solve => |x, a| linalg::cholesky_solve(&x[0], &lower_factor(&x[1], a)?)?;
    cond => |x, a| match order(a, "p") {
        None => linalg::cond(&x[0])?,
        Some(p) => linalg::cond_with(&x[0], p)?,
    };
    det => |x, _a| linalg::det(&x[0])?;
    eigh => |x, a| eigenvectors(&lower(&x[0], a)?)?;
    eigvalsh => |x, a| linalg::eigvalsh(&lower(&x[0], a)?)?;
    inv => |x, _a| linalg::inv(&x[0])?;
    logdet => |x, _a| linalg::logdet(&x[0])?;
    lstsq => |x, a| {
        let _ = a.text("driver");
        match a.float("rcond") {
            None => linalg::lstsq(&x[0], &x[1])?.solution,
            Some(rcond) => linalg::lstsq_with(&x[0], &x[1], rcond)?.solution,
        }
    };
    lu => |x, a| {
        let _ = a.get("pivot");
        let (p, l, u) = linalg::lu(&x[0])?;
        vec![p, l, u]
    };
    lu_factor => |x, a| {
        let _ = a.get("pivot");
        let (factors, pivots) = linalg::lu_factor(&x[0])?;
        vec![factors, pivots]
    };
    lu_solve => |x, a| {
        // PyTorch's older function takes the right sides first.
        let (factors, pivots, b) = if a.get("B").is_some() { (&x[0], &x[1], &x[2]) } else { (&x[1], &x[2], &x[0]) };
        match left(a) {
            true => linalg::lu_solve(factors, pivots, b, a.flag("adjoint"))?,
            false => linalg::lu_solve(factors, pivots, &b.mt()?, !a.flag("adjoint"))?.mt()?,
        }
    };
    matrix_norm => |x, a| {
        let ord = order(a, "ord").unwrap_or_default();
        let dims = a.ints("dim");
        let dims = [dims.first().copied().unwrap_or(-2), dims.get(1).copied().unwrap_or(-1)];
        linalg::matrix_norm_with(&x[0], ord, dims, a.flag("keepdim"))?
    };
    matrix_exp => |x, _a| linalg::matrix_exp(&x[0])?;
    matrix_rank => |x, a| match a.flag("hermitian") {
        true => linalg::matrix_rank_hermitian(&x[0], tolerance(x, a))?,
        false => linalg::matrix_rank_with(&x[0], tolerance(x, a))?,
    };
    linalg_norm => |x, a| linalg::norm(&x[0], order(a, "ord"), &a.ints("dim"), a.flag("keepdim"))?;
    multi_dot => |x, _a| linalg::multi_dot(&x.iter().collect::<Vec<_>>())?;
    pinv => |x, a| match a.flag("hermitian") {
        true => linalg::pinv_hermitian(&x[0], tolerance(x, a))?,
        false => linalg::pinv_with(&matrix(x, a)?, tolerance(x, a))?,
    };
    qr => |x, a| orthogonal(&x[0], a.text("mode"))?;
    slogdet => |x, _a| linalg::slogdet(&x[0])?;
    solve => |x, a| if left(a) { linalg::solve(&x[0], &x[1])? } else { linalg::solve_right(&x[0], &x[1])? };
    solve_triangular => |x, a| {
        let right = !left(a);
        let system = Triangular { upper: a.flag("upper"), right, unitriangular: a.flag("unitriangular") };
        linalg::solve_triangular(&x[0], &x[1], system)?
    };
    svd => |x, a| {
        let full = a.get("full_matrices").is_none_or(|value| value.as_bool() == Some(true));
        singular_vectors(&x[0], full)?
    };
    svdvals => |x, _a| linalg::svdvals(&x[0])?;
    tensorinv => |x, a| linalg::tensorinv(&x[0], a.size("ind").unwrap_or(2))?;
    tensorsolve => |x, a| linalg::tensorsolve(&x[0], &x[1], &a.ints("dims"))?;
}

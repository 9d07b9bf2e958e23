//! Reductions, softmax, scans and sorting.

use kiln_tensor::{Result, Tensor};

use crate::common::{args::Args, suite::Op};

/// Calls the form of a reduction that the arguments ask for.
macro_rules! reduction {
    ($x:ident, $a:ident, $method:ident, $keepdim:ident $(, $arg:expr)*) => {
        if $a.flag("keepdim") {
            $x.$keepdim(&$a.ints("dim")[..] $(, $arg)*)?
        } else {
            $x.$method(&$a.ints("dim")[..] $(, $arg)*)?
        }
    };
}

macro_rules! reductions {
    ($($method:ident $keepdim:ident;)*) => {
        &[$((stringify!($method), |x, a| {
            let x = with_dtype(&x[0], a)?;
            Ok(vec![reduction!(x, a, $method, $keepdim)])
        }),)*]
    };
}

/// PyTorch's argument `dtype`: convert first.
fn with_dtype(x: &Tensor, a: &Args) -> Result<Tensor> {
    a.dtype("dtype").map_or_else(|| Ok(x.clone()), |dtype| x.to_dtype(dtype))
}

fn pair((values, indices): (Tensor, Tensor)) -> Result<Vec<Tensor>> {
    Ok(vec![values, indices])
}

fn norm(x: &Tensor, p: f64, a: &Args) -> Result<Tensor> {
    let dims = a.ints("dim");
    if a.flag("keepdim") { x.norm_keepdim(p, &dims[..]) } else { x.norm(p, &dims[..]) }
}

fn correction(a: &Args) -> f64 {
    let unbiased = a.get("unbiased").is_none_or(|flag| flag.as_bool() == Some(true));
    a.float("correction").unwrap_or(f64::from(u8::from(unbiased)))
}

pub const REDUCTIONS: &[(&str, Op)] = reductions! {
    sum sum_keepdim;
    mean mean_keepdim;
    prod prod_keepdim;
    amax amax_keepdim;
    amin amin_keepdim;
    any any_keepdim;
    all all_keepdim;
    logsumexp logsumexp_keepdim;
};

pub const OTHERS: &[(&str, Op)] = &[
    ("var", |x, a| {
        Ok(vec![{
            let x = &x[0];
            reduction!(x, a, var, var_keepdim, correction(a))
        }])
    }),
    ("std", |x, a| {
        Ok(vec![{
            let x = &x[0];
            reduction!(x, a, std, std_keepdim, correction(a))
        }])
    }),
    ("softmax", |x, a| Ok(vec![with_dtype(&x[0], a)?.softmax(a.int("dim").unwrap())?])),
    ("log_softmax", |x, a| Ok(vec![x[0].log_softmax(a.int("dim").unwrap())?])),
    ("max", |x, a| match a.int("dim") {
        None if x.len() == 2 => Ok(vec![x[0].maximum(&x[1])?]),
        None => Ok(vec![x[0].max(())?]),
        Some(dim) => pair(if a.flag("keepdim") { x[0].max_dim_keepdim(dim)? } else { x[0].max_dim(dim)? }),
    }),
    ("min", |x, a| match a.int("dim") {
        None if x.len() == 2 => Ok(vec![x[0].minimum(&x[1])?]),
        None => Ok(vec![x[0].min(())?]),
        Some(dim) => pair(if a.flag("keepdim") { x[0].min_dim_keepdim(dim)? } else { x[0].min_dim(dim)? }),
    }),
    ("argmax", |x, a| {
        Ok(vec![match a.int("dim") {
            None => x[0].argmax(())?,
            Some(dim) if a.flag("keepdim") => x[0].argmax_keepdim(dim)?,
            Some(dim) => x[0].argmax(dim)?,
        }])
    }),
    ("argmin", |x, a| {
        Ok(vec![match a.int("dim") {
            None => x[0].argmin(())?,
            Some(dim) if a.flag("keepdim") => x[0].argmin_keepdim(dim)?,
            Some(dim) => x[0].argmin(dim)?,
        }])
    }),
    ("norm", |x, a| {
        Ok(vec![{
            let (x, p) = (&x[0], a.float("p").unwrap_or(2.0));
            norm(x, p, a)?
        }])
    }),
    ("cumsum", |x, a| Ok(vec![x[0].cumsum(a.int("dim").unwrap())?])),
    ("argsort", |x, a| Ok(vec![x[0].argsort(a.int("dim").unwrap_or(-1), a.flag("descending"))?])),
    ("topk", |x, a| {
        let largest = a.get("largest").is_none_or(|flag| flag.as_bool() == Some(true));
        pair(x[0].topk(a.int("k").unwrap() as usize, a.int("dim").unwrap_or(-1), largest)?)
    }),
    ("sort", |x, a| pair(x[0].sort(a.int("dim").unwrap_or(-1), a.flag("descending"))?)),
];

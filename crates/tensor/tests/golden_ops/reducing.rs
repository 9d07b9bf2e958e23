//! Golden calls: reductions, softmax and sorting.

use kiln_tensor::{AttentionOptions, Correction, Result, Tensor};
use serde_json::Value;

use crate::common::args::Args;

/// Calls the form of a reduction that the arguments ask for: over all dimensions, or those listed, kept or not.
macro_rules! reduction {
    ($x:expr, $a:ident, $method:ident, $keepdim:ident $(, $arg:expr)*) => {{
        let (x, keepdim) = ($x, $a.flag("keepdim"));
        match $a.get("dim").filter(|dim| !dim.is_boolean()) {
            None if keepdim => x.$keepdim(() $(, $arg)*)?,
            None => x.$method(() $(, $arg)*)?,
            Some(_) if keepdim => x.$keepdim(&$a.ints("dim")[..] $(, $arg)*)?,
            Some(_) => x.$method(&$a.ints("dim")[..] $(, $arg)*)?,
        }
    }};
}

/// The same of a method that has another form for the argument `dtype`.
macro_rules! in_dtype {
    ($x:expr, $a:ident, $method:ident, $keepdim:ident, $dtype:ident, $dtype_keepdim:ident) => {
        match $a.dtype("dtype") {
            None => reduction!($x, $a, $method, $keepdim),
            Some(dtype) => reduction!($x, $a, $dtype, $dtype_keepdim, dtype),
        }
    };
}

/// Calls the form for one dimension or all.
macro_rules! arg_reduction {
    ($x:ident, $a:ident, $method:ident, $keepdim:ident) => {
        match ($a.int("dim"), $a.flag("keepdim")) {
            (None, false) => $x[0].$method(())?,
            (None, true) => $x[0].$keepdim(())?,
            (Some(dim), false) => $x[0].$method(dim)?,
            (Some(dim), true) => $x[0].$keepdim(dim)?,
        }
    };
}

/// PyTorch's argument `dtype`: convert first.
fn with_dtype(x: &Tensor, a: &Args) -> Result<Tensor> {
    a.dtype("dtype").map_or_else(|| Ok(x.clone()), |dtype| x.to_dtype(dtype))
}

fn norm(x: &Tensor, p: f64, a: &Args) -> Result<Tensor> {
    Ok(reduction!(Powered(x, p), a, norm, norm_keepdim))
}

/// A tensor with its norm's exponent, in the order of arguments of the other reductions.
struct Powered<'a>(&'a Tensor, f64);

impl Powered<'_> {
    fn norm(&self, dims: impl kiln_tensor::Dims) -> Result<Tensor> {
        self.0.norm(self.1, dims)
    }

    fn norm_keepdim(&self, dims: impl kiln_tensor::Dims) -> Result<Tensor> {
        self.0.norm_keepdim(self.1, dims)
    }
}

/// `correction`, or `unbiased`, which may stand where `dim` does.
pub fn correction(a: &Args) -> Correction {
    let unbiased = a.get("unbiased").or(a.get("dim")).and_then(Value::as_bool);
    match (a.float("correction"), unbiased) {
        (Some(correction), _) => correction.into(),
        (None, Some(unbiased)) => unbiased.into(),
        (None, None) => ().into(),
    }
}

table! {
    sum => |x, a| in_dtype!(&x[0], a, sum, sum_keepdim, sum_dtype, sum_dtype_keepdim);
    mean => |x, a| in_dtype!(&x[0], a, mean, mean_keepdim, mean_dtype, mean_dtype_keepdim);
    prod => |x, a| in_dtype!(&x[0], a, prod, prod_keepdim, prod_dtype, prod_dtype_keepdim);
    amax => |x, a| reduction!(&x[0], a, amax, amax_keepdim);
    amin => |x, a| reduction!(&x[0], a, amin, amin_keepdim);
    any => |x, a| reduction!(&x[0], a, any, any_keepdim);
    all => |x, a| reduction!(&x[0], a, all, all_keepdim);
    logsumexp => |x, a| reduction!(&x[0], a, logsumexp, logsumexp_keepdim);
    var => |x, a| reduction!(&x[0], a, var, var_keepdim, correction(a));
    std => |x, a| reduction!(&x[0], a, std, std_keepdim, correction(a));
    norm => |x, a| norm(&x[0], a.float("p").unwrap_or(2.0), a)?;
    vector_norm => |x, a| norm(&with_dtype(&x[0], a)?, a.float("ord").unwrap_or(2.0), a)?;
    scaled_dot_product_attention => |x, a| {
        let options = AttentionOptions::default().dropout(a.float("dropout_p").unwrap_or(0.0)).scale(a.float("scale"));
        let options = options.is_causal(a.flag("is_causal")).enable_gqa(a.flag("enable_gqa"));
        x[0].scaled_dot_product_attention(&x[1], &x[2], options.mask(a.tensor("attn_mask", x)))?
    };
    lstm_cell => |x, _a| x[0].lstm_cell(&x[1], &x[2])?;
    gru_cell => |x, _a| x[0].gru_cell(&x[1], &x[2])?;
    lstm_layer => |x, a| {
        let (y, h, c) = x[0].lstm_layer(&x[1], &x[2], &x[3], a.flag("reverse"))?;
        vec![y, h, c]
    };
    gru_layer => |x, a| x[0].gru_layer(&x[1], &x[2], x.get(3), a.flag("reverse"))?;
    rnn_tanh_layer => |x, a| x[0].rnn_tanh_layer(&x[1], &x[2], a.flag("reverse"))?;
    rnn_relu_layer => |x, a| x[0].rnn_relu_layer(&x[1], &x[2], a.flag("reverse"))?;
    softmax => |x, a| with_dtype(&x[0], a)?.softmax(a.int("dim").unwrap())?;
    softmin => |x, a| with_dtype(&x[0], a)?.softmin(a.int("dim").unwrap())?;
    log_softmax => |x, a| with_dtype(&x[0], a)?.log_softmax(a.int("dim").unwrap())?;
    max => |x, a| match a.scalar("dim") {
        None if x.len() == 2 => vec![x[0].maximum(&x[1])?],
        None => vec![x[0].max(())?],
        Some(dim) => pair(if a.flag("keepdim") { x[0].max_dim_keepdim(dim.to_i64())? } else { x[0].max_dim(dim.to_i64())? }),
    };
    min => |x, a| match a.scalar("dim") {
        None if x.len() == 2 => vec![x[0].minimum(&x[1])?],
        None => vec![x[0].min(())?],
        Some(dim) => pair(if a.flag("keepdim") { x[0].min_dim_keepdim(dim.to_i64())? } else { x[0].min_dim(dim.to_i64())? }),
    };
    argmax => |x, a| arg_reduction!(x, a, argmax, argmax_keepdim);
    argmin => |x, a| arg_reduction!(x, a, argmin, argmin_keepdim);
    median => |x, a| match (a.int("dim"), a.flag("keepdim")) {
        (None, _) => vec![x[0].median_all()?],
        (Some(dim), false) => pair(x[0].median(dim)?),
        (Some(dim), true) => pair(x[0].median_keepdim(dim)?),
    };
    kthvalue => |x, a| {
        let (k, dim) = (a.size("k").unwrap(), a.int("dim").unwrap_or(-1));
        if a.flag("keepdim") { x[0].kthvalue_keepdim(k, dim)? } else { x[0].kthvalue(k, dim)? }
    };
    argsort => |x, a| {
        a.get("stable");
        x[0].argsort(a.int("dim").unwrap_or(-1), a.flag("descending"))?
    };
    topk => |x, a| {
        a.get("sorted");
        let largest = a.get("largest").is_none_or(|flag| flag.as_bool() == Some(true));
        x[0].topk(a.size("k").unwrap(), a.int("dim").unwrap_or(-1), largest)?
    };
    sort => |x, a| {
        a.get("stable");
        x[0].sort(a.int("dim").unwrap_or(-1), a.flag("descending"))?
    };
}

fn pair((values, indices): (Tensor, Tensor)) -> Vec<Tensor> {
    vec![values, indices]
}

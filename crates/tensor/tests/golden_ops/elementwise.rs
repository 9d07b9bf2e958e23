//! Element-wise operations, comparisons and conversions.

use kiln_tensor::{DType, Error, Result, Rhs, Tensor};

use crate::common::{args::Args, suite::Op};

/// The second operand: a tensor, or the number `other`.
fn other(x: &[Tensor], a: &Args) -> Rhs {
    a.scalar("other").map_or_else(|| Rhs::from(&x[1]), Rhs::from)
}

macro_rules! ops {
    ($($name:literal => |$x:ident, $a:ident| $call:expr;)*) => {
        &[$(($name, |$x, $a| { let _ = $a; Ok(vec![$call]) }),)*]
    };
}

/// PyTorch's `where` without values: the indices of what is true, a list for each dimension.
fn nonzero_lists(condition: &Tensor) -> Result<Vec<Tensor>> {
    let rows = condition.nonzero()?;
    rows.unbind(1)
}

macro_rules! unary {
    ($($method:ident)*) => { &[$((stringify!($method), |x, _| Ok(vec![x[0].$method()?])),)*] };
}

macro_rules! binary {
    ($($method:ident)*) => { &[$((stringify!($method), |x, a| Ok(vec![x[0].$method(other(x, a))?])),)*] };
}

macro_rules! unary_rows {
    ($names:tt $(UNARY($variant:ident, $op:ident, $($row:tt)*))*) => {
        pub const UNARY: &[(&str, Op)] = unary! { $($op)* isnan isinf isfinite logical_not };
    };
}
kiln_backend::unary_table!(unary_rows);

pub const BINARY: &[(&str, Op)] = binary! {
    mul remainder maximum minimum atan2 eq ne lt le gt ge logical_and logical_or logical_xor
};

pub const OTHERS: &[(&str, Op)] = ops! {
    "add" => |x, a| match a.scalar("alpha") {
        Some(alpha) => x[0].add(x[1].mul(alpha)?)?,
        None => x[0].add(other(x, a))?,
    };
    "sub" => |x, a| match a.scalar("alpha") {
        Some(alpha) => x[0].sub(x[1].mul(alpha)?)?,
        None => x[0].sub(other(x, a))?,
    };
    "div" => |x, a| match a.text("rounding_mode") {
        Some("floor") => x[0].floor_divide(other(x, a))?,
        Some(_) if !x[0].dtype().is_float() => {
            return Err(Error::argument("div", "no division of integers that rounds to 0"));
        }
        Some(_) => x[0].div(other(x, a))?.trunc()?,
        None => x[0].div(other(x, a))?,
    };
    "floor_divide" => |x, a| x[0].floor_divide(other(x, a))?;
    "rsub" => |x, a| match a.scalar("other") {
        Some(number) if !number.is_float() => (number.to_i64() - &x[0])?,
        Some(number) => (number.to_f64() - &x[0])?,
        None => (&x[1] - &x[0])?,
    };
    "rdiv" => |x, a| match a.scalar("other") {
        Some(number) if !number.is_float() => (number.to_i64() / &x[0])?,
        Some(number) => (number.to_f64() / &x[0])?,
        None => (&x[1] / &x[0])?,
    };
    "mul_self" => |x, a| (&x[0] * &x[0])?;
    "pow" => |x, a| x[0].pow(a.scalar("exponent").map_or_else(|| Rhs::from(&x[1]), Rhs::from))?;
    "gelu" => |x, a| if a.text("approximate") == Some("tanh") { x[0].gelu_tanh()? } else { x[0].gelu()? };
    "to" => |x, a| x[0].to_dtype(a.dtype("dtype").unwrap_or(DType::F32))?;
    "where" => |x, a| match (a.scalar("input"), a.scalar("other")) {
        (Some(input), Some(other)) => x[0].where_cond(input, other)?,
        (_, Some(other)) => x[0].where_cond(&x[1], other)?,
        _ if x.len() == 3 => x[0].where_cond(&x[1], &x[2])?,
        _ => return nonzero_lists(&x[0]),
    };
    "rpow" => |x, a| Tensor::full((), a.scalar("base").unwrap(), x[0].options())?.pow(&x[0])?;
    "leaky_relu" => |x, a| x[0].leaky_relu(a.float("negative_slope").unwrap())?;
    "elu" => |x, a| x[0].elu(a.float("alpha").unwrap())?;
    "clamp" => |x, a| {
        let bound = |name: &str| a.tensor(name, x).map(Rhs::from).or_else(|| a.scalar(name).map(Rhs::from));
        match (bound("min"), bound("max")) {
            (Some(min), Some(max)) => x[0].clamp(min, max)?,
            (Some(min), None) => x[0].clamp_min(min)?,
            (_, max) => x[0].clamp_max(max.unwrap())?,
        }
    };
    "masked_fill" => |x, a| x[0].masked_fill(a.tensor("mask", x).unwrap_or(&x[1]), a.scalar("value").unwrap())?;
};

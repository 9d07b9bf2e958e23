//! Golden calls: element-wise operations, comparisons and conversions.

use kiln_tensor::{DType, Device, Result, Rhs, RoundingMode, Scalar, Tensor};
use serde_json::Value;

use crate::{
    common::{args::Args, values},
    suite::{Miss, lacks},
};

/// The second operand: a tensor, or the number `other`.
fn other(x: &[Tensor], a: &Args) -> Rhs {
    a.scalar("other").map_or_else(|| Rhs::from(&x[1]), Rhs::from)
}

/// PyTorch's `where` without values: the indices of what is true, a list for each dimension.
fn nonzero_lists(condition: &Tensor) -> Result<Vec<Tensor>> {
    let rows = condition.nonzero()?;
    rows.unbind(1)
}

/// `number ∘ x` or `tensor ∘ x`.
macro_rules! reversed {
    ($x:ident, $a:ident, $op:tt) => {
        match $a.scalar("other") {
            Some(Scalar::Float(number)) => (number $op &$x[0])?,
            Some(number @ Scalar::Bool(_)) => (Tensor::full((), number, DType::Bool)? $op &$x[0])?,
            Some(number) => (number.to_i64() $op &$x[0])?,
            None => (&$x[1] $op &$x[0])?,
        }
    };
}

/// A change in place of a copy, which is recorded.
fn changed(x: &Tensor, change: impl FnOnce(&Tensor) -> Result<()>) -> Result<Tensor> {
    let copy = x.copy()?;
    change(&copy)?;
    Ok(copy)
}

fn rounding_mode(a: &Args) -> Option<RoundingMode> {
    a.text("rounding_mode").map(|mode| if mode == "floor" { RoundingMode::Floor } else { RoundingMode::Trunc })
}

/// The dtype among the arguments of `to`, which may stand after a device.
fn to(x: &[Tensor], a: &Args) -> Result<Tensor, Miss> {
    let dtype = match a.get("dtype") {
        Some(Value::Array(values)) => values.iter().find_map(|value| value.as_str().and_then(values::dtype)),
        Some(Value::String(name)) if values::dtype(name).is_none() => a.dtype("non_blocking"),
        _ => a.dtype("dtype"),
    };
    let dtype = dtype.unwrap_or_else(|| x.get(1).map_or(x[0].dtype(), Tensor::dtype));
    Ok(x[0].to_dtype(dtype)?)
}

table! {
    abs => |x, _a| x[0].abs()?;
    acos => |x, _a| x[0].acos()?;
    acosh => |x, _a| x[0].acosh()?;
    asinh => |x, _a| x[0].asinh()?;
    atanh => |x, _a| x[0].atanh()?;
    digamma => |x, _a| x[0].digamma()?;
    erfc => |x, _a| x[0].erfc()?;
    erfinv => |x, _a| x[0].erfinv()?;
    i0 => |x, _a| x[0].i0()?;
    i1 => |x, _a| x[0].i1()?;
    lgamma => |x, _a| x[0].lgamma()?;
    polygamma => |x, a| x[0].polygamma(a.int("n").unwrap())?;
    gcd => |x, a| x[0].gcd(other(x, a))?;
    lcm => |x, a| x[0].lcm(other(x, a))?;
    asin => |x, _a| x[0].asin()?;
    atan => |x, _a| x[0].atan()?;
    ceil => |x, _a| x[0].ceil()?;
    cos => |x, _a| x[0].cos()?;
    cosh => |x, _a| x[0].cosh()?;
    erf => |x, _a| x[0].erf()?;
    exp => |x, _a| x[0].exp()?;
    exp2 => |x, _a| x[0].exp2()?;
    expm1 => |x, _a| x[0].expm1()?;
    floor => |x, _a| x[0].floor()?;
    isfinite => |x, _a| x[0].isfinite()?;
    isinf => |x, _a| x[0].isinf()?;
    isnan => |x, _a| x[0].isnan()?;
    log => |x, _a| x[0].log()?;
    log10 => |x, _a| x[0].log10()?;
    log1p => |x, _a| x[0].log1p()?;
    log2 => |x, _a| x[0].log2()?;
    logical_not => |x, _a| x[0].logical_not()?;
    logsigmoid => |x, _a| x[0].log_sigmoid()?;
    hardsigmoid => |x, _a| x[0].hardsigmoid()?;
    hardswish => |x, _a| x[0].hardswish()?;
    mish => |x, _a| x[0].mish()?;
    relu6 => |x, _a| x[0].relu6()?;
    selu => |x, _a| x[0].selu()?;
    softsign => |x, _a| x[0].softsign()?;
    tanhshrink => |x, _a| x[0].tanhshrink()?;
    neg => |x, _a| x[0].neg()?;
    reciprocal => |x, _a| x[0].reciprocal()?;
    relu => |x, _a| x[0].relu()?;
    round => |x, a| match a.int("decimals") {
        None | Some(0) => x[0].round()?,
        Some(decimals) => x[0].round_decimals(decimals as i32)?,
    };
    rsqrt => |x, _a| x[0].rsqrt()?;
    sigmoid => |x, _a| x[0].sigmoid()?;
    sign => |x, _a| x[0].sign()?;
    silu => |x, _a| x[0].silu()?;
    sin => |x, _a| x[0].sin()?;
    sinh => |x, _a| x[0].sinh()?;
    sqrt => |x, _a| x[0].sqrt()?;
    square => |x, _a| x[0].square()?;
    tan => |x, _a| x[0].tan()?;
    tanh => |x, _a| x[0].tanh()?;
    trunc => |x, _a| x[0].trunc()?;

    add => |x, a| match a.scalar("alpha") {
        Some(alpha) => x[0].add_alpha(other(x, a), alpha)?,
        None => x[0].add(other(x, a))?,
    };
    sub => |x, a| match a.scalar("alpha") {
        Some(alpha) => x[0].sub_alpha(other(x, a), alpha)?,
        None => x[0].sub(other(x, a))?,
    };
    mul => |x, a| x[0].mul(other(x, a))?;
    div => |x, a| x[0].div_rounding(other(x, a), rounding_mode(a))?;
    true_divide => |x, a| x[0].div(other(x, a))?;
    floor_divide => |x, a| x[0].floor_divide(other(x, a))?;
    remainder => |x, a| x[0].remainder(other(x, a))?;
    fmod => |x, a| x[0].fmod(other(x, a))?;
    pow => |x, a| x[0].pow(a.operand("exponent", x).unwrap_or_else(|| Rhs::from(&x[1])))?;
    atan2 => |x, a| x[0].atan2(other(x, a))?;
    maximum => |x, a| x[0].maximum(other(x, a))?;
    minimum => |x, a| x[0].minimum(other(x, a))?;
    eq => |x, a| x[0].eq(other(x, a))?;
    ne => |x, a| x[0].ne(other(x, a))?;
    lt => |x, a| x[0].lt(other(x, a))?;
    le => |x, a| x[0].le(other(x, a))?;
    gt => |x, a| x[0].gt(other(x, a))?;
    ge => |x, a| x[0].ge(other(x, a))?;
    logical_and => |x, a| x[0].logical_and(other(x, a))?;
    logical_or => |x, a| x[0].logical_or(other(x, a))?;
    logical_xor => |x, a| x[0].logical_xor(other(x, a))?;
    bitwise_not => |x, _a| x[0].bitwise_not()?;
    bitwise_and => |x, a| x[0].bitwise_and(other(x, a))?;
    bitwise_or => |x, a| x[0].bitwise_or(other(x, a))?;
    bitwise_xor => |x, a| x[0].bitwise_xor(other(x, a))?;
    bitwise_left_shift => |x, a| x[0].bitwise_left_shift(other(x, a))?;
    bitwise_right_shift => |x, a| x[0].bitwise_right_shift(other(x, a))?;
    // Both operands may be exchanged.
    rand => |x, a| x[0].bitwise_and(other(x, a))?;
    ror => |x, a| x[0].bitwise_or(other(x, a))?;
    rxor => |x, a| x[0].bitwise_xor(other(x, a))?;

    // The number or tensor in front: Rust's operators.
    rsub => |x, a| match a.scalar("alpha") {
        Some(alpha) => x[0].rsub_alpha(other(x, a), alpha)?,
        None => x[0].rsub(other(x, a))?,
    };
    rdiv => |x, a| reversed!(x, a, /);
    radd => |x, a| reversed!(x, a, +);
    rmul => |x, a| reversed!(x, a, *);
    rmod => |x, a| other_tensor(x, a)?.remainder(&x[0])?;
    rpow => |x, a| x[0].rpow(a.operand("base", x).unwrap_or_else(|| Rhs::from(&x[1])))?;
    add_ => |x, a| changed(&x[0], |x| x.add_(a.scalar("other").unwrap()))?;
    sub_ => |x, a| changed(&x[0], |x| x.sub_(a.scalar("other").unwrap()))?;
    mul_ => |x, a| changed(&x[0], |x| x.mul_(a.scalar("other").unwrap()))?;
    div_ => |x, a| changed(&x[0], |x| x.div_(a.scalar("other").unwrap()))?;
    mul_self => |x, _a| (&x[0] * &x[0])?;

    isclose => |x, a| {
        let (rtol, atol) = (a.float("rtol").unwrap_or(1e-5), a.float("atol").unwrap_or(1e-8));
        if a.flag("equal_nan") { x[0].isclose_equal_nan(&x[1], rtol, atol)? } else { x[0].isclose(&x[1], rtol, atol)? }
    };
    allclose => |x, a| {
        let (rtol, atol) = (a.float("rtol").unwrap_or(1e-5), a.float("atol").unwrap_or(1e-8));
        let close = if a.flag("equal_nan") {
            x[0].allclose_equal_nan(&x[1], rtol, atol)?
        } else {
            x[0].allclose(&x[1], rtol, atol)?
        };
        Tensor::new(close, Device::Cpu)?
    };
    equal => |x, _a| Tensor::new(x[0].equal(&x[1])?, Device::Cpu)?;

    gelu => |x, a| if a.text("approximate") == Some("tanh") { x[0].gelu_tanh()? } else { x[0].gelu()? };
    leaky_relu => |x, a| x[0].leaky_relu(a.float("negative_slope").unwrap_or(0.01))?;
    elu => |x, a| x[0].elu(a.float("alpha").unwrap_or(1.0))?;
    celu => |x, a| x[0].celu(a.float("alpha").unwrap_or(1.0))?;
    hardtanh => |x, a| x[0].hardtanh(a.float("min_val").unwrap_or(-1.0), a.float("max_val").unwrap_or(1.0))?;
    hardshrink => |x, a| x[0].hardshrink(a.float("lambd").unwrap_or(0.5))?;
    softshrink => |x, a| x[0].softshrink(a.float("lambd").unwrap_or(0.5))?;
    threshold => |x, a| x[0].threshold(a.float("threshold").unwrap(), a.float("value").unwrap())?;
    prelu => |x, _a| x[0].prelu(&x[1])?;
    rrelu => |x, a| x[0].rrelu(
        a.float("lower").unwrap_or(0.125), a.float("upper").unwrap_or(1.0 / 3.0), a.flag("training")
    )?;
    glu => |x, a| x[0].glu(a.int("dim").unwrap_or(-1))?;
    softplus => |x, a| match (a.float("beta"), a.float("threshold")) {
        (None, None) => x[0].softplus()?,
        (beta, threshold) => x[0].softplus_beta(beta.unwrap_or(1.0), threshold.unwrap_or(20.0))?,
    };
    lerp => |x, a| x[0].lerp(&x[1], a.operand("weight", x).unwrap_or_else(|| Rhs::from(&x[2])))?;
    clamp => |x, a| match (a.operand("min", x), a.operand("max", x)) {
        (Some(min), Some(max)) => x[0].clamp(min, max)?,
        (Some(min), None) => x[0].clamp_min(min)?,
        (_, max) => x[0].clamp_max(max.unwrap())?,
    };
    clamp_min => |x, a| x[0].clamp_min(a.operand("min", x).unwrap())?;
    clamp_max => |x, a| x[0].clamp_max(a.operand("max", x).unwrap())?;

    where_ => |x, a| match (a.operand("input", x), a.tensor("condition", x), a.operand("other", x)) {
        (Some(input), Some(condition), Some(other)) => condition.where_cond(input, other)?,
        (_, Some(condition), Some(other)) => condition.where_cond(&x[0], other)?,
        (Some(input), _, Some(other)) => x[0].where_cond(input, other)?,
        (_, _, Some(other)) => x[0].where_cond(&x[1], other)?,
        _ if x.len() == 3 => x[0].where_cond(&x[1], &x[2])?,
        _ => return Ok(nonzero_lists(&x[0])?),
    };
    masked_fill => |x, a| {
        let mask = a.tensor("mask", x).unwrap_or(&x[1]);
        match a.operand("value", x) {
            Some(Rhs::Scalar(value)) => x[0].masked_fill(mask, value)?,
            Some(Rhs::Tensor(value)) => x[0].masked_fill(mask, &value)?,
            None => return Err(lacks("no value")),
        }
    };
    fill => |x, a| {
        let y = x[0].copy()?;
        y.fill_(a.scalar("value").ok_or_else(|| lacks("a tensor as value"))?)?;
        y
    };
    zero_ => |x, _a| {
        let y = x[0].copy()?;
        y.zero_()?;
        y
    };

    to => |x, a| to(x, a)?;
    bfloat16 => |x, _a| x[0].to_dtype(DType::BF16)?;
    bool => |x, _a| x[0].to_dtype(DType::Bool)?;
    byte => |x, _a| x[0].to_dtype(DType::U8)?;
    double => |x, _a| x[0].to_dtype(DType::F64)?;
    float => |x, _a| x[0].to_dtype(DType::F32)?;
    half => |x, _a| x[0].to_dtype(DType::F16)?;
    int => |x, _a| x[0].to_dtype(DType::I32)?;
    long => |x, _a| x[0].to_dtype(DType::I64)?;
    clone => |x, _a| x[0].copy()?;
    contiguous => |x, _a| x[0].contiguous()?;
    item => |x, _a| match x[0].dtype() {
        DType::Bool => Tensor::new(x[0].item::<bool>()?, Device::Cpu)?,
        dtype if dtype.is_float() => Tensor::new(x[0].item::<f64>()?, Device::Cpu)?.to_dtype(DType::F32)?,
        _ => Tensor::new(x[0].item::<i64>()?, Device::Cpu)?,
    };
}

/// The other operand as a tensor.
fn other_tensor(x: &[Tensor], a: &Args) -> Result<Tensor> {
    match a.scalar("other") {
        Some(number) => Tensor::full((), number, x[0].options()),
        None => Ok(x[1].clone()),
    }
}

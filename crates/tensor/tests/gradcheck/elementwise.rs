//! Gradient checks: element-wise operations.

use kiln_tensor::{Device, Tensor};

use super::{
    check::{ANY, Check, PAIRS},
    inputs::Values::*,
};

/// Where an operation of the tables is differentiable, if not everywhere.
macro_rules! domain {
    (reciprocal) => {
        Positive
    };
    (sqrt) => {
        Positive
    };
    (rsqrt) => {
        Positive
    };
    (log) => {
        Positive
    };
    (log2) => {
        Positive
    };
    (log10) => {
        Positive
    };
    (log1p) => {
        Positive
    };
    (tan) => {
        Unit
    };
    (asin) => {
        Unit
    };
    (acos) => {
        Unit
    };
    (acosh) => {
        AboveOne
    };
    (atanh) => {
        Unit
    };
    (erfinv) => {
        Unit
    };
    (lgamma) => {
        Positive
    };
    (digamma) => {
        Positive
    };
    (polygamma) => {
        Positive
    };
    (div) => {
        Positive
    };
    (pow) => {
        Positive
    };
    (maximum) => {
        Distinct
    };
    (minimum) => {
        Distinct
    };
    (remainder) => {
        Positive
    };
    (fmod) => {
        Positive
    };
    (floor_divide) => {
        Positive
    };
    (trunc_divide) => {
        Positive
    };
    ($other:ident) => {
        Any
    };
}

macro_rules! unary {
    ($names:tt $(UNARY($variant:ident, $op:ident, $($row:tt)*))*) => {
        pub const UNARY: &[Check] =
            &[$(Check { op: stringify!($op), shapes: ANY, values: domain!($op), call: |x| x[0].$op() },)*];
    };
}
kiln_backend::unary_table!(unary);

macro_rules! binary {
    ($names:tt $(BINARY($variant:ident, $op:ident, $($row:tt)*))* $(COMPARISON $compared:tt)* $(BITWISE $combined:tt)*) => {
        pub const BINARY: &[Check] =
            &[$(Check { op: stringify!($op), shapes: PAIRS, values: domain!($op), call: |x| x[0].$op(&x[1]) },)*];
    };
}
kiln_backend::binary_table!(binary);

macro_rules! checks {
    ($($op:ident $shapes:ident $values:ident |$x:ident| $call:expr;)*) => {
        &[$(Check { op: stringify!($op), shapes: $shapes, values: $values, call: |$x| $call },)*]
    };
}

const PAIRS_WITH_SCALAR: &[&[&[usize]]] = &[&[&[2, 3], &[]], &[&[3], &[]], &[&[], &[]]];

const THREE: &[&[&[usize]]] = &[
    &[&[2, 3], &[2, 3], &[2, 3]],
    &[&[2, 3], &[3], &[]],
    &[&[], &[2, 1], &[1, 3]],
    &[&[], &[], &[]],
    &[&[0, 3], &[3], &[]],
];

/// A condition of any shape that broadcasts with 2 x 3.
fn mask(rows: usize, columns: usize) -> Tensor {
    let flags: Vec<bool> = (0..rows * columns).map(|i| i % 3 != 1).collect();
    Tensor::from_vec(flags, [rows, columns], Device::Cpu).unwrap()
}

pub const OTHERS: &[Check] = checks! {
    copy ANY Any |x| x[0].copy();
    contiguous ANY Any |x| x[0].contiguous();
    add_alpha PAIRS Any |x| x[0].add_alpha(&x[1], 2.5);
    add_alpha ANY Any |x| x[0].add_alpha(1.5, -2);
    sub_alpha PAIRS Any |x| x[0].sub_alpha(&x[1], 2.5);
    rsub PAIRS Any |x| x[0].rsub(&x[1]);
    rsub ANY Any |x| x[0].rsub(2);
    rsub_alpha PAIRS Any |x| x[0].rsub_alpha(&x[1], 2.5);
    rsub_alpha ANY Any |x| x[0].rsub_alpha(1, 2.5);
    rpow ANY Any |x| x[0].rpow(2.5);
    rpow PAIRS Positive |x| x[0].rpow(&x[1]);
    div_rounding PAIRS Positive |x| x[0].div_rounding(&x[1], Some(kiln_tensor::RoundingMode::Trunc));
    div_rounding PAIRS Positive |x| x[0].div_rounding(&x[1], None);
    softplus_beta ANY Any |x| x[0].softplus_beta(2.0, 1.01);
    round_decimals ANY Any |x| x[0].round_decimals(0);
    // With a number on either side.
    add ANY Any |x| x[0].add(2.5);
    sub ANY Any |x| 2.5 - &x[0];
    mul ANY Any |x| -1.5 * &x[0];
    div ANY Positive |x| x[0].div(2.5);
    div ANY Positive |x| 2.5 / &x[0];
    pow ANY Any |x| x[0].pow(3);
    pow ANY Any |x| x[0].pow(-2);
    pow ANY Positive |x| x[0].pow(0.5);
    pow ANY Any |x| x[0].pow(0);
    remainder ANY Positive |x| x[0].remainder(0.7);
    maximum ANY Distinct |x| x[0].maximum(0.02);
    minimum ANY Distinct |x| x[0].minimum(0.02);
    // One tensor on both sides, and used again.
    mul ANY Any |x| x[0].mul(&x[0])?.add(&x[0]);
    div ANY Positive |x| x[0].div(&x[0]);
    pow ANY Positive |x| x[0].pow(&x[0]);
    leaky_relu ANY Any |x| x[0].leaky_relu(0.1);
    elu ANY Any |x| x[0].elu(1.5);
    celu ANY Any |x| x[0].celu(1.5);
    hardtanh ANY Any |x| x[0].hardtanh(-0.7, 0.99);
    hardshrink ANY Any |x| x[0].hardshrink(0.3);
    softshrink ANY Any |x| x[0].softshrink(0.3);
    threshold ANY Any |x| x[0].threshold(0.3, 2.0);
    prelu ANY Any |x| x[0].prelu(&Tensor::full(1, 0.3, x[0].options())?);
    prelu PAIRS Any |x| x[0].prelu(&x[1].flatten_all()?.narrow(0, 0, 1)?);
    rrelu ANY Any |x| x[0].rrelu(0.1, 0.3, false);
    glu ANY Any |x| Tensor::cat(&[&x[0].unsqueeze(-1)?, &x[0].mul(0.7)?.unsqueeze(-1)?], -1)?.glu(-1);
    lerp PAIRS Any |x| x[0].lerp(&x[1], 0.3);
    lerp PAIRS Any |x| x[0].lerp(&x[1], 1.3);
    lerp THREE Any |x| x[0].lerp(&x[1], &x[2]);
    clamp ANY Any |x| x[0].clamp(-0.99, 0.99);
    clamp THREE Distinct |x| x[0].clamp(&x[1], &x[2]);
    clamp_min ANY Any |x| x[0].clamp_min(0.01);
    clamp_min PAIRS Distinct |x| x[0].clamp_min(&x[1]);
    clamp_max ANY Any |x| x[0].clamp_max(0.01);
    clamp_max PAIRS Distinct |x| x[0].clamp_max(&x[1]);
    where_cond PAIRS Any |x| x[0].detach().add(&x[1].detach())?.gt(0.3)?.where_cond(&x[0], &x[1]);
    where_cond ANY Any |x| mask(1, 3).where_cond(&x[0], 2.5);
    where_cond ANY Any |x| mask(1, 3).where_cond(2.5, &x[0]);
    masked_fill PAIRS_WITH_SCALAR Any |x| x[0].masked_fill(&mask(2, 3), &x[1]);
    masked_fill ANY Any |x| if x[0].rank() == 0 { x[0].masked_fill(&mask(1, 1).reshape(())?, 7) } else { x[0].masked_fill(&mask(1, 3), 7) };
    dropout ANY Any |x| x[0].dropout(0.4, true);
    dropout ANY Any |x| x[0].dropout(0.4, false);
    dropout ANY Any |x| x[0].dropout(1.0, true);
    bernoulli ANY Probability |x| x[0].bernoulli()?.mul(&x[0]);
    to_dtype ANY Any |x| x[0].to_dtype(kiln_tensor::DType::F64);
    to_device ANY Any |x| x[0].to_device(Device::Cpu);
    softmax ANY Any |x| x[0].softmax(-1);
    softmin ANY Any |x| x[0].softmin(-1);
    log_softmax ANY Any |x| x[0].log_softmax(0);
};

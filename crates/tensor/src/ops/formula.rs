//! The gradients of element-wise operations as differentiable operations on tensors: `create_graph` records them in
//! place of the fused primitives. They come from the same rows of the tables as the kernels of all devices.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, LN_2, LN_10};

use kiln_backend::{BinaryOp, Error, Result, Scalar, SideOf, UnaryOp, binary_table, unary_table};
use kiln_derive::tensor_formula;

use super::rhs::Rhs;
use crate::{autograd::no_grad, tensor::Tensor};

/// `1 / sqrt(2π)`.
const FRAC_1_SQRT_2PI: f64 = 0.5 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2;
/// The constants of SELU (Klambauer et al., 2017): its slope for positive inputs, and the slope times the bound for
/// negative ones.
const SELU_SCALE: f64 = 1.050_700_987_355_480_5;
const SELU_SLOPE: f64 = 1.758_099_340_847_376_6;

/// A number at which all functions here, and their derivatives, are finite.
const HARMLESS: f64 = 0.5;

fn number(value: f64) -> Rhs {
    Rhs::Scalar(Scalar::Float(value))
}

/// An operand as a tensor: a number becomes a tensor without dimensions, of the dtype and device of `other`.
fn tensor(operand: &Rhs, other: &Rhs) -> Result<Tensor> {
    match (operand, other) {
        (Rhs::Tensor(tensor), _) => Ok(tensor.clone()),
        (Rhs::Scalar(value), Rhs::Tensor(like)) => Tensor::full((), *value, like.options()),
        (Rhs::Scalar(_), Rhs::Scalar(_)) => Err(Error::argument("tensor_formula", "not defined for numbers alone")),
    }
}

/// Functions of two operands: the method of tensors, and the function of numbers.
macro_rules! binary_functions {
    ($($name:ident $method:ident $(|$a:ident, $b:ident| $on_numbers:expr)?;)*) => {$(
        fn $name(a: &Rhs, b: &Rhs) -> Result<Rhs> {
            $(if let (Rhs::Scalar(a), Rhs::Scalar(b)) = (a, b) {
                let ($a, $b) = (a.to_f64(), b.to_f64());
                return Ok(Rhs::Scalar(Scalar::from($on_numbers)));
            })?
            tensor(a, b)?.$method(b).map(Rhs::Tensor)
        }
    )*};
}
binary_functions! {
    add add |a, b| a + b;
    sub sub |a, b| a - b;
    mul mul |a, b| a * b;
    div div |a, b| a / b;
    pow pow |a, b| a.powf(b);
    polygamma polygamma;
    eq eq |a, b| a == b;
    lt lt |a, b| a < b;
    le le |a, b| a <= b;
    gt gt |a, b| a > b;
    ge ge |a, b| a >= b;
    and logical_and |a, b| a != 0.0 && b != 0.0;
    or logical_or |a, b| a != 0.0 || b != 0.0;
}

/// Computed without recording: the derivative is 0, and recording it could multiply 0 by an infinite slope.
fn floor_divide(a: &Rhs, b: &Rhs) -> Result<Rhs> {
    no_grad(|| tensor(a, b)?.floor_divide(b)).map(Rhs::Tensor)
}

/// Computed without recording, as [`floor_divide`].
fn trunc(x: &Rhs) -> Result<Rhs> {
    no_grad(|| tensor(x, x)?.trunc()).map(Rhs::Tensor)
}

/// The operand, replaced by [`HARMLESS`] where the condition is false.
fn where_true(condition: &Rhs, x: &Rhs) -> Result<Rhs> {
    match (condition, x) {
        (Rhs::Tensor(condition), Rhs::Tensor(_)) => condition.where_cond(x, HARMLESS).map(Rhs::Tensor),
        _ => Ok(x.clone()),
    }
}

/// The operand, replaced by [`HARMLESS`] where the condition is true.
fn where_false(condition: &Rhs, x: &Rhs) -> Result<Rhs> {
    match (condition, x) {
        (Rhs::Tensor(condition), Rhs::Tensor(_)) => condition.where_cond(HARMLESS, x).map(Rhs::Tensor),
        _ => Ok(x.clone()),
    }
}

/// Functions of one operand: the method of tensors, and the function of numbers.
macro_rules! unary_functions {
    ($($name:ident $(|$x:ident| $on_numbers:expr)?;)*) => {$(
        fn $name(x: &Rhs) -> Result<Rhs> {
            $(if let Rhs::Scalar(number) = x {
                let $x = number.to_f64();
                return Ok(Rhs::Scalar(Scalar::from($on_numbers)));
            })?
            tensor(x, x)?.$name().map(Rhs::Tensor)
        }
    )*};
}
unary_functions! {
    neg |x| -x;
    log |x| x.ln();
    abs; sign; sqrt; exp; sin; cos; sinh; cosh; tanh; sigmoid; softplus; erf; erfinv; digamma; i0; i1;
}

fn select(condition: &Rhs, a: &Rhs, b: &Rhs) -> Result<Rhs> {
    match condition {
        Rhs::Tensor(condition) => condition.where_cond(a, b).map(Rhs::Tensor),
        Rhs::Scalar(condition) => Ok(if condition.to_bool() { a.clone() } else { b.clone() }),
    }
}

/// The derivative of `x * Φ(x)`, where `Φ` is the distribution function of the standard normal distribution.
fn gelu_slope(x: &Rhs) -> Result<Rhs> {
    let distribution = tensor_formula!(R(0.5) * (R(1.0) + erf(x * R(FRAC_1_SQRT_2))));
    Ok(tensor_formula!(distribution + x * R(FRAC_1_SQRT_2PI) * exp(R(-0.5) * x * x)))
}

/// The derivative of `x / 2 * (1 + tanh(inner))`, where `inner` is `sqrt(2 / π) (x + 0.044715 x³)`.
fn gelu_tanh_slope(x: &Rhs) -> Result<Rhs> {
    const SCALE: f64 = FRAC_2_SQRT_PI * FRAC_1_SQRT_2;
    const CUBE: f64 = 0.044_715;
    let tanh = tensor_formula!(tanh(R(SCALE) * (x + R(CUBE) * x * x * x)));
    let slope = tensor_formula!(R(SCALE) * (R(1.0) + R(3.0 * CUBE) * x * x));
    Ok(tensor_formula!(R(0.5) * (R(1.0) + tanh) + R(0.5) * x * (R(1.0) - tanh * tanh) * slope))
}

/// The gradient computed by a formula, in the shape and dtype of the incoming one.
fn finish(gradient: &Rhs, grad: &Tensor) -> Result<Tensor> {
    match gradient {
        Rhs::Tensor(gradient) => gradient.to_dtype(grad.dtype()),
        Rhs::Scalar(value) => Tensor::full(grad.shape(), *value, grad.options()),
    }
}

macro_rules! unary_gradients {
    (($R:ident $x:ident $g:ident $s:ident)
     $(UNARY($variant:ident, $method:ident, $doc:literal, $cost:ident, $value:expr, $integers:ident $(($($of:tt)*))?,
             $node:literal, $saved:ident, $gradient_cost:ident, $gradient:expr))*
    ) => {
        /// The gradient of an element-wise function of one tensor: `grad` is the incoming gradient, `saved` the input
        /// or the output, if the function's row uses one of them. Half precision is computed in `f32` and rounded once.
        pub(super) fn unary_gradient(op: UnaryOp, grad: &Tensor, saved: Option<&Tensor>) -> Result<Tensor> {
            let $g = Rhs::Tensor(grad.widened()?);
            #[allow(unused)]
            let $s = match saved {
                Some(saved) => Rhs::Tensor(saved.widened()?),
                None => $g.clone(),
            };
            let gradient = match op {
                $(UnaryOp::$variant => tensor_formula!($gradient),)*
            };
            finish(&gradient, grad)
        }
    };
}
unary_table!(unary_gradients);

macro_rules! binary_gradients {
    (($R:ident $a:ident $b:ident $g:ident $status:ident)
     $(BINARY($variant:ident, $method:ident, $doc:literal, $cost:ident, $value:expr, $integers:ident $(($($of:tt)*))?,
              $node:literal, $gradient_cost:ident, $of_a:expr, $of_b:expr))*
     $(COMPARISON $compared:tt)*
     $(BITWISE $combined:tt)*
    ) => {
        /// The gradient of an element-wise function of two operands with respect to one of them, before it is summed to
        /// its shape. Half precision is computed in `f32`, and the result stays `f32`.
        pub(super) fn binary_gradient(op: BinaryOp, side: SideOf, grad: &Tensor, a: &Rhs, b: &Rhs) -> Result<Tensor> {
            let $g = Rhs::Tensor(grad.widened()?);
            let ($a, $b) = (a.widened()?, b.widened()?);
            let gradient = match (op, side) {
                $((BinaryOp::$variant, SideOf::Lhs) => tensor_formula!($of_a),
                  (BinaryOp::$variant, SideOf::Rhs) => tensor_formula!($of_b),)*
                _ => return Err(Error::autograd(op.name(), "it has no gradient")),
            };
            finish(&gradient, &grad.widened()?)
        }
    };
}
binary_table!(binary_gradients);

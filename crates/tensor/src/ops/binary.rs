//! Element-wise operations of two operands, generated from the table; comparisons; Rust's operators.

use std::ops;

use kiln_backend::{
    Arguments, BinaryArgs, BinaryGradArgs, BinaryOp, DType, Error, Result, Scalar, Shape, SideOf, binary_table,
};
use kiln_derive::located;
use smallvec::smallvec;

use super::{
    check, formula,
    promotion::{narrowed, result_type},
    rhs::Rhs,
};
use crate::{autocast::cast_operands, autograd::record, tensor::Tensor};

macro_rules! methods {
    ($names:tt
     $(BINARY($variant:ident, $method:ident, $doc:literal, $($row:tt)*))*
     $(COMPARISON($compared:ident, $compare:ident, $compare_doc:literal, $($compare_row:tt)*))*
     $(BITWISE($combined:ident, $combine:ident, $combine_doc:literal, $($combine_row:tt)*))*
    ) => {
        #[located]
        impl Tensor {$(
            #[doc = $doc]
            ///
            /// Element-wise, on tensors that broadcast, or a tensor and a number. Operands of different dtypes are
            /// promoted by PyTorch's rules.
            ///
            /// # Errors
            /// If shapes do not broadcast, devices differ, or the operation does not take the dtype.
            pub fn $method(&self, other: impl Into<Rhs>) -> Result<Tensor> {
                arithmetic(BinaryOp::$variant, &self.into(), &other.into())
            }
        )*}

        without_gradient! {
            $($compared $compare $compare_doc;)*
            Gt gt "Whether `a > b`.";
            Ge ge "Whether `a >= b`.";
            $($combined $combine $combine_doc;)*
        }
    };
}

macro_rules! without_gradient {
    ($($variant:ident $method:ident $doc:literal;)*) => {
        #[located]
        impl Tensor {$(
            #[doc = $doc]
            ///
            /// Element-wise, on tensors that broadcast, or a tensor and a number. Operands of different dtypes are
            /// promoted by PyTorch's rules. The result has no gradient.
            ///
            /// # Errors
            /// If shapes do not broadcast, devices differ, or the operation does not take the dtype.
            pub fn $method(&self, other: impl Into<Rhs>) -> Result<Tensor> {
                without_gradient(stringify!($method), BinaryOp::$variant, &self.into(), &other.into())
            }
        )*}
    };
}
binary_table!(methods);

/// The node's name, as in PyTorch, which has other nodes for some operations with a number.
fn node_name_of(op: BinaryOp, a: &Rhs, b: &Rhs) -> &'static str {
    match (op, a.tensor(), b.tensor()) {
        (BinaryOp::Sub, None, _) => "RsubBackward1",
        // PyTorch computes it as the reciprocal times the number.
        (BinaryOp::Div, None, _) => "MulBackward0",
        (BinaryOp::Pow, Some(_), Some(_)) => "PowBackward1",
        (BinaryOp::Pow, None, _) => "PowBackward2",
        (BinaryOp::Remainder, _, Some(_)) => "RemainderBackward1",
        (BinaryOp::Fmod, _, Some(_)) => "FmodBackward1",
        _ => op.node_name(),
    }
}

/// Promotes both operands to the dtype to compute in. For truth values some operations are others by name (a sum is an
/// OR), so the operation returned may differ.
pub(super) fn promote(name: &'static str, op: BinaryOp, a: &Rhs, b: &Rhs) -> Result<(BinaryOp, Rhs, Rhs)> {
    let common = match (a, b) {
        (Rhs::Tensor(x), Rhs::Tensor(y)) => {
            check::same_device(name, x, &[y])?;
            if x.dtype() == y.dtype() { x.dtype() } else { result_type(&[a, b]) }
        }
        (Rhs::Scalar(_), Rhs::Scalar(_)) => return Err(Error::argument(name, "one operand must be a tensor")),
        _ => result_type(&[a, b]),
    };
    let tensors = || [a.tensor(), b.tensor()].into_iter().flatten();
    let is = |dtype: DType| tensors().any(|tensor| tensor.dtype() == dtype);
    let refuse = |expected: &'static str| {
        let culprit = tensors().map(Tensor::dtype).max_by_key(|dtype| (dtype.is_float(), *dtype == common));
        Err(Error::dtype(name, culprit.unwrap_or(common), expected))
    };
    let dtype = match op {
        BinaryOp::ShiftLeft | BinaryOp::ShiftRight | BinaryOp::Gcd | BinaryOp::Lcm if common == DType::Bool => {
            return refuse("it takes integers");
        }
        _ if op.is_bitwise() && common.is_float() => return refuse("it takes bool and integers"),
        BinaryOp::Sub if is(DType::Bool) => {
            let expected = "truth values are subtracted by `logical_xor`, or inverted by `logical_not`";
            return Err(Error::dtype(name, DType::Bool, expected));
        }
        // A number between two integers is compared correctly as a float.
        _ if op.is_comparison() && common.is_float() && !tensors().any(|tensor| tensor.dtype().is_float()) => {
            DType::F64
        }
        BinaryOp::Div | BinaryOp::Atan2 | BinaryOp::Polygamma if !common.is_float() => DType::F32,
        _ if common == DType::Bool && !op.is_comparison() && !op.is_bitwise() => {
            let op = match (op, b) {
                (BinaryOp::Add | BinaryOp::Maximum, _) => BinaryOp::Or,
                (BinaryOp::Mul | BinaryOp::Minimum, _) => BinaryOp::And,
                // A nonzero exponent gives the element, an exponent of 0 gives true.
                (BinaryOp::Pow, Rhs::Scalar(exponent)) => {
                    return Ok((BinaryOp::Or, a.clone(), Rhs::from(!exponent.to_bool())));
                }
                _ => return refuse("it takes numbers; convert with `to_dtype`"),
            };
            return Ok((op, a.clone(), b.clone()));
        }
        _ => common,
    };
    Ok((op, a.to_dtype(dtype)?, b.to_dtype(dtype)?))
}

fn shape_of(name: &'static str, a: &Rhs, b: &Rhs) -> Result<Shape> {
    match (a.tensor(), b.tensor()) {
        (Some(x), Some(y)) => Shape::broadcast(name, x.shape(), y.shape()),
        (Some(x), None) | (None, Some(x)) => Ok(*x.shape()),
        (None, None) => Err(Error::argument(name, "one operand must be a tensor")),
    }
}

/// The forward computation of promoted operands.
fn launch(name: &'static str, op: BinaryOp, a: &Rhs, b: &Rhs) -> Result<Tensor> {
    let shape = shape_of(name, a, b)?;
    let Some(tensor) = a.tensor().or(b.tensor()) else { return Err(Error::argument(name, "no tensor")) };
    let dtype = if op.is_comparison() { DType::Bool } else { tensor.dtype() };
    let (a, b) = (a.lock(name, &shape)?, b.lock(name, &shape)?);
    Tensor::compute(tensor.device(), dtype, shape, |backend, out| {
        backend.binary(BinaryArgs { op, a: a.operand(), b: b.operand(), out }.checked()?)
    })
}

/// A comparison or a bitwise operation.
fn without_gradient(name: &'static str, op: BinaryOp, a: &Rhs, b: &Rhs) -> Result<Tensor> {
    let (op, a, b) = promote(name, op, a, b)?;
    let out = launch(name, op, &a, &b)?;
    let inputs: smallvec::SmallVec<[&Tensor; 2]> = [a.tensor(), b.tensor()].into_iter().flatten().collect();
    Ok(match [a.scalar(), b.scalar()] {
        [Some(a), _] => out.noted(op.name(), &inputs, || [("lhs", a.into())]),
        [_, Some(b)] => out.noted(op.name(), &inputs, || [("rhs", b.into())]),
        [None, None] => out.noted(op.name(), &inputs, || []),
    })
}

fn arithmetic(op: BinaryOp, a: &Rhs, b: &Rhs) -> Result<Tensor> {
    arithmetic_as(op.name(), op, a, b)
}

/// The operation under another method's name, which errors give.
pub(super) fn arithmetic_as(name: &'static str, op: BinaryOp, a: &Rhs, b: &Rhs) -> Result<Tensor> {
    // A number divided by a tensor is an operation of its own in PyTorch.
    let operation = if op == BinaryOp::Div && a.tensor().is_none() { "rdiv" } else { name };
    cast_operands(operation, [], [a.tensor(), b.tensor()], |[], [x, y]| {
        let operand = |cast: Option<&Tensor>, own: &Rhs| cast.map_or_else(|| own.clone(), Rhs::from);
        arithmetic_no_autocast(name, op, &operand(x, a), &operand(y, b))
    })
}

fn arithmetic_no_autocast(name: &'static str, op: BinaryOp, a: &Rhs, b: &Rhs) -> Result<Tensor> {
    if let Some(dtype) = narrowed(a, b) {
        return arithmetic_no_autocast(name, op, &a.to_dtype(DType::F32)?, &b.to_dtype(DType::F32)?)?.to_dtype(dtype);
    }
    let (op, a, b) = promote(name, op, a, b)?;
    let out = launch(name, op, &a, &b)?;
    // The node's inputs, and the tensors that it saves, are the operands that are tensors.
    let inputs: smallvec::SmallVec<[&Tensor; 2]> = [a.tensor(), b.tensor()].into_iter().flatten().collect();
    let linear = matches!(op, BinaryOp::Add | BinaryOp::Sub);
    let saved: &[&Tensor] = if linear { &[] } else { &inputs };
    let scalars = [a.scalar(), b.scalar()];
    let shapes = [a.tensor(), b.tensor()].map(|t| t.map(|t| *t.shape()));
    let out = record(out, node_name_of(op, &a, &b), &inputs, saved, move |ctx| {
        let grad = ctx.grad()?;
        let mut grads = smallvec![];
        for (side, shape) in [(SideOf::Lhs, shapes[0]), (SideOf::Rhs, shapes[1])] {
            let Some(shape) = shape else { continue };
            let input = grads.len();
            grads.push(ctx.when(input, || {
                let full = if linear {
                    if op == BinaryOp::Sub && side == SideOf::Rhs { grad.neg()? } else { grad.clone() }
                } else {
                    let mut tensors = 0..;
                    let mut operand = |i: usize| match scalars[i] {
                        Some(value) => Ok(Rhs::Scalar(value)),
                        None => ctx.saved(tensors.next().unwrap_or(0)).map(Rhs::Tensor),
                    };
                    let (a, b) = (operand(0)?, operand(1)?);
                    if ctx.create_graph {
                        let full = formula::binary_gradient(op, side, &grad, &a, &b)?;
                        return full.sum_to(&shape)?.to_dtype(grad.dtype());
                    }
                    if shape != *grad.shape() && grad.dtype().size() == 2 && op != BinaryOp::Mul {
                        // A sum over a broadcast is rounded once, after the sum.
                        let full = side_gradient(op, side, &grad.widened()?, &a.widened()?, &b.widened()?)?;
                        return full.sum_to(&shape)?.to_dtype(grad.dtype());
                    }
                    side_gradient(op, side, &grad, &a, &b)?
                };
                full.sum_to(&shape)
            })?);
        }
        Ok(grads)
    })?;
    Ok(match scalars {
        [Some(a), _] => out.described(op.name(), || [("lhs", a.into())]),
        [_, Some(b)] => out.described(op.name(), || [("rhs", b.into())]),
        [None, None] => out.described(op.name(), || []),
    })
}

fn side_gradient(op: BinaryOp, side: SideOf, grad: &Tensor, a: &Rhs, b: &Rhs) -> Result<Tensor> {
    let shape = *grad.shape();
    let (g, a, b) = (grad.read(), a.lock(op.name(), &shape)?, b.lock(op.name(), &shape)?);
    Tensor::compute(grad.device(), grad.dtype(), shape, |backend, out| {
        backend.binary_grad(BinaryGradArgs { op, side, grad: g.view(), a: a.operand(), b: b.operand(), out }.checked()?)
    })
}

#[located]
impl Tensor {
    /// `base^self`: a power whose exponent is this tensor, PyTorch's `pow(base, self)`.
    ///
    /// # Errors
    /// Those of [`pow`](Tensor::pow).
    pub fn rpow(&self, base: impl Into<Rhs>) -> Result<Tensor> {
        arithmetic_as("rpow", BinaryOp::Pow, &base.into(), &self.into())
    }
}

/// `number - tensor` and similar.
pub(crate) fn scalar_first(op: BinaryOp, a: Scalar, b: &Tensor) -> Result<Tensor> {
    arithmetic(op, &Rhs::Scalar(a), &b.into())
}

macro_rules! operators {
    ($($trait:ident $method:ident $op:ident;)*) => {$(
        #[located]
        impl<R: Into<Rhs>> ops::$trait<R> for &Tensor {
            type Output = Result<Tensor>;
            fn $method(self, other: R) -> Result<Tensor> { arithmetic(BinaryOp::$op, &self.into(), &other.into()) }
        }
        #[located]
        impl<R: Into<Rhs>> ops::$trait<R> for Tensor {
            type Output = Result<Tensor>;
            fn $method(self, other: R) -> Result<Tensor> { arithmetic(BinaryOp::$op, &self.into(), &other.into()) }
        }
        // An error is passed on: `&a * &b + &c`. Between two results, and for a result and a number, Rust allows only the
        // standard library to implement operators; `calc!` has them.
        operators!(@result $trait $method $op: &Tensor, Result<Tensor>; Tensor, Result<Tensor>;
            Result<Tensor>, &Tensor; Result<Tensor>, Tensor;);
        // One float and one integer type: with more of them `(2.0 * &x)?.sum(())` would need a type annotation.
        operators!(@scalar $trait $method $op: f64 i64 Scalar);
    )*};
    (@result $trait:ident $method:ident $op:ident: $($lhs:ty, $rhs:ty;)*) => {$(
        #[located]
        impl ops::$trait<$rhs> for $lhs {
            type Output = Result<Tensor>;
            fn $method(self, other: $rhs) -> Result<Tensor> {
                let (a, b) = (self.operand()?, other.operand()?);
                arithmetic(BinaryOp::$op, &a, &b)
            }
        }
    )*};
    (@scalar $trait:ident $method:ident $op:ident: $($ty:ty)*) => {$(
        #[located]
        impl ops::$trait<&Tensor> for $ty {
            type Output = Result<Tensor>;
            fn $method(self, other: &Tensor) -> Result<Tensor> { scalar_first(BinaryOp::$op, self.into(), other) }
        }
        #[located]
        impl ops::$trait<Tensor> for $ty {
            type Output = Result<Tensor>;
            fn $method(self, other: Tensor) -> Result<Tensor> { scalar_first(BinaryOp::$op, self.into(), &other) }
        }
    )*};
}

/// An operand of a Rust operator that may be the error of another.
trait MaybeFailed {
    fn operand(self) -> Result<Rhs>;
}

impl MaybeFailed for &Tensor {
    fn operand(self) -> Result<Rhs> {
        Ok(self.into())
    }
}

impl MaybeFailed for Tensor {
    fn operand(self) -> Result<Rhs> {
        Ok(self.into())
    }
}

impl MaybeFailed for Result<Tensor> {
    fn operand(self) -> Result<Rhs> {
        self.map(Rhs::from)
    }
}

operators! {
    Add add Add;
    Sub sub Sub;
    Mul mul Mul;
    Div div Div;
    Rem rem Remainder;
}

#[located]
impl ops::Neg for &Tensor {
    type Output = Result<Tensor>;
    fn neg(self) -> Result<Tensor> {
        Tensor::neg(self)
    }
}

#[located]
impl ops::Neg for Tensor {
    type Output = Result<Tensor>;
    fn neg(self) -> Result<Tensor> {
        Tensor::neg(&self)
    }
}

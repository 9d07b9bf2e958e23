//! The loops of the binary operations, over contiguous slices of the computing type.

use std::ops::{BitAnd, BitOr, BitXor};

use kiln_backend::{BinaryOp, SideOf};

use crate::{int::Int, real::Real, simd::multiversion};

/// A loop over two operands.
pub(crate) type Kernel<T> = fn(&[T], &[T], &mut [T]);
/// A loop over the incoming gradient and two operands.
pub(crate) type GradKernel<T> = fn(&[T], &[T], &[T], &mut [T]);

macro_rules! kernels {
    ($($variant:ident $method:ident $node:literal |$a:ident, $b:ident| $f:expr,
       |$ga:ident, $aa:ident, $ba:ident| $da:expr, |$gb:ident, $ab:ident, $bb:ident| $db:expr, $doc:literal;)*) => {
        mod forward {
            use super::*;
            multiversion! {$(
                pub(super) fn $method[T: Real](a: &[T], b: &[T], out: &mut [T]) {
                    for ((&$a, &$b), out) in a.iter().zip(b).zip(out) {
                        *out = $f;
                    }
                }
            )*}
        }

        #[allow(unused_variables, clippy::eq_op)] // not every gradient reads both; only NaN differs from itself
        mod backward_lhs {
            use super::*;
            multiversion! {$(
                pub(super) fn $method[T: Real](grad: &[T], a: &[T], b: &[T], out: &mut [T]) {
                    for (((&$ga, &$aa), &$ba), out) in grad.iter().zip(a).zip(b).zip(out) {
                        *out = $da;
                    }
                }
            )*}
        }

        #[allow(unused_variables, clippy::eq_op)] // as above
        mod backward_rhs {
            use super::*;
            multiversion! {$(
                pub(super) fn $method[T: Real](grad: &[T], a: &[T], b: &[T], out: &mut [T]) {
                    for (((&$gb, &$ab), &$bb), out) in grad.iter().zip(a).zip(b).zip(out) {
                        *out = $db;
                    }
                }
            )*}
        }

        /// The loop of an arithmetic operation of reals; `None` for the others.
        pub(crate) fn forward_of<T: Real>(op: BinaryOp) -> Option<Kernel<T>> {
            match op {
                $(BinaryOp::$variant => Some(forward::$method::<T>),)*
                _ => None,
            }
        }

        /// The loop of an arithmetic operation's gradient; `None` for the others.
        pub(crate) fn backward_of<T: Real>(op: BinaryOp, side: SideOf) -> Option<GradKernel<T>> {
            match (op, side) {
                $(
                    (BinaryOp::$variant, SideOf::Lhs) => Some(backward_lhs::$method::<T>),
                    (BinaryOp::$variant, SideOf::Rhs) => Some(backward_rhs::$method::<T>),
                )*
                _ => None,
            }
        }
    };
}
kiln_backend::binary_table!(kernels);

macro_rules! loops {
    ($($name:ident[$T:ident: $bound:path] -> $out:ty: |$a:ident, $b:ident| $f:expr;)*) => {
        multiversion! {$(
            fn $name[$T: $bound](a: &[$T], b: &[$T], out: &mut [$out]) {
                for ((&$a, &$b), out) in a.iter().zip(b).zip(out) {
                    *out = $f;
                }
            }
        )*}
    };
}

/// What can be compared: every computing type.
pub(crate) trait Compare: Copy + PartialOrd {}
impl<T: Copy + PartialOrd> Compare for T {}

/// What has bits to combine.
pub(crate) trait Bits: Copy + BitAnd<Output = Self> + BitOr<Output = Self> + BitXor<Output = Self> {}
impl<T: Copy + BitAnd<Output = T> + BitOr<Output = T> + BitXor<Output = T>> Bits for T {}

loops! {
    eq[T: Compare] -> u8: |a, b| u8::from(a == b);
    ne[T: Compare] -> u8: |a, b| u8::from(a != b);
    lt[T: Compare] -> u8: |a, b| u8::from(a < b);
    le[T: Compare] -> u8: |a, b| u8::from(a <= b);
    and[T: Bits] -> T: |a, b| a & b;
    or[T: Bits] -> T: |a, b| a | b;
    xor[T: Bits] -> T: |a, b| a ^ b;
    int_add[T: Int] -> T: |a, b| a.add(b);
    int_sub[T: Int] -> T: |a, b| a.sub(b);
    int_mul[T: Int] -> T: |a, b| a.mul(b);
    int_max[T: Int] -> T: |a, b| a.max(b);
    int_min[T: Int] -> T: |a, b| a.min(b);
}

/// The loop of a comparison (anything else is taken for `Ge`).
pub(crate) fn compare_of<T: Compare>(op: BinaryOp) -> fn(&[T], &[T], &mut [u8]) {
    match op {
        BinaryOp::Eq => eq,
        BinaryOp::Ne => ne,
        BinaryOp::Lt => lt,
        BinaryOp::Le => le,
        BinaryOp::Gt => |a, b, out| lt(b, a, out),
        _ => |a, b, out| le(b, a, out),
    }
}

/// The loop of an operation of truth values; `None` for the others.
pub(crate) fn logic_of(op: BinaryOp) -> Option<Kernel<u8>> {
    match op {
        BinaryOp::And => Some(and),
        BinaryOp::Or => Some(or),
        BinaryOp::Xor => Some(xor),
        _ => None,
    }
}

/// A loop over integers that says whether every result is defined.
pub(crate) type IntKernel<T> = fn(&[T], &[T], &mut [T]) -> bool;

/// The loop of an integer operation; `None` for the others.
pub(crate) fn int_of<T: Int + Bits>(op: BinaryOp) -> Option<IntKernel<T>> {
    macro_rules! total {
        ($kernel:ident) => {
            |a, b, out| {
                $kernel(a, b, out);
                true
            }
        };
    }
    let kernel: IntKernel<T> = match op {
        BinaryOp::Add => total!(int_add),
        BinaryOp::Sub => total!(int_sub),
        BinaryOp::Mul => total!(int_mul),
        BinaryOp::Maximum => total!(int_max),
        BinaryOp::Minimum => total!(int_min),
        BinaryOp::And => total!(and),
        BinaryOp::Or => total!(or),
        BinaryOp::Xor => total!(xor),
        BinaryOp::Pow => |a, b, out| partial(a, b, out, T::pow),
        BinaryOp::Remainder => |a, b, out| partial(a, b, out, T::remainder),
        _ => return None,
    };
    Some(kernel)
}

fn partial<T: Int>(a: &[T], b: &[T], out: &mut [T], f: impl Fn(T, T) -> Option<T>) -> bool {
    let mut defined = true;
    for ((&a, &b), out) in a.iter().zip(b).zip(out) {
        let value = f(a, b);
        defined &= value.is_some();
        *out = value.unwrap_or(T::ZERO);
    }
    defined
}

multiversion! {
    /// `x^exponent`. The usual exponents need no logarithm, as in PyTorch.
    pub(crate) fn power[T: Real](x: &[T], exponent: T, out: &mut [T]) {
        let one = T::of(1.0);
        macro_rules! each {
            (|$x:ident| $f:expr) => {
                for (&$x, out) in x.iter().zip(out) {
                    *out = $f;
                }
            };
        }
        if exponent == T::of(2.0) {
            each!(|x| x * x);
        } else if exponent == T::of(0.5) {
            each!(|x| x.sqrt());
        } else if exponent == one {
            out.copy_from_slice(x);
        } else if exponent == T::of(3.0) {
            each!(|x| x * x * x);
        } else if exponent == T::of(-0.5) {
            each!(|x| one / x.sqrt());
        } else if exponent == T::of(-1.0) {
            each!(|x| one / x);
        } else if exponent == T::of(-2.0) {
            each!(|x| one / (x * x));
        } else if exponent == T::of(0.0) {
            out.fill(one);
        } else {
            each!(|x| x.powf(exponent));
        }
    }
}

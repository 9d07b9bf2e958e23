//! `calc!`: expressions of tensors and numbers, whose operators pass errors on.
//!
//! [`Term`] is what the operands become: a tensor or the first error. Unlike `Result`, it is a type of this crate, so it can
//! have all operators.

use std::ops;

use kiln_backend::{Error, Result, Scalar};

use crate::{ops::Rhs, tensor::Tensor};

/// Computes an expression of tensors and numbers: `calc!(a * b + 2.0 * c - d / (e + 1.0))?`.
///
/// The value is a `Result<Tensor>`: the first error of an operator ends the calculation. Operators have their usual
/// precedence, are computed from left to right, and promote and broadcast as the methods do:
///
/// - `+`, `-`, `*`, `/` and `%` ([`remainder`](crate::Tensor::remainder)), and `-x`;
/// - `==`, `!=`, `<`, `<=`, `>` and `>=`, element by element, with a tensor of truth values;
/// - `&`, `|`, `^`, `<<`, `>>` and `!`, on integers and truth values.
///
/// Variables, fields and elements (`a`, `self.weight`, `w[0]`) are borrowed, so no `&` is needed, and what they hold is a
/// tensor, a reference to one, or a number. Calls, with or without a `?`, and other expressions stay as they are, and may give a
/// `Result<Tensor>` as well. Operators among numbers alone are Rust's: `1 / 2 * x` is zero.
///
/// Operators on parentheses that are the receiver of a method are computed in the same way, to a `Result<Tensor>`:
/// `calc!((a - b)?.square()? / 2.0)?`.
///
/// An error names the line and column of its operator.
///
/// ```
/// use kiln_tensor::{Device, Tensor, calc};
///
/// # fn main() -> kiln_tensor::Result<()> {
/// let x = Tensor::new([1f32, 2., 3.], Device::Cpu)?;
/// let (mean, std) = (x.mean(())?, x.std((), ())?);
/// let y = calc!((x - mean) / (std + 1e-5) * 2.0 + 1.0)?;
/// assert_eq!(y.dims(), [3]);
/// let relu = calc!(x * (x > 0.0))?;
/// assert_eq!(relu.to_vec::<f32>()?, [1., 2., 3.]);
/// # Ok(())
/// # }
/// ```
///
/// Without a tensor, there is nothing to compute, and a variable that holds a `Result` needs its `?`:
///
/// ```compile_fail,E0277
/// let two = kiln_tensor::calc!(1.0 + 1.0);
/// ```
/// ```compile_fail,E0277
/// # let x = kiln_tensor::Tensor::ones(3, kiln_tensor::Device::Cpu).unwrap();
/// let y = &x + &x;
/// let z = kiln_tensor::calc!(2.0 * y);
/// ```
/// ```compile_fail
/// # let x = kiln_tensor::Tensor::ones(3, kiln_tensor::Device::Cpu).unwrap();
/// let y = kiln_tensor::calc!(x && x);
/// ```
#[macro_export]
macro_rules! calc {
    ($($expression:tt)*) => { $crate::calc_in!([$crate] $($expression)*) };
}

/// A tensor in an expression of `calc!`, or the error of computing it.
#[derive(Debug)]
pub struct Term(Result<Tensor>);

/// What the operands of `calc!` may be.
#[diagnostic::on_unimplemented(
    message = "`calc!` computes with tensors and numbers, not with `{Self}`",
    label = "not a tensor, a reference to one, or a number",
    note = "a variable that holds a `Result` needs its `?`"
)]
pub trait Operand {
    /// A number, or a [`Term`].
    type Term;
    /// The operand, for the operators.
    fn term(self) -> Self::Term;
}

impl Operand for Tensor {
    type Term = Term;
    fn term(self) -> Term {
        Term(Ok(self))
    }
}

impl Operand for Result<Tensor, Error> {
    type Term = Term;
    fn term(self) -> Term {
        Term(self)
    }
}

impl Operand for &Tensor {
    type Term = Term;
    fn term(self) -> Term {
        Term(Ok(self.clone()))
    }
}

impl<'a, T> Operand for &&'a T
where
    &'a T: Operand,
{
    type Term = <&'a T as Operand>::Term;
    fn term(self) -> Self::Term {
        (*self).term()
    }
}

impl<'a, T> Operand for &'a &mut T
where
    &'a T: Operand,
{
    type Term = <&'a T as Operand>::Term;
    fn term(self) -> Self::Term {
        (&**self).term()
    }
}

/// The value of operators in parentheses before a method: a `Result<Tensor>`, or a number.
pub trait Finish {
    /// The value's type.
    type Value;
    /// The value.
    fn finish(self) -> Self::Value;
}

impl Finish for Term {
    type Value = Result<Tensor>;
    fn finish(self) -> Result<Tensor> {
        self.0
    }
}

/// The value of a whole expression.
#[diagnostic::on_unimplemented(
    message = "there is no tensor in this expression: its value is a number",
    label = "`calc!` computes with tensors"
)]
pub trait Calculated {
    /// The value.
    #[allow(clippy::missing_errors_doc)]
    fn into_tensor(self) -> Result<Tensor>;
}

impl Calculated for Term {
    fn into_tensor(self) -> Result<Tensor> {
        self.0
    }
}

/// The value of a whole expression.
#[allow(clippy::missing_errors_doc)]
pub fn tensor(value: impl Calculated) -> Result<Tensor> {
    value.into_tensor()
}

/// Comparisons, element by element: those of `PartialOrd` return `bool`.
pub trait Compare<R> {
    /// `self == other`
    fn eq(self, other: R) -> Term;
    /// `self != other`
    fn ne(self, other: R) -> Term;
    /// `self < other`
    fn lt(self, other: R) -> Term;
    /// `self <= other`
    fn le(self, other: R) -> Term;
    /// `self > other`
    fn gt(self, other: R) -> Term;
    /// `self >= other`
    fn ge(self, other: R) -> Term;
}

/// Types of numbers: they are operands themselves.
macro_rules! numbers {
    ($($ty:ty)*) => {$(
        impl Operand for $ty {
            type Term = $ty;
            fn term(self) -> $ty { self }
        }
        impl Operand for &$ty {
            type Term = $ty;
            fn term(self) -> $ty { *self }
        }
        impl Finish for $ty {
            type Value = $ty;
            fn finish(self) -> $ty { self }
        }
    )*};
}
kiln_backend::for_each_element!(numbers);
numbers!(Scalar i8 i16 u16 u32 u64 isize usize);

/// Binary operators and comparisons, each by what computes it from two tensors, or a tensor and a number.
macro_rules! operators {
    ($($trait:ident $method:ident |$a:ident, $b:ident| $value:expr;)*) => {
        $(
            impl<R: Into<Rhs>> ops::$trait<R> for Term {
                type Output = Term;
                #[track_caller]
                fn $method(self, other: R) -> Term {
                    match self.0 {
                        Ok($a) => { let $b = other; Term($value) }
                        error => Term(error),
                    }
                }
            }
            impl ops::$trait<Term> for Term {
                type Output = Term;
                #[track_caller]
                fn $method(self, other: Term) -> Term {
                    match (self.0, other.0) {
                        (Ok($a), Ok($b)) => Term($value),
                        (error @ Err(_), _) | (_, error) => Term(error),
                    }
                }
            }
        )*
    };
}

operators! {
    Add add |a, b| a + b;
    Sub sub |a, b| a - b;
    Mul mul |a, b| a * b;
    Div div |a, b| a / b;
    Rem rem |a, b| a % b;
    BitAnd bitand |a, b| a.bitwise_and(b);
    BitOr bitor |a, b| a.bitwise_or(b);
    BitXor bitxor |a, b| a.bitwise_xor(b);
    Shl shl |a, b| a.bitwise_left_shift(b);
    Shr shr |a, b| a.bitwise_right_shift(b);
}

/// Comparisons of a term with a tensor or number, and with a term.
macro_rules! comparisons {
    ($($method:ident)*) => {
        impl<R: Into<Rhs>> Compare<R> for Term {$(
            #[track_caller]
            fn $method(self, other: R) -> Term {
                match self.0 {
                    Ok(a) => Term(a.$method(other)),
                    error => Term(error),
                }
            }
        )*}
        impl Compare<Term> for Term {$(
            #[track_caller]
            fn $method(self, other: Term) -> Term {
                match (self.0, other.0) {
                    (Ok(a), Ok(b)) => Term(a.$method(b)),
                    (error @ Err(_), _) | (_, error) => Term(error),
                }
            }
        )*}
    };
}
comparisons!(eq ne lt le gt ge);

/// A number before an operator: a method of its own where the order matters, else the same with the operands swapped.
macro_rules! number_first {
    ($($ty:ty)*) => {$(
        number_first!(@arithmetic $ty: Add add + Sub sub - Mul mul * Div div / Rem rem %);
        number_first!(@swapped $ty: BitAnd bitand bitwise_and BitOr bitor bitwise_or BitXor bitxor bitwise_xor);
        impl Compare<Term> for $ty {
            #[track_caller]
            fn eq(self, other: Term) -> Term { Compare::eq(other, self) }
            #[track_caller]
            fn ne(self, other: Term) -> Term { Compare::ne(other, self) }
            #[track_caller]
            fn lt(self, other: Term) -> Term { Compare::gt(other, self) }
            #[track_caller]
            fn le(self, other: Term) -> Term { Compare::ge(other, self) }
            #[track_caller]
            fn gt(self, other: Term) -> Term { Compare::lt(other, self) }
            #[track_caller]
            fn ge(self, other: Term) -> Term { Compare::le(other, self) }
        }
    )*};
    (@arithmetic $ty:ty: $($trait:ident $method:ident $op:tt)*) => {$(
        impl ops::$trait<Term> for $ty {
            type Output = Term;
            #[track_caller]
            fn $method(self, other: Term) -> Term {
                match other.0 {
                    Ok(b) => Term(Scalar::from(self) $op &b),
                    error => Term(error),
                }
            }
        }
    )*};
    (@swapped $ty:ty: $($trait:ident $method:ident $function:ident)*) => {$(
        impl ops::$trait<Term> for $ty {
            type Output = Term;
            #[track_caller]
            fn $method(self, other: Term) -> Term {
                match other.0 {
                    Ok(b) => Term(b.$function(self)),
                    error => Term(error),
                }
            }
        }
    )*};
}
kiln_backend::for_each_element!(number_first);
number_first!(Scalar u32 usize);

impl ops::Neg for Term {
    type Output = Term;
    #[track_caller]
    fn neg(self) -> Term {
        match self.0 {
            Ok(x) => Term(Tensor::neg(&x)),
            error => Term(error),
        }
    }
}

impl ops::Not for Term {
    type Output = Term;
    #[track_caller]
    fn not(self) -> Term {
        match self.0 {
            Ok(x) => Term(x.bitwise_not()),
            error => Term(error),
        }
    }
}

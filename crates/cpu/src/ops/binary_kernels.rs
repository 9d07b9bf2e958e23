//! The loops of the binary operations, over contiguous slices of the compute type.

use kiln_backend::{BinaryOp, SideOf};

use crate::{
    engine::simd::multiversion,
    numeric::{int::Int, real::Real},
};

/// A loop over two operands.
pub(crate) type Kernel<T, O = T> = fn(&[T], &[T], &mut [O]);
/// A loop over the incoming gradient and two operands.
pub(crate) type GradKernel<T> = fn(&[T], &[T], &[T], &mut [T]);
/// A loop over integers that returns whether every result is defined.
pub(crate) type IntKernel<T> = fn(&[T], &[T], &mut [T]) -> bool;

/// Types that can be compared: every compute type.
pub(crate) trait Compare: Copy + PartialOrd {}
impl<T: Copy + PartialOrd> Compare for T {}

/// `multiversion!` for cheap operations only. Costly ones call the C library (pow, atan2, fmod) or divide integers,
/// which does not vectorize.
macro_rules! versions {
    (CHEAP $($function:tt)*) => {
        multiversion! { $($function)* }
    };
    (COSTLY fn $name:ident[$($generics:tt)*]($($arg:ident: $ty:ty),*) $(-> $ret:ty)?, avx512 if [$if:expr] $body:block) => {
        fn $name<$($generics)*>($($arg: $ty),*) $(-> $ret)? $body
    };
}

/// The loops over floats.
mod floats {
    use super::{BinaryOp, GradKernel, Kernel, Real, SideOf, multiversion};
    use crate::numeric::{real::functions::*, special::polygamma};

    macro_rules! loops {
        (($R:ident $a:ident $b:ident $g:ident $status:ident)
         $(BINARY(
            $variant:ident, $method:ident, $doc:literal,
            $cost:ident, $value:expr, $ints:ident $(($int:expr))?,
            $node:literal, $grad_cost:ident, $lhs:expr, $rhs:expr
         ))*
         $(COMPARISON($($compare:tt)*))*
         $(BITWISE($($combine:tt)*))*
        ) => {
            /// The loop of an arithmetic operation; `None` for the others.
            #[allow(non_snake_case, unused_variables)] // `R`; not every formula has constants
            pub(crate) fn forward_of<T: Real>(op: BinaryOp) -> Option<Kernel<T>> {
                match op {
                    $(BinaryOp::$variant => {
                        versions! { $cost
                            fn kernel[T: Real](a: &[T], b: &[T], out: &mut [T]), avx512 if [size_of::<T>() == 4] {
                                let $R = T::of;
                                for ((&$a, &$b), out) in a.iter().zip(b).zip(out) {
                                    *out = $value;
                                }
                            }
                        }
                        Some(kernel::<T>)
                    })*
                    _ => None,
                }
            }

            /// The loop of an arithmetic operation's gradient; `None` for the others.
            #[allow(non_snake_case, unused_variables)] // nor does every gradient read both operands
            pub(crate) fn backward_of<T: Real>(op: BinaryOp, side: SideOf) -> Option<GradKernel<T>> {
                match (op, side) {
                    $(
                        (BinaryOp::$variant, SideOf::Lhs) => loops!(@gradient ($R $g $a $b) $lhs),
                        (BinaryOp::$variant, SideOf::Rhs) => loops!(@gradient ($R $g $a $b) $rhs),
                    )*
                    _ => None,
                }
            }
        };
        (@gradient ($R:ident $g:ident $a:ident $b:ident) $gradient:expr) => {{
            multiversion! {
                fn kernel[T: Real](grad: &[T], a: &[T], b: &[T], out: &mut [T]), avx512 if [size_of::<T>() == 4] {
                    let $R = T::of;
                    for (((&$g, &$a), &$b), out) in grad.iter().zip(a).zip(b).zip(out) {
                        *out = $gradient;
                    }
                }
            }
            Some(kernel::<T>)
        }};
    }
    kiln_backend::binary_table!(loops);
}
pub(crate) use floats::{backward_of, forward_of};

/// The loops over integers and truth values, and the comparisons.
mod integers {
    use super::{BinaryOp, Compare, Int, IntKernel, Kernel, multiversion};
    use crate::numeric::int::functions::*;

    macro_rules! loops {
        (($R:ident $a:ident $b:ident $g:ident $status:ident)
         $(BINARY(
            $variant:ident, $method:ident, $doc:literal,
            $cost:ident, $value:expr, $ints:ident $(($int:expr))?,
            $($gradient:tt)*
         ))*
         $(COMPARISON($compared:ident, $compare:ident, $compare_doc:literal, $comparison:expr))*
         $(BITWISE($combined:ident, $combine:ident, $combine_doc:literal, $combination:expr))*
        ) => {
            /// The loop of an arithmetic operation; `None` for the others.
            #[allow(non_snake_case, unused_variables, unused_mut)] // `R`; not every formula can be undefined
            pub(crate) fn int_of<T: Int>(op: BinaryOp) -> Option<IntKernel<T>> {
                match op {
                    $($(BinaryOp::$variant => {
                        versions! { $cost
                            fn kernel[T: Int](a: &[T], b: &[T], out: &mut [T]) -> bool, avx512 if [false] {
                                let $R = T::of;
                                let mut undefined = false;
                                let $status = &mut undefined;
                                for ((&$a, &$b), out) in a.iter().zip(b).zip(out) {
                                    *out = $int;
                                }
                                !undefined
                            }
                        }
                        Some(kernel::<T>)
                    })?)*
                    _ => None,
                }
            }

            /// The loop of a comparison (any other operation is treated as `Ge`).
            pub(crate) fn compare_of<T: Compare>(op: BinaryOp) -> Kernel<T, u8> {
                multiversion! {$(
                    fn $compare[T: Compare](a: &[T], b: &[T], out: &mut [u8]), avx512 if [false] {
                        for ((&$a, &$b), out) in a.iter().zip(b).zip(out) {
                            *out = u8::from($comparison);
                        }
                    }
                )*}
                match op {
                    $(BinaryOp::$compared => $compare,)*
                    BinaryOp::Gt => |a, b, out| lt(b, a, out),
                    _ => |a, b, out| le(b, a, out),
                }
            }

            /// The loop of a bitwise operation; `None` for the others.
            pub(crate) fn bitwise_of<T: Int>(op: BinaryOp) -> Option<Kernel<T>> {
                match op {
                    $(BinaryOp::$combined => {
                        multiversion! {
                            fn kernel[T: Int](a: &[T], b: &[T], out: &mut [T]), avx512 if [false] {
                                for ((&$a, &$b), out) in a.iter().zip(b).zip(out) {
                                    *out = $combination;
                                }
                            }
                        }
                        Some(kernel::<T>)
                    })*
                    _ => None,
                }
            }
        };
    }
    kiln_backend::binary_table!(loops);
}
pub(crate) use integers::{bitwise_of, compare_of, int_of};

multiversion! {
    /// `x^exponent`. The usual exponents need no logarithm, as in PyTorch.
    pub(crate) fn power[T: Real](x: &[T], exponent: T, out: &mut [T]), avx512 if [size_of::<T>() == 4] {
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

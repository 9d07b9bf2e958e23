//! Element-wise functions of one tensor and their gradients, made from the op table.

use kiln_backend::{Checked, Error, Integers, Result, UnaryArgs, UnaryBackend, UnaryGradArgs, UnaryOp, View, ViewMut};

use crate::{
    device::CpuBackend,
    engine::{
        elementwise::{map1, map2},
        par::GRAIN,
    },
    memory::view::{Input, Source, Target},
    numeric::{
        dispatch::{for_float, for_int},
        int::Int,
        real::Float,
        stored::Stored,
    },
};

/// The loops over floats.
mod floats {
    use kiln_backend::UnaryOp;

    use crate::{
        engine::simd::multiversion,
        numeric::{
            real::{Real, functions::*},
            special::{digamma, erfinv, i0, i1, polygamma},
        },
    };

    macro_rules! loops {
        (($R:ident $x:ident $g:ident $s:ident) $(UNARY(
            $variant:ident, $method:ident, $doc:literal,
            $cost:ident, $value:expr, $ints:ident $(($int:expr))?,
            $node:literal, $saved:ident, $grad_cost:ident, $gradient:expr
        ))*) => {
            #[allow(non_snake_case, unused_variables)] // `R`; not every formula has constants
            pub(super) fn forward<T: Real>(op: UnaryOp) -> fn(&[T], &mut [T]) {
                match op {$(
                    UnaryOp::$variant => {
                        multiversion! {
                            fn kernel[T: Real](x: &[T], out: &mut [T]), avx512 if [size_of::<T>() == 4] {
                                let $R = T::of;
                                for (&$x, out) in x.iter().zip(out) {
                                    *out = $value;
                                }
                            }
                        }
                        kernel::<T>
                    }
                )*}
            }

            #[allow(non_snake_case, unused_variables)] // nor does every gradient read what is saved
            pub(super) fn backward<T: Real>(op: UnaryOp) -> fn(&[T], &[T], &mut [T]) {
                match op {$(
                    UnaryOp::$variant => {
                        multiversion! {
                            fn kernel[T: Real](grad: &[T], saved: &[T], out: &mut [T]), avx512 if [size_of::<T>() == 4] {
                                let $R = T::of;
                                for ((&$g, &$s), out) in grad.iter().zip(saved).zip(out) {
                                    *out = $gradient;
                                }
                            }
                        }
                        kernel::<T>
                    }
                )*}
            }
        };
    }
    kiln_backend::unary_table!(loops);
}

/// The loops over integers.
mod integers {
    use kiln_backend::UnaryOp;

    use crate::numeric::int::{Int, functions::*};

    macro_rules! loops {
        (($R:ident $x:ident $g:ident $s:ident) $(UNARY(
            $variant:ident, $method:ident, $doc:literal,
            $cost:ident, $value:expr, $ints:ident $(($int:expr))?,
            $($gradient:tt)*
        ))*) => {
            /// `None` for those that leave integers unchanged or do not take them.
            #[allow(non_snake_case, unused_variables)] // `R`; not every formula has constants
            pub(super) fn forward<T: Int>(op: UnaryOp) -> Option<fn(&[T], &mut [T])> {
                match op {
                    $($(
                        UnaryOp::$variant => Some(|x, out| {
                            let $R = T::of;
                            for (&$x, out) in x.iter().zip(out) {
                                *out = $int;
                            }
                        }),
                    )?)*
                    _ => None,
                }
            }
        };
    }
    kiln_backend::unary_table!(loops);
}

/// How many elements are worth a task.
fn grain(is_costly: bool) -> usize {
    if is_costly { GRAIN / 8 } else { GRAIN }
}

impl UnaryBackend for CpuBackend {
    fn unary(&self, args: Checked<UnaryArgs>) -> Result<()> {
        let UnaryArgs { op, x, out } = args.into_inner();
        let dtype = x.dtype();
        if dtype.is_int() {
            return for_int!(op.name(), dtype, T => of_integers::<T>(op, x, out));
        }
        for_float!(op.name(), dtype, T => of_floats::<T>(op, x, out))
    }

    fn unary_grad(&self, args: Checked<UnaryGradArgs>) -> Result<()> {
        let UnaryGradArgs { op, grad, saved, out } = args.into_inner();
        for_float!(op.name(), grad.dtype(), T => {
            let grad = Input::Tensor(Source::<T>::new(op.name(), grad)?);
            let saved = match saved {
                Some(saved) => Input::Tensor(Source::<T>::new(op.name(), saved)?),
                // The operation saves nothing: this operand is not read.
                None => grad,
            };
            let mut out = Target::<T>::new(op.name(), out)?;
            map2(grain(op.has_costly_gradient()), &grad, &saved, &mut out, floats::backward::<<T as Stored>::Compute>(op));
            Ok(())
        })
    }
}

fn of_floats<T: Float>(op: UnaryOp, x: View, out: ViewMut) -> Result<()> {
    let x = Input::Tensor(Source::<T>::new(op.name(), x)?);
    let mut out = Target::<T>::new(op.name(), out)?;
    map1(grain(op.is_costly()), &x, &mut out, floats::forward::<T::Compute>(op));
    Ok(())
}

fn of_integers<T: Int>(op: UnaryOp, x: View, out: ViewMut) -> Result<()> {
    let kernel: fn(&[T], &mut [T]) = match op.integers() {
        Integers::Unchanged => |x, out| out.copy_from_slice(x),
        _ => {
            integers::forward(op).ok_or_else(|| Error::dtype(op.name(), T::DTYPE, "it takes floating-point tensors"))?
        }
    };
    let x = Input::Tensor(Source::<T>::new(op.name(), x)?);
    map1(GRAIN, &x, &mut Target::<T>::new(op.name(), out)?, kernel);
    Ok(())
}

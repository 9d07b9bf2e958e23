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
        numeric::real::{Real, functions::*},
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

#[cfg(test)]
mod tests {
    use kiln_backend::{Arguments, DType, Saved};

    use super::*;
    use crate::testing::{SHAPES, Tensor, assert_close, layouts, numbers, read_layouts};

    const FLOATS: [DType; 4] = [DType::F32, DType::F64, DType::F16, DType::BF16];

    /// The same function of single `f64` values.
    fn reference(op: UnaryOp, x: f64) -> f64 {
        let mut out = [0.0];
        floats::forward::<f64>(op)(&[x], &mut out);
        out[0]
    }

    #[test]
    fn values_in_every_dtype() {
        let values: Vec<f64> =
            numbers(300, 3).into_iter().chain([0.0, f64::NAN, f64::INFINITY, -f64::INFINITY]).collect();
        for dtype in FLOATS {
            let x = Tensor::new(dtype, &[values.len()], &values);
            for &op in UnaryOp::ALL {
                let mut out = Tensor::empty(dtype, &[values.len()]);
                CpuBackend.unary(UnaryArgs { op, x: x.view(), out: out.view_mut() }.checked().unwrap()).unwrap();
                let want: Vec<f64> = x.values().into_iter().map(|v| reference(op, v)).collect();
                assert_close(&out.values(), &want, dtype, 8.0, op.name());
            }
        }
    }

    #[test]
    fn formulas_of_the_table() {
        // A few values that a calculator gives, so that the table itself is tested too.
        let cases = [
            (UnaryOp::Gelu, 1.0, 0.841_344_746_068_542_9),
            (UnaryOp::GeluTanh, 1.0, 0.841_191_990_608_276_2),
            (UnaryOp::Silu, 2.0, 1.761_594_155_955_764_9),
            (UnaryOp::Softplus, 0.0, std::f64::consts::LN_2),
            (UnaryOp::LogSigmoid, -800.0, -800.0),
            (UnaryOp::Round, 2.5, 2.0),
            (UnaryOp::Trunc, -2.7, -2.0),
            (UnaryOp::Rsqrt, 4.0, 0.5),
            (UnaryOp::Relu, -3.0, 0.0),
        ];
        for (op, x, want) in cases {
            assert!((reference(op, x) - want).abs() < 1e-14, "{op:?}");
        }
    }

    #[test]
    fn layouts_do_not_matter() {
        for dims in SHAPES {
            for from in read_layouts(dims) {
                let x = Tensor::with_layout(DType::F32, from, &numbers(from.numel(), 1));
                let want: Vec<f64> = x.values().iter().map(|v| -v).collect();
                for to in layouts(dims) {
                    let mut out = Tensor::with_layout(DType::F32, to, &vec![77.0; to.numel()]);
                    CpuBackend
                        .unary(UnaryArgs { op: UnaryOp::Neg, x: x.view(), out: out.view_mut() }.checked().unwrap())
                        .unwrap();
                    assert_eq!(out.values(), want, "{from:?} -> {to:?}");
                    let touched = out.bytes().chunks_exact(4).filter(|b| *b != 77f32.to_ne_bytes()).count();
                    assert!(touched <= to.numel());
                }
            }
        }
    }

    #[test]
    fn gradients_are_differences() {
        let step = 1e-6;
        for &op in UnaryOp::ALL {
            let points = [-0.83, -0.31, 0.27, 0.77];
            let positive = [UnaryOp::Sqrt, UnaryOp::Rsqrt, UnaryOp::Log, UnaryOp::Log2, UnaryOp::Log10];
            for x in points.into_iter().filter(|&x| x > 0.0 || !positive.contains(&op)) {
                let want = (reference(op, x + step) - reference(op, x - step)) / (2.0 * step) * 3.0;
                let saved = if op.saved() == Saved::Output { reference(op, x) } else { x };
                for dtype in [DType::F64, DType::F32] {
                    let (grad, saved) = (Tensor::new(dtype, &[1], &[3.0]), Tensor::new(dtype, &[1], &[saved]));
                    let mut out = Tensor::empty(dtype, &[1]);
                    CpuBackend
                        .unary_grad(
                            UnaryGradArgs { op, grad: grad.view(), saved: Some(saved.view()), out: out.view_mut() }
                                .checked()
                                .unwrap(),
                        )
                        .unwrap();
                    let tolerance = if dtype == DType::F64 { 1e-6 } else { 1e-4 };
                    assert!((out.values()[0] - want).abs() < tolerance, "{op:?} at {x}: {:?}, {want}", out.values());
                }
            }
        }
        let grad = Tensor::new(DType::F32, &[1], &[3.0]);
        assert!(
            UnaryGradArgs {
                op: UnaryOp::Exp,
                grad: grad.view(),
                saved: None,
                out: Tensor::empty(DType::F32, &[1]).view_mut()
            }
            .checked()
            .and_then(|args| CpuBackend.unary_grad(args))
            .is_err()
        );
        assert!(
            UnaryGradArgs {
                op: UnaryOp::Neg,
                grad: grad.view(),
                saved: None,
                out: Tensor::empty(DType::F32, &[1]).view_mut()
            }
            .checked()
            .and_then(|args| CpuBackend.unary_grad(args))
            .is_ok()
        );
    }

    #[test]
    fn integers() {
        for (op, x, want) in [
            (UnaryOp::Neg, -3.0, 3.0),
            (UnaryOp::Abs, -3.0, 3.0),
            (UnaryOp::Sign, -3.0, -1.0),
            (UnaryOp::Square, -3.0, 9.0),
            (UnaryOp::Relu, -3.0, 0.0),
            (UnaryOp::Floor, -3.0, -3.0),
        ] {
            for dtype in [DType::I64, DType::I32] {
                let mut out = Tensor::empty(dtype, &[1]);
                CpuBackend
                    .unary(
                        UnaryArgs { op, x: Tensor::new(dtype, &[1], &[x]).view(), out: out.view_mut() }
                            .checked()
                            .unwrap(),
                    )
                    .unwrap();
                assert_eq!(out.values(), [want], "{op:?}");
            }
        }
        for dtype in [DType::I64, DType::Bool] {
            let x = Tensor::new(dtype, &[1], &[1.0]);
            assert!(
                UnaryArgs { op: UnaryOp::Exp, x: x.view(), out: Tensor::empty(dtype, &[1]).view_mut() }
                    .checked()
                    .and_then(|args| CpuBackend.unary(args))
                    .is_err()
            );
        }
    }
}

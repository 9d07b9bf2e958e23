//! Reductions: sums, products, extrema, variance, log-sum-exp.

use std::marker::PhantomData;

use kiln_backend::{Checked, ReduceArgs, ReduceBackend, ReduceOp, Result};

use crate::{
    device::CpuBackend,
    engine::{
        fold::{Fold, Operand, fold},
        par::{self, GRAIN},
        reader::{Converted, Elements, Reader},
        tile::{TILE, steps},
        writer::Writer,
    },
    memory::view::{Source, Target},
    numeric::{
        convert::Destination,
        dispatch::{for_all, for_float},
        number::Number,
        real::Real,
        stored::{Stored, Truth},
    },
};

impl ReduceBackend for CpuBackend {
    fn reduce(&self, args: Checked<ReduceArgs>) -> Result<()> {
        let ReduceArgs { op, x, out } = args.into_inner();
        let (name, dtype) = (op.name(), x.dtype());
        match op {
            ReduceOp::Sum | ReduceOp::Prod if !dtype.is_float() => for_all!(dtype, T => {
                let (x, out) = (Source::<T>::new(name, x)?, Target::<i64>::new(name, out)?);
                converted::<T, i64>(&x, |x| if op == ReduceOp::Sum {
                    finish(&out, &fold::<IntSum>(x, out.layout(), None));
                } else {
                    finish(&out, &fold::<IntProd>(x, out.layout(), None));
                });
                Ok(())
            }),
            ReduceOp::Sum | ReduceOp::Prod | ReduceOp::Mean | ReduceOp::Var { .. } | ReduceOp::LogSumExp => {
                for_float!(name, dtype, T => {
                    let (x, out) = (Source::<T>::new(name, x)?, Target::<T>::new(name, out)?);
                    loaded(&x, |x| floats(op, x, &out));
                    Ok(())
                })
            }
            ReduceOp::Max | ReduceOp::Min => {
                for_all!(dtype, T => {
                    let (x, out) = (Source::<T>::new(name, x)?, Target::<T>::new(name, out)?);
                    loaded(&x, |x| if op == ReduceOp::Max {
                        finish(&out, &fold::<Largest<_>>(x, out.layout(), None));
                    } else {
                        finish(&out, &fold::<Smallest<_>>(x, out.layout(), None));
                    });
                    Ok(())
                })
            }
            // `any` is the maximum of truth values, `all` the minimum (of no elements: a nonzero number, so true).
            ReduceOp::Any | ReduceOp::All => for_all!(dtype, T => {
                let (x, out) = (Source::<T>::new(name, x)?, Target::<Truth>::new(name, out)?);
                converted::<T, Truth>(&x, |x| if op == ReduceOp::Any {
                    finish(&out, &fold::<Largest<_>>(x, out.layout(), None));
                } else {
                    finish(&out, &fold::<Smallest<_>>(x, out.layout(), None));
                });
                Ok(())
            }),
        }
    }
}

/// Calls `run` with the elements in their compute type.
fn loaded<T: Stored>(x: &Source<T>, run: impl FnOnce(&Operand<T::Compute>)) {
    // SAFETY: `fold` reads with walks that it makes of this layout's dimensions.
    let reader = |walk| -> Box<dyn Elements<T::Compute> + '_> { Box::new(unsafe { Reader::over(x, walk) }) };
    run(&Operand { layout: x.layout(), reader: &reader });
}

/// Calls `run` with the elements converted to `O`.
fn converted<T: Stored, O: Destination>(x: &Source<T>, run: impl FnOnce(&Operand<O::Compute>)) {
    let reader = |walk| -> Box<dyn Elements<O::Compute> + '_> {
        // SAFETY: as in `loaded`.
        let reader = unsafe { Reader::over(x, walk) };
        Box::new(Converted::<T, O> { reader, tile: [bytemuck::Zeroable::zeroed(); TILE] })
    };
    run(&Operand { layout: x.layout(), reader: &reader });
}

fn floats<C: Real, T: Stored<Compute = C>>(op: ReduceOp, x: &Operand<C>, out: &Target<T>) {
    let layout = out.layout();
    // The number of elements that each result is made of.
    let extents = x.layout.dims().iter().zip(layout.dims());
    let n: usize = extents.map(|(&n, &m)| if m == 1 { n } else { 1 }).product();
    let count = C::from_usize(n);
    match op {
        ReduceOp::Prod => finish(out, &fold::<Prod<_>>(x, layout, None)),
        ReduceOp::Mean => finish(out, &divided(fold::<Sum<_>>(x, layout, None), count)),
        ReduceOp::Var { correction } => {
            let means = divided(fold::<Sum<_>>(x, layout, None), count);
            let divisor = C::of((n as f64 - correction).max(0.0));
            finish(out, &divided(fold::<Squares<_>>(x, layout, Some(&means)), divisor));
        }
        ReduceOp::LogSumExp => {
            let mut centers: Vec<C> = fold::<Largest<_>>(x, layout, None);
            // An infinite center would turn equal elements into NaN; without one they sum up to 0 or infinity.
            centers.iter_mut().filter(|v| v.abs() == C::INFINITY).for_each(|v| *v = C::of(0.0));
            let mut sums = fold::<Exponentials<_>>(x, layout, Some(&centers));
            sums.iter_mut().zip(&centers).for_each(|(v, &center)| *v = v.ln() + center);
            finish(out, &sums);
        }
        _ => finish(out, &fold::<Sum<_>>(x, layout, None)),
    }
}

fn divided<C: Real>(mut values: Vec<C>, divisor: C) -> Vec<C> {
    values.iter_mut().for_each(|v| *v = *v / divisor);
    values
}

/// Writes the results.
fn finish<T: Stored>(out: &Target<T>, values: &[T::Compute]) {
    par::ranges(values.len(), GRAIN, |range| {
        // SAFETY: ranges are disjoint.
        let mut writer = unsafe { Writer::new(out) };
        for range in steps(range, TILE) {
            writer.put(range.clone(), |out| out.copy_from_slice(&values[range]));
        }
    });
}

macro_rules! folds {
    ($($(#[$meta:meta])* $name:ident[$T:ident: $bound:path]:
        $identity:expr, |$acc:ident, $x:ident, $center:ident| $step:expr, |$a:ident, $b:ident| $merge:expr;)*) => {$(
        $(#[$meta])*
        pub(crate) struct $name<$T>(PhantomData<fn() -> $T>);

        impl<$T: $bound + bytemuck::Pod + Send + Sync> Fold for $name<$T> {
            type Item = $T;
            #[inline(always)]
            fn identity() -> $T {
                $identity
            }
            #[inline(always)]
            fn step($acc: $T, $x: $T, $center: $T) -> $T {
                $step
            }
            #[inline(always)]
            fn merge($a: $T, $b: $T) -> $T {
                $merge
            }
        }
    )*};
}

/// The larger one; NaN if either is.
#[inline(always)]
#[allow(clippy::eq_op)] // only NaN differs from itself
fn larger<T: PartialOrd + Copy>(a: T, b: T) -> T {
    if b > a || b != b { b } else { a }
}

/// The smaller one; NaN if either is.
#[inline(always)]
#[allow(clippy::eq_op)] // only NaN differs from itself
fn smaller<T: PartialOrd + Copy>(a: T, b: T) -> T {
    if b < a || b != b { b } else { a }
}

folds! {
    Sum[T: Real]: T::of(0.0), |acc, x, _c| acc + x, |a, b| a + b;
    Prod[T: Real]: T::of(1.0), |acc, x, _c| acc * x, |a, b| a * b;
    /// Squared distances from the center.
    Squares[T: Real]: T::of(0.0), |acc, x, center| acc + (x - center) * (x - center), |a, b| a + b;
    /// Exponentials of the distances from the center.
    Exponentials[T: Real]: T::of(0.0), |acc, x, center| acc + (x - center).exp(), |a, b| a + b;
    Largest[T: Number]: T::LOWEST, |acc, x, _c| larger(acc, x), |a, b| larger(a, b);
    Smallest[T: Number]: T::HIGHEST, |acc, x, _c| smaller(acc, x), |a, b| smaller(a, b);
}

macro_rules! int_folds {
    ($($name:ident: $identity:literal, $combine:ident;)*) => {$(
        struct $name;

        impl Fold for $name {
            type Item = i64;
            #[inline(always)]
            fn identity() -> i64 {
                $identity
            }
            #[inline(always)]
            fn step(acc: i64, x: i64, _: i64) -> i64 {
                acc.$combine(x)
            }
            #[inline(always)]
            fn merge(a: i64, b: i64) -> i64 {
                a.$combine(b)
            }
        }
    )*};
}

int_folds! {
    IntSum: 0, wrapping_add;
    IntProd: 1, wrapping_mul;
}

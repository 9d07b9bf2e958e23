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

#[cfg(test)]
mod tests {
    use kiln_backend::{Arguments, DType, Layout};

    use super::*;
    use crate::testing::{SHAPES, Tensor, assert_close, layouts, numbers, read_layouts, shape};

    const OPS: [ReduceOp; 9] = [
        ReduceOp::Sum,
        ReduceOp::Mean,
        ReduceOp::Prod,
        ReduceOp::Max,
        ReduceOp::Min,
        ReduceOp::Any,
        ReduceOp::All,
        ReduceOp::Var { correction: 1.0 },
        ReduceOp::LogSumExp,
    ];

    fn reference(op: ReduceOp, x: &[f64]) -> f64 {
        let n = x.len() as f64;
        let extreme = |pick: fn(f64, f64) -> f64, start| {
            x.iter().fold(start, |a: f64, &b| if a.is_nan() || b.is_nan() { f64::NAN } else { pick(a, b) })
        };
        match op {
            ReduceOp::Sum => x.iter().sum(),
            ReduceOp::Mean => x.iter().sum::<f64>() / n,
            ReduceOp::Prod => x.iter().product(),
            ReduceOp::Max => extreme(f64::max, f64::NEG_INFINITY),
            ReduceOp::Min => extreme(f64::min, f64::INFINITY),
            ReduceOp::Any => f64::from(u8::from(x.iter().any(|&v| v != 0.0))),
            ReduceOp::All => f64::from(u8::from(x.iter().all(|&v| v != 0.0))),
            ReduceOp::Var { correction } => {
                let mean = x.iter().sum::<f64>() / n;
                x.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / (n - correction).max(0.0)
            }
            ReduceOp::LogSumExp => {
                let max = extreme(f64::max, f64::NEG_INFINITY);
                let center = if max.is_infinite() { 0.0 } else { max };
                x.iter().map(|v| (v - center).exp()).sum::<f64>().ln() + center
            }
        }
    }

    /// Groups of elements by the result that they belong to.
    fn groups(x: &Tensor, out_dims: &[usize]) -> Vec<Vec<f64>> {
        let out = Layout::contiguous(shape(out_dims));
        let mut groups = vec![Vec::new(); out.numel()];
        let dims = x.layout.dims();
        for (position, value) in x.values().into_iter().enumerate() {
            let (mut rest, mut at) = (position, 0);
            for dim in (0..dims.len()).rev() {
                let index = rest % dims[dim];
                rest /= dims[dim];
                at += if out_dims[dim] == 1 { 0 } else { index * out.strides()[dim] as usize };
            }
            groups[at].push(value);
        }
        groups
    }

    fn check(op: ReduceOp, x: &Tensor, out_layout: Layout, what: &str) {
        use kiln_backend::Buffer;
        let dtype = x.buffer.dtype();
        let to = op.result_dtype(dtype);
        let mut out = Tensor::with_layout(to, out_layout, &vec![1.0; out_layout.numel()]);
        let args = ReduceArgs { op, x: x.view(), out: out.view_mut() }.checked();
        let result = args.and_then(|args| CpuBackend.reduce(args));
        let groups = groups(x, out_layout.dims());
        if matches!(op, ReduceOp::Max | ReduceOp::Min) && groups.iter().any(Vec::is_empty) {
            assert!(result.is_err());
            return;
        }
        result.unwrap();
        for (got, group) in out.values().into_iter().zip(groups) {
            let want = reference(op, &group);
            // The error of a sum is relative to its terms, not to the result.
            let size = group.iter().map(|v| v.abs()).sum::<f64>();
            let bound = crate::testing::epsilon(to)
                * match op {
                    ReduceOp::Sum => 4.0 * (size + 1.0),
                    ReduceOp::Mean => 4.0 * (size / group.len() as f64 + 1.0),
                    ReduceOp::Prod => (group.len() as f64 + 8.0) * want.abs(),
                    _ => 16.0 * (want.abs() + 1.0),
                };
            let ok = got == want || got.is_nan() && want.is_nan() || (got - want).abs() <= bound;
            assert!(ok, "{op:?} {dtype} {what}: {got}, expected {want}");
        }
    }

    #[test]
    fn every_layout() {
        for dims in SHAPES.iter().copied().chain([&[33usize, 5, 6][..], &[70, 130], &[5, 1100]]) {
            for mask in 0..1u32 << dims.len() {
                let out_dims: Vec<usize> =
                    dims.iter().enumerate().map(|(d, &n)| if mask >> d & 1 == 1 { 1 } else { n }).collect();
                for from in read_layouts(dims) {
                    let x = Tensor::with_layout(DType::F32, from, &numbers(from.numel(), 7));
                    for op in [ReduceOp::Sum, ReduceOp::Max, ReduceOp::Var { correction: 1.0 }] {
                        check(op, &x, Layout::contiguous(shape(&out_dims)), &format!("{from:?}"));
                    }
                }
            }
        }
    }

    #[test]
    fn every_op_and_dtype() {
        for dtype in DType::ALL {
            for op in OPS {
                let float_only = matches!(op, ReduceOp::Mean | ReduceOp::Var { .. } | ReduceOp::LogSumExp);
                if float_only && !dtype.is_float() {
                    continue;
                }
                for (dims, out_dims) in [
                    (&[6usize, 9][..], &[6usize, 1][..]),
                    (&[6, 9], &[1, 9]),
                    (&[6, 9], &[1, 1]),
                    (&[], &[]),
                    (&[0, 3], &[1, 3]),
                    (&[3, 0], &[3, 1]),
                ] {
                    let n = shape(dims).numel();
                    let values: Vec<f64> =
                        numbers(n, 2).iter().map(|v| if op == ReduceOp::Prod { 1.0 + v / 8.0 } else { *v }).collect();
                    let x = Tensor::new(dtype, dims, &values);
                    for to in layouts(out_dims) {
                        check(op, &x, to, &format!("{dims:?} -> {out_dims:?}"));
                    }
                }
            }
        }
    }

    #[test]
    fn not_a_number_and_infinity() {
        let (nan, inf) = (f64::NAN, f64::INFINITY);
        let x = [1.0, nan, 2.0, -inf, -inf, -inf, inf, 0.0, 1.0];
        for layout in [Layout::contiguous(shape(&[3, 3])), Layout::contiguous(shape(&[3, 3])).transpose(0, 1)] {
            let x = Tensor::with_layout(DType::F32, layout, &x);
            for (op, want) in [
                (ReduceOp::Max, [nan, -inf, inf]),
                (ReduceOp::Min, [nan, -inf, 0.0]),
                (ReduceOp::LogSumExp, [nan, -inf, inf]),
            ] {
                let mut out = Tensor::empty(DType::F32, &[3, 1]);
                CpuBackend.reduce(ReduceArgs { op, x: x.view(), out: out.view_mut() }.checked().unwrap()).unwrap();
                assert_eq!(format!("{:?}", out.values()), format!("{want:?}"), "{op:?}");
            }
        }
    }

    #[test]
    fn long_sums_are_accurate_and_independent_of_threads() {
        let n = 1_000_003;
        for (dims, out_dims) in [(&[n][..], &[1usize][..]), (&[n / 3, 3], &[1, 3]), (&[n / 200, 200], &[1, 200])] {
            let count = shape(dims).numel();
            let x = Tensor::new(DType::F32, dims, &(0..count).map(|i| 0.1 + (i % 7) as f64).collect::<Vec<_>>());
            check(ReduceOp::Sum, &x, Layout::contiguous(shape(out_dims)), "long");
            let results = [1, 2, 5].map(|threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let mut out = Tensor::empty(DType::F32, out_dims);
                pool.install(|| {
                    CpuBackend
                        .reduce(ReduceArgs { op: ReduceOp::Sum, x: x.view(), out: out.view_mut() }.checked().unwrap())
                })
                .unwrap();
                out.bytes().to_vec()
            });
            assert!(results[0] == results[1] && results[1] == results[2]);
        }
        let half = Tensor::new(DType::F16, &[20_000], &[0.5; 20_000]);
        let mut out = Tensor::empty(DType::F16, &[1]);
        CpuBackend
            .reduce(ReduceArgs { op: ReduceOp::Sum, x: half.view(), out: out.view_mut() }.checked().unwrap())
            .unwrap();
        assert_close(&out.values(), &[10_000.0], DType::F16, 0.0, "sum");
    }
}

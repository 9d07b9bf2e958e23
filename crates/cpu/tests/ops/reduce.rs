//! Tests of `reduce`.

use kiln_backend::{Arguments, DType, Layout, ReduceArgs, ReduceBackend, ReduceOp};
use kiln_cpu::CpuBackend;

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
                CpuBackend.reduce(ReduceArgs { op: ReduceOp::Sum, x: x.view(), out: out.view_mut() }.checked().unwrap())
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

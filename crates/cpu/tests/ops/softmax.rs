//! Tests of `softmax`.

use kiln_backend::{Arguments, DType, SoftmaxArgs, SoftmaxBackend, SoftmaxGradArgs, softmax_name};
use kiln_cpu::CpuBackend;

use crate::testing::{SHAPES, Tensor, assert_close, layouts, numbers, read_layouts};

/// Applies `f` to each line along `dim` of row-major values.
fn along(dims: &[usize], dim: usize, values: &[&[f64]], f: impl Fn(&[Vec<f64>]) -> Vec<f64>) -> Vec<f64> {
    let n = dims.get(dim).copied().unwrap_or(1);
    let inner: usize = dims.iter().skip(dim + 1).product();
    let mut out = vec![0.0; values[0].len()];
    for line in 0..out.len() / n.max(1) {
        let at = |i: usize| (line / inner * n + i) * inner + line % inner;
        let lines: Vec<Vec<f64>> = values.iter().map(|v| (0..n).map(|i| v[at(i)]).collect()).collect();
        f(&lines).into_iter().enumerate().for_each(|(i, v)| out[at(i)] = v);
    }
    out
}

fn forward(x: &[f64], log: bool) -> Vec<f64> {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = x.iter().map(|v| (v - max).exp()).sum();
    x.iter().map(|v| if log { v - max - sum.ln() } else { (v - max).exp() / sum }).collect()
}

#[test]
fn every_layout_and_dtype() {
    for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
        for dims in SHAPES.iter().copied().chain([&[3usize, 10, 40][..], &[2, 2100]]) {
            for dim in 0..dims.len().max(1) {
                for from in read_layouts(dims).into_iter().take(if dtype == DType::F32 { 99 } else { 2 }) {
                    let x = Tensor::with_layout(dtype, from, &numbers(from.numel(), 8));
                    let grad = Tensor::with_layout(dtype, from, &numbers(from.numel(), 9));
                    for log in [false, true] {
                        let want = along(dims, dim, &[&x.values()], |l| forward(&l[0], log));
                        for to in layouts(dims) {
                            let mut y = Tensor::with_layout(dtype, to, &vec![1.0; to.numel()]);
                            CpuBackend
                                .softmax(SoftmaxArgs { x: x.view(), dim, log, out: y.view_mut() }.checked().unwrap())
                                .unwrap();
                            // A logarithm near 0 is a difference of larger numbers.
                            assert_close(&y.values(), &want, dtype, if log { 80.0 } else { 8.0 }, softmax_name(log));
                            let want = along(dims, dim, &[&grad.values(), &y.values()], |l| {
                                let (g, y) = (&l[0], &l[1]);
                                let sum: f64 = g.iter().zip(y).map(|(g, y)| if log { *g } else { g * y }).sum();
                                let each = |(g, y): (&f64, &f64)| if log { g - y.exp() * sum } else { y * (g - sum) };
                                g.iter().zip(y).map(each).collect()
                            });
                            let mut out = Tensor::with_layout(dtype, to, &vec![1.0; to.numel()]);
                            CpuBackend
                                .softmax_grad(
                                    SoftmaxGradArgs { grad: grad.view(), y: y.view(), dim, log, out: out.view_mut() }
                                        .checked()
                                        .unwrap(),
                                )
                                .unwrap();
                            // A difference of larger numbers, too.
                            assert_close(&out.values(), &want, dtype, 400.0, "gradient");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn extreme_values() {
    let inf = f64::INFINITY;
    for (dims, dim) in [(&[1usize, 3][..], 1), (&[3, 1], 0)] {
        for log in [false, true] {
            let run = |x: [f64; 3]| {
                let x = Tensor::new(DType::F32, dims, &x);
                let mut y = Tensor::empty(DType::F32, dims);
                CpuBackend
                    .softmax(SoftmaxArgs { x: x.view(), dim, log, out: y.view_mut() }.checked().unwrap())
                    .unwrap();
                y.values()
            };
            assert!(run([-inf; 3]).iter().all(|v| v.is_nan()));
            assert!(run([1.0, inf, 0.0])[1].is_nan());
            assert!(run([1.0, f64::NAN, 0.0]).iter().all(|v| v.is_nan()));
            let certain = if log { [-inf, 0.0, -inf] } else { [0.0, 1.0, 0.0] };
            assert_eq!(run([-inf, 1e30, -1e30]), if log { [-inf, 0.0, -2e30f32 as f64] } else { certain });
        }
    }
}

#[test]
fn threads_do_not_matter() {
    let x = Tensor::new(DType::F32, &[64, 1500], &numbers(64 * 1500, 1));
    for dim in [0, 1] {
        let bytes = [1, 4].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut y = Tensor::empty(DType::F32, &[64, 1500]);
            pool.install(|| {
                CpuBackend.softmax(SoftmaxArgs { x: x.view(), dim, log: false, out: y.view_mut() }.checked().unwrap())
            })
            .unwrap();
            y.bytes().to_vec()
        });
        assert_eq!(bytes[0], bytes[1]);
    }
}

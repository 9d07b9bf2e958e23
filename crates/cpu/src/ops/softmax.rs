//! Softmax and its logarithm along one dimension, and their gradients.

use kiln_backend::{Checked, Result, SoftmaxArgs, SoftmaxBackend, SoftmaxGradArgs, softmax_name};

use crate::{
    device::CpuBackend,
    engine::{
        fold::{Cascade, LEAF, leaf},
        lines::Lines,
        par::{self, GRAIN},
        reader::Reader,
        simd::multiversion,
        tile::TILE,
        writer::Writer,
    },
    memory::view::{Input, Source, Target},
    numeric::{
        dispatch::for_float,
        real::{Float, Real},
    },
    ops::reduce::{Exponentials, Largest, Sum},
};

/// Minimum number of elements in a task: an exponential costs as much as several additions.
const WORK: usize = GRAIN / 4;
/// Elements of a block of adjacent lines, which stays in the L2 cache.
const BLOCK: usize = 16 * 1024;

impl SoftmaxBackend for CpuBackend {
    fn softmax(&self, args: Checked<SoftmaxArgs>) -> Result<()> {
        let SoftmaxArgs { x, dim, log, out } = args.into_inner();
        let op = softmax_name(log);
        for_float!(op, x.dtype(), T => {
            let (x, out) = (Source::<T>::new(op, x)?, Target::<T>::new(op, out)?);
            apply([x], dim, &out, |[x], out| line(x, log, out), |[x], width, out| columns(x, width, log, out));
            Ok(())
        })
    }

    fn softmax_grad(&self, args: Checked<SoftmaxGradArgs>) -> Result<()> {
        let SoftmaxGradArgs { grad, y, dim, log, out } = args.into_inner();
        let op = softmax_name(log);
        for_float!(op, grad.dtype(), T => {
            let operands = [Source::<T>::new(op, grad)?, Source::<T>::new(op, y)?];
            apply(
                operands,
                dim,
                &Target::<T>::new(op, out)?,
                |[grad, y], out| line_grad(grad, y, log, out),
                |[grad, y], width, out| columns_grad(grad, y, width, log, out),
            );
            Ok(())
        })
    }
}

/// Runs `line` on each line along `dim`, or `columns` on blocks of lines side by side, given as rows of
/// `width` elements.
fn apply<T: Float, const N: usize>(
    operands: [Source<T>; N],
    dim: usize,
    out: &Target<T>,
    line: impl Fn([&[T::Compute]; N], &mut [T::Compute]) + Sync,
    columns: impl Fn([&[T::Compute]; N], usize, &mut [T::Compute]) + Sync,
) {
    let lines = Lines::new(out.layout(), dim);
    let (n, inner) = (lines.n, lines.inner);
    if out.numel() == 0 {
        return;
    }
    let operands = operands.map(Input::Tensor);
    if !lines.side_by_side() {
        par::ranges(lines.count(), (WORK / n).max(1), |range| {
            let mut readers = operands.each_ref().map(|x| Reader::ordered(x, Some(lines.order())));
            // SAFETY: tasks write different lines.
            let mut writer = unsafe { Writer::in_order(out, lines.order()) };
            let mut scratch = [const { Vec::new() }; N];
            let mut result = Vec::new();
            for i in range {
                let range = i * n..(i + 1) * n;
                let mut pairs = readers.iter_mut().zip(&mut scratch);
                let x: [&[T::Compute]; N] = std::array::from_fn(|_| match pairs.next() {
                    Some((reader, scratch)) => reader.line(range.clone(), scratch),
                    None => &[],
                });
                writer.line(range, &mut result, |out| line(x, out));
            }
        });
        return;
    }
    let width = inner.min(TILE).min((BLOCK / n).max(16));
    let tiles = inner.div_ceil(width);
    par::ranges(lines.outer * tiles, (WORK / (n * width)).max(1), |range| {
        let mut readers = operands.each_ref().map(Reader::new);
        // SAFETY: tasks write different lines.
        let mut writer = unsafe { Writer::new(out) };
        let mut blocks = [const { Vec::new() }; N];
        let mut result = Vec::new();
        for unit in range {
            let (o, start) = (unit / tiles, unit % tiles * width);
            let end = inner.min(start + width);
            let row = |i: usize| (o * n + i) * inner + start..(o * n + i) * inner + end;
            for (block, reader) in blocks.iter_mut().zip(&mut readers) {
                block.clear();
                (0..n).for_each(|i| block.extend_from_slice(reader.get(row(i))));
            }
            result.resize(n * (end - start), T::Compute::of(0.0));
            columns(blocks.each_ref().map(Vec::as_slice), end - start, &mut result);
            for (i, values) in result.chunks(end - start).enumerate() {
                writer.put(row(i), |out| out.copy_from_slice(values));
            }
        }
    });
}

/// Sums `part` over the pieces of a line.
fn total<T: Real>(n: usize, mut part: impl FnMut(std::ops::Range<usize>) -> T) -> T {
    if n <= LEAF {
        return part(0..n);
    }
    let mut cascade = Cascade::new(T::of(0.0));
    crate::engine::tile::steps(0..n, LEAF).for_each(|range| cascade.push(part(range), |a, b| a + b));
    cascade.finish(|a, b| a + b).unwrap_or_default()
}

fn line<T: Real>(x: &[T], log: bool, out: &mut [T]) {
    let zero = T::of(0.0);
    let max = leaf::<Largest<_>>(x, zero);
    if log {
        let sum = total(x.len(), |range| leaf::<Exponentials<_>>(&x[range], max));
        shift(x, max, sum.ln(), out);
    } else {
        let sum = total(x.len(), |range| {
            exponentials(&x[range.clone()], max, &mut out[range.clone()]);
            leaf::<Sum<_>>(&out[range], zero)
        });
        divide(sum, out);
    }
}

fn line_grad<T: Real>(grad: &[T], y: &[T], log: bool, out: &mut [T]) {
    let zero = T::of(0.0);
    if log {
        let sum = total(grad.len(), |range| leaf::<Sum<_>>(&grad[range], zero));
        log_grad(grad, y, sum, out);
    } else {
        let sum = total(grad.len(), |range| {
            multiply(&grad[range.clone()], &y[range.clone()], &mut out[range.clone()]);
            leaf::<Sum<_>>(&out[range], zero)
        });
        plain_grad(grad, y, sum, out);
    }
}

multiversion! {
    fn exponentials[T: Real](x: &[T], max: T, out: &mut [T]), avx512 if [size_of::<T>() == 4] {
        for (&x, out) in x.iter().zip(out) {
            *out = (x - max).exp();
        }
    }

    fn divide[T: Real](sum: T, out: &mut [T]), avx512 if [size_of::<T>() == 4] {
        out.iter_mut().for_each(|out| *out = *out / sum);
    }

    fn shift[T: Real](x: &[T], max: T, log_sum: T, out: &mut [T]), avx512 if [size_of::<T>() == 4] {
        for (&x, out) in x.iter().zip(out) {
            *out = (x - max) - log_sum;
        }
    }

    fn multiply[T: Real](a: &[T], b: &[T], out: &mut [T]), avx512 if [size_of::<T>() == 4] {
        for ((&a, &b), out) in a.iter().zip(b).zip(out) {
            *out = a * b;
        }
    }

    fn plain_grad[T: Real](grad: &[T], y: &[T], sum: T, out: &mut [T]), avx512 if [size_of::<T>() == 4] {
        for ((&grad, &y), out) in grad.iter().zip(y).zip(out) {
            *out = y * (grad - sum);
        }
    }

    fn log_grad[T: Real](grad: &[T], y: &[T], sum: T, out: &mut [T]), avx512 if [size_of::<T>() == 4] {
        for ((&grad, &y), out) in grad.iter().zip(y).zip(out) {
            *out = grad - y.exp() * sum;
        }
    }

    fn columns[T: Real](x: &[T], width: usize, log: bool, out: &mut [T]), avx512 if [size_of::<T>() == 4] {
        let mut max = x[..width].to_vec();
        for row in x.chunks_exact(width) {
            max.iter_mut().zip(row).for_each(|(max, &x)| *max = max.maximum(x));
        }
        let mut sum = vec![T::of(0.0); width];
        for (row, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            for (((&x, out), &max), sum) in row.iter().zip(out).zip(&max).zip(&mut sum) {
                let e = (x - max).exp();
                *out = e;
                *sum = *sum + e;
            }
        }
        if log {
            sum.iter_mut().for_each(|sum| *sum = sum.ln());
        }
        for (row, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            for (((&x, out), &max), &sum) in row.iter().zip(out).zip(&max).zip(&sum) {
                *out = if log { (x - max) - sum } else { *out / sum };
            }
        }
    }

    fn columns_grad[T: Real](grad: &[T], y: &[T], width: usize, log: bool, out: &mut [T]), avx512 if [size_of::<T>() == 4] {
        let mut sum = vec![T::of(0.0); width];
        for (grad, y) in grad.chunks_exact(width).zip(y.chunks_exact(width)) {
            for ((&grad, &y), sum) in grad.iter().zip(y).zip(&mut sum) {
                *sum = *sum + if log { grad } else { grad * y };
            }
        }
        let rows = grad.chunks_exact(width).zip(y.chunks_exact(width)).zip(out.chunks_exact_mut(width));
        for ((grad, y), out) in rows {
            for (((&grad, &y), &sum), out) in grad.iter().zip(y).zip(&sum).zip(out) {
                *out = if log { grad - y.exp() * sum } else { y * (grad - sum) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use kiln_backend::{Arguments, DType};

    use super::*;
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
                                    .softmax(
                                        SoftmaxArgs { x: x.view(), dim, log, out: y.view_mut() }.checked().unwrap(),
                                    )
                                    .unwrap();
                                // A logarithm near 0 is a difference of larger numbers.
                                assert_close(
                                    &y.values(),
                                    &want,
                                    dtype,
                                    if log { 80.0 } else { 8.0 },
                                    softmax_name(log),
                                );
                                let want = along(dims, dim, &[&grad.values(), &y.values()], |l| {
                                    let (g, y) = (&l[0], &l[1]);
                                    let sum: f64 = g.iter().zip(y).map(|(g, y)| if log { *g } else { g * y }).sum();
                                    let each =
                                        |(g, y): (&f64, &f64)| if log { g - y.exp() * sum } else { y * (g - sum) };
                                    g.iter().zip(y).map(each).collect()
                                });
                                let mut out = Tensor::with_layout(dtype, to, &vec![1.0; to.numel()]);
                                CpuBackend
                                    .softmax_grad(
                                        SoftmaxGradArgs {
                                            grad: grad.view(),
                                            y: y.view(),
                                            dim,
                                            log,
                                            out: out.view_mut(),
                                        }
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
                    CpuBackend
                        .softmax(SoftmaxArgs { x: x.view(), dim, log: false, out: y.view_mut() }.checked().unwrap())
                })
                .unwrap();
                y.bytes().to_vec()
            });
            assert_eq!(bytes[0], bytes[1]);
        }
    }
}

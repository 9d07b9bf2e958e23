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

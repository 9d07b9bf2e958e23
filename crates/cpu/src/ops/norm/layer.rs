//! Layer normalization: one mean and variance for each row of a matrix.

use kiln_backend::{Checked, LayerNormArgs, LayerNormBackend, LayerNormGradArgs, Result};

use super::{
    Gradients, LINE, Moments, add, add_products, backward, multiply, normalize, optional, products, update, vector,
};
use crate::{
    device::CpuBackend,
    engine::par::{self, GRAIN},
    memory::{
        erased::Erased,
        view::{Source, Target},
    },
    numeric::{dispatch::for_float, real::Real, stored::Stored},
};

/// Rows whose scale and shift gradients one task adds up. Fixed, so that the order of summation is fixed too.
const ROWS: usize = 64;

/// The extents of a checked matrix.
fn extents<T: Copy>(x: &Erased<T>) -> [usize; 2] {
    [x.layout().dims()[0], x.layout().dims()[1]]
}

/// Adds the moments of a row.
fn moments<T: Real>(row: &[T]) -> Moments {
    let mut all = Moments::default();
    row.chunks(LINE).for_each(|line| all.add(line));
    all
}

impl LayerNormBackend for CpuBackend {
    fn layer_norm(&self, args: Checked<LayerNormArgs>) -> Result<()> {
        const OP: &str = "layer_norm";
        let LayerNormArgs { x, affine, eps, out, mean, inv_std } = args.into_inner();
        for_float!(OP, x.dtype(), S => {
            type T = <S as Stored>::Compute;
            let (x, out) = (Source::<S>::new(OP, x)?.erased(), Target::<S>::new(OP, out)?.erased());
            let affine = [optional::<S>(OP, affine.weight)?, optional::<S>(OP, affine.bias)?];
            let stats = [Target::<T>::new(OP, mean)?.erased(), Target::<T>::new(OP, inv_std)?.erased()];
            forward::<T>(eps, x, affine, out, stats);
            Ok(())
        })
    }

    fn layer_norm_grad(&self, args: Checked<LayerNormGradArgs>) -> Result<()> {
        const OP: &str = "layer_norm_grad";
        let LayerNormGradArgs { grad, x, weight, mean, inv_std, grads } = args.into_inner();
        for_float!(OP, grad.dtype(), S => {
            type T = <S as Stored>::Compute;
            let (grad, x) = (Source::<S>::new(OP, grad)?.erased(), Source::<S>::new(OP, x)?.erased());
            let stats = [Source::<T>::new(OP, mean)?.erased(), Source::<T>::new(OP, inv_std)?.erased()];
            gradient::<T>(grad, x, optional::<S>(OP, weight)?, stats, Gradients::new::<S>(OP, grads)?);
            Ok(())
        })
    }
}

fn forward<T: Real>(
    eps: f64,
    x: Erased<T>,
    [weight, bias]: [Option<Erased<T>>; 2],
    out: Erased<T>,
    [mean, inv_std]: [Erased<T>; 2],
) {
    let [m, n] = extents(&x);
    let (scaled, shifted) = (weight.is_some(), bias.is_some());
    let (weight, bias) = (vector(weight, n, 1.0), vector(bias, n, 0.0));
    let (from, to) = (x.layout().strides(), out.layout().strides());
    let stats = par::blocks(
        m,
        par::row_grain(n).min(m.max(1)),
        || vec![T::of(0.0); n],
        |line, rows| {
            let mut stats = Vec::with_capacity(rows.len());
            for row in rows {
                // SAFETY: a row of the checked layouts; blocks have rows of their own.
                unsafe {
                    x.ptr().offset(row as isize * from[0]).gather(from[1], n, line.as_mut_ptr());
                    let all = moments(line);
                    let (mean, inv_std) = (T::of(all.mean), T::of(1.0 / (all.variance() + eps).sqrt()));
                    normalize(line, mean, inv_std, T::of(0.0));
                    if scaled {
                        multiply(line, &weight);
                    }
                    if shifted {
                        add(&bias, line);
                    }
                    out.ptr().offset(row as isize * to[0]).scatter(line.as_ptr(), to[1], n);
                    stats.push((mean, inv_std));
                }
            }
            stats
        },
    );
    let stats: Vec<(T, T)> = stats.into_iter().flatten().collect();
    update(mean, |i, _| stats[i].0);
    update(inv_std, |i, _| stats[i].1);
}

fn gradient<T: Real>(
    g: Erased<T>,
    x: Erased<T>,
    weight: Option<Erased<T>>,
    [mean, inv_std]: [Erased<T>; 2],
    grads: Gradients<T>,
) {
    let [m, n] = extents(&x);
    let weight = vector(weight, n, 1.0);
    let (mean, inv_std) = (vector(Some(mean), m, 0.0), vector(Some(inv_std), m, 1.0));
    let (sg, sx) = (g.layout().strides(), x.layout().strides());
    // SAFETY: rows of the checked layouts.
    let rows = |row: usize, a: &mut [T], b: &mut [T]| unsafe {
        g.ptr().offset(row as isize * sg[0]).gather(sg[1], n, a.as_mut_ptr());
        x.ptr().offset(row as isize * sx[0]).gather(sx[1], n, b.as_mut_ptr());
    };
    let lines = || [vec![T::of(0.0); n], vec![T::of(0.0); n]];
    if let Some(out) = grads.input {
        let so = out.layout().strides();
        par::ranges(m, (GRAIN / 4 / n.max(1)).max(1), |range| {
            let [mut a, mut b] = lines();
            for row in range {
                rows(row, &mut a, &mut b);
                multiply(&mut a, &weight);
                let (mut sum, mut dot) = (0.0, 0.0);
                for (a, b) in a.chunks(LINE).zip(b.chunks(LINE)) {
                    let (s, d) = products(a, b, mean[row]);
                    (sum, dot) = (sum + s.to_f64(), dot + d.to_f64());
                }
                let inv = inv_std[row].to_f64();
                let (g_mean, slope) = (T::of(sum / n as f64), T::of(dot / n as f64 * inv * inv));
                backward(&mut a, &b, mean[row], g_mean, slope, inv_std[row]);
                // SAFETY: a row of the output, which is this task's.
                unsafe { out.ptr().offset(row as isize * so[0]).scatter(a.as_ptr(), so[1], n) };
            }
        });
    }
    if grads.weight.is_none() && grads.bias.is_none() {
        return;
    }
    let parts = par::blocks(m, ROWS, lines, |[a, b], range| {
        let [mut dw, mut db] = lines();
        for row in range {
            rows(row, a, b);
            add(a, &mut db);
            add_products(a, b, mean[row], inv_std[row], &mut dw);
        }
        [dw, db]
    });
    let mut totals = [vec![0f64; n], vec![0f64; n]];
    for part in &parts {
        for (total, part) in totals.iter_mut().zip(part) {
            total.iter_mut().zip(part).for_each(|(total, &value)| *total += value.to_f64());
        }
    }
    for (out, total) in [grads.weight, grads.bias].into_iter().zip(&totals) {
        if let Some(out) = out {
            update(out, |i, _| T::of(total[i]));
        }
    }
}

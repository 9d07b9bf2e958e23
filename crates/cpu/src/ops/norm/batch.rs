//! Batch normalisation: one mean and variance for each channel of `[N, C, H, W]`.

#![allow(clippy::useless_conversion)] // functions are compiled once a type, of which `f64` is one

use std::ops::Range;

use kiln_backend::{Affine, BatchNormBackend, Error, NormGrads, Result, RunningStats, View, ViewMut};

use super::{LINE, Moments, VectorMut, backward, normalize, products, vector};
use crate::{
    CpuBackend,
    engine::{
        image::{Image, gather, scatter},
        par::{self, GRAIN, Shared},
    },
    memory::view::{Source, Target, same_shape},
    numeric::{dispatch::for_float, real::Real, stored::Stored},
};

/// Channels that a task takes together where they lie side by side: a cache line of them.
const TOGETHER: usize = 16;

fn image<P: Copy>(op: &'static str, ptr: P, layout: &kiln_backend::Layout) -> Result<Image<P>> {
    Image::new(ptr, layout).ok_or_else(|| Error::shape(op, "images [N, C, H, W]", layout.shape()))
}

/// Calls `body` with groups of channels, in parallel.
fn channels<P: Copy>(x: &Image<P>, body: impl Fn(Range<usize>) + Sync) {
    let together = if x.strides[1] == 1 { TOGETHER } else { 1 };
    let count = x.n * x.area();
    par::ranges(x.c.div_ceil(together), (GRAIN / (count * together).max(1)).max(1), |range| {
        for group in range {
            body(group * together..((group + 1) * together).min(x.c));
        }
    });
}

/// Calls `body` with each piece of each channel: a channel, an image, the first row and column, and the number of
/// pixels, which lie `step` apart. Pieces of one channel come in order.
fn pieces<P: Copy>(x: &Image<P>, cs: Range<usize>, mut body: impl FnMut(usize, usize, usize, usize, usize)) {
    // Planes that are one run are cut like one long row.
    let (rows, len) = if x.is_flat() { (1, x.area()) } else { (x.h, x.w) };
    for n in 0..x.n {
        for y in 0..rows {
            for start in (0..len).step_by(LINE) {
                for c in cs.clone() {
                    body(c, n, y, start, LINE.min(len - start));
                }
            }
        }
    }
}

/// Where a piece begins, and the step.
fn place<P: Copy>(x: &Image<P>, n: usize, c: usize, y: usize, start: usize) -> (isize, isize) {
    let step = if x.is_flat() { x.step() } else { x.strides[3] };
    (x.at(n, c, y, 0) + start as isize * step, step)
}

/// The same pieces of an image that may be laid out otherwise.
///
/// # Safety
/// The piece is in the image, and `line` is writable for `len` elements.
unsafe fn read<S: Stored<Compute = T>, T: Real>(
    x: &Image<*const S>,
    [n, c, y, start, len]: [usize; 5],
    flat: bool,
    line: &mut [T],
) {
    // SAFETY: the caller's promise.
    unsafe {
        if !flat || x.is_flat() {
            let (at, step) = place(x, n, c, y, start);
            gather(x.ptr.offset(at), step, len, line.as_mut_ptr());
        } else {
            for (i, value) in line[..len].iter_mut().enumerate() {
                let pixel = start + i;
                *value = (*x.ptr.offset(x.at(n, c, pixel / x.w, pixel % x.w))).load();
            }
        }
    }
}

/// As [`read`], the other way.
///
/// # Safety
/// The piece is in the image, and nobody else accesses it.
unsafe fn write<S: Stored<Compute = T>, T: Real>(
    x: &Image<*mut S>,
    [n, c, y, start, len]: [usize; 5],
    flat: bool,
    line: &[T],
) {
    // SAFETY: the caller's promise.
    unsafe {
        if !flat || x.is_flat() {
            let (at, step) = place(x, n, c, y, start);
            scatter(line.as_ptr(), x.ptr.offset(at), step, len);
        } else {
            for (i, &value) in line[..len].iter().enumerate() {
                let pixel = start + i;
                *x.ptr.offset(x.at(n, c, pixel / x.w, pixel % x.w)) = S::store(value);
            }
        }
    }
}

impl BatchNormBackend for CpuBackend {
    fn batch_norm(
        &self,
        eps: f64,
        x: View,
        affine: Affine,
        running: Option<RunningStats>,
        out: ViewMut,
        mean: ViewMut,
        inv_std: ViewMut,
    ) -> Result<()> {
        const OP: &str = "batch_norm";
        for_float!(OP, x.dtype(), S => {
            type T = <S as Stored>::Compute;
            let (x, out) = (Source::<S>::new(OP, x)?, Target::<S>::new(OP, out)?);
            same_shape(OP, &[x.layout(), out.layout()])?;
            let (from, to) = (image(OP, x.ptr(), x.layout())?, image(OP, out.ptr(), out.layout())?);
            let c = from.c;
            let weight = vector::<S, T>(OP, affine.weight, c, 1.0)?;
            let bias = vector::<S, T>(OP, affine.bias, c, 0.0)?;
            let (mut mean, mut inv_std) = (VectorMut::<T>::new(OP, mean, c)?, VectorMut::<T>::new(OP, inv_std, c)?);
            let mut moments = vec![Moments::default(); c];
            let shared = Shared::new(&mut moments);
            channels(&from, |cs| {
                let mut line = vec![0.0; LINE];
                // SAFETY: tasks have channels of their own.
                let moments = unsafe { shared.part(cs.clone()) };
                pieces(&from, cs.clone(), |c, n, y, start, len| {
                    // SAFETY: a piece of the checked layout.
                    unsafe { read(&from, [n, c, y, start, len], from.is_flat(), &mut line) };
                    moments[c - cs.start].add(&line[..len]);
                });
            });
            mean.update(|c, _| moments[c].mean as T);
            inv_std.update(|c, _| (1.0 / (moments[c].variance() + eps).sqrt()) as T);
            if let Some(RunningStats { mean, var, momentum }) = running {
                let unbiased = |m: &Moments| m.squares.max(0.0) / (m.n - 1.0);
                let moved = |old: T, new: f64| ((1.0 - momentum) * f64::from(old) + momentum * new) as T;
                VectorMut::<T>::new(OP, mean, c)?.update(|c, old| moved(old, moments[c].mean));
                VectorMut::<T>::new(OP, var, c)?.update(|c, old| moved(old, unbiased(&moments[c])));
            }
            let scale = |c: usize| (1.0 / (moments[c].variance() + eps).sqrt()) as T * weight[c];
            apply(&from, &to, |c| (moments[c].mean as T, scale(c), bias[c]));
            Ok(())
        })
    }

    fn batch_norm_eval(&self, eps: f64, x: View, affine: Affine, mean: View, var: View, out: ViewMut) -> Result<()> {
        const OP: &str = "batch_norm";
        for_float!(OP, x.dtype(), S => {
            type T = <S as Stored>::Compute;
            let (x, out) = (Source::<S>::new(OP, x)?, Target::<S>::new(OP, out)?);
            same_shape(OP, &[x.layout(), out.layout()])?;
            let (from, to) = (image(OP, x.ptr(), x.layout())?, image(OP, out.ptr(), out.layout())?);
            let c = from.c;
            let weight = vector::<S, T>(OP, affine.weight, c, 1.0)?;
            let bias = vector::<S, T>(OP, affine.bias, c, 0.0)?;
            let (mean, var) = (vector::<T, T>(OP, Some(mean), c, 0.0)?, vector::<T, T>(OP, Some(var), c, 1.0)?);
            apply(&from, &to, |c| (mean[c], (1.0 / (f64::from(var[c]) + eps).sqrt()) as T * weight[c], bias[c]));
            Ok(())
        })
    }

    fn batch_norm_grad(
        &self,
        training: bool,
        grad: View,
        x: View,
        weight: Option<View>,
        mean: View,
        inv_std: View,
        grads: NormGrads,
    ) -> Result<()> {
        const OP: &str = "batch_norm_grad";
        for_float!(OP, grad.dtype(), S => {
            type T = <S as Stored>::Compute;
            let (grad, x) = (Source::<S>::new(OP, grad)?, Source::<S>::new(OP, x)?);
            same_shape(OP, &[grad.layout(), x.layout()])?;
            let (g, from) = (image(OP, grad.ptr(), grad.layout())?, image(OP, x.ptr(), x.layout())?);
            let c = from.c;
            let weight = vector::<S, T>(OP, weight, c, 1.0)?;
            let (mean, inv_std) = (vector::<T, T>(OP, Some(mean), c, 0.0)?, vector::<T, T>(OP, Some(inv_std), c, 1.0)?);
            // Of each channel: the sums of the gradient, and of the gradient times the distance from the mean.
            let mut sums = vec![[0f64; 2]; c];
            let shared = Shared::new(&mut sums);
            channels(&from, |cs| {
                let (mut a, mut b) = (vec![0.0; LINE], vec![0.0; LINE]);
                // SAFETY: tasks have channels of their own.
                let sums = unsafe { shared.part(cs.clone()) };
                pieces(&from, cs.clone(), |c, n, y, start, len| {
                    // SAFETY: a piece of the checked layouts.
                    unsafe {
                        read(&g, [n, c, y, start, len], from.is_flat(), &mut a);
                        read(&from, [n, c, y, start, len], from.is_flat(), &mut b);
                    }
                    let (sum, dot) = products(&a[..len], &b[..len], mean[c]);
                    let total = &mut sums[c - cs.start];
                    *total = [total[0] + f64::from(sum), total[1] + f64::from(dot)];
                });
            });
            if let Some(out) = grads.weight {
                VectorMut::<S>::new(OP, out, c)?.update(|c, _| (sums[c][1] * f64::from(inv_std[c])) as T);
            }
            if let Some(out) = grads.bias {
                VectorMut::<S>::new(OP, out, c)?.update(|c, _| sums[c][0] as T);
            }
            let Some(out) = grads.input else { return Ok(()) };
            let out = Target::<S>::new(OP, out)?;
            same_shape(OP, &[x.layout(), out.layout()])?;
            let to = image(OP, out.ptr(), out.layout())?;
            let count = (from.n * from.area()) as f64;
            channels(&from, |cs| {
                let (mut a, mut b) = (vec![0.0; LINE], vec![0.0; LINE]);
                pieces(&from, cs, |c, n, y, start, len| {
                    let inv = f64::from(inv_std[c]);
                    let [sum, dot] = if training { sums[c] } else { [0.0; 2] };
                    let (g_mean, slope) = ((sum / count) as T, (dot / count * inv * inv) as T);
                    // SAFETY: a piece of the checked layouts, in channels that are this task's.
                    unsafe {
                        read(&g, [n, c, y, start, len], from.is_flat(), &mut a);
                        read(&from, [n, c, y, start, len], from.is_flat(), &mut b);
                        backward(&mut a[..len], &b[..len], mean[c], g_mean, slope, inv_std[c] * weight[c]);
                        write(&to, [n, c, y, start, len], from.is_flat(), &a);
                    }
                });
            });
            Ok(())
        })
    }
}

/// Normalises every channel with its mean, scale and shift.
fn apply<S: Stored<Compute = T>, T: Real>(
    from: &Image<*const S>,
    to: &Image<*mut S>,
    with: impl Fn(usize) -> (T, T, T) + Sync,
) {
    channels(from, |cs| {
        let mut line = vec![T::of(0.0); LINE];
        pieces(from, cs, |c, n, y, start, len| {
            let (mean, scale, shift) = with(c);
            // SAFETY: a piece of the checked layouts, in channels that are this task's.
            unsafe {
                read(from, [n, c, y, start, len], from.is_flat(), &mut line);
                normalize(&mut line[..len], mean, scale, shift);
                write(to, [n, c, y, start, len], from.is_flat(), &line);
            }
        });
    });
}

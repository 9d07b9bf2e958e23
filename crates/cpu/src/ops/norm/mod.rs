//! Normalization of channels (batch normalization) and of rows (layer normalization).
//!
//! Values are processed in short lines that stay in the L1 cache. Their means and squared deviations are merged in
//! `f64` (Chan, Golub and LeVeque, 1979), so one pass over memory is enough and loses no accuracy. Lines are cut the
//! same way whatever the number of threads.

mod batch;
mod layer;

use kiln_backend::{NormGrads, Result, View, ViewMut};

use crate::{
    engine::simd::multiversion,
    memory::{
        erased::Erased,
        view::{Source, Target},
    },
    numeric::{real::Real, stored::Stored},
};

/// Maximum number of elements in a line.
const LINE: usize = 1024;

/// Count, mean and sum of squared deviations of some values.
#[derive(Clone, Copy, Default)]
struct Moments {
    n: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    /// Merges in the moments of a line of at least one value.
    fn add<T: Real>(&mut self, line: &[T]) {
        let n = line.len() as f64;
        let mean = sum(line) / T::of(n);
        let (off, squares) = deviations(line, mean);
        // Corrects for the rounding of `mean`.
        let (mean, squares) = (mean.to_f64() + off.to_f64() / n, squares.to_f64() - off.to_f64() * off.to_f64() / n);
        let (total, delta) = (self.n + n, mean - self.mean);
        self.mean += delta * n / total;
        self.squares += squares + delta * delta * self.n * n / total;
        self.n = total;
    }

    /// The variance with divisor `n`; NaN without values.
    fn variance(&self) -> f64 {
        self.squares.max(0.0) / self.n
    }
}

/// The `n` elements of a vector, or `n` times `default` if there is none.
fn vector<T: Real>(tensor: Option<Erased<T>>, n: usize, default: f64) -> Vec<T> {
    let mut out = vec![T::of(default); n];
    if let Some(tensor) = tensor {
        // SAFETY: the elements of a vector, which the contract gives `n` of them.
        unsafe { tensor.ptr().gather(tensor.layout().strides()[0], n, out.as_mut_ptr()) };
    }
    out
}

/// Replaces the elements of a vector, which is borrowed exclusively.
fn update<T: Real>(vector: Erased<T>, mut with: impl FnMut(usize, T) -> T) {
    let step = vector.layout().strides()[0];
    for i in 0..vector.layout().numel() {
        let at = vector.ptr().offset(i as isize * step);
        // SAFETY: an element of a checked layout.
        unsafe { at.store(with(i, at.load())) }
    }
}

/// Where the gradients of a normalization go; those of the scale and of the shift are vectors.
struct Gradients<'a, T: 'static> {
    input: Option<Erased<'a, T>>,
    weight: Option<Erased<'a, T>>,
    bias: Option<Erased<'a, T>>,
}

impl<'a, T: Real> Gradients<'a, T> {
    fn new<S: Stored<Compute = T>>(op: &'static str, grads: NormGrads<'a>) -> Result<Gradients<'a, T>> {
        let NormGrads { input, weight, bias } = grads;
        let input = input.map(|view| Target::<S>::new(op, view).map(Target::erased)).transpose()?;
        Ok(Gradients { input, weight: scale_grad::<S>(op, weight)?, bias: scale_grad::<S>(op, bias)? })
    }
}

/// A tensor to read, if there is one.
fn optional<'a, S: Stored>(op: &'static str, view: Option<View<'a>>) -> Result<Option<Erased<'a, S::Compute>>> {
    view.map(|view| Source::<S>::new(op, view).map(Source::erased)).transpose()
}

/// A scale or shift, if there is one: of the images' dtype or of the one that they are computed in.
fn scale<'a, S: Stored<Compute: Real>>(
    op: &'static str,
    view: Option<View<'a>>,
) -> Result<Option<Erased<'a, S::Compute>>> {
    match view {
        Some(view) if view.dtype() != S::DTYPE => optional::<S::Compute>(op, Some(view)),
        view => optional::<S>(op, view),
    }
}

/// What receives the gradient of one.
fn scale_grad<'a, S: Stored<Compute: Real>>(
    op: &'static str,
    view: Option<ViewMut<'a>>,
) -> Result<Option<Erased<'a, S::Compute>>> {
    view.map(|view| {
        if view.dtype() == S::DTYPE {
            Target::<S>::new(op, view).map(Target::erased)
        } else {
            Target::<S::Compute>::new(op, view).map(Target::erased)
        }
    })
    .transpose()
}

/// Independent partial sums, one per lane.
const LANES: usize = 32;

/// The sum of the lanes, in pairs.
#[inline(always)]
fn fold<T: Real>(mut lanes: [T; LANES]) -> T {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = lanes[i] + lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

multiversion! {
    fn sum[T: Real](x: &[T]) -> T, avx512 if [size_of::<T>() == 4] {
        let mut lanes = [T::of(0.0); LANES];
        let (chunks, rest) = x.as_chunks::<LANES>();
        for chunk in chunks {
            for i in 0..LANES {
                lanes[i] = lanes[i] + chunk[i];
            }
        }
        for (lane, &x) in lanes.iter_mut().zip(rest) {
            *lane = *lane + x;
        }
        fold(lanes)
    }

    /// The sums of the distances from `mean` and of their squares.
    fn deviations[T: Real](x: &[T], mean: T) -> (T, T), avx512 if [size_of::<T>() == 4] {
        let (mut off, mut squares) = ([T::of(0.0); LANES], [T::of(0.0); LANES]);
        let (chunks, rest) = x.as_chunks::<LANES>();
        for chunk in chunks {
            for i in 0..LANES {
                let d = chunk[i] - mean;
                off[i] = off[i] + d;
                squares[i] = squares[i] + d * d;
            }
        }
        for (i, &x) in rest.iter().enumerate() {
            let d = x - mean;
            off[i] = off[i] + d;
            squares[i] = squares[i] + d * d;
        }
        (fold(off), fold(squares))
    }

    /// The sums of `g` and of `g * (x - mean)`.
    fn products[T: Real](g: &[T], x: &[T], mean: T) -> (T, T), avx512 if [size_of::<T>() == 4] {
        let (mut sums, mut dots) = ([T::of(0.0); LANES], [T::of(0.0); LANES]);
        let ((gs, g_rest), (xs, x_rest)) = (g.as_chunks::<LANES>(), x.as_chunks::<LANES>());
        for (g, x) in gs.iter().zip(xs) {
            for i in 0..LANES {
                sums[i] = sums[i] + g[i];
                dots[i] = dots[i] + g[i] * (x[i] - mean);
            }
        }
        for (i, (&g, &x)) in g_rest.iter().zip(x_rest).enumerate() {
            sums[i] = sums[i] + g;
            dots[i] = dots[i] + g * (x - mean);
        }
        (fold(sums), fold(dots))
    }

    /// `x = (x - mean) * scale + shift`
    fn normalize[T: Real](x: &mut [T], mean: T, scale: T, shift: T), avx512 if [size_of::<T>() == 4] {
        for x in x {
            *x = (*x - mean) * scale + shift;
        }
    }

    /// `g = (g - g_mean - (x - mean) * slope) * scale`
    fn backward[T: Real](g: &mut [T], x: &[T], mean: T, g_mean: T, slope: T, scale: T), avx512 if [size_of::<T>() == 4] {
        for (g, &x) in g.iter_mut().zip(x) {
            *g = (*g - g_mean - (x - mean) * slope) * scale;
        }
    }

    /// `x = relu(x)`; NaN stays NaN.
    fn rectify[T: Real](x: &mut [T]), avx512 if [size_of::<T>() == 4] {
        for x in x {
            *x = if *x <= T::of(0.0) { T::of(0.0) } else { *x };
        }
    }

    /// `g = 0` where the output of ReLU is.
    fn mask[T: Real](g: &mut [T], output: &[T]), avx512 if [size_of::<T>() == 4] {
        for (g, &output) in g.iter_mut().zip(output) {
            *g = if output <= T::of(0.0) { T::of(0.0) } else { *g };
        }
    }

    fn multiply[T: Real](x: &mut [T], by: &[T]), avx512 if [size_of::<T>() == 4] {
        for (x, &by) in x.iter_mut().zip(by) {
            *x = *x * by;
        }
    }

    fn add[T: Real](x: &[T], to: &mut [T]), avx512 if [size_of::<T>() == 4] {
        for (to, &x) in to.iter_mut().zip(x) {
            *to = *to + x;
        }
    }

    /// `to = to + g * (x - mean) * inv_std`
    fn add_products[T: Real](g: &[T], x: &[T], mean: T, inv_std: T, to: &mut [T]), avx512 if [size_of::<T>() == 4] {
        for ((to, &g), &x) in to.iter_mut().zip(g).zip(x) {
            *to = *to + g * ((x - mean) * inv_std);
        }
    }
}

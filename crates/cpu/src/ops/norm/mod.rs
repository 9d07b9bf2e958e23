//! Normalisation of channels (batch normalisation) and of rows (layer normalisation).
//!
//! Values go through short lines that stay in the first-level cache. Means and squared distances of lines are merged in
//! `f64` (Chan, Golub and LeVeque, 1979), so that one pass over memory is enough and loses nothing; lines are cut the
//! same way whatever the number of threads.

mod batch;
mod layer;
#[cfg(test)]
mod tests;

use kiln_backend::{Error, Result, View, ViewMut};

use crate::{
    engine::simd::multiversion,
    memory::view::{Source, Target},
    numeric::real::Real,
    numeric::stored::Stored,
};

/// Most elements of a line.
const LINE: usize = 1024;

/// Number, mean and sum of squared distances of some values.
#[derive(Clone, Copy, Default)]
struct Moments {
    n: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    /// Adds those of a line of at least one value.
    fn add<T: Real>(&mut self, line: &[T]) {
        let n = line.len() as f64;
        let mean = sum(line) / T::of(n);
        let (off, squares) = deviations(line, mean);
        // The rounded mean is off by a little.
        let (mean, squares) = (mean.to_f64() + off.to_f64() / n, squares.to_f64() - off.to_f64() * off.to_f64() / n);
        let (total, delta) = (self.n + n, mean - self.mean);
        self.mean += delta * n / total;
        self.squares += squares + delta * delta * self.n * n / total;
        self.n = total;
    }

    /// The variance with divisor `n`; NaN of nothing.
    fn variance(&self) -> f64 {
        self.squares.max(0.0) / self.n
    }
}

/// The numbers of a vector of `n`, or `default` if there is none.
fn vector<S: Stored<Compute = T>, T: Real>(
    op: &'static str,
    view: Option<View>,
    n: usize,
    default: f64,
) -> Result<Vec<T>> {
    let Some(view) = view else { return Ok(vec![T::of(default); n]) };
    if view.layout.dims() != [n] {
        return Err(Error::shape(op, format!("a vector of {n}"), view.layout.shape()));
    }
    let source = Source::<S>::new(op, view)?;
    let step = view.layout.strides()[0];
    // SAFETY: elements of the checked layout.
    Ok((0..n).map(|i| unsafe { source.ptr().offset(i as isize * step).read() }.load()).collect())
}

/// A vector of `n` to write.
struct VectorMut<'a, S>(Target<'a, S>);

impl<'a, S: Stored> VectorMut<'a, S> {
    fn new(op: &'static str, view: ViewMut<'a>, n: usize) -> Result<VectorMut<'a, S>> {
        if view.layout.dims() != [n] {
            return Err(Error::shape(op, format!("a vector of {n}"), view.layout.shape()));
        }
        Ok(VectorMut(Target::new(op, view)?))
    }

    /// Replaces the elements.
    fn update(&mut self, mut with: impl FnMut(usize, S::Compute) -> S::Compute) {
        let step = self.0.layout().strides()[0];
        for i in 0..self.0.numel() {
            // SAFETY: an element of the checked layout.
            unsafe {
                let at = self.0.ptr().offset(i as isize * step);
                *at = S::store(with(i, (*at).load()));
            }
        }
    }
}

/// Lanes that sums are computed in.
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
    fn sum[T: Real](x: &[T]) -> T {
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
    fn deviations[T: Real](x: &[T], mean: T) -> (T, T) {
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
    fn products[T: Real](g: &[T], x: &[T], mean: T) -> (T, T) {
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
    fn normalize[T: Real](x: &mut [T], mean: T, scale: T, shift: T) {
        for x in x {
            *x = (*x - mean) * scale + shift;
        }
    }

    /// `g = (g - g_mean - (x - mean) * slope) * scale`
    fn backward[T: Real](g: &mut [T], x: &[T], mean: T, g_mean: T, slope: T, scale: T) {
        for (g, &x) in g.iter_mut().zip(x) {
            *g = (*g - g_mean - (x - mean) * slope) * scale;
        }
    }

    fn multiply[T: Real](x: &mut [T], by: &[T]) {
        for (x, &by) in x.iter_mut().zip(by) {
            *x = *x * by;
        }
    }

    fn add[T: Real](x: &[T], to: &mut [T]) {
        for (to, &x) in to.iter_mut().zip(x) {
            *to = *to + x;
        }
    }

    /// `to = to + g * (x - mean) * inv_std`
    fn add_products[T: Real](g: &[T], x: &[T], mean: T, inv_std: T, to: &mut [T]) {
        for ((to, &g), &x) in to.iter_mut().zip(g).zip(x) {
            *to = *to + g * ((x - mean) * inv_std);
        }
    }
}

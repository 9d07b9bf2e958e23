//! The arithmetic of one row: `C` logits, their loss and its gradient.
//!
//! With `largest` the largest logit and `spread = ln(sum(exp(x - largest)))`, the logarithm of a probability is
//! `(x - largest) - spread`. Both differences are small where they matter, so nothing is lost at large logits.
//! A NaN, an infinite logit, or a row of nothing but `-inf` make the row NaN, as in PyTorch.

use crate::{iter::Walk, real::Real, stored::Stored, view::Source};

/// Sums run in this many independent lanes, in the same order on every CPU.
const LANES: usize = 16;

/// Lanes are added up in `f64` this often, to keep rounding errors of long rows small.
const BLOCK: usize = 128 * LANES;

/// A factor for each class.
pub(super) struct Weights<R> {
    values: Vec<R>,
    sum: R,
}

impl<R: Real> Weights<R> {
    pub(super) fn ones(classes: usize) -> Weights<R> {
        Weights { values: vec![R::of(1.0); classes], sum: R::from_usize(classes) }
    }

    pub(super) fn new<T: Stored<Compute = R>>(source: &Source<T>) -> Weights<R> {
        let mut values = Vec::with_capacity(source.numel());
        let walk = Walk::new(source.layout());
        walk.offsets(0..walk.len(), |_, offset| {
            // SAFETY: an element of the checked layout.
            values.push(unsafe { source.ptr().offset(offset).read() }.load());
        });
        let sum = R::of(values.iter().map(|w| w.to_f64()).sum());
        Weights { values, sum }
    }

    #[inline(always)]
    pub(super) fn of(&self, class: usize) -> R {
        self.values[class]
    }
}

/// How much of the target is spread over all classes.
pub(super) struct Smoothing<R> {
    on: bool,
    /// What is left for the target.
    kept: R,
    /// What each class gets.
    share: R,
}

impl<R: Real> Smoothing<R> {
    pub(super) fn new(amount: f64, classes: usize) -> Smoothing<R> {
        Smoothing { on: amount > 0.0, kept: R::of(1.0 - amount), share: R::of(amount / classes as f64) }
    }

    #[inline(always)]
    fn of(&self, target: R) -> R {
        target * self.kept + self.share
    }
}

/// `sum(f(i))` over `0..len`.
#[inline(always)]
fn sum<R: Real>(len: usize, f: impl Fn(usize) -> R) -> R {
    let mut total = 0.0;
    let mut start = 0;
    while start < len {
        let end = len.min(start + BLOCK);
        let mut lanes = [R::of(0.0); LANES];
        let whole = end - (end - start) % LANES;
        let mut i = start;
        while i < whole {
            for (k, lane) in lanes.iter_mut().enumerate() {
                *lane = *lane + f(i + k);
            }
            i += LANES;
        }
        for (k, lane) in lanes.iter_mut().enumerate().take(end - whole) {
            *lane = *lane + f(whole + k);
        }
        let mut width = LANES;
        while width > 1 {
            width /= 2;
            for k in 0..width {
                lanes[k] = lanes[k] + lanes[k + width];
            }
        }
        total += lanes[0].to_f64();
        start = end;
    }
    R::of(total)
}

/// The largest logit; NaN does not count, it shows in the spread.
#[inline(always)]
pub(super) fn largest<R: Real>(logits: &[R]) -> R {
    let mut lanes = [-R::INFINITY; LANES];
    let mut chunks = logits.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    chunks.remainder().iter().chain(&lanes).fold(-R::INFINITY, |a, &b| if b > a { b } else { a })
}

#[inline(always)]
pub(super) fn spread<R: Real>(logits: &[R], largest: R) -> R {
    sum(logits.len(), |i| (logits[i] - largest).exp()).ln()
}

#[inline(always)]
pub(super) fn label_loss<R: Real>(
    logits: &[R],
    largest: R,
    spread: R,
    label: usize,
    weights: &Weights<R>,
    smoothing: &Smoothing<R>,
) -> R {
    let own = weights.of(label) * ((largest - logits[label]) + spread);
    if !smoothing.on {
        return own;
    }
    let weights = &weights.values[..logits.len()];
    let all = sum(logits.len(), |i| weights[i] * ((largest - logits[i]) + spread));
    smoothing.kept * own + smoothing.share * all
}

#[inline(always)]
pub(super) fn probability_loss<R: Real>(
    logits: &[R],
    largest: R,
    spread: R,
    target: &[R],
    weights: &Weights<R>,
    smoothing: &Smoothing<R>,
) -> R {
    let (weights, target) = (&weights.values[..logits.len()], &target[..logits.len()]);
    sum(logits.len(), |i| ((largest - logits[i]) + spread) * smoothing.of(target[i]) * weights[i])
}

/// Turns the logits of a row into the gradient of its loss, times `grad`.
#[inline(always)]
pub(super) fn label_slope<R: Real>(
    row: &mut [R],
    spread: R,
    label: usize,
    grad: R,
    weights: &Weights<R>,
    smoothing: &Smoothing<R>,
) {
    let own = weights.of(label);
    let own = if smoothing.on { smoothing.kept * own } else { own };
    let pull = grad * own;
    let largest = largest(row);
    if smoothing.on {
        let (push, share) = (grad * (own + smoothing.share * weights.sum), grad * smoothing.share);
        for (x, &weight) in row.iter_mut().zip(&weights.values) {
            *x = push * ((*x - largest) - spread).exp() - share * weight;
        }
    } else {
        for x in row.iter_mut() {
            *x = pull * ((*x - largest) - spread).exp();
        }
    }
    row[label] = row[label] - pull;
}

#[inline(always)]
pub(super) fn probability_slope<R: Real>(
    row: &mut [R],
    spread: R,
    target: &[R],
    grad: R,
    weights: &Weights<R>,
    smoothing: &Smoothing<R>,
) {
    let (weights, target) = (&weights.values[..row.len()], &target[..row.len()]);
    let mass = sum(row.len(), |i| weights[i] * smoothing.of(target[i]));
    let largest = largest(row);
    for (i, x) in row.iter_mut().enumerate() {
        *x = grad * (mass * ((*x - largest) - spread).exp() - weights[i] * smoothing.of(target[i]));
    }
}

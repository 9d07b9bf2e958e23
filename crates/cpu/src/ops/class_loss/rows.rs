//! The arithmetic of the class losses, on tiles of logits.
//!
//! A tile is a list of groups of [`LANES`] numbers. It holds either one row, with 16 classes per group (padded with
//! neutral values), or 16 rows, with one class per group. The same loops therefore vectorize for many classes and for
//! many positions; they differ only in where a sum over the classes ends ([`Form`]). A per-row number is a group too;
//! for a single row, all its lanes are equal.
//!
//! With `m` the largest logit and `spread = ln(sum(exp(x - m)))`, the logarithm of a probability is
//! `(x - m) - spread`. Both differences are small where they matter, so nothing is lost at large logits. A NaN,
//! an infinite logit, or a row of nothing but `-inf` make the row NaN, as in PyTorch.

use crate::{
    engine::iter::Walk,
    memory::view::Source,
    numeric::{real::Real, stored::Stored},
};

/// Sums run in this many independent lanes on every CPU, so that all give the same bits.
pub(super) const LANES: usize = 16;

pub(super) type Group<R> = [R; LANES];

/// Lanes are added up in `f64` after this many groups, to keep rounding errors of long rows small.
const BLOCK: usize = 128;

/// What the lanes of a tile hold.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Form {
    /// Classes of one row.
    Row,
    /// Different rows.
    Rows,
}

/// A factor for each class.
pub(super) struct Weights<R> {
    values: Vec<R>,
    sum: R,
    /// Laid out as a tile; 0 beyond the last class.
    pub(super) tile: Vec<Group<R>>,
}

impl<R: Real> Weights<R> {
    pub(super) fn ones(classes: usize, form: Form) -> Weights<R> {
        Weights::of(vec![R::of(1.0); classes], form)
    }

    pub(super) fn new<T: Stored<Compute = R>>(source: &Source<T>, form: Form) -> Weights<R> {
        let mut values = Vec::with_capacity(source.numel());
        let walk = Walk::new(source.layout());
        walk.offsets(0..walk.len(), |_, offset| {
            // SAFETY: an element of the checked layout.
            values.push(unsafe { source.ptr().offset(offset).read() }.load());
        });
        Weights::of(values, form)
    }

    fn of(values: Vec<R>, form: Form) -> Weights<R> {
        let sum = R::of(values.iter().map(|w| w.to_f64()).sum());
        let tile = match form {
            Form::Rows => values.iter().map(|&w| [w; LANES]).collect(),
            Form::Row => values
                .chunks(LANES)
                .map(|chunk| std::array::from_fn(|k| chunk.get(k).map_or(R::of(0.0), |&w| w)))
                .collect(),
        };
        Weights { values, sum, tile }
    }

    #[inline(always)]
    pub(super) fn at(&self, class: usize) -> R {
        self.values[class]
    }

    pub(super) fn sum(&self) -> R {
        self.sum
    }
}

/// How much of the target is spread over all classes.
pub(super) struct Smoothing<R> {
    pub(super) on: bool,
    /// What is left for the target.
    pub(super) kept: R,
    /// What each class gets.
    pub(super) share: R,
}

impl<R: Real> Smoothing<R> {
    pub(super) fn new(amount: f64, classes: usize) -> Smoothing<R> {
        Smoothing { on: amount > 0.0, kept: R::of(1.0 - amount), share: R::of(amount / classes as f64) }
    }
}

/// What the losses of all rows have in common.
pub(super) struct Terms<R> {
    pub(super) form: Form,
    pub(super) weights: Weights<R>,
    pub(super) smoothing: Smoothing<R>,
}

/// The largest logit of each row; NaN does not count, it shows in the sum of exponentials.
#[inline(always)]
pub(super) fn largest<R: Real>(tile: &[Group<R>], form: Form) -> Group<R> {
    let mut lanes = [-R::INFINITY; LANES];
    for group in tile {
        for (lane, &x) in lanes.iter_mut().zip(group) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    match form {
        Form::Rows => lanes,
        Form::Row => [lanes.iter().fold(-R::INFINITY, |a, &b| if b > a { b } else { a }); LANES],
    }
}

/// `x - by`
#[inline(always)]
pub(super) fn subtract<R: Real>(tile: &mut [Group<R>], by: &Group<R>) {
    for group in tile {
        for (x, &by) in group.iter_mut().zip(by) {
            *x = *x - by;
        }
    }
}

/// `exp(x)`
#[inline(always)]
pub(super) fn exponentiate<R: Real>(tile: &mut [Group<R>]) {
    for x in tile.as_flattened_mut() {
        *x = x.exp();
    }
}

/// The sums of the rows.
#[inline(always)]
pub(super) fn sum<R: Real>(tile: &[Group<R>], form: Form) -> Group<R> {
    let mut total = [0.0; LANES];
    for block in tile.chunks(BLOCK) {
        let mut lanes = [R::of(0.0); LANES];
        for group in block {
            for (lane, &x) in lanes.iter_mut().zip(group) {
                *lane = *lane + x;
            }
        }
        add(&mut total, &lanes);
    }
    finish(total, form)
}

/// The sums of the rows of `a * b`.
#[inline(always)]
pub(super) fn dot<R: Real>(a: &[Group<R>], b: &[Group<R>], form: Form) -> Group<R> {
    let mut total = [0.0; LANES];
    for (a, b) in a.chunks(BLOCK).zip(b.chunks(BLOCK)) {
        let mut lanes = [R::of(0.0); LANES];
        for (a, b) in a.iter().zip(b) {
            for k in 0..LANES {
                lanes[k] = lanes[k] + a[k] * b[k];
            }
        }
        add(&mut total, &lanes);
    }
    finish(total, form)
}

#[inline(always)]
fn add<R: Real>(total: &mut [f64; LANES], lanes: &Group<R>) {
    for (total, lane) in total.iter_mut().zip(lanes) {
        *total += lane.to_f64();
    }
}

#[inline(always)]
fn finish<R: Real>(mut total: [f64; LANES], form: Form) -> Group<R> {
    if form == Form::Row {
        let mut width = LANES;
        while width > 1 {
            width /= 2;
            for k in 0..width {
                total[k] += total[k + width];
            }
        }
        return [R::of(total[0]); LANES];
    }
    let mut out = [R::of(0.0); LANES];
    for (out, total) in out.iter_mut().zip(total) {
        *out = R::of(total);
    }
    out
}

/// Turns the sums of exponentials into spreads.
#[inline(always)]
pub(super) fn logarithm<R: Real>(sums: Group<R>, form: Form) -> Group<R> {
    match form {
        Form::Row => [sums[0].ln(); LANES],
        Form::Rows => {
            let mut out = sums;
            for x in &mut out {
                *x = x.ln();
            }
            out
        }
    }
}

/// Turns target probabilities into the factors of the log-probabilities: smoothed and weighted.
#[inline(always)]
pub(super) fn coefficients<R: Real>(target: &mut [Group<R>], weights: &Weights<R>, smoothing: &Smoothing<R>) {
    for (target, weights) in target.iter_mut().zip(&weights.tile) {
        for (t, &w) in target.iter_mut().zip(weights) {
            *t = (*t * smoothing.kept + smoothing.share) * w;
        }
    }
}

/// Turns probabilities into gradients: `push * p - pull * b`.
#[inline(always)]
pub(super) fn slopes<R: Real>(tile: &mut [Group<R>], push: &Group<R>, b: &[Group<R>], pull: &Group<R>) {
    for (p, b) in tile.iter_mut().zip(b) {
        for k in 0..LANES {
            p[k] = push[k] * p[k] - pull[k] * b[k];
        }
    }
}

/// `push * p`
#[inline(always)]
pub(super) fn scale<R: Real>(tile: &mut [Group<R>], push: &Group<R>) {
    for group in tile {
        for (p, &push) in group.iter_mut().zip(push) {
            *p = push * *p;
        }
    }
}

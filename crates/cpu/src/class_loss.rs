//! `class_loss`: cross-entropy and negative log-likelihood, fused to one pass over memory each way.
//!
//! The input is `[N, C, S]`: `N * S` rows of `C` classes. Rows are brought into a buffer of the computing type
//! ([`tile`]) and are worked on there ([`rows`]), so the arithmetic is written once for all layouts and dtypes.
//!
//! What is kept for the gradient is not the logarithm of the sum of exponentials itself but its distance to
//! the row's largest logit, which the gradient finds again on its way. With logits around 1e4 the sum of the
//! two would have lost three of the seven digits of `f32`.

mod rows;
mod tile;

use std::ops::Range;

use kiln_backend::{ClassLoss, ClassLossInput, Error, Layout, Reduction, Result, View, ViewMut};

use crate::{
    dispatch::for_float,
    iter::Walk,
    par,
    real::Real,
    simd::multiversion,
    stored::Stored,
    view::{Source, Target, has_shape},
};
use rows::{Smoothing, Weights};
use tile::{Planes, Tile};

/// An exponential costs about this many additions.
const COST: usize = 4;

fn name(rule: &ClassLoss) -> &'static str {
    match rule.input {
        ClassLossInput::Logits => "cross_entropy",
        ClassLossInput::LogProbs => "nll_loss",
    }
}

/// What the rows are compared with.
enum Truth<'a, T> {
    /// Class numbers, `[N, S]`.
    Labels(Source<'a, i64>),
    /// Probabilities, `[N, C, S]`.
    Probabilities(Planes<*const T>),
}

/// The operands that both directions share, checked.
struct Problem<'a, T: Stored> {
    rule: ClassLoss,
    x: Planes<*const T>,
    truth: Truth<'a, T>,
    weights: Weights<T::Compute>,
    smoothing: Smoothing<T::Compute>,
}

impl<'a, T: Stored<Compute: Real>> Problem<'a, T> {
    fn new(rule: &ClassLoss, x: View<'a>, target: View<'a>, weight: Option<View<'a>>) -> Result<Problem<'a, T>> {
        let op = name(rule);
        let &[n, classes, s] = x.layout.dims() else {
            return Err(Error::shape(op, "an input [N, C, S]", x.layout.shape()));
        };
        let x = Source::<T>::new(op, x)?;
        let truth = if target.dtype().is_float() {
            if rule.input == ClassLossInput::LogProbs {
                return Err(Error::dtype(op, target.dtype(), "it takes class numbers (i64)"));
            }
            has_shape(op, "a target of probabilities", target.layout, &[n, classes, s])?;
            Truth::Probabilities(Planes::new(&Source::<T>::new(op, target)?))
        } else {
            has_shape(op, "a target of class numbers", target.layout, &[n, s])?;
            let labels = Source::<i64>::new(op, target)?;
            check_labels(op, &labels, classes, rule.ignore_index)?;
            Truth::Labels(labels)
        };
        let weights = match weight {
            Some(weight) => {
                has_shape(op, "a weight a class", weight.layout, &[classes])?;
                Weights::new(&Source::<T>::new(op, weight)?)
            }
            None => Weights::ones(classes),
        };
        let smoothing = match rule.input {
            ClassLossInput::Logits => Smoothing::new(rule.label_smoothing, classes),
            ClassLossInput::LogProbs => Smoothing::new(0.0, classes),
        };
        Ok(Problem { rule: *rule, x: Planes::new(&x), truth, weights, smoothing })
    }

    fn classes(&self) -> usize {
        self.x.classes
    }

    /// The label of a row, `None` if it does not count.
    ///
    /// # Safety
    /// The walk is that of the labels, and `row` is below its length.
    #[inline(always)]
    unsafe fn label(&self, labels: &Source<i64>, walk: &Walk, row: usize) -> Option<usize> {
        // SAFETY: an element of the checked layout.
        let label = unsafe { labels.ptr().offset(walk.offset(row)).read() };
        (label != self.rule.ignore_index).then_some(label as usize)
    }

    /// How many rows a block has. Sums are formed block by block, so this must not depend on the number of
    /// threads.
    fn block(&self) -> usize {
        (par::GRAIN / COST / self.classes().max(1)).max(1)
    }
}

/// Checks the labels before anything is written.
fn check_labels(op: &'static str, labels: &Source<i64>, classes: usize, ignore: i64) -> Result<()> {
    let walk = Walk::new(labels.layout());
    par::try_ranges(walk.len(), par::GRAIN, |range| {
        let mut first = None;
        walk.offsets(range, |_, offset| {
            // SAFETY: an element of the checked layout.
            let label = unsafe { labels.ptr().offset(offset).read() };
            // A negative label is a large unsigned number.
            if label as u64 >= classes as u64 && label != ignore && first.is_none() {
                first = Some(label);
            }
        });
        first.map_or(Ok(()), |label| Err(Error::index(op, label, classes, "the classes")))
    })
}

pub(crate) fn class_loss(
    rule: &ClassLoss,
    x: View,
    target: View,
    weight: Option<View>,
    loss: ViewMut,
    lse: ViewMut,
    total: ViewMut,
) -> Result<()> {
    for_float!(name(rule), x.dtype(), T => forward::<T>(rule, x, target, weight, loss, lse, total))
}

/// Where the forward pass puts its results.
struct Outputs<'a, T: Stored> {
    /// One loss a row, or nothing if they are reduced.
    losses: Option<Rows<'a, T>>,
    spread: Rows<'a, T::Compute>,
}

/// A target of one value a row.
struct Rows<'a, T> {
    target: Target<'a, T>,
    walk: Walk,
}

impl<'a, T: Stored> Rows<'a, T> {
    fn new(target: Target<'a, T>) -> Rows<'a, T> {
        let walk = Walk::new(target.layout());
        Rows { target, walk }
    }

    /// # Safety
    /// `row` is below the number of rows, and only one thread writes it.
    #[inline(always)]
    unsafe fn put(&self, row: usize, value: T::Compute) {
        // SAFETY: an element of the checked layout, written by one thread.
        unsafe { self.target.ptr().offset(self.walk.offset(row)).write(T::store(value)) }
    }
}

fn forward<T: Stored<Compute: Real>>(
    rule: &ClassLoss,
    x: View,
    target: View,
    weight: Option<View>,
    loss: ViewMut,
    lse: ViewMut,
    total: ViewMut,
) -> Result<()> {
    let op = name(rule);
    let problem = Problem::<T>::new(rule, x, target, weight)?;
    let rows = [problem.x.samples, problem.x.positions];
    has_shape(op, "a row statistic [N, S]", lse.layout, &rows)?;
    has_shape(op, "a scalar total", total.layout, &[])?;
    has_shape(op, "a loss", loss.layout, if rule.reduction == Reduction::None { &rows } else { &[] })?;
    let (loss, total) = (Target::<T>::new(op, loss)?, Target::<T::Compute>::new(op, total)?);
    let spread = Rows::new(Target::<T::Compute>::new(op, lse)?);
    let (losses, reduced) =
        if rule.reduction == Reduction::None { (Some(Rows::new(loss)), None) } else { (None, Some(loss)) };
    let outputs = Outputs { losses, spread };

    let count = problem.x.rows();
    let sums = par::blocks(
        count,
        problem.block(),
        || Tile::new(&problem.x, 2),
        |tiles, range| forward_rows(&problem, &outputs, tiles, range),
    );
    let (loss_sum, weight_sum) = sums.iter().fold((0.0, 0.0), |(l, w), (loss, weight)| (l + loss, w + weight));
    let divisor = match problem.truth {
        Truth::Labels(_) => weight_sum,
        Truth::Probabilities(_) => count as f64,
    };
    // SAFETY: scalars of checked layouts, which only this thread writes.
    unsafe {
        total.ptr().write(T::Compute::of(divisor));
        if let Some(loss) = reduced {
            let value = if rule.reduction == Reduction::Mean { loss_sum / divisor } else { loss_sum };
            loss.ptr().write(T::store(T::Compute::of(value)));
        }
    }
    Ok(())
}

multiversion! {
    /// Computes the losses of a range of rows; their sum and the sum of the weights of the labels that count.
    fn forward_rows[T: Stored](
        problem: &Problem<T>,
        outputs: &Outputs<T>,
        tile: &mut Tile<T::Compute>,
        range: Range<usize>,
    ) -> (f64, f64) where [T::Compute: Real] {
        let zero = T::Compute::of(0.0);
        let (mut loss_sum, mut weight_sum) = (0.0, 0.0);
        for part in problem.x.parts(range, tile.height()) {
            // SAFETY: all rows are below the number of rows, and blocks of rows are disjoint; the planes of the
            // operands have the same extents.
            unsafe {
                match &problem.truth {
                    Truth::Labels(labels) => {
                        let walk = Walk::new(labels.layout());
                        if problem.rule.input == ClassLossInput::Logits {
                            tile.load(0, &problem.x, &part);
                        }
                        for i in 0..part.height {
                            let row = part.first_row() + i;
                            let (mut loss, mut spread) = (zero, zero);
                            if let Some(label) = problem.label(labels, &walk, row) {
                                let weight = problem.weights.of(label);
                                weight_sum += weight.to_f64();
                                if problem.rule.input == ClassLossInput::Logits {
                                    let logits = tile.row(0, i);
                                    let largest = rows::largest(logits);
                                    spread = rows::spread(logits, largest);
                                    loss = rows::label_loss(
                                        logits, largest, spread, label, &problem.weights, &problem.smoothing,
                                    );
                                } else {
                                    loss = -(weight * problem.x.at(&part, label, i));
                                }
                            }
                            outputs.spread.put(row, spread);
                            loss_sum += loss.to_f64();
                            if let Some(losses) = &outputs.losses {
                                losses.put(row, loss);
                            }
                        }
                    }
                    Truth::Probabilities(target) => {
                        tile.load(0, &problem.x, &part);
                        tile.load(1, target, &part);
                        for i in 0..part.height {
                            let row = part.first_row() + i;
                            let (logits, target) = (tile.row(0, i), tile.row(1, i));
                            let largest = rows::largest(logits);
                            let spread = rows::spread(logits, largest);
                            let loss = rows::probability_loss(
                                logits, largest, spread, target, &problem.weights, &problem.smoothing,
                            );
                            outputs.spread.put(row, spread);
                            loss_sum += loss.to_f64();
                            if let Some(losses) = &outputs.losses {
                                losses.put(row, loss);
                            }
                        }
                    }
                }
            }
        }
        (loss_sum, weight_sum)
    }
}

#[allow(clippy::too_many_arguments)] // one fused kernel
pub(crate) fn class_loss_grad(
    rule: &ClassLoss,
    grad: View,
    x: View,
    target: View,
    weight: Option<View>,
    lse: View,
    total: View,
    out: ViewMut,
) -> Result<()> {
    for_float!(name(rule), x.dtype(), T => backward::<T>(rule, grad, x, target, weight, lse, total, out))
}

/// What the backward pass reads for each row, and where it writes.
struct Slopes<'a, T: Stored> {
    /// The gradient of the loss: one a row, or one for all.
    grad: Source<'a, T>,
    grad_layout: Layout,
    /// What the reduction multiplies it by.
    scale: T::Compute,
    spread: Source<'a, T::Compute>,
    out: Planes<*mut T>,
}

#[allow(clippy::too_many_arguments)] // one fused kernel
fn backward<T: Stored<Compute: Real>>(
    rule: &ClassLoss,
    grad: View,
    x: View,
    target: View,
    weight: Option<View>,
    lse: View,
    total: View,
    out: ViewMut,
) -> Result<()> {
    let op = name(rule);
    has_shape(op, "a gradient of the input", out.layout, x.layout.dims())?;
    let problem = Problem::<T>::new(rule, x, target, weight)?;
    let rows = [problem.x.samples, problem.x.positions];
    has_shape(op, "a row statistic [N, S]", lse.layout, &rows)?;
    has_shape(op, "a scalar total", total.layout, &[])?;
    has_shape(op, "a gradient of the loss", grad.layout, if rule.reduction == Reduction::None { &rows } else { &[] })?;
    let grad_layout = grad.layout.expand(op, lse.layout.shape())?;
    let total = Source::<T::Compute>::new(op, total)?;
    let scale = match rule.reduction {
        // SAFETY: a scalar of a checked layout.
        Reduction::Mean => T::Compute::of(1.0) / unsafe { total.ptr().read() },
        Reduction::None | Reduction::Sum => T::Compute::of(1.0),
    };
    let slopes = Slopes {
        grad: Source::new(op, grad)?,
        grad_layout,
        scale,
        spread: Source::new(op, lse)?,
        out: Planes::new_mut(&Target::<T>::new(op, out)?),
    };
    par::blocks(
        problem.x.rows(),
        problem.block(),
        || Tile::new(&problem.x, 2),
        |tile, range| {
            backward_rows(&problem, &slopes, tile, range);
        },
    );
    Ok(())
}

multiversion! {
    /// Writes the gradients of a range of rows.
    fn backward_rows[T: Stored](
        problem: &Problem<T>,
        slopes: &Slopes<T>,
        tile: &mut Tile<T::Compute>,
        range: Range<usize>,
    ) where [T::Compute: Real] {
        let (grads, spreads) = (Walk::new(&slopes.grad_layout), Walk::new(slopes.spread.layout()));
        for part in problem.x.parts(range, tile.height()) {
            // SAFETY: all rows are below the number of rows, and blocks of rows are disjoint; the planes of the
            // operands have the same extents.
            unsafe {
                tile.load(0, &problem.x, &part);
                if let Truth::Probabilities(target) = &problem.truth {
                    tile.load(1, target, &part);
                }
                for i in 0..part.height {
                    let row = part.first_row() + i;
                    let grad = slopes.scale * slopes.grad.ptr().offset(grads.offset(row)).read().load();
                    let spread = slopes.spread.ptr().offset(spreads.offset(row)).read();
                    let (weights, smoothing) = (&problem.weights, &problem.smoothing);
                    match &problem.truth {
                        Truth::Labels(labels) => {
                            let label = problem.label(labels, &Walk::new(labels.layout()), row);
                            let out = tile.row_mut(0, i);
                            match (label, problem.rule.input) {
                                (Some(label), ClassLossInput::Logits) => {
                                    rows::label_slope(out, spread, label, grad, weights, smoothing);
                                }
                                (Some(label), ClassLossInput::LogProbs) => {
                                    out.fill(T::Compute::of(0.0));
                                    out[label] = -(weights.of(label) * grad);
                                }
                                (None, _) => out.fill(T::Compute::of(0.0)),
                            }
                        }
                        Truth::Probabilities(_) => {
                            let (out, target) = tile.pair(i);
                            rows::probability_slope(out, spread, target, grad, weights, smoothing);
                        }
                    }
                }
                tile.store(0, &slopes.out, &part);
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! `class_loss` forward: from logits (or log-probabilities) to losses.

use std::ops::Range;

use kiln_backend::{ClassLossArgs, ClassLossInput, Reduction, Result};

use super::{
    problem::{Problem, Truth},
    rows::{self, Group, LANES, Terms},
    tile::Tile,
};
use crate::{
    engine::{iter::Walk, par, simd::multiversion},
    memory::view::Target,
    numeric::{real::Real, stored::Stored},
};

/// Where the forward pass puts its results.
struct Outputs<'a, T: Stored, L> {
    /// One loss per row, or nothing if they are reduced.
    losses: Option<Rows<'a, L>>,
    spread: Rows<'a, T::Compute>,
}

/// A target of one value per row.
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

/// The losses of scores of type `T`, stored as `L`.
pub(super) fn forward<T: Stored<Compute: Real>, L: Stored<Compute = T::Compute>>(args: ClassLossArgs) -> Result<()> {
    let ClassLossArgs { operands, loss, lse, total, .. } = args;
    let (rule, op) = (operands.rule, operands.rule.name());
    let problem = Problem::<T>::new(operands)?;
    let (loss, total) = (Target::<L>::new(op, loss)?, Target::<T::Compute>::new(op, total)?);
    let spread = Rows::new(Target::<T::Compute>::new(op, lse)?);
    let (losses, reduced) =
        if rule.reduction == Reduction::None { (Some(Rows::new(loss)), None) } else { (None, Some(loss)) };
    let outputs = Outputs { losses, spread };

    let count = problem.x.rows();
    let sums = par::blocks(
        count,
        problem.block(),
        || problem.tiles(),
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
            loss.ptr().write(L::store(T::Compute::of(value)));
        }
    }
    Ok(())
}

/// Computes the losses of a range of rows. Returns their sum, and the sum of the weights of labels not ignored.
fn forward_rows<T: Stored<Compute: Real>, L: Stored<Compute = T::Compute>>(
    problem: &Problem<T>,
    outputs: &Outputs<T, L>,
    tiles: &mut [Tile<T::Compute>; 2],
    range: Range<usize>,
) -> (f64, f64) {
    let zero = T::Compute::of(0.0);
    let (mut loss_sum, mut weight_sum) = (0.0, 0.0);
    for part in problem.x.parts(range, tiles[0].height()) {
        let (mut loss, mut spread) = ([zero; LANES], [zero; LANES]);
        // SAFETY: all rows are below the number of rows, and blocks of rows are disjoint; the planes of the
        // operands have the same extents, and labels that count are below the number of classes.
        unsafe {
            match &problem.truth {
                Truth::Labels(labels) => {
                    let labels = problem.labels(labels, &Walk::new(labels.layout()), &part);
                    for label in labels.into_iter().flatten() {
                        weight_sum += problem.terms.weights.at(label).to_f64();
                    }
                    if problem.rule.input == ClassLossInput::LogProbs {
                        for (i, label) in labels.into_iter().enumerate() {
                            if let Some(label) = label {
                                loss[i] = -(problem.terms.weights.at(label) * problem.x.at(&part, label, i));
                            }
                        }
                    } else if labels.iter().any(Option::is_some) {
                        tiles[0].load(&problem.x, &part);
                        (loss, spread) = label_losses(&problem.terms, &mut tiles[0], &labels);
                    }
                }
                Truth::Probabilities(target) => {
                    tiles[0].load(&problem.x, &part);
                    tiles[1].load(target, &part);
                    (loss, spread) = probability_losses(&problem.terms, tiles);
                }
            }
            for i in 0..part.height {
                loss_sum += loss[i].to_f64();
                outputs.spread.put(part.row(i), spread[i]);
                if let Some(losses) = &outputs.losses {
                    losses.put(part.row(i), loss[i]);
                }
            }
        }
    }
    (loss_sum, weight_sum)
}

multiversion! {
    /// The losses and spreads of the rows of a tile.
    fn label_losses[R: Real](
        terms: &Terms<R>,
        tile: &mut Tile<R>,
        labels: &[Option<usize>; LANES],
    ) -> (Group<R>, Group<R>), avx512 if [size_of::<R>() == 4] {
        let Terms { form, weights, smoothing } = terms;
        let zero = R::of(0.0);
        tile.pad(-R::INFINITY);
        let largest = rows::largest(tile.groups(), *form);
        rows::subtract(tile.groups_mut(), &largest);
        let (mut own, mut all) = ([zero; LANES], [zero; LANES]);
        for (i, label) in labels.iter().enumerate() {
            if let Some(label) = *label {
                own[i] = *tile.at(label, i);
            }
        }
        if smoothing.on {
            tile.pad(zero);
            all = rows::dot(tile.groups(), &weights.tile, *form);
            tile.pad(-R::INFINITY);
        }
        rows::exponentiate(tile.groups_mut());
        let spread = rows::logarithm(rows::sum(tile.groups(), *form), *form);
        let mut loss = [zero; LANES];
        for (i, label) in labels.iter().enumerate() {
            if let Some(label) = *label {
                loss[i] = weights.at(label) * (spread[i] - own[i]);
                if smoothing.on {
                    loss[i] = smoothing.kept * loss[i] + smoothing.share * (weights.sum() * spread[i] - all[i]);
                }
            }
        }
        (loss, spread)
    }

    /// The losses and spreads of the rows of a tile of logits, with a tile of target probabilities.
    fn probability_losses[R: Real](
        terms: &Terms<R>,
        tiles: &mut [Tile<R>; 2],
    ) -> (Group<R>, Group<R>), avx512 if [size_of::<R>() == 4] {
        let Terms { form, weights, smoothing } = terms;
        let [tile, target] = tiles;
        let zero = R::of(0.0);
        tile.pad(-R::INFINITY);
        let largest = rows::largest(tile.groups(), *form);
        rows::subtract(tile.groups_mut(), &largest);
        rows::coefficients(target.groups_mut(), weights, smoothing);
        let mass = rows::sum(target.groups(), *form);
        tile.pad(zero);
        let own = rows::dot(tile.groups(), target.groups(), *form);
        tile.pad(-R::INFINITY);
        rows::exponentiate(tile.groups_mut());
        let spread = rows::logarithm(rows::sum(tile.groups(), *form), *form);
        let mut loss = [zero; LANES];
        for (i, loss) in loss.iter_mut().enumerate() {
            *loss = mass[i] * spread[i] - own[i];
        }
        (loss, spread)
    }
}

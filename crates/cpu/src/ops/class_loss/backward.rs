//! `class_loss` backward: from the gradient of the loss to that of the input.

use std::ops::Range;

use kiln_backend::{ClassLossGradArgs, ClassLossInput, Layout, Reduction, Result};

use super::{
    problem::{Problem, Truth},
    rows::{self, Form, Group, LANES, Terms},
    tile::{Planes, Tile},
};
use crate::{
    engine::{iter::Walk, par, simd::multiversion},
    memory::view::{Source, Target},
    numeric::{real::Real, stored::Stored},
};

/// What the backward pass reads for each row, and where it writes.
struct Slopes<'a, T: Stored, L> {
    /// The gradient of the loss: one per row, or one for all.
    grad: Source<'a, L>,
    grad_layout: Layout,
    /// What the reduction multiplies it by.
    scale: T::Compute,
    spread: Source<'a, T::Compute>,
    out: Planes<*mut T>,
}

/// The gradients of scores of type `T`, from those of losses of type `L`.
pub(super) fn backward<T: Stored<Compute: Real>, L: Stored<Compute = T::Compute>>(
    args: ClassLossGradArgs,
) -> Result<()> {
    let ClassLossGradArgs { operands, grad, lse, total, out } = args;
    let (rule, op) = (operands.rule, operands.rule.name());
    let problem = Problem::<T>::new(operands)?;
    let grad_layout = grad.layout.expand(op, lse.layout.shape())?;
    let total = Source::<T::Compute>::new(op, total)?;
    let scale = match rule.reduction {
        // SAFETY: a scalar of a checked layout.
        Reduction::Mean => T::Compute::of(1.0) / unsafe { total.ptr().read() },
        Reduction::None | Reduction::Sum => T::Compute::of(1.0),
    };
    let slopes: Slopes<T, L> = Slopes {
        grad: Source::new(op, grad)?,
        grad_layout,
        scale,
        spread: Source::new(op, lse)?,
        out: Planes::new_mut(&Target::<T>::new(op, out)?),
    };
    par::blocks(
        problem.x.rows(),
        problem.block(),
        || problem.tiles(),
        |tiles, range| {
            backward_rows(&problem, &slopes, tiles, range);
        },
    );
    Ok(())
}

/// Writes the gradients of a range of rows.
fn backward_rows<T: Stored<Compute: Real>, L: Stored<Compute = T::Compute>>(
    problem: &Problem<T>,
    slopes: &Slopes<T, L>,
    tiles: &mut [Tile<T::Compute>; 2],
    range: Range<usize>,
) {
    let zero = T::Compute::of(0.0);
    let (grads, spreads) = (Walk::new(&slopes.grad_layout), Walk::new(slopes.spread.layout()));
    for part in problem.x.parts(range, tiles[0].height()) {
        let (mut grad, mut spread) = ([zero; LANES], [zero; LANES]);
        // SAFETY: all rows are below the number of rows, and blocks of rows are disjoint; the planes of the
        // operands have the same extents, and labels that count are below the number of classes.
        unsafe {
            for i in 0..part.height {
                let row = part.row(i);
                grad[i] = slopes.scale * slopes.grad.ptr().offset(grads.offset(row)).read().load();
                spread[i] = slopes.spread.ptr().offset(spreads.offset(row)).read();
            }
            if problem.terms.form == Form::Row {
                (grad, spread) = ([grad[0]; LANES], [spread[0]; LANES]);
            }
            match &problem.truth {
                Truth::Labels(labels) => {
                    let labels = problem.labels(labels, &Walk::new(labels.layout()), &part);
                    if problem.rule.input == ClassLossInput::Logits && labels.iter().any(Option::is_some) {
                        tiles[0].load(&problem.x, &part);
                        label_slopes(&problem.terms, &mut tiles[0], &labels, &grad, &spread);
                    }
                    for (i, label) in labels.into_iter().enumerate().take(part.height) {
                        match (label, problem.rule.input) {
                            (Some(_), ClassLossInput::Logits) => {}
                            (Some(label), ClassLossInput::LogProbs) => {
                                tiles[0].fill(i, zero);
                                *tiles[0].at(label, i) = -(problem.terms.weights.at(label) * grad[i]);
                            }
                            (None, _) => tiles[0].fill(i, zero),
                        }
                    }
                }
                Truth::Probabilities(target) => {
                    tiles[0].load(&problem.x, &part);
                    tiles[1].load(target, &part);
                    probability_slopes(&problem.terms, tiles, &grad, &spread);
                }
            }
            tiles[0].store(&slopes.out, &part);
        }
    }
}

/// Turns logits into probabilities.
#[inline(always)]
fn probabilities<R: Real>(tile: &mut Tile<R>, form: Form, spread: &Group<R>) {
    tile.pad(-R::INFINITY);
    let largest = rows::largest(tile.groups(), form);
    rows::subtract(tile.groups_mut(), &largest);
    rows::subtract(tile.groups_mut(), spread);
    rows::exponentiate(tile.groups_mut());
}

multiversion! {
    /// Turns logits into gradients, for the rows that have a label.
    fn label_slopes[R: Real](
        terms: &Terms<R>,
        tile: &mut Tile<R>,
        labels: &[Option<usize>; LANES],
        grad: &Group<R>,
        spread: &Group<R>,
    ), avx512 if [size_of::<R>() == 4] {
        let Terms { form, weights, smoothing } = terms;
        let zero = R::of(0.0);
        probabilities(tile, *form, spread);
        // The coefficients of the label, of the probabilities, and of the weights of all classes.
        let (mut own, mut push, mut share) = ([zero; LANES], [zero; LANES], [zero; LANES]);
        for (i, label) in labels.iter().enumerate() {
            if let Some(label) = *label {
                own[i] = grad[i] * weights.at(label);
                push[i] = own[i];
                if smoothing.on {
                    own[i] = own[i] * smoothing.kept;
                    share[i] = grad[i] * smoothing.share;
                    push[i] = own[i] + share[i] * weights.sum();
                }
            }
        }
        if *form == Form::Row {
            (push, share) = ([push[0]; LANES], [share[0]; LANES]);
        }
        if smoothing.on {
            rows::slopes(tile.groups_mut(), &push, &weights.tile, &share);
        } else {
            rows::scale(tile.groups_mut(), &push);
        }
        for (i, label) in labels.iter().enumerate() {
            if let Some(label) = *label {
                let slope = tile.at(label, i);
                *slope = *slope - own[i];
            }
        }
    }

    /// Turns logits into gradients, with a tile of target probabilities.
    fn probability_slopes[R: Real](
        terms: &Terms<R>,
        tiles: &mut [Tile<R>; 2],
        grad: &Group<R>,
        spread: &Group<R>,
    ), avx512 if [size_of::<R>() == 4] {
        let Terms { form, weights, smoothing } = terms;
        let [tile, target] = tiles;
        probabilities(tile, *form, spread);
        rows::coefficients(target.groups_mut(), weights, smoothing);
        let mut push = rows::sum(target.groups(), *form);
        for (push, &grad) in push.iter_mut().zip(grad) {
            *push = *push * grad;
        }
        rows::slopes(tile.groups_mut(), &push, target.groups(), grad);
    }
}

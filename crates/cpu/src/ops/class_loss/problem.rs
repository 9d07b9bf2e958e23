//! The operands of a class loss that the forward and the backward pass share, checked and ready to be read.

use kiln_backend::{ClassLoss, ClassLossInput, ClassLossOperands, Error, Result};

use super::{
    rows::{Form, LANES, Smoothing, Terms, Weights},
    tile::{Part, Planes, Tile},
};
use crate::{
    engine::{iter::Walk, par},
    memory::view::Source,
    numeric::{real::Real, stored::Stored},
};

/// An exponential costs about this many additions.
pub(super) const COST: usize = 4;

/// The target that rows are compared with.
pub(super) enum Truth<'a, T> {
    /// Class numbers, `[N, S]`.
    Labels(Source<'a, i64>),
    /// Probabilities, `[N, C, S]`.
    Probabilities(Planes<*const T>),
}

/// The operands that both directions share.
pub(super) struct Problem<'a, T: Stored> {
    pub(super) rule: ClassLoss,
    pub(super) x: Planes<*const T>,
    pub(super) truth: Truth<'a, T>,
    pub(super) terms: Terms<T::Compute>,
}

impl<'a, T: Stored<Compute: Real>> Problem<'a, T> {
    pub(super) fn new(operands: ClassLossOperands<'a>) -> Result<Problem<'a, T>> {
        let extents = operands.extents();
        let ClassLossOperands { rule, x, target, weight } = operands;
        let (op, classes) = (rule.name(), extents.classes);
        let x = Planes::new(&Source::<T>::new(op, x)?);
        let form = x.form();
        let truth = if extents.labels {
            let labels = Source::<i64>::new(op, target)?;
            check_labels(op, &labels, classes, rule.ignore_index)?;
            Truth::Labels(labels)
        } else {
            Truth::Probabilities(Planes::new(&Source::<T>::new(op, target)?))
        };
        let weights = match weight {
            Some(weight) => Weights::new(&Source::<T>::new(op, weight)?, form),
            None => Weights::ones(classes, form),
        };
        let smoothing = match rule.input {
            ClassLossInput::Logits => Smoothing::new(rule.label_smoothing, classes),
            ClassLossInput::LogProbs => Smoothing::new(0.0, classes),
        };
        Ok(Problem { rule, x, truth, terms: Terms { form, weights, smoothing } })
    }

    /// The labels of a part's rows; `None` for ignored ones.
    ///
    /// # Safety
    /// The walk is that of the labels, and the part's rows are below its length.
    pub(super) unsafe fn labels(&self, labels: &Source<i64>, walk: &Walk, part: &Part) -> [Option<usize>; LANES] {
        let mut out = [None; LANES];
        for (i, out) in out.iter_mut().enumerate().take(part.height) {
            // SAFETY: an element of the checked layout.
            let label = unsafe { labels.ptr().offset(walk.offset(part.row(i))).read() };
            *out = (label != self.rule.ignore_index).then_some(label as usize);
        }
        out
    }

    /// Rows per block. Sums are accumulated block by block, so this must not depend on the number of threads.
    pub(super) fn block(&self) -> usize {
        (par::GRAIN / COST / self.x.classes.max(1)).max(1).next_multiple_of(if self.terms.form == Form::Rows {
            LANES
        } else {
            1
        })
    }

    /// Buffers for a task: for the logits, and for the target if it has probabilities.
    pub(super) fn tiles(&self) -> [Tile<T::Compute>; 2] {
        let target = if matches!(self.truth, Truth::Labels(_)) { 0 } else { self.x.classes };
        [Tile::new(self.x.classes, self.terms.form), Tile::new(target, self.terms.form)]
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

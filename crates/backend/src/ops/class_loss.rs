//! Cross-entropy and negative log-likelihood over classes.

use crate::{
    contract::{Arguments, Checked, has_dtype, has_shape, is_float, same_shape},
    dtype::DType,
    error::{Error, Result},
    view::{View, ViewMut},
};

/// How the losses of single elements are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Reduction {
    /// Not at all: the result has one value per element (or sample).
    None,
    /// Their mean; weighted where the loss has class weights.
    #[default]
    Mean,
    /// Their sum.
    Sum,
}

impl Reduction {
    /// PyTorch's name for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Reduction::None => "none",
            Reduction::Mean => "mean",
            Reduction::Sum => "sum",
        }
    }
}

/// What the input of a class loss holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClassLossInput {
    /// Unnormalized scores: cross-entropy.
    Logits,
    /// Logarithms of probabilities: negative log-likelihood.
    LogProbs,
}

/// Cross-entropy or negative log-likelihood over classes, as PyTorch's `CrossEntropyLoss` and `NLLLoss`
/// define them (<https://docs.pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html>).
///
/// Shapes: the input is `[N, C, S]` (`S`: positions of one sample, 1 if it has none), the target either
/// `[N, S]` class indices (`i64`) or, for logits only, `[N, C, S]` probabilities.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassLoss {
    /// What the input holds.
    pub input: ClassLossInput,
    /// How samples are combined. For index targets, `Mean` divides by the sum of the weights of the targets not
    /// ignored; for probability targets, by `N * S`.
    pub reduction: Reduction,
    /// The label that is ignored; index targets only.
    pub ignore_index: i64,
    /// The share of the target, in `[0, 1]`, that is spread evenly over all classes; logits only.
    pub label_smoothing: f64,
}

impl ClassLoss {
    /// The name for errors: that of PyTorch's function.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self.input {
            ClassLossInput::Logits => "cross_entropy",
            ClassLossInput::LogProbs => "nll_loss",
        }
    }
}

/// The operands that a class loss and its gradient read.
#[derive(Clone, Copy, Debug)]
pub struct ClassLossOperands<'a> {
    /// Which loss.
    pub rule: ClassLoss,
    /// Logits or logarithms of probabilities, `[N, C, S]`.
    pub x: View<'a>,
    /// Class indices `[N, S]` of `i64`, or probabilities `[N, C, S]` of the dtype of `x`.
    pub target: View<'a>,
    /// One factor per class, `[C]`.
    pub weight: Option<View<'a>>,
}

/// Extents of the operands of a class loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassLossExtents {
    /// `N` of `[N, C, S]`.
    pub samples: usize,
    /// `C`.
    pub classes: usize,
    /// `S`.
    pub positions: usize,
    /// Whether the target holds class indices, not probabilities.
    pub labels: bool,
}

impl ClassLossOperands<'_> {
    /// The extents of operands that were [`checked`](Arguments::checked).
    #[must_use]
    pub fn extents(&self) -> ClassLossExtents {
        let [samples, classes, positions] = [0, 1, 2].map(|dim| self.x.layout.dims().get(dim).map_or(1, |&n| n));
        ClassLossExtents { samples, classes, positions, labels: !self.target.dtype().is_float() }
    }

    /// Checks the operands and the tensors that depend on the reduction: the loss (or its gradient), and the statistics
    /// saved for the gradient.
    fn check(&self, loss: View, lse: View, total: View) -> Result<()> {
        let ClassLossOperands { rule, x, target, weight } = self;
        let (op, dtype) = (rule.name(), x.dtype());
        is_float(op, dtype)?;
        if x.layout.rank() != 3 {
            return Err(Error::shape(op, "an input [N, C, S]", x.layout.shape()));
        }
        let ClassLossExtents { samples, classes, positions, labels } = self.extents();
        let rows = [samples, positions];
        if labels {
            has_dtype(op, DType::I64, target.dtype())?;
            has_shape(op, "a target of class indices", target.layout, &rows)?;
        } else if rule.input == ClassLossInput::LogProbs {
            return Err(Error::dtype(op, target.dtype(), "it takes class indices (i64)"));
        } else {
            has_dtype(op, dtype, target.dtype())?;
            same_shape(op, &[x.layout, target.layout])?;
        }
        if let Some(weight) = weight {
            has_dtype(op, dtype, weight.dtype())?;
            has_shape(op, "a weight per class", weight.layout, &[classes])?;
        }
        if loss.dtype() != dtype.accumulator() {
            has_dtype(op, dtype, loss.dtype())?;
        }
        has_dtype(op, dtype.accumulator(), lse.dtype())?;
        has_dtype(op, dtype.accumulator(), total.dtype())?;
        has_shape(op, "a row statistic [N, S]", lse.layout, &rows)?;
        has_shape(op, "a scalar total", total.layout, &[])?;
        has_shape(op, "a loss", loss.layout, if rule.reduction == Reduction::None { &rows } else { &[] })
    }
}

/// Arguments of [`class_loss`](ClassLossBackend::class_loss).
#[derive(Debug)]
pub struct ClassLossArgs<'a> {
    /// The operands that are read.
    pub operands: ClassLossOperands<'a>,
    /// The loss: a scalar, or `[N, S]` without reduction. Of the dtype of `x`, or of its [accumulator](DType::accumulator):
    /// losses of half precision are computed in `f32`, and rounded to what they are stored in.
    pub loss: ViewMut<'a>,
    /// Receives a statistic of each row for the gradient, `[N, S]` of the [accumulator](DType::accumulator) type.
    pub lse: ViewMut<'a>,
    /// Receives the divisor of the mean, a scalar of the accumulator type.
    pub total: ViewMut<'a>,
    /// Receives the gradient of `x`, in its shape, for a gradient of the loss of 1: what
    /// [`class_loss_grad`](ClassLossBackend::class_loss_grad) would compute, bit by bit. Only for losses that are reduced, and
    /// only where [`class_loss_gives_grad`](ClassLossBackend::class_loss_gives_grad) says so.
    pub grad: Option<ViewMut<'a>>,
}

/// Arguments of [`class_loss_grad`](ClassLossBackend::class_loss_grad).
#[derive(Debug)]
pub struct ClassLossGradArgs<'a> {
    /// The operands of the loss.
    pub operands: ClassLossOperands<'a>,
    /// The gradient of the loss, in its shape and dtype.
    pub grad: View<'a>,
    /// As written by [`class_loss`](ClassLossBackend::class_loss).
    pub lse: View<'a>,
    /// As written by [`class_loss`](ClassLossBackend::class_loss).
    pub total: View<'a>,
    /// Receives the gradient of `x`, in its shape.
    pub out: ViewMut<'a>,
}

impl Arguments for ClassLossArgs<'_> {
    fn check(&self) -> Result<()> {
        let ClassLossArgs { operands: operands @ ClassLossOperands { rule, x, .. }, loss, lse, total, grad } = self;
        operands.check(loss.as_view(), lse.as_view(), total.as_view())?;
        let Some(grad) = grad else { return Ok(()) };
        if rule.reduction == Reduction::None {
            return Err(Error::argument(rule.name(), "the gradient belongs to a single loss, so it must be reduced"));
        }
        has_dtype(rule.name(), x.dtype(), grad.dtype())?;
        same_shape(rule.name(), &[x.layout, grad.layout])
    }
}

impl Arguments for ClassLossGradArgs<'_> {
    fn check(&self) -> Result<()> {
        let ClassLossGradArgs { operands: ClassLossOperands { rule, x, .. }, out, .. } = self;
        self.operands.check(self.grad, self.lse, self.total)?;
        has_dtype(rule.name(), x.dtype(), out.dtype())?;
        same_shape(rule.name(), &[x.layout, out.layout])
    }
}

/// Class losses, fused with their softmax.
pub trait ClassLossBackend {
    /// The loss. A label outside `0..C` that is not ignored is an error.
    fn class_loss(&self, args: Checked<ClassLossArgs>) -> Result<()>;
    /// Whether [`class_loss`](ClassLossBackend::class_loss) computes the gradient as well, in the same launch and in little
    /// more time. If not, it must not be asked for.
    fn class_loss_gives_grad(&self, _operands: &ClassLossOperands) -> bool {
        false
    }
    /// Its gradient with respect to `x`.
    fn class_loss_grad(&self, args: Checked<ClassLossGradArgs>) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        layout::Layout,
        testing::{Memory, layout},
    };

    #[test]
    fn operands_are_checked() {
        let (input, reduction, ignore_index, label_smoothing) = (ClassLossInput::Logits, Reduction::Mean, -100, 0.0);
        let logits = ClassLoss { input, reduction, ignore_index, label_smoothing };
        let (half, long, single) = (Memory(DType::F16), Memory(DType::I64), Memory(DType::F32));
        let (x, rows, scalar) = (layout(&[2, 3, 4]), layout(&[2, 4]), layout(&[]));
        let check = |rule, target: View, weight: Option<View>, loss: &Layout| {
            let operands = ClassLossOperands { rule, x: half.view(&x), target, weight };
            let (mut to, mut lse, mut total) = (half, single, single);
            let (loss_out, lse_out, total_out) = (to.view_mut(loss), lse.view_mut(&rows), total.view_mut(&scalar));
            let forward =
                ClassLossArgs { operands, loss: loss_out, lse: lse_out, total: total_out, grad: None }.check().is_ok();
            let (grad, lse, total) = (half.view(loss), single.view(&rows), single.view(&scalar));
            let mut out = half;
            let backward = ClassLossGradArgs { operands, grad, lse, total, out: out.view_mut(&x) }.check().is_ok();
            assert_eq!(forward, backward);
            forward
        };
        let (labels, probabilities) = (long.view(&rows), half.view(&x));
        assert!(check(logits, labels, None, &scalar) && check(logits, probabilities, None, &scalar));
        let nll = ClassLoss { input: ClassLossInput::LogProbs, ..logits };
        assert!(check(nll, labels, None, &scalar) && !check(nll, probabilities, None, &scalar));
        let plain = ClassLoss { reduction: Reduction::None, ..logits };
        assert!(check(plain, labels, None, &rows) && !check(plain, labels, None, &scalar));
        assert!(!check(logits, labels, None, &rows) && !check(logits, long.view(&x), None, &scalar));
        let (three, four) = (layout(&[3]), layout(&[4]));
        assert!(check(logits, labels, Some(half.view(&three)), &scalar));
        assert!(!check(logits, labels, Some(half.view(&four)), &scalar));
        assert!(!check(logits, labels, Some(single.view(&three)), &scalar));
        assert!(!check(logits, single.view(&x), None, &scalar));
        assert!(!check(logits, Memory(DType::I32).view(&rows), None, &scalar));
        // The gradient that comes with the loss.
        let with_grad = |rule, loss: &Layout, dtype, layout: &Layout| {
            let operands = ClassLossOperands { rule, x: half.view(&x), target: labels, weight: None };
            let (mut to, mut lse, mut total, mut grad) = (half, single, single, Memory(dtype));
            let (loss, lse, total) = (to.view_mut(loss), lse.view_mut(&rows), total.view_mut(&scalar));
            ClassLossArgs { operands, loss, lse, total, grad: Some(grad.view_mut(layout)) }.check().is_ok()
        };
        assert!(with_grad(logits, &scalar, DType::F16, &x));
        assert!(!with_grad(logits, &scalar, DType::F32, &x) && !with_grad(logits, &scalar, DType::F16, &rows));
        assert!(!with_grad(plain, &rows, DType::F16, &x));
    }
}

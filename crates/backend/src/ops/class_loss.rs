//! Cross-entropy and negative log-likelihood over classes.

use crate::{Error, Layout, Result, View, ViewMut, has_shape};

/// How the losses of single elements become the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Reduction {
    /// Not at all: the result has one value an element (or sample).
    None,
    /// Their mean; weighted where the loss has class weights.
    #[default]
    Mean,
    /// Their sum.
    Sum,
}

impl Reduction {
    /// PyTorch's name of it.
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
    /// Unnormalised scores: cross-entropy.
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
    /// How samples are combined. `Mean` of index targets divides by the sum of the weights of the targets
    /// that count, of probability targets by `N * S`.
    pub reduction: Reduction,
    /// A target that does not count; index targets only.
    pub ignore_index: i64,
    /// In `[0, 1]`: the share of the target that is spread evenly over all classes; logits only.
    pub label_smoothing: f64,
}

/// The operands of a loss over classes, which fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassLossShape {
    /// `N` of `[N, C, S]`.
    pub samples: usize,
    /// `C`.
    pub classes: usize,
    /// `S`.
    pub positions: usize,
    /// Whether the target holds class indices, not probabilities.
    pub labels: bool,
}

impl ClassLossShape {
    /// The shape `[N, S]` of a row statistic.
    #[must_use]
    pub fn rows(&self) -> [usize; 2] {
        [self.samples, self.positions]
    }
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

    /// Checks the operands that the loss and its gradient share.
    ///
    /// # Errors
    /// Shapes or dtypes do not fit together.
    pub fn check(&self, x: View, target: View, weight: Option<View>) -> Result<ClassLossShape> {
        let op = self.name();
        let &[samples, classes, positions] = x.layout.dims() else {
            return Err(Error::shape(op, "an input [N, C, S]", x.layout.shape()));
        };
        let shape = ClassLossShape { samples, classes, positions, labels: !target.dtype().is_float() };
        if shape.labels {
            has_shape(op, "a target of class numbers", target.layout, &shape.rows())?;
        } else if self.input == ClassLossInput::LogProbs {
            return Err(Error::dtype(op, target.dtype(), "it takes class numbers (i64)"));
        } else {
            has_shape(op, "a target of probabilities", target.layout, x.layout.dims())?;
        }
        weight.map_or(Ok(()), |weight| has_shape(op, "a weight a class", weight.layout, &[classes]))?;
        Ok(shape)
    }

    /// Checks what depends on the reduction: the loss (or its gradient), and what is kept for the gradient.
    ///
    /// # Errors
    /// Shapes do not fit together.
    pub fn check_results(&self, shape: &ClassLossShape, loss: &Layout, lse: &Layout, total: &Layout) -> Result<()> {
        let (op, rows) = (self.name(), shape.rows());
        has_shape(op, "a row statistic [N, S]", lse, &rows)?;
        has_shape(op, "a scalar total", total, &[])?;
        has_shape(op, "a loss", loss, if self.reduction == Reduction::None { &rows } else { &[] })
    }
}

/// Losses over classes, fused with their softmax.
pub trait ClassLossBackend {
    /// `loss` is a scalar, or `[N, S]` without reduction. `lse` (`[N, S]`, of the accumulation type: `f32`
    /// for half precision, else the input's) receives what the gradient needs, `total` (a scalar of the
    /// same type) the divisor of the mean. `target` is `[N, S]` of `i64`, or `[N, C, S]` of the input's
    /// dtype. A class outside `0..C` that is not ignored is an error.
    #[allow(clippy::too_many_arguments)] // one fused kernel
    fn class_loss(
        &self,
        rule: &ClassLoss,
        x: View,
        target: View,
        weight: Option<View>,
        loss: ViewMut,
        lse: ViewMut,
        total: ViewMut,
    ) -> Result<()>;
    /// The gradient of [`class_loss`](ClassLossBackend::class_loss) with respect to `x`; `grad` has the loss's shape.
    #[allow(clippy::too_many_arguments)] // one fused kernel
    fn class_loss_grad(
        &self,
        rule: &ClassLoss,
        grad: View,
        x: View,
        target: View,
        weight: Option<View>,
        lse: View,
        total: View,
        out: ViewMut,
    ) -> Result<()>;
}

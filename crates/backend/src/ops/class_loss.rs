//! Cross-entropy and negative log-likelihood over classes.

use crate::{Result, View, ViewMut};

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

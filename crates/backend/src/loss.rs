//! Descriptors of the fused losses.

use crate::View;

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

/// Element-wise losses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PointwiseLossKind {
    /// `(x - t)^2`
    Mse,
    /// `|x - t|`
    L1,
    /// Binary cross-entropy of `sigmoid(x)` and `t`, stable for any `x`, with optional `weight` and
    /// `pos_weight`
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.BCEWithLogitsLoss.html>).
    BceWithLogits,
}

/// An element-wise loss with its operands. All views have one shape (broadcast by strides).
#[derive(Clone, Copy, Debug)]
pub struct PointwiseLoss<'a> {
    /// Which loss.
    pub kind: PointwiseLossKind,
    /// How elements are combined; `Mean` divides by their number.
    pub reduction: Reduction,
    /// The predictions.
    pub input: View<'a>,
    /// The targets, of the same dtype.
    pub target: View<'a>,
    /// A factor an element, for [`PointwiseLossKind::BceWithLogits`].
    pub weight: Option<View<'a>>,
    /// The weight of positive targets, for [`PointwiseLossKind::BceWithLogits`].
    pub pos_weight: Option<View<'a>>,
}

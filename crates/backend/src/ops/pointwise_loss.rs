//! Element-wise losses: mean squared error, L1, binary cross-entropy with logits.

use crate::{Reduction, Result, View, ViewMut};

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

/// Element-wise losses, fused with their reduction.
pub trait PointwiseLossBackend {
    /// An element-wise loss; `out` is a scalar, or has the input's shape without reduction.
    fn pointwise_loss(&self, loss: &PointwiseLoss, out: ViewMut) -> Result<()>;
    /// Its gradient with respect to the input; `grad` has the loss's shape.
    fn pointwise_loss_grad(&self, loss: &PointwiseLoss, grad: View, out: ViewMut) -> Result<()>;
}

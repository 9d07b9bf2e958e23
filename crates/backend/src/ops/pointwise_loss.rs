//! Element-wise losses: mean squared error, L1, binary cross-entropy with logits.

use crate::{Layout, Reduction, Result, View, ViewMut, has_shape, same_shape};

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

impl PointwiseLossKind {
    /// The name for errors: that of PyTorch's function.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            PointwiseLossKind::Mse => "mse_loss",
            PointwiseLossKind::L1 => "l1_loss",
            PointwiseLossKind::BceWithLogits => "binary_cross_entropy_with_logits",
        }
    }
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

impl<'a> PointwiseLoss<'a> {
    /// The factors of the elements and of positive targets, for the kind that has them.
    #[must_use]
    pub fn weights(&self) -> [Option<View<'a>>; 2] {
        match self.kind {
            PointwiseLossKind::BceWithLogits => [self.weight, self.pos_weight],
            PointwiseLossKind::Mse | PointwiseLossKind::L1 => [None, None],
        }
    }

    /// Checks that all operands have one shape, and that `loss` (or its gradient) has the shape of the result.
    ///
    /// # Errors
    /// They do not.
    pub fn check(&self, loss: &Layout) -> Result<()> {
        let op = self.kind.name();
        for view in [Some(self.target)].into_iter().chain(self.weights()).flatten() {
            same_shape(op, &[self.input.layout, view.layout])?;
        }
        let dims = if self.reduction == Reduction::None { self.input.layout.dims() } else { &[] };
        has_shape(op, "a loss", loss, dims)
    }
}

/// Element-wise losses, fused with their reduction.
pub trait PointwiseLossBackend {
    /// An element-wise loss; `out` is a scalar, or has the input's shape without reduction.
    fn pointwise_loss(&self, loss: &PointwiseLoss, out: ViewMut) -> Result<()>;
    /// Its gradient with respect to the input; `grad` has the loss's shape.
    fn pointwise_loss_grad(&self, loss: &PointwiseLoss, grad: View, out: ViewMut) -> Result<()>;
}

//! Element-wise losses: mean squared error, L1, binary cross-entropy with logits.

use crate::{
    contract::{Arguments, Checked, has_dtype, has_shape, is_float, same_shape},
    error::Result,
    ops::class_loss::Reduction,
    view::{View, ViewMut},
};

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

/// An element-wise loss with its operands. All views have the same shape (broadcast by strides).
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
    /// A factor per element, for [`PointwiseLossKind::BceWithLogits`].
    pub weight: Option<View<'a>>,
    /// The weight of positive targets, for [`PointwiseLossKind::BceWithLogits`].
    pub pos_weight: Option<View<'a>>,
}

impl<'a> PointwiseLoss<'a> {
    /// The weights of elements and of positive targets, for the kind that has them.
    #[must_use]
    pub fn weights(&self) -> [Option<View<'a>>; 2] {
        match self.kind {
            PointwiseLossKind::BceWithLogits => [self.weight, self.pos_weight],
            PointwiseLossKind::Mse | PointwiseLossKind::L1 => [None, None],
        }
    }

    /// Checks that all operands have the same shape, and that `loss` (or its gradient) has the shape of the result.
    fn check(&self, loss: View) -> Result<()> {
        let (op, dtype) = (self.kind.name(), self.input.dtype());
        is_float(op, dtype)?;
        for view in [Some(self.target)].into_iter().chain(self.weights()).flatten() {
            has_dtype(op, dtype, view.dtype())?;
            same_shape(op, &[self.input.layout, view.layout])?;
        }
        has_dtype(op, dtype, loss.dtype())?;
        let dims = if self.reduction == Reduction::None { self.input.layout.dims() } else { &[] };
        has_shape(op, "a loss", loss.layout, dims)
    }
}

/// Arguments of [`pointwise_loss`](PointwiseLossBackend::pointwise_loss).
#[derive(Debug)]
pub struct PointwiseLossArgs<'a> {
    /// The loss and its operands.
    pub loss: PointwiseLoss<'a>,
    /// The result: a scalar, or of the input's shape without reduction.
    pub out: ViewMut<'a>,
}

/// Arguments of [`pointwise_loss_grad`](PointwiseLossBackend::pointwise_loss_grad).
#[derive(Debug)]
pub struct PointwiseLossGradArgs<'a> {
    /// The loss and its operands.
    pub loss: PointwiseLoss<'a>,
    /// The gradient of the result, in its shape.
    pub grad: View<'a>,
    /// Receives the gradient of the input, in its shape.
    pub out: ViewMut<'a>,
}

impl Arguments for PointwiseLossArgs<'_> {
    fn check(&self) -> Result<()> {
        self.loss.check(self.out.as_view())
    }
}

impl Arguments for PointwiseLossGradArgs<'_> {
    fn check(&self) -> Result<()> {
        let (op, input) = (self.loss.kind.name(), self.loss.input);
        self.loss.check(self.grad)?;
        has_dtype(op, input.dtype(), self.out.dtype())?;
        same_shape(op, &[input.layout, self.out.layout])
    }
}

/// Element-wise losses, fused with their reduction.
pub trait PointwiseLossBackend {
    /// An element-wise loss.
    fn pointwise_loss(&self, args: Checked<PointwiseLossArgs>) -> Result<()>;
    /// Its gradient with respect to the input.
    fn pointwise_loss_grad(&self, args: Checked<PointwiseLossGradArgs>) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dtype::DType,
        testing::{Memory, layout},
    };

    #[test]
    fn operands_are_checked() {
        let (single, double) = (Memory(DType::F32), Memory(DType::F64));
        let (x, other, scalar) = (layout(&[2, 3]), layout(&[3, 2]), layout(&[]));
        let (kind, reduction) = (PointwiseLossKind::Mse, Reduction::Sum);
        let (input, target) = (single.view(&x), single.view(&x));
        let loss = PointwiseLoss { kind, reduction, input, target, weight: None, pos_weight: None };
        let check = |loss: PointwiseLoss, shape| {
            let (mut to, grad) = (single, single.view(shape));
            let forward = PointwiseLossArgs { loss, out: to.view_mut(shape) }.check().is_ok();
            let backward = PointwiseLossGradArgs { loss, grad, out: to.view_mut(loss.input.layout) }.check().is_ok();
            assert_eq!(forward, backward);
            forward
        };
        assert!(check(loss, &scalar) && !check(loss, &x));
        let plain = PointwiseLoss { reduction: Reduction::None, ..loss };
        assert!(check(plain, &x) && !check(plain, &other) && !check(plain, &scalar));
        assert!(!check(PointwiseLoss { target: single.view(&other), ..loss }, &scalar));
        assert!(!check(PointwiseLoss { target: double.view(&x), ..loss }, &scalar));
        // Only binary cross-entropy has weights.
        let weighted = PointwiseLoss { weight: Some(single.view(&other)), ..loss };
        assert!(check(weighted, &scalar));
        assert!(!check(PointwiseLoss { kind: PointwiseLossKind::BceWithLogits, ..weighted }, &scalar));
    }
}

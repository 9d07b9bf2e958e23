//! Mean squared error, absolute error and binary cross-entropy: one fused primitive per direction.

use kiln_backend::{
    Arguments, Error, Layout, PointwiseLoss, PointwiseLossArgs, PointwiseLossGradArgs, PointwiseLossKind, Reduction,
    Result, Shape,
};
use kiln_derive::located;
use smallvec::smallvec;

use super::check;
use crate::{
    autocast::cast_operands,
    autograd::{Ctx, record},
    storage::Reading,
    tensor::Tensor,
};

#[located]
impl Tensor {
    /// An element-wise loss of this tensor against `target`, which has its shape. (PyTorch broadcasts the
    /// target of some losses, with a warning that it is probably a mistake; here it is an error.)
    /// `weight` and `pos_weight` belong to binary cross-entropy and broadcast to the shape.
    ///
    /// `kiln::nn` wraps this as `MSELoss`, `L1Loss` and `BCEWithLogitsLoss`.
    ///
    /// # Errors
    /// If shapes, dtypes or devices do not fit, or a weight requires gradients.
    pub fn pointwise_loss(
        &self,
        kind: PointwiseLossKind,
        target: &Tensor,
        weight: Option<&Tensor>,
        pos_weight: Option<&Tensor>,
        reduction: Reduction,
    ) -> Result<Tensor> {
        let (op, name) = match kind {
            PointwiseLossKind::Mse => ("mse_loss", "MseLossBackward0"),
            PointwiseLossKind::L1 => ("l1_loss", "L1LossBackward0"),
            PointwiseLossKind::BceWithLogits => {
                ("binary_cross_entropy_with_logits", "BinaryCrossEntropyWithLogitsBackward0")
            }
        };
        cast_operands(op, [self, target], [weight, pos_weight], |[x, target], weights| {
            x.pointwise_loss_no_autocast((op, name), kind, target, weights, reduction)
        })
    }

    fn pointwise_loss_no_autocast(
        &self,
        (op, name): (&'static str, &'static str),
        kind: PointwiseLossKind,
        target: &Tensor,
        [weight, pos_weight]: [Option<&Tensor>; 2],
        reduction: Reduction,
    ) -> Result<Tensor> {
        check::floats(op, self)?;
        check::same_kind(op, self, &[target])?;
        if target.shape() != self.shape() {
            return Err(Error::shapes(op, self.shape(), target.shape(), "input and target must have one shape"));
        }
        for weight in [weight, pos_weight].into_iter().flatten() {
            if kind != PointwiseLossKind::BceWithLogits {
                return Err(Error::argument(op, "only binary cross-entropy takes weights"));
            }
            check::same_kind(op, self, &[weight])?;
            weight.layout().expand(op, self.shape())?;
            if weight.requires_grad() {
                return Err(Error::autograd(op, "gradients of the weights are not supported"));
            }
        }
        let (shape, is_weighted, has_positive) = (*self.shape(), weight.is_some(), pos_weight.is_some());
        let tensors: smallvec::SmallVec<[&Tensor; 4]> =
            [Some(self), Some(target), weight, pos_weight].into_iter().flatten().collect();
        let out_shape = if reduction == Reduction::None { shape } else { Shape::SCALAR };
        let operands = Operands::new(op, &tensors, &shape)?;
        let loss = Tensor::compute(self.device(), self.dtype(), out_shape, |backend, out| {
            let loss = operands.loss(kind, reduction, is_weighted, has_positive);
            backend.pointwise_loss(PointwiseLossArgs { loss, out }.checked()?)
        })?;
        drop(operands);
        let loss = loss.noted(op, &tensors, || {
            [
                ("reduction", reduction.name().into()),
                ("weight", is_weighted.into()),
                ("pos_weight", has_positive.into()),
            ]
        });
        record(loss, name, &[self, target], &tensors, move |ctx| {
            if ctx.create_graph {
                let weight = is_weighted.then(|| ctx.constant(2)).transpose()?;
                let pos_weight = has_positive.then(|| ctx.constant(2 + usize::from(is_weighted))).transpose()?;
                return ctx.composed(&[ctx.saved(0)?, ctx.saved(1)?], |operands| {
                    written_out(kind, operands, weight.as_ref(), pos_weight.as_ref(), reduction)
                });
            }
            let grad = ctx.grad()?;
            let saved: Vec<Tensor> = (0..ctx.saved.len()).map(|i| ctx.saved(i)).collect::<Result<_>>()?;
            let tensors: Vec<&Tensor> = saved.iter().collect();
            let to_input = || {
                let (operands, g) = (Operands::new(op, &tensors, &shape)?, grad.read());
                Tensor::compute(grad.device(), grad.dtype(), shape, |backend, out| {
                    let loss = operands.loss(kind, reduction, is_weighted, has_positive);
                    backend.pointwise_loss_grad(PointwiseLossGradArgs { loss, grad: g.view(), out }.checked()?)
                })
            };
            let input_grad = if ctx.needs(0) || (ctx.needs(1) && kind != PointwiseLossKind::BceWithLogits) {
                Some(to_input()?)
            } else {
                None
            };
            let target_grad = match (&input_grad, ctx.needs(1)) {
                (_, false) => None,
                // These losses depend on the difference alone.
                (Some(input), true) if kind != PointwiseLossKind::BceWithLogits => Some(input.neg()?),
                _ => Some(bce_target_gradient(ctx, &grad, reduction, is_weighted, has_positive)?),
            };
            Ok(smallvec![if ctx.needs(0) { input_grad } else { None }, target_grad])
        })
    }
}

/// The loss of input and target, computed with operations that have gradients of gradients.
fn written_out(
    kind: PointwiseLossKind,
    operands: &[Tensor],
    weight: Option<&Tensor>,
    pos_weight: Option<&Tensor>,
    reduction: Reduction,
) -> Result<Tensor> {
    let (x, y, dtype) = (operands[0].widened()?, operands[1].widened()?, operands[0].dtype());
    let mut losses = match kind {
        PointwiseLossKind::Mse => x.sub(&y)?.square()?,
        PointwiseLossKind::L1 => x.sub(&y)?.abs()?,
        // `(1 - y) x + (1 + (p - 1) y) softplus(-x)`
        PointwiseLossKind::BceWithLogits => {
            let mut positive = x.neg()?.softplus()?;
            if let Some(p) = pos_weight {
                positive = positive.mul(&p.widened()?.sub(1)?.mul(&y)?.add(1)?)?;
            }
            y.rsub(1)?.mul(&x)?.add(&positive)?
        }
    };
    if let Some(weight) = weight {
        losses = losses.mul(&weight.widened()?)?;
    }
    match reduction {
        Reduction::None => Ok(losses),
        Reduction::Sum => losses.sum(()),
        Reduction::Mean => losses.mean(()),
    }?
    .to_dtype(dtype)
}

/// The tensors of a loss, locked and broadcast: input, target, then the weights, if any.
struct Operands<'a> {
    locked: Vec<(Reading<'a>, Layout)>,
}

impl<'a> Operands<'a> {
    fn new(op: &'static str, tensors: &[&'a Tensor], shape: &Shape) -> Result<Operands<'a>> {
        let lock = |t: &&'a Tensor| Ok((t.read(), t.layout().expand(op, shape)?));
        Ok(Operands { locked: tensors.iter().map(lock).collect::<Result<_>>()? })
    }

    fn loss(
        &self,
        kind: PointwiseLossKind,
        reduction: Reduction,
        is_weighted: bool,
        has_positive: bool,
    ) -> PointwiseLoss<'_> {
        let view = |i: usize| self.locked[i].0.through(&self.locked[i].1);
        PointwiseLoss {
            kind,
            reduction,
            input: view(0),
            target: view(1),
            weight: is_weighted.then(|| view(2)),
            pos_weight: has_positive.then(|| view(2 + usize::from(is_weighted))),
        }
    }
}

/// The derivative of binary cross-entropy with respect to the target: `-x`, or with a weight `p` of positive targets `p
/// · softplus(-x) - softplus(x)`.
fn bce_target_gradient(
    ctx: &Ctx<'_>,
    grad: &Tensor,
    reduction: Reduction,
    is_weighted: bool,
    has_positive: bool,
) -> Result<Tensor> {
    // Half precision is rounded once, at the end.
    let x = ctx.saved(0)?.widened()?;
    let mut slope = if has_positive {
        let positive = ctx.saved(2 + usize::from(is_weighted))?.widened()?;
        positive.mul(&x.neg()?.softplus()?)?.sub(&x.softplus()?)?
    } else {
        x.neg()?
    };
    if is_weighted {
        slope = slope.mul(&ctx.saved(2)?.widened()?)?;
    }
    if reduction == Reduction::Mean {
        slope = slope.div(x.numel() as f64)?;
    }
    slope.mul(&grad.widened()?)?.to_dtype(grad.dtype())
}

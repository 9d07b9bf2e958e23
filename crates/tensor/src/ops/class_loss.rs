//! Cross-entropy and negative log-likelihood over classes: one fused primitive per direction.

use std::sync::atomic::Ordering;

use kiln_backend::{
    Arguments, ClassLoss, ClassLossArgs, ClassLossGradArgs, ClassLossInput, ClassLossOperands, DType, Error, Layout,
    Reduction, Result, Shape,
};
use kiln_derive::located;
use smallvec::{SmallVec, smallvec};

use super::check;
use crate::{
    autocast::{autocast_off_guard, cast_operands, is_autocast_enabled},
    autograd::{Edge, is_recorded, is_tracing, no_grad, one, record},
    tensor::Tensor,
};

/// The extents of input and target as `[N, C, S]` and `[N, S]`, where `S` is the number of positions per sample.
struct Sizes {
    flat: Shape,
    samples: Shape,
    /// The shape of the target, and of the unreduced loss.
    out: Shape,
}

/// The requirement on targets without a class dimension.
const INDICES: &str = "class indices are i64; convert with `to_dtype(DType::I64)`";

#[located]
impl Tensor {
    /// The loss of this tensor of scores over classes, `[N, C]`, `[N, C, d1, …]` or `[C]`, against `target`: class
    /// indices (`i64`, the same shape without `C`) or, for logits, probabilities (the same shape and dtype). `weight`
    /// has one factor per class. The result is a scalar or, if nothing is reduced, has the input's shape without `C`.
    ///
    /// `kiln::nn` wraps this as `CrossEntropyLoss` and `NLLLoss`.
    ///
    /// # Errors
    /// If shapes, dtypes or devices do not fit, a class is out of range, or the weight or (for indices) the target
    /// requires gradients.
    pub fn class_loss(&self, target: &Tensor, weight: Option<&Tensor>, rule: &ClassLoss) -> Result<Tensor> {
        let op = match rule.input {
            ClassLossInput::Logits => "cross_entropy",
            ClassLossInput::LogProbs => "nll_loss",
        };
        // Under autocast losses are in f32. The kernels compute in that anyway, so scores in half precision are read as they are,
        // and their gradient is rounded once. (A trace shows conversions.)
        let is_plain = weight.is_none() && !target.dtype().is_float();
        if is_autocast_enabled() && self.dtype().is_half() && is_plain && !is_tracing() {
            let _off = autocast_off_guard();
            return self.class_loss_no_autocast(op, target, None, rule, DType::F32);
        }
        cast_operands(op, [self, target], [weight], |[x, target], [weight]| {
            x.class_loss_no_autocast(op, target, weight, rule, x.dtype())
        })
    }

    /// `dtype`: that of the loss.
    fn class_loss_no_autocast(
        &self,
        op: &'static str,
        target: &Tensor,
        weight: Option<&Tensor>,
        rule: &ClassLoss,
        dtype: DType,
    ) -> Result<Tensor> {
        let sizes = self.class_sizes(op, target, weight, rule)?;
        if target.requires_grad() {
            let losses = written_out(&self.reshape(sizes.flat)?, &target.reshape(sizes.flat)?, weight, rule)?;
            return if rule.reduction == Reduction::None { losses.reshape(sizes.out) } else { Ok(losses) };
        }
        let x = no_grad(|| self.reshape(sizes.flat))?;
        let soft = target.dtype().is_float();
        let flat_target = no_grad(|| target.reshape(if soft { sizes.flat } else { sizes.samples }))?;
        // Sums are kept in at least f32.
        let wide = self.dtype().accumulator();
        let reduced = rule.reduction != Reduction::None;
        let loss_shape = if reduced { Shape::SCALAR } else { sizes.samples };
        let lse = Tensor::empty(sizes.samples, (wide, self.device()))?;
        let total = Tensor::empty((), (wide, self.device()))?;
        let recorded = reduced && is_recorded(&[self]);
        let mut unit_grad = None;
        let loss = {
            let (x, t, w) = (x.read(), flat_target.read(), weight.map(Tensor::read));
            let (mut lse_out, mut total_out) = (lse.0.storage.write(), total.0.storage.write());
            Tensor::compute(self.device(), dtype, loss_shape, |backend, out| {
                let lse_out = kiln_backend::ViewMut { buffer: &mut **lse_out, layout: lse.layout() };
                let total_out = kiln_backend::ViewMut { buffer: &mut **total_out, layout: total.layout() };
                let weight = w.as_ref().map(|w| w.view());
                let operands = ClassLossOperands { rule: *rule, x: x.view(), target: t.view(), weight };
                let mut grad_memory = None;
                if recorded && backend.class_loss_gives_grad(&operands) {
                    let grad = Tensor::empty(sizes.flat, (self.dtype(), self.device()))?;
                    grad_memory = Some(unit_grad.insert(grad));
                }
                let mut grad_memory = grad_memory.map(|grad| (grad.0.storage.write(), *grad.layout()));
                let grad = grad_memory
                    .as_mut()
                    .map(|(memory, layout)| kiln_backend::ViewMut { buffer: &mut ***memory, layout });
                let args = ClassLossArgs { operands, loss: out, lse: lse_out, total: total_out, grad };
                backend.class_loss(args.checked()?)
            })?
        };
        let name = match (soft, sizes.flat[2] == 1) {
            (true, _) => "CrossEntropyBackward0",
            (false, true) => "NllLossBackward0",
            (false, false) => "NllLoss2DBackward0",
        };
        let (rule, own) = (*rule, *self.shape());
        let shape = if reduced { Shape::SCALAR } else { sizes.out };
        let loss = Tensor::from_storage(loss.0.storage.clone(), Layout::contiguous(shape));
        let operands: SmallVec<[&Tensor; 3]> = [Some(self), Some(target), weight].into_iter().flatten().collect();
        let loss = loss.noted(op, &operands, || {
            [
                ("reduction", rule.reduction.name().into()),
                ("ignore_index", rule.ignore_index.into()),
                ("label_smoothing", rule.label_smoothing.into()),
            ]
        });
        // The caller's scores, for gradients of gradients: `x` may be a copy of them.
        let mut saved: SmallVec<[&Tensor; 7]> = smallvec![&x, &flat_target, &lse, &total, self];
        saved.extend(weight);
        let has_weight = weight.is_some();
        saved.extend(&unit_grad);
        let loss = record(loss, name, &[self], &saved, move |ctx| {
            let target = ctx.constant(1)?;
            let weight = if has_weight { Some(ctx.constant(5)?) } else { None };
            if ctx.grad_is_unit() {
                // The operands are those of the gradient.
                ctx.saved(0)?;
                return Ok(one(ctx.saved(ctx.saved.len() - 1)?.reshape(own)?));
            }
            if ctx.create_graph {
                return ctx.composed(&[ctx.saved(4)?], |scores| {
                    let scores = scores[0].reshape(sizes.flat)?;
                    let scores = if scores.dtype() == dtype { scores } else { scores.widened()? };
                    written_out(&scores, &target, weight.as_ref(), &rule)?.reshape(shape)
                });
            }
            let grad = ctx.grad()?.reshape(loss_shape)?;
            let (x, lse, total) = (ctx.saved(0)?, ctx.saved(2)?, ctx.saved(3)?);
            let (g, t, w) = (grad.read(), target.read(), weight.as_ref().map(Tensor::read));
            let (l, d, input) = (lse.read(), total.read(), x.read());
            let gradient = Tensor::compute(x.device(), x.dtype(), *x.shape(), |backend, out| {
                let weight = w.as_ref().map(|w| w.view());
                let operands = ClassLossOperands { rule, x: input.view(), target: t.view(), weight };
                let (grad, lse, total) = (g.view(), l.view(), d.view());
                backend.class_loss_grad(ClassLossGradArgs { operands, grad, lse, total, out }.checked()?)
            })?;
            Ok(one(gradient.reshape(own)?))
        })?;
        if let (Some(_), Some(Edge::Node { node, .. })) = (&unit_grad, loss.edge()) {
            node.knows_unit_grad.store(true, Ordering::Relaxed);
        }
        Ok(loss)
    }

    fn class_sizes(
        &self,
        op: &'static str,
        target: &Tensor,
        weight: Option<&Tensor>,
        rule: &ClassLoss,
    ) -> Result<Sizes> {
        check::floats(op, self)?;
        check::same_device(op, self, &[target])?;
        if self.rank() == 0 {
            return Err(Error::shape(op, "scores [N, C], [N, C, …] or [C]", self.shape()));
        }
        let dims = self.dims();
        let (n, classes, rest) =
            if dims.len() == 1 { (1, dims[0], &dims[..0]) } else { (dims[0], dims[1], &dims[2..]) };
        let positions = rest.iter().product();
        // The scores' shape without the class dimension.
        let class_dim = dims.len().min(2) - 1;
        let without = [&dims[..class_dim], &dims[class_dim + 1..]].concat();
        let out = Shape::new(&without)?;
        if target.dtype().is_float() {
            if rule.input == ClassLossInput::LogProbs {
                return Err(Error::dtype(op, target.dtype(), INDICES));
            }
            if *target.shape() == out {
                // A sign that labels were read as floats.
                return Err(Error::dtype(op, target.dtype(), INDICES));
            }
            check::same_kind(op, self, &[target])?;
            if target.shape() != self.shape() {
                let expected = "probabilities as targets must have the shape of the scores";
                return Err(Error::shapes(op, self.shape(), target.shape(), expected));
            }
        } else {
            if target.dtype() != DType::I64 {
                return Err(Error::dtype(op, target.dtype(), INDICES));
            }
            if *target.shape() != out {
                return Err(Error::shapes(
                    op,
                    self.shape(),
                    target.shape(),
                    format!("class indices must have the shape {out}"),
                ));
            }
        }
        if classes == 0 {
            return Err(Error::shape(op, "at least one class", self.shape()));
        }
        if !(0.0..=1.0).contains(&rule.label_smoothing) {
            return Err(Error::argument(op, format!("label smoothing {} is outside [0, 1]", rule.label_smoothing)));
        }
        if let Some(weight) = weight {
            check::same_kind(op, self, &[weight])?;
            if *weight.shape() != [classes] {
                let expected = format!("the weight must have one factor for each of the {classes} classes");
                return Err(Error::shapes(op, self.shape(), weight.shape(), expected));
            }
            if weight.requires_grad() {
                return Err(Error::autograd(op, "gradients of the weight are not supported"));
            }
        }
        let (flat, samples) = (Shape::new(&[n, classes, positions])?, Shape::new(&[n, positions])?);
        Ok(Sizes { flat, samples, out })
    }
}

/// The loss of scores `[N, C, S]`, computed with operations that have gradients of gradients; targets that are
/// probabilities have a gradient too (`[N, C, S]`; labels are `[N, S]`). Returns `[N, S]`, or a scalar if the rule reduces.
fn written_out(x: &Tensor, target: &Tensor, weight: Option<&Tensor>, rule: &ClassLoss) -> Result<Tensor> {
    if x.dtype().size() == 2 {
        // Half precision is rounded once, at the end.
        let weight = weight.map(Tensor::widened).transpose()?;
        return written_out(&x.widened()?, &target.widened()?, weight.as_ref(), rule)?.to_dtype(x.dtype());
    }
    let classes = x.dims()[1];
    let (kept, share) = (1.0 - rule.label_smoothing, rule.label_smoothing / classes as f64);
    let log_probs = if rule.input == ClassLossInput::Logits { x.log_softmax(1)? } else { x.clone() };
    let weighted = |t: &Tensor| weight.map_or(Ok(t.clone()), |weight| t.mul(&weight.reshape([1, classes, 1])?));
    if target.dtype().is_float() {
        let losses = weighted(&log_probs.mul(&target.mul(kept)?.add(share)?)?)?.sum(1)?.neg()?;
        return match rule.reduction {
            Reduction::None => Ok(losses),
            Reduction::Sum => losses.sum(()),
            Reduction::Mean => losses.mean(()),
        };
    }
    let ignored = target.eq(rule.ignore_index)?;
    let labels = target.masked_fill(&ignored, 0)?;
    let weights = weighted(&Tensor::ones([1, classes, 1], x.options())?)?.expand(x.shape())?;
    let weights = weights.gather(1, &labels.unsqueeze(1)?)?.squeeze(1)?.masked_fill(&ignored, 0)?;
    let mut losses = log_probs.gather(1, &labels.unsqueeze(1)?)?.squeeze(1)?.mul(&weights)?.mul(-kept)?;
    if rule.label_smoothing != 0.0 {
        losses = losses.sub(&weighted(&log_probs)?.sum(1)?.mul(share)?)?;
    }
    let losses = losses.masked_fill(&ignored, 0)?;
    match rule.reduction {
        Reduction::None => Ok(losses),
        Reduction::Sum => losses.sum(()),
        Reduction::Mean => losses.sum(())?.div(&weights.sum(())?),
    }
}

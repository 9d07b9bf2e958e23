//! The fused losses and their gradients.

use kiln_backend::{
    ClassLoss, ClassLossInput, DType, Error, Layout, PointwiseLoss, PointwiseLossKind, Reduction, Result, View, ViewMut,
};

use super::{
    launch::{Tag, launch},
    values::accumulated,
};
use crate::{
    device::Device,
    params::{self, Grid, Lanes, LossFinish, Status},
    view::Tensor,
};

/// Bytes of a block's partial sums: the loss and the divisor, as `f64`.
const PARTIAL: usize = 16;
/// Threads' worth of work that one block does alone, so that a small loss is one launch.
const ALONE: u64 = 16 * params::THREADS as u64;

/// Blocks for a loss of so many threads. Depends on the shape only, and with it the order of additions.
fn blocks(threads: u64) -> u32 {
    if threads <= ALONE { 1 } else { params::blocks(threads) }
}

fn code(reduction: Reduction) -> u32 {
    match reduction {
        Reduction::None => 0,
        Reduction::Mean => 1,
        Reduction::Sum => 2,
    }
}

fn has_shape(op: &'static str, what: &str, layout: &Layout, dims: &[usize]) -> Result<()> {
    if layout.dims() == dims {
        Ok(())
    } else {
        Err(Error::shape(op, format!("{what} of shape {dims:?}"), layout.shape()))
    }
}

fn class_name(rule: &ClassLoss) -> &'static str {
    match rule.input {
        ClassLossInput::Logits => "cross_entropy",
        ClassLossInput::LogProbs => "nll_loss",
    }
}

/// The operands that both directions of a loss over classes share.
struct ClassProblem<'a> {
    op: &'static str,
    x: Tensor<'a>,
    target: Tensor<'a>,
    weight: Option<Tensor<'a>>,
    /// `[N, S]`
    rows: [usize; 2],
    labels: bool,
    params: params::ClassLoss,
}

impl<'a> ClassProblem<'a> {
    fn new(
        device: &Device,
        rule: &ClassLoss,
        x: View<'a>,
        target: View<'a>,
        weight: Option<View<'a>>,
    ) -> Result<ClassProblem<'a>> {
        let op = class_name(rule);
        let &[samples, classes, positions] = x.layout.dims() else {
            return Err(Error::shape(op, "an input [N, C, S]", x.layout.shape()));
        };
        let (x, target) = (Tensor::read(device, op, x)?, Tensor::read(device, op, target)?);
        let labels = !target.dtype.is_float();
        let rows = [samples, positions];
        if labels {
            has_shape(op, "a target of class numbers", target.of(op, DType::I64)?.layout, &rows)?;
        } else if rule.input == ClassLossInput::LogProbs {
            return Err(Error::dtype(op, target.dtype, "it takes class numbers (i64)"));
        } else {
            let dims = [samples, classes, positions];
            has_shape(op, "a target of probabilities", target.of(op, x.dtype)?.layout, &dims)?;
        }
        let weight = match weight {
            Some(view) => {
                let weight = Tensor::read(device, op, view)?.of(op, x.dtype)?;
                has_shape(op, "a weight a class", weight.layout, &[classes])?;
                Some(weight)
            }
            None => None,
        };
        let logits = rule.input == ClassLossInput::Logits;
        let smoothing = if logits { rule.label_smoothing } else { 0.0 };
        let steps = strides::<3>(x.layout);
        let params = params::ClassLoss {
            samples: samples as u64,
            classes: classes as u64,
            positions: params::Dim::new(positions as u64),
            x: steps,
            target: if labels {
                let [n, s] = strides::<2>(target.layout);
                [n, 0, s]
            } else {
                strides(target.layout)
            },
            out: [0; 3],
            loss: [0; 2],
            lse: [0; 2],
            weight: weight.as_ref().map_or(0, |weight| strides::<1>(weight.layout)[0]),
            ignore_index: rule.ignore_index,
            kept: 1.0 - smoothing,
            share: smoothing / classes.max(1) as f64,
            logits: u32::from(logits),
            reduction: code(rule.reduction),
            // Neighbouring positions are neighbours in memory where there are any: then threads run across rows.
            lanes: Lanes::new(
                classes as u64,
                (samples * positions) as u64,
                positions > 1 && steps[2].abs() < steps[1].abs(),
            ),
        };
        Ok(ClassProblem { op, x, target, weight, rows, labels, params })
    }

    fn kind(&self) -> &'static str {
        if self.labels { "labels" } else { "probs" }
    }

    fn threads(&self) -> u64 {
        self.params.samples * self.params.positions.extent * self.params.lanes.count()
    }

    /// The shape of the loss.
    fn loss_dims(&self, reduction: Reduction) -> &[usize] {
        if reduction == Reduction::None { &self.rows } else { &[] }
    }

    fn weight(&self) -> u64 {
        self.weight.as_ref().map_or(0, |weight| weight.address)
    }
}

/// The strides of a layout of `N` dimensions; 0 for each that it lacks.
fn strides<const N: usize>(layout: &Layout) -> [i64; N] {
    std::array::from_fn(|dim| layout.strides().get(dim).map_or(0, |&stride| stride as i64))
}

impl Device {
    #[allow(clippy::too_many_arguments)] // one fused kernel
    pub(super) fn class_loss_impl(
        &'static self,
        rule: &ClassLoss,
        x: View,
        target: View,
        weight: Option<View>,
        loss: ViewMut,
        lse: ViewMut,
        total: ViewMut,
    ) -> Result<()> {
        let mut problem = ClassProblem::new(self, rule, x, target, weight)?;
        let (op, dtype) = (problem.op, problem.x.dtype);
        let loss = Tensor::write(self, op, loss)?.of(op, dtype)?;
        let lse = Tensor::write(self, op, lse)?.of(op, accumulated(dtype))?;
        let total = Tensor::write(self, op, total)?.of(op, accumulated(dtype))?;
        has_shape(op, "a row statistic [N, S]", lse.layout, &problem.rows)?;
        has_shape(op, "a scalar total", total.layout, &[])?;
        has_shape(op, "a loss", loss.layout, problem.loss_dims(rule.reduction))?;
        (problem.params.loss, problem.params.lse) = (strides(loss.layout), strides(lse.layout));
        let blocks = blocks(problem.threads());
        let partial = self.scratch(if blocks > 1 { blocks as usize * PARTIAL } else { 0 })?;
        let (tag, kind, status) = (Tag::of(dtype), problem.kind(), self.status(Status::CLASS, op));
        let (x, target, weight) = (problem.x.address, problem.target.address, problem.weight());
        let (loss, lse, total, partial) = (loss.address, lse.address, total.address, partial.address());
        let params = problem.params;
        launch!(self, CLASS_LOSS, kind, tag, blocks, params, x, target, weight, loss, lse, total, partial, status)?;
        if blocks > 1 {
            let count = if problem.labels { 0.0 } else { (params.samples * params.positions.extent) as f64 };
            self.finish_loss(tag, blocks, count, rule.reduction, [partial, loss, total])?;
        }
        Ok(())
    }

    /// From the partial sums of blocks to the loss. The memory of the sums may be given away when this returns.
    fn finish_loss(
        &self,
        tag: Tag,
        blocks: u32,
        count: f64,
        reduction: Reduction,
        [partial, loss, total]: [u64; 3],
    ) -> Result<()> {
        let finish = LossFinish { blocks: blocks.into(), count, reduction: code(reduction), unused: 0 };
        launch!(self, LOSS_FINISH, "sum", tag, 1, finish, partial, loss, total)
    }

    #[allow(clippy::too_many_arguments)] // one fused kernel
    pub(super) fn class_loss_grad_impl(
        &self,
        rule: &ClassLoss,
        grad: View,
        x: View,
        target: View,
        weight: Option<View>,
        lse: View,
        total: View,
        out: ViewMut,
    ) -> Result<()> {
        let mut problem = ClassProblem::new(self, rule, x, target, weight)?;
        let (op, dtype) = (problem.op, problem.x.dtype);
        let out = Tensor::write(self, op, out)?.of(op, dtype)?.shaped(op, problem.x.layout)?;
        let grad = Tensor::read(self, op, grad)?.of(op, dtype)?;
        let lse = Tensor::read(self, op, lse)?.of(op, accumulated(dtype))?;
        let total = Tensor::read(self, op, total)?.of(op, accumulated(dtype))?;
        has_shape(op, "a row statistic [N, S]", lse.layout, &problem.rows)?;
        has_shape(op, "a scalar total", total.layout, &[])?;
        has_shape(op, "a gradient of the loss", grad.layout, problem.loss_dims(rule.reduction))?;
        if out.layout.numel() == 0 {
            return Ok(());
        }
        problem.params.out = strides(out.layout);
        (problem.params.loss, problem.params.lse) = (strides(grad.layout), strides(lse.layout));
        let (tag, kind, blocks) = (Tag::of(dtype), problem.kind(), params::blocks(problem.threads()));
        let (x, target, weight, params) = (problem.x.address, problem.target.address, problem.weight(), problem.params);
        let (grad, lse, total, out) = (grad.address, lse.address, total.address, out.address);
        launch!(self, CLASS_LOSS_GRAD, kind, tag, blocks, params, grad, x, target, weight, lse, total, out)
    }

    pub(super) fn pointwise_loss_impl(&'static self, loss: &PointwiseLoss, out: ViewMut) -> Result<()> {
        let problem = PointwiseProblem::new(self, loss)?;
        let (op, x) = (problem.op, problem.input);
        let out = Tensor::write(self, op, out)?.of(op, x.dtype)?;
        let reduced = loss.reduction != Reduction::None;
        has_shape(op, "a loss", out.layout, if reduced { &[] } else { x.layout.dims() })?;
        let (weight, pos_weight) = (problem.weight, problem.pos_weight);
        let [w, p] = [weight, pos_weight].map(|tensor| tensor.map(|tensor| tensor.place()));
        let to = if reduced { None } else { Some(out.place()) };
        let grid = Grid::<5>::new(x.layout.dims(), [Some(x.place()), Some(problem.target.place()), w, p, to]);
        if grid.numel == 0 && !reduced {
            return Ok(());
        }
        let blocks = if reduced { blocks(grid.numel) } else { params::blocks(grid.numel) };
        let partial = self.scratch(if reduced && blocks > 1 { blocks as usize * PARTIAL } else { 0 })?;
        let [weight, pos_weight] = [weight, pos_weight].map(|tensor| tensor.map_or(0, |tensor| tensor.address));
        let (tag, target, reduction) = (Tag::of(x.dtype), problem.target.address, code(loss.reduction));
        let (numel, input, out, partial) = (grid.numel, x.address, out.address, partial.address());
        launch!(
            self,
            POINTWISE_LOSS,
            problem.kernel,
            tag,
            blocks,
            grid,
            input,
            target,
            weight,
            pos_weight,
            out,
            partial,
            reduction
        )?;
        if reduced && blocks > 1 {
            self.finish_loss(tag, blocks, numel as f64, loss.reduction, [partial, out, 0])?;
        }
        Ok(())
    }

    pub(super) fn pointwise_loss_grad_impl(&self, loss: &PointwiseLoss, grad: View, out: ViewMut) -> Result<()> {
        let problem = PointwiseProblem::new(self, loss)?;
        let (op, x) = (problem.op, problem.input);
        let out = Tensor::write(self, op, out)?.of(op, x.dtype)?.shaped(op, x.layout)?;
        let reduced = loss.reduction != Reduction::None;
        has_shape(op, "a gradient of the loss", grad.layout, if reduced { &[] } else { x.layout.dims() })?;
        // One gradient for all elements, if the loss is reduced.
        let spread = grad.layout.expand(op, x.layout.shape())?;
        let grad = Tensor::read(self, op, View { buffer: grad.buffer, layout: &spread })?.of(op, x.dtype)?;
        let (weight, pos_weight) = (problem.weight, problem.pos_weight);
        let [w, p] = [weight, pos_weight].map(|tensor| tensor.map(|tensor| tensor.place()));
        let places = [Some(grad.place()), Some(x.place()), Some(problem.target.place()), w, p, Some(out.place())];
        let grid = Grid::<6>::new(x.layout.dims(), places);
        if grid.numel == 0 {
            return Ok(());
        }
        let scale = if loss.reduction == Reduction::Mean { 1.0 / grid.numel as f64 } else { 1.0 };
        let [weight, pos_weight] = [weight, pos_weight].map(|tensor| tensor.map_or(0, |tensor| tensor.address));
        let (tag, blocks) = (Tag::of(x.dtype), params::blocks(grid.numel));
        let (grad, input, target, out) = (grad.address, x.address, problem.target.address, out.address);
        launch!(
            self,
            POINTWISE_LOSS_GRAD,
            problem.kernel,
            tag,
            blocks,
            grid,
            grad,
            input,
            target,
            weight,
            pos_weight,
            out,
            scale
        )
    }
}

/// The operands of an element-wise loss.
struct PointwiseProblem<'a> {
    op: &'static str,
    kernel: &'static str,
    input: Tensor<'a>,
    target: Tensor<'a>,
    weight: Option<Tensor<'a>>,
    pos_weight: Option<Tensor<'a>>,
}

impl<'a> PointwiseProblem<'a> {
    fn new(device: &Device, loss: &PointwiseLoss<'a>) -> Result<PointwiseProblem<'a>> {
        let (op, kernel) = match loss.kind {
            PointwiseLossKind::Mse => ("mse_loss", "mse"),
            PointwiseLossKind::L1 => ("l1_loss", "l1"),
            PointwiseLossKind::BceWithLogits => ("binary_cross_entropy_with_logits", "bce"),
        };
        let (weight, pos_weight) = match loss.kind {
            PointwiseLossKind::BceWithLogits => (loss.weight, loss.pos_weight),
            PointwiseLossKind::Mse | PointwiseLossKind::L1 => (None, None),
        };
        let input = Tensor::read(device, op, loss.input)?;
        let read = |view| Tensor::read(device, op, view)?.of(op, input.dtype)?.shaped(op, input.layout);
        Ok(PointwiseProblem {
            op,
            kernel,
            input,
            target: read(loss.target)?,
            weight: weight.map(read).transpose()?,
            pos_weight: pos_weight.map(read).transpose()?,
        })
    }
}

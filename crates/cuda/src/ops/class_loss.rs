//! Cross-entropy and negative log-likelihood over classes, and their gradients.

use kiln_backend::{ClassLoss, ClassLossBackend, ClassLossInput, ClassLossShape, DType, Layout, Result, View, ViewMut};

use super::{
    launch::{Tag, launch},
    loss::{PARTIAL, blocks, code},
    values::accumulated,
};
use crate::{
    device::{CudaBackend, Device},
    params::{self, Lanes, Status},
    view::Tensor,
};

/// The operands that both directions of a loss over classes share.
struct ClassProblem<'a> {
    op: &'static str,
    x: Tensor<'a>,
    target: Tensor<'a>,
    weight: Option<Tensor<'a>>,
    shape: ClassLossShape,
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
        let op = rule.name();
        let shape = rule.check(x, target, weight)?;
        let ClassLossShape { samples, classes, positions, labels } = shape;
        let x = Tensor::read(device, op, x)?;
        let target = Tensor::read(device, op, target)?.of(op, if labels { DType::I64 } else { x.dtype })?;
        let weight = weight.map(|view| Tensor::read(device, op, view)?.of(op, x.dtype)).transpose()?;
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
            // Neighboring positions are neighbors in memory where there are any: then threads run across rows.
            lanes: Lanes::new(
                classes as u64,
                (samples * positions) as u64,
                positions > 1 && steps[2].abs() < steps[1].abs(),
            ),
        };
        Ok(ClassProblem { op, x, target, weight, shape, params })
    }

    fn kind(&self) -> &'static str {
        if self.shape.labels { "labels" } else { "probs" }
    }

    fn threads(&self) -> u64 {
        self.params.samples * self.params.positions.extent * self.params.lanes.count()
    }

    fn weight(&self) -> u64 {
        self.weight.as_ref().map_or(0, |weight| weight.address)
    }
}

/// The strides of a layout of `N` dimensions; 0 for each that it lacks.
fn strides<const N: usize>(layout: &Layout) -> [i64; N] {
    std::array::from_fn(|dim| layout.strides().get(dim).map_or(0, |&stride| stride as i64))
}

impl ClassLossBackend for CudaBackend {
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
    ) -> Result<()> {
        let device = self.0;
        let mut problem = ClassProblem::new(device, rule, x, target, weight)?;
        let (op, dtype) = (problem.op, problem.x.dtype);
        let loss = Tensor::write(device, op, loss)?.of(op, dtype)?;
        let lse = Tensor::write(device, op, lse)?.of(op, accumulated(dtype))?;
        let total = Tensor::write(device, op, total)?.of(op, accumulated(dtype))?;
        rule.check_results(&problem.shape, loss.layout, lse.layout, total.layout)?;
        (problem.params.loss, problem.params.lse) = (strides(loss.layout), strides(lse.layout));
        let blocks = blocks(problem.threads());
        let partial = device.scratch(if blocks > 1 { blocks as usize * PARTIAL } else { 0 })?;
        let (tag, kind, status) = (Tag::of(dtype), problem.kind(), device.status(Status::CLASS, op));
        let (x, target, weight) = (problem.x.address, problem.target.address, problem.weight());
        let (loss, lse, total, partial) = (loss.address, lse.address, total.address, partial.address());
        let params = problem.params;
        launch!(device, CLASS_LOSS, kind, tag, blocks, params, x, target, weight, loss, lse, total, partial, status)?;
        if blocks > 1 {
            let count = if problem.shape.labels { 0.0 } else { (params.samples * params.positions.extent) as f64 };
            device.finish_loss(tag, blocks, count, rule.reduction, [partial, loss, total])?;
        }
        Ok(())
    }

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
    ) -> Result<()> {
        let device = self.0;
        let mut problem = ClassProblem::new(device, rule, x, target, weight)?;
        let (op, dtype) = (problem.op, problem.x.dtype);
        let out = Tensor::write(device, op, out)?.of(op, dtype)?.shaped(op, problem.x.layout)?;
        let grad = Tensor::read(device, op, grad)?.of(op, dtype)?;
        let lse = Tensor::read(device, op, lse)?.of(op, accumulated(dtype))?;
        let total = Tensor::read(device, op, total)?.of(op, accumulated(dtype))?;
        rule.check_results(&problem.shape, grad.layout, lse.layout, total.layout)?;
        if out.layout.numel() == 0 {
            return Ok(());
        }
        problem.params.out = strides(out.layout);
        (problem.params.loss, problem.params.lse) = (strides(grad.layout), strides(lse.layout));
        let (tag, kind, blocks) = (Tag::of(dtype), problem.kind(), params::blocks(problem.threads()));
        let (x, target, weight, params) = (problem.x.address, problem.target.address, problem.weight(), problem.params);
        let (grad, lse, total, out) = (grad.address, lse.address, total.address, out.address);
        launch!(device, CLASS_LOSS_GRAD, kind, tag, blocks, params, grad, x, target, weight, lse, total, out)
    }
}

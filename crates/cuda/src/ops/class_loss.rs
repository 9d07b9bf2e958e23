//! Cross-entropy and negative log-likelihood over classes, and their gradients.

use kiln_backend::{
    Checked, ClassLossArgs, ClassLossBackend, ClassLossExtents, ClassLossGradArgs, ClassLossInput, ClassLossOperands,
    Error, Layout, Result,
};

use super::{
    launch::{Tag, launch},
    loss::{PARTIAL, blocks, code},
};
use crate::{
    device::CudaBackend,
    params::{self, Lanes, Status},
    view::{Access, Tensor},
};

/// Up to so many elements, the block that computes the loss computes the gradient, too.
const MOST_GRADS: usize = 16 * 1024;

/// Classes from which on rows are read in packs.
const MIN_PACKED: u64 = 64;

/// The operands that the loss and its gradient share.
struct ClassProblem<'a> {
    x: Tensor<'a>,
    target: Tensor<'a>,
    weight: Option<Tensor<'a>>,
    labels: bool,
    params: params::ClassLoss,
}

impl<'a> ClassProblem<'a> {
    fn new(access: &Access, operands: ClassLossOperands<'a>) -> Result<ClassProblem<'a>> {
        let ClassLossExtents { samples, classes, positions, labels } = operands.extents();
        let ClassLossOperands { rule, x, target, weight } = operands;
        let (x, target, weight) = (access.read(x)?, access.read(target)?, access.read_if(weight)?);
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
            // Where neighboring positions are adjacent in memory, threads run across rows.
            lanes: Lanes::new(
                classes as u64,
                (samples * positions) as u64,
                positions > 1 && steps[2].abs() < steps[1].abs(),
            ),
            wide: 0,
            unused: 0,
        };
        Ok(ClassProblem { x, target, weight, labels, params })
    }

    /// The loss, or its gradient: of the dtype of the scores, or a wider one.
    fn set_loss(&mut self, loss: &Tensor<'_>) {
        self.params.loss = strides(loss.layout);
        self.params.wide = u32::from(loss.dtype != self.x.dtype);
    }

    fn kind(&self) -> &'static str {
        if self.labels { "labels" } else { "probs" }
    }

    /// The same for the kernels that read rows in packs, if they can: for labels of logits whose classes are adjacent.
    fn packed(&self) -> Option<params::ClassLoss> {
        let (params, size) = (&self.params, self.x.dtype.size());
        let plain = self.labels && params.logits == 1 && self.weight.is_none() && params.share == 0.0;
        let adjacent = params.x[1] == 1 && params.positions.extent == 1;
        let fits = size <= 4 && (MIN_PACKED..1 << 31).contains(&params.classes);
        let packs = params.classes.div_ceil(params::PACK / size as u64);
        (plain && adjacent && fits)
            .then(|| params::ClassLoss { lanes: Lanes::new(packs, params.samples, false), ..*params })
    }

    fn threads(&self) -> u64 {
        self.params.samples * self.params.positions.extent * self.params.lanes.count()
    }

    fn weight(&self) -> u64 {
        self.weight.as_ref().map_or(0, |weight| weight.address)
    }
}

/// The strides of a layout, padded with 0 to `N` dimensions.
fn strides<const N: usize>(layout: &Layout) -> [i64; N] {
    std::array::from_fn(|dim| layout.strides().get(dim).map_or(0, |&stride| stride as i64))
}

impl ClassLossBackend for CudaBackend {
    fn class_loss(&self, args: Checked<ClassLossArgs>) -> Result<()> {
        let device = self.0;
        let ClassLossArgs { operands, loss, lse, total, grad } = args.into_inner();
        let access = Access { device, op: operands.rule.name() };
        let mut problem = ClassProblem::new(&access, operands)?;
        let (loss, lse, total) = (access.write(loss)?, access.write(lse)?, access.write(total)?);
        problem.set_loss(&loss);
        problem.params.lse = strides(lse.layout);
        let grad = grad.map(|grad| access.write(grad)).transpose()?;
        if let Some(grad) = &grad {
            problem.params.out = strides(grad.layout);
        }
        let packed = problem.packed().filter(|_| grad.is_none());
        problem.params = packed.unwrap_or(problem.params);
        let blocks = blocks(problem.threads());
        if grad.is_some() && blocks != 1 {
            return Err(Error::argument(access.op, "only the block that computes a whole loss computes its gradient"));
        }
        let grad = grad.map_or(0, |grad| grad.address);
        let partial = device.scratch(if blocks > 1 { blocks as usize * PARTIAL } else { 0 })?;
        let (tag, kind) = (Tag::of(problem.x.dtype), problem.kind());
        let (x, target, weight) = (problem.x.address, problem.target.address, problem.weight());
        let (loss, lse, total, partial) = (loss.address, lse.address, total.address, partial.address());
        let (params, status) = (problem.params, device.status(Status::CLASS, access.op));
        if packed.is_some() {
            launch!(
                device,
                CLASS_LOSS_PACKED,
                kind,
                tag,
                blocks,
                params,
                x,
                target,
                loss,
                lse,
                total,
                partial,
                status
            )?;
        } else {
            launch!(
                device, CLASS_LOSS, kind, tag, blocks, params, x, target, weight, loss, lse, total, grad, partial,
                status
            )?;
        }
        if blocks > 1 {
            let count = if problem.labels { 0.0 } else { (params.samples * params.positions.extent) as f64 };
            let kind = (operands.rule.reduction, params.wide == 1);
            device.finish_loss(tag, blocks, count, kind, [partial, loss, total])?;
        }
        Ok(())
    }

    /// True where one block computes the whole loss, and so knows the divisor of the mean when it has read all rows.
    fn class_loss_gives_grad(&self, operands: &ClassLossOperands) -> bool {
        let numel = operands.x.layout.numel();
        let access = Access { device: self.0, op: operands.rule.name() };
        let alone = |problem: ClassProblem| blocks(problem.threads()) == 1;
        (1..=MOST_GRADS).contains(&numel) && ClassProblem::new(&access, *operands).is_ok_and(alone)
    }

    fn class_loss_grad(&self, args: Checked<ClassLossGradArgs>) -> Result<()> {
        let device = self.0;
        let ClassLossGradArgs { operands, grad, lse, total, out } = args.into_inner();
        let access = Access { device, op: operands.rule.name() };
        let mut problem = ClassProblem::new(&access, operands)?;
        let (grad, lse, total) = (access.read(grad)?, access.read(lse)?, access.read(total)?);
        let out = access.write(out)?;
        if out.layout.numel() == 0 {
            return Ok(());
        }
        problem.params.out = strides(out.layout);
        problem.set_loss(&grad);
        problem.params.lse = strides(lse.layout);
        let (from, to) = (problem.params.x, problem.params.out);
        // Packs of both are at the same classes.
        let size = problem.x.dtype.size() as i64;
        let offset = problem.x.address.wrapping_sub(out.address);
        let alike = to[1] == 1
            && offset.is_multiple_of(params::PACK)
            && (from[0] - to[0]).wrapping_mul(size).unsigned_abs().is_multiple_of(params::PACK);
        let packed = problem.packed().filter(|_| alike);
        problem.params = packed.unwrap_or(problem.params);
        let (tag, kind, blocks) = (Tag::of(problem.x.dtype), problem.kind(), params::blocks(problem.threads()));
        let (x, target, weight, params) = (problem.x.address, problem.target.address, problem.weight(), problem.params);
        let (grad, lse, total, out) = (grad.address, lse.address, total.address, out.address);
        if packed.is_some() {
            return launch!(
                device,
                CLASS_LOSS_PACKED_GRAD,
                kind,
                tag,
                blocks,
                params,
                grad,
                x,
                target,
                lse,
                total,
                out
            );
        }
        launch!(device, CLASS_LOSS_GRAD, kind, tag, blocks, params, grad, x, target, weight, lse, total, out)
    }
}

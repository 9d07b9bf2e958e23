//! Element-wise losses, fused with their reduction, and their gradients.

use kiln_backend::{
    Checked, PointwiseLoss, PointwiseLossArgs, PointwiseLossBackend, PointwiseLossGradArgs, PointwiseLossKind,
    Reduction, Result, View,
};

use super::{
    launch::{Tag, launch},
    loss::{PARTIAL, blocks, code},
};
use crate::{
    device::CudaBackend,
    params::{self, Grid},
    view::{Access, Tensor},
};

impl PointwiseLossBackend for CudaBackend {
    fn pointwise_loss(&self, args: Checked<PointwiseLossArgs>) -> Result<()> {
        let device = self.0;
        let PointwiseLossArgs { loss, out } = args.into_inner();
        let access = Access { device, op: loss.kind.name() };
        let problem = PointwiseProblem::new(&access, &loss)?;
        let (x, out) = (problem.input, access.write(out)?);
        let reduced = loss.reduction != Reduction::None;
        let (weight, pos_weight) = (problem.weight, problem.pos_weight);
        let [w, p] = [weight, pos_weight].map(|tensor| tensor.map(|tensor| tensor.place()));
        let to = if reduced { None } else { Some(out.place()) };
        let grid = Grid::<5>::new(x.layout.dims(), [Some(x.place()), Some(problem.target.place()), w, p, to]);
        if grid.numel == 0 && !reduced {
            return Ok(());
        }
        let blocks = if reduced { blocks(grid.numel) } else { params::blocks(grid.numel) };
        let partial = device.scratch(if reduced && blocks > 1 { blocks as usize * PARTIAL } else { 0 })?;
        let [weight, pos_weight] = [weight, pos_weight].map(|tensor| tensor.map_or(0, |tensor| tensor.address));
        let (tag, target, reduction) = (Tag::of(x.dtype), problem.target.address, code(loss.reduction));
        let (numel, input, out, partial) = (grid.numel, x.address, out.address, partial.address());
        launch!(
            device,
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
            device.finish_loss(tag, blocks, numel as f64, (loss.reduction, false), [partial, out, 0])?;
        }
        Ok(())
    }

    fn pointwise_loss_grad(&self, args: Checked<PointwiseLossGradArgs>) -> Result<()> {
        let device = self.0;
        let PointwiseLossGradArgs { loss, grad, out } = args.into_inner();
        let access = Access { device, op: loss.kind.name() };
        let problem = PointwiseProblem::new(&access, &loss)?;
        let (x, out) = (problem.input, access.write(out)?);
        // One gradient for all elements, if the loss is reduced.
        let spread = grad.layout.expand(access.op, x.layout.shape())?;
        let grad = access.read(View { layout: &spread, ..grad })?;
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
            device,
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
    kernel: &'static str,
    input: Tensor<'a>,
    target: Tensor<'a>,
    weight: Option<Tensor<'a>>,
    pos_weight: Option<Tensor<'a>>,
}

impl<'a> PointwiseProblem<'a> {
    fn new(access: &Access, loss: &PointwiseLoss<'a>) -> Result<PointwiseProblem<'a>> {
        let kernel = match loss.kind {
            PointwiseLossKind::Mse => "mse",
            PointwiseLossKind::L1 => "l1",
            PointwiseLossKind::BceWithLogits => "bce",
        };
        let [weight, pos_weight] = loss.weights();
        Ok(PointwiseProblem {
            kernel,
            input: access.read(loss.input)?,
            target: access.read(loss.target)?,
            weight: access.read_if(weight)?,
            pos_weight: access.read_if(pos_weight)?,
        })
    }
}

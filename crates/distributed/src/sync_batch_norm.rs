//! Batch normalization with the statistics of all processes' batches.

use std::{fmt, sync::Arc};

use kiln_derive::located;
use kiln_nn::{BatchNormalizer, ModuleTree, Part};
use kiln_tensor::{
    DType, Error, Result, Running, Tensor,
    autograd::{BackwardCtx, Function, FunctionCtx, apply},
    calc, no_grad,
};
use parking_lot::Mutex;

use crate::{
    collective::{Collective, ReduceOp},
    group::ProcessGroup,
};

const OP: &str = "SyncBatchNorm";

/// Batch normalization over the batches of all ranks during training, PyTorch's `SyncBatchNorm`:
/// [`convert_sync_batchnorm`] puts it into the layers of a model.
///
/// In the forward pass, ranks exchange mean, variance and count of their batches; in the backward pass, two sums: per
/// layer a collective of `2 C + 1` and one of `2 C` numbers. Batches may differ in size, and may be empty on some
/// ranks. Half precision is normalized in `f32`
/// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.SyncBatchNorm.html>).
#[derive(Clone)]
pub struct SyncBatchNorm {
    group: Arc<dyn ProcessGroup>,
}

impl fmt::Debug for SyncBatchNorm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SyncBatchNorm({:?})", self.group)
    }
}

/// Makes all batch normalization layers in a model compute their statistics over the batches of all ranks. Parameters,
/// names and evaluation mode do not change. With one process it has no effect.
pub fn convert_sync_batchnorm(model: &(impl ModuleTree + ?Sized), group: &Arc<dyn ProcessGroup>) {
    if group.size() == 1 {
        return;
    }
    let normalizer = Arc::new(SyncBatchNorm { group: group.clone() });
    let convert = |module: &dyn ModuleTree| {
        module.visit(&mut |_, part| {
            if let Part::Training(training) = part {
                training.set_batch_normalizer(Some(normalizer.clone()));
            }
        });
    };
    for (_, module) in model.named_modules() {
        convert(module);
    }
    model.visit(&mut |_, part| {
        if let Part::Training(training) = part {
            training.set_batch_normalizer(Some(normalizer.clone()));
        }
    });
}

#[located(site)]
impl BatchNormalizer for SyncBatchNorm {
    fn batch_norm(
        &self,
        x: &Tensor,
        weight: Option<&Tensor>,
        bias: Option<&Tensor>,
        running: Option<Running<'_>>,
        momentum: f64,
        eps: f64,
    ) -> Result<Tensor> {
        if !x.dtype().is_float() {
            return Err(Error::dtype(OP, x.dtype(), "only floating-point tensors can be normalized"));
        }
        if x.rank() < 2 {
            return Err(Error::shape(OP, "[N, C, …] with at least 2 dimensions", x.shape()));
        }
        let channels = x.dims()[1];
        for vector in [weight, bias].into_iter().flatten() {
            if vector.dims() != [channels] {
                return Err(Error::shapes(
                    OP,
                    x.shape(),
                    vector.shape(),
                    "scale and shift must have one element per channel",
                ));
            }
        }
        let moved = Arc::new(Mutex::new(None));
        let function = Normalize {
            group: self.group.clone(),
            eps,
            weight: weight.map(Tensor::dtype),
            bias: bias.map(Tensor::dtype),
            statistics: moved.clone(),
        };
        let inputs: Vec<&Tensor> = [Some(x), weight, bias].into_iter().flatten().collect();
        let out = apply(function, &inputs)?;
        if let (Some(running), Some([mean, var])) = (running, moved.lock().take()) {
            no_grad(|| {
                for (running, batch) in [(running.mean, mean), (running.var, var)] {
                    let batch = batch.to_dtype(running.dtype())?;
                    running.mul_(1.0 - momentum)?;
                    running.add_(&batch.mul(momentum)?)?;
                }
                Ok::<_, Error>(())
            })?;
        }
        Ok(out)
    }
}

/// The normalization as an operation on the tape.
struct Normalize {
    group: Arc<dyn ProcessGroup>,
    eps: f64,
    /// The dtypes of the scale, if there is one, and of the shift.
    weight: Option<DType>,
    bias: Option<DType>,
    /// Receives mean and unbiased variance of all batches.
    statistics: Arc<Mutex<Option<[Tensor; 2]>>>,
}

/// The compute type.
fn wide(dtype: DType) -> DType {
    if dtype == DType::F64 { dtype } else { DType::F32 }
}

/// Reshaped to `[N, C, L]` and converted to the compute type.
fn rows(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(wide(x.dtype()))?.reshape([x.dims()[0], x.dims()[1], x.dims()[2..].iter().product()])
}

/// One number per channel, as `[1, C, 1]`.
fn column(x: &Tensor) -> Result<Tensor> {
    x.reshape([1, x.numel(), 1])
}

/// The sum over all dimensions but the channels.
fn per_channel(x: &Tensor) -> Result<Tensor> {
    x.sum([0, 2])
}

impl Function for Normalize {
    fn name(&self) -> &str {
        OP
    }

    fn forward(&self, ctx: &mut FunctionCtx, inputs: &[Tensor]) -> Result<Tensor> {
        let x = rows(&inputs[0])?;
        let (c, count) = (x.dims()[1], x.dims()[0] * x.dims()[2]);
        // Mean and sum of squared deviations, of this rank and then of all (Chan et al., 1983): this avoids
        // cancellation.
        let mean = per_channel(&x)?.div(count.max(1) as f64)?;
        let squares = per_channel(&x.sub(&column(&mean)?)?.square()?)?;
        let own = Tensor::cat(&[mean, squares, Tensor::full(1, count as f64, (x.dtype(), x.device()))?], 0)?;
        let all = Tensor::zeros([self.group.size(), own.numel()], (x.dtype(), x.device()))?;
        self.group.start(Collective::all_gather(&all, &own).named("statistics of SyncBatchNorm"))?.wait()?;
        let (means, squares, counts) = (all.narrow(1, 0, c)?, all.narrow(1, c, c)?, all.narrow(1, 2 * c, 1)?);
        let total = counts.sum(())?;
        // A rank with several values per channel needs no answer from the others, which would mean waiting for the
        // device.
        if count < 2 && total.to_dtype(DType::F64)?.item::<f64>()? < 2.0 {
            let expected = "more than one value per channel on all ranks together while training";
            return Err(Error::shape(OP, expected, inputs[0].shape()));
        }
        let mean = means.mul(&counts)?.sum(0)?.div(&total)?;
        let squares = calc!(squares + (means - mean)?.square() * counts)?.sum(0)?;
        let inv_std = squares.div(&total)?.add(self.eps)?.rsqrt()?;
        let unbiased = squares.div(&total.sub(1.0)?)?;
        let mut out = calc!((x - column(&mean)) * column(&inv_std))?;
        if self.weight.is_some() {
            out.mul_(&column(&inputs[1])?)?;
        }
        if self.bias.is_some() {
            out.add_(&column(&inputs[inputs.len() - 1])?)?;
        }
        out = out.reshape(inputs[0].dims())?.to_dtype(inputs[0].dtype())?;
        ctx.save(&inputs[0]);
        ctx.save(&mean);
        ctx.save(&inv_std);
        ctx.save(&total);
        if self.weight.is_some() {
            ctx.save(&inputs[1]);
        }
        *self.statistics.lock() = Some([mean, unbiased]);
        Ok(out)
    }

    fn backward(&self, ctx: &BackwardCtx, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let (input, mean, inv_std, total) = (ctx.saved(0)?, ctx.saved(1)?, ctx.saved(2)?, ctx.saved(3)?);
        let (x, g) = (rows(&input)?.sub(&column(&mean)?)?, rows(grad)?);
        let c = x.dims()[1];
        let (sum, sum_x) = (per_channel(&g)?, per_channel(&g.mul(&x)?)?);
        // Gradients of parameters are those of this rank's share, as in other layers.
        let mut grads = vec![None];
        if let Some(dtype) = self.weight {
            grads.push(Some(sum_x.mul(&inv_std)?.to_dtype(dtype)?));
        }
        if let Some(dtype) = self.bias {
            grads.push(Some(sum.to_dtype(dtype)?));
        }
        if ctx.needs(0) {
            let sums = Tensor::cat(&[sum, sum_x], 0)?;
            let call = Collective::all_reduce(&sums, ReduceOp::Sum).named("gradients of SyncBatchNorm");
            self.group.start(call)?.wait()?;
            let means = sums.div(&total)?;
            let through_variance = means.narrow(0, c, c)?.mul(&inv_std.square()?)?;
            let through_mean = column(&means.narrow(0, 0, c)?)?;
            let grad = calc!((g - through_mean - x * column(&through_variance)) * column(&inv_std))?;
            let grad = if self.weight.is_some() { grad.mul(&column(&ctx.saved(4)?)?)? } else { grad };
            grads[0] = Some(grad.reshape(input.dims())?.to_dtype(input.dtype())?);
        }
        Ok(grads)
    }
}

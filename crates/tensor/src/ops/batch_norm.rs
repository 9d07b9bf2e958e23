//! Batch normalization, alone or with what surrounds it in networks: the bias before it, a residual and ReLU after it.

use kiln_backend::{
    Arguments, Backend, BatchNormArgs, BatchNormEvalArgs, BatchNormGradArgs, BatchNormGradThen, BatchNormThen, DType,
    Error, NormGrads, ReluAfterNorm, Result, RunningStats, ViewMut,
};
use kiln_derive::located;
use smallvec::{SmallVec, smallvec};

use super::{
    check,
    images::{image_layout, writing},
    norm::{Norm, Operands, affine_dtype, inputs, recorded_gradients, scaled, vector, vectors},
};
use crate::{
    autocast::like,
    autograd::{Arrived, Ctx, Grads, grad_enabled, is_tracing, no_grad, record},
    storage::{Reading, Writing},
    tensor::Tensor,
};

const OP: &str = "batch_norm";

/// The running statistics of a batch normalization, one number per channel each, updated in place while training.
#[derive(Clone, Copy, Debug)]
pub struct Running<'a> {
    /// The mean.
    pub mean: &'a Tensor,
    /// The (unbiased) variance.
    pub var: &'a Tensor,
}

/// A batch normalization and what surrounds it, for [`Tensor::batch_norm_with`].
#[derive(Clone, Copy, Debug, Default)]
pub struct BatchNorm<'a> {
    /// The scale `[C]`; 1 if not given.
    pub weight: Option<&'a Tensor>,
    /// The shift `[C]`; 0 if not given.
    pub bias: Option<&'a Tensor>,
    /// The running statistics.
    pub running: Option<Running<'a>>,
    /// The number of batches so far, an `i64` without dimensions: incremented when running statistics are updated.
    pub count: Option<&'a Tensor>,
    /// Whether mean and variance are those of the batch, and the running ones are updated.
    pub training: bool,
    /// The weight of the batch in the running statistics.
    pub momentum: f64,
    /// The number added to the variance.
    pub eps: f64,
    /// A bias `[C]` that comes before the normalization, such as that of the convolution that made the images. The mean
    /// of the batch takes it away again, so while training nothing is added to the images, and its gradient is zeros;
    /// only the running mean contains it.
    pub bias_before: Option<&'a Tensor>,
    /// A tensor of the images' shape, added to the result.
    pub residual: Option<&'a Tensor>,
    /// Whether ReLU comes last.
    pub relu: bool,
}

impl BatchNorm<'_> {
    /// Whether the statistics are those of the batch.
    fn by_batch(&self) -> bool {
        self.training || self.running.is_none()
    }
}

#[located]
impl Tensor {
    /// Normalizes each channel of `[N, C, …]`: subtracts its mean, divides by `sqrt(variance + eps)`, then scales by
    /// `weight` and shifts by `bias` (`[C]`; 1 and 0 if not given)
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.batch_norm.html>).
    ///
    /// With `training`, or without running statistics, mean and variance are those of the batch, and the running ones,
    /// if given, are updated with weight `momentum`; otherwise the running ones are used.
    ///
    /// # Errors
    /// If the tensor is not floating-point or not 2-D to 5-D, a vector is not `[C]`, there is only one value per
    /// channel to compute statistics from, or dtypes or devices differ; but vectors may be in `f32` beside half precision.
    pub fn batch_norm(
        &self,
        weight: Option<&Tensor>,
        bias: Option<&Tensor>,
        running: Option<Running<'_>>,
        training: bool,
        momentum: f64,
        eps: f64,
    ) -> Result<Tensor> {
        self.batch_normalized(&BatchNorm { weight, bias, running, training, momentum, eps, ..BatchNorm::default() })
    }

    /// [`batch_norm`](Tensor::batch_norm) with what surrounds it in networks: `relu(batch_norm(self + bias_before) +
    /// residual)`. Each part may be left out. It increments the count of batches. On CUDA, ReLU and residual are part of
    /// the normalization's launches, both ways. Half precision is rounded once, at the end.
    ///
    /// # Errors
    /// Those of [`batch_norm`](Tensor::batch_norm); or if the residual's shape, dtype or device is not the input's, or the
    /// count is not an `i64` without dimensions.
    pub fn batch_norm_with(&self, norm: &BatchNorm<'_>) -> Result<Tensor> {
        self.batch_normalized(norm)
    }

    fn batch_normalized(&self, norm: &BatchNorm<'_>) -> Result<Tensor> {
        check::floats(OP, self)?;
        if !(2..=5).contains(&self.rank()) {
            return Err(Error::shape(OP, "[N, C, …] with 2 to 5 dimensions", self.shape()));
        }
        let c = self.dims()[1];
        // The result has the input's dtype, whatever that of the vectors is.
        let dtype = affine_dtype(self, &[norm.weight, norm.bias, norm.bias_before]);
        let own = |vector: Option<&Tensor>| like(vector, dtype);
        let (weight, bias, bias_before) = (own(norm.weight)?, own(norm.bias)?, own(norm.bias_before)?);
        let (weight, bias, bias_before) = (weight.as_ref(), bias.as_ref(), bias_before.as_ref());
        let norm = &BatchNorm { weight, bias, bias_before, ..*norm };
        vectors(OP, self, dtype, c, &[weight, bias, bias_before])?;
        if let Some(Running { mean, var }) = norm.running {
            for stat in [mean, var] {
                check::floats(OP, stat)?;
                check::same_device(OP, self, &[stat])?;
                if *stat.shape() != [c] {
                    return Err(Error::shape(OP, format!("running statistics of {c} channels"), stat.shape()));
                }
            }
        }
        if let Some(count) = norm.count {
            check::same_device(OP, self, &[count])?;
            if count.dtype() != DType::I64 || count.rank() != 0 {
                return Err(Error::shape(OP, "an i64 without dimensions that counts batches", count.shape()));
            }
        }
        if let Some(residual) = norm.residual {
            check::same_kind(OP, self, &[residual])?;
            if residual.shape() != self.shape() {
                return Err(Error::shapes(OP, residual.shape(), self.shape(), "a residual of the result's shape"));
            }
        }
        // Exporters know operands of one dtype.
        if is_tracing() && dtype != self.dtype() {
            let residual = norm.residual.map(|residual| residual.to_dtype(dtype)).transpose()?;
            let images = self.to_dtype(dtype)?;
            return images
                .batch_normalized(&BatchNorm { residual: residual.as_ref(), ..*norm })?
                .to_dtype(self.dtype());
        }
        if !norm.by_batch() {
            if let Some(before) = norm.bias_before {
                let mut dims: SmallVec<[usize; 5]> = smallvec![1; self.rank()];
                dims[1] = c;
                let images = self.add(&before.to_dtype(self.dtype())?.reshape(&dims[..])?)?;
                return images.batch_normalized(&BatchNorm { bias_before: None, ..*norm });
            }
            // Exporters know these operations one by one.
            if is_tracing() && (norm.relu || norm.residual.is_some()) {
                let out = self.batch_normalized(&BatchNorm { residual: None, relu: false, ..*norm })?;
                let out = norm.residual.map_or(Ok(out.clone()), |residual| out.add(residual))?;
                return if norm.relu { out.relu() } else { Ok(out) };
            }
        }
        if norm.by_batch() && c > 0 && self.numel() == c {
            return Err(Error::shape(OP, "more than one value per channel while training", self.shape()));
        }
        // The kernels only take 4-D images.
        let four = |t: &Tensor| match t.rank() {
            4 => Ok(t.clone()),
            _ => t.reshape([t.dims()[0], c, 1, t.dims()[2..].iter().product()]),
        };
        let (images, residual) = (four(self)?, norm.residual.map(four).transpose()?);
        let norm = BatchNorm { residual: residual.as_ref(), ..*norm };
        let out = match norm.running {
            Some(running) if !norm.training => images.normalized_by(&norm, running),
            _ => images.normalized_by_batch(&norm),
        }?;
        if self.rank() == 4 { Ok(out) } else { out.reshape(self.dims()) }
    }

    fn normalized_by(&self, norm: &BatchNorm<'_>, running: Running<'_>) -> Result<Tensor> {
        let BatchNorm { weight, bias, eps, residual, relu, .. } = *norm;
        let stats = self.dtype().accumulator();
        // A later training step updates the running statistics, perhaps before the backward pass.
        let keep = grad_enabled() && norm.inputs(self).iter().any(|t| t.requires_grad());
        let own = |t: &Tensor| no_grad(|| if keep { t.to_dtype(stats)?.copy() } else { t.to_dtype(stats) });
        let (mean, var) = (own(running.mean)?, own(running.var)?);
        let (operands, added) = (Operands::new(self, weight, bias), residual.map(Tensor::read));
        let (m, v) = (mean.read(), var.read());
        let layout = image_layout(self, *self.shape());
        let out = Tensor::compute_in(self.device(), self.dtype(), layout, |backend, out| {
            let (x, affine, mean, var) = (operands.x.view(), operands.affine(), m.view(), v.view());
            let then = BatchNormThen { residual: added.as_ref().map(Reading::view), relu };
            backend.batch_norm_eval(BatchNormEvalArgs { x, affine, mean, var, eps, then, out }.checked()?)
        })?;
        drop((operands, added, m, v));
        let out = norm.record(out, self, [&mean, &var])?;
        let all: SmallVec<[&Tensor; 5]> =
            [Some(self), Some(running.mean), Some(running.var), weight, bias].into_iter().flatten().collect();
        Ok(out.noted("batch_norm", &all, || scaled(eps, weight, bias)))
    }

    fn normalized_by_batch(&self, norm: &BatchNorm<'_>) -> Result<Tensor> {
        let BatchNorm { weight, bias, bias_before, residual, relu, momentum, eps, .. } = *norm;
        let (stats, inputs) = (self.dtype().accumulator(), norm.inputs(self));
        let running = norm.running.filter(|_| norm.training && self.numel() > 0);
        // Statistics of another dtype than the primitive takes, or that share memory, are updated as copies.
        let apart = |t: &Tensor, other: &Tensor| {
            (t.dtype() == stats || t.dtype() == self.dtype())
                && t.dtype() == other.dtype()
                && !t.layout().may_overlap()
                && inputs.iter().all(|i| !i.shares_memory(t))
                && !t.shares_memory(other)
        };
        let moved = match running {
            None => None,
            Some(r) if apart(r.mean, r.var) && apart(r.var, r.mean) => Some([r.mean.clone(), r.var.clone()]),
            Some(r) => {
                Some(no_grad(|| Ok::<_, Error>([r.mean.to_dtype(stats)?.copy()?, r.var.to_dtype(stats)?.copy()?]))?)
            }
        };
        // An empty batch counts as well.
        if let (None, true, Some(count)) = (&moved, norm.training, norm.count) {
            no_grad(|| count.add_(1))?;
        }
        let count = norm.count.filter(|_| moved.is_some());
        let c = self.dims()[1];
        let (mean, inv_std) = (vector(self, stats, c)?, vector(self, stats, c)?);
        let operands = Operands::new(self, weight, bias);
        let (added, before) = (residual.map(Tensor::read), bias_before.map(Tensor::read));
        let layout = image_layout(self, *self.shape());
        let out = Tensor::compute_in(self.device(), self.dtype(), layout, |backend, out| {
            let (mut m, mut i) = (writing(&mean), writing(&inv_std));
            let (x, affine, mean, inv_std) = (operands.x.view(), operands.affine(), m.view(), i.view());
            let then = BatchNormThen { residual: added.as_ref().map(Reading::view), relu };
            let args = BatchNormArgs { x, affine, running: None, eps, then, out, mean, inv_std };
            let Some([mean, var]) = &moved else { return backend.batch_norm(args.checked()?) };
            // Locked in address order, so that two threads never deadlock.
            let mut order: SmallVec<[(usize, &Tensor); 3]> =
                [Some(mean), Some(var), count].into_iter().enumerate().filter_map(|(i, t)| Some((i, t?))).collect();
            order.sort_by_key(|(_, t)| std::ptr::from_ref(&*t.0.storage) as usize);
            let mut locked: [Option<Writing<'_>>; 3] = [None, None, None];
            for (i, tensor) in order {
                locked[i] = Some(writing(tensor));
            }
            let [Some(rm), Some(rv), counter] = &mut locked else { return backend.batch_norm(args.checked()?) };
            let (count, shift) = (counter.as_mut().map(Writing::view), before.as_ref().map(Reading::view));
            let running = RunningStats { mean: rm.view(), var: rv.view(), momentum, count, shift };
            backend.batch_norm(BatchNormArgs { running: Some(running), ..args }.checked()?)
        })?;
        drop((operands, added, before));
        if let (Some(r), Some([mean, var])) = (running, &moved) {
            for (own, new) in [(r.mean, mean), (r.var, var)] {
                if own.is_same(new) { own.0.storage.bump_version() } else { no_grad(|| own.copy_(new))? }
            }
        }
        count.iter().for_each(|count| count.0.storage.bump_version());
        norm.record(out, self, [&mean, &inv_std])
    }
}

impl<'a> BatchNorm<'a> {
    /// The tensors that get gradients.
    fn inputs<'b>(&self, x: &'b Tensor) -> SmallVec<[&'b Tensor; 5]>
    where
        'a: 'b,
    {
        let mut all: SmallVec<[&'b Tensor; 5]> = inputs(x, self.weight, self.bias).into_iter().collect();
        all.extend([self.bias_before, self.residual].into_iter().flatten());
        all
    }

    /// Records the node. `stats` are the mean, and `1 / sqrt(variance + eps)`, or with running statistics the variance.
    fn record(&self, out: Tensor, x: &Tensor, stats: [&Tensor; 2]) -> Result<Tensor> {
        let (inputs, by_batch) = (self.inputs(x), self.by_batch());
        let recomputes = by_batch && self.residual.is_none();
        let more = [self.weight, self.bias.filter(|_| self.relu && recomputes), self.relu.then_some(&out)];
        let mut next = 3;
        let [weight, bias, output] = more.map(|tensor| {
            next += usize::from(tensor.is_some());
            tensor.map(|_| next - 1)
        });
        let saved: SmallVec<[&Tensor; 6]> =
            [x, stats[0], stats[1]].into_iter().chain(more.into_iter().flatten()).collect();
        let result = out.clone();
        let rule = Rule {
            norm: if by_batch { Norm::ByBatch { eps: self.eps } } else { Norm::ByRunning { eps: self.eps } },
            weight,
            bias,
            output,
            recomputes,
            has: [self.weight, self.bias, self.bias_before, self.residual].map(|input| input.is_some()),
            dtype: affine_dtype(x, &[self.weight, self.bias, self.bias_before]),
        };
        let name = if self.relu {
            "ReluBackward0"
        } else if self.residual.is_some() {
            "AddBackward0"
        } else {
            "NativeBatchNormBackward0"
        };
        record(result, name, &inputs, &saved, move |ctx| rule.gradients(ctx))
    }
}

/// How the gradients are computed, and where the tensors for it are among those that the node saved.
struct Rule {
    norm: Norm,
    weight: Option<usize>,
    bias: Option<usize>,
    output: Option<usize>,
    /// Whether the elements that passed ReLU are recomputed from the input.
    recomputes: bool,
    /// Whether weight, bias, the bias before and the residual are inputs.
    has: [bool; 4],
    /// The dtype of the first three.
    dtype: DType,
}

impl Rule {
    /// The places of weight, bias, the bias before and the residual among the inputs.
    fn places(&self) -> [Option<usize>; 4] {
        let mut next = 0;
        self.has.map(|there| {
            next += usize::from(there);
            there.then_some(next)
        })
    }

    fn gradients(&self, ctx: &Ctx<'_>) -> Result<Grads> {
        if ctx.create_graph { self.recorded(ctx) } else { self.fused(ctx) }
    }

    /// With operations that are recorded.
    fn recorded(&self, ctx: &Ctx<'_>) -> Result<Grads> {
        let mut grad = ctx.grad()?;
        if let Some(output) = self.output {
            grad = grad.masked_fill(&ctx.constant(output)?.le(0)?, 0)?;
        }
        let arrived = Arrived { grads: smallvec![Some(grad.clone())], relu_done: None, is_unit: false };
        let inside = Ctx { arrived: &arrived, ..*ctx };
        let weight = self.weight.map(|i| ctx.saved(i)).transpose()?;
        let mut grads = recorded_gradients(&inside, ctx.saved(0)?, weight, self.norm)?;
        let [_, bias, before, residual] = self.places();
        if let Some(i) = bias {
            grads.push(ctx.when(i, || grad.to_dtype(self.dtype)?.sum([0, 2, 3]))?);
        }
        if let Some(i) = before {
            grads.push(ctx.when(i, || Tensor::zeros(&grad.dims()[1..2], (self.dtype, grad.device())))?);
        }
        if let Some(i) = residual {
            grads.push(ctx.when(i, || Ok(grad.clone()))?);
        }
        Ok(grads)
    }

    /// With the primitive.
    fn fused(&self, ctx: &Ctx<'_>) -> Result<Grads> {
        let (x, grad, mean, stat) = (ctx.saved(0)?, ctx.grad()?, ctx.saved(1)?, ctx.saved(2)?);
        let inv_std = if let Norm::ByRunning { eps } = self.norm { stat.add(eps)?.rsqrt()? } else { stat };
        let saved = |i: Option<usize>| i.map(|i| ctx.saved(i)).transpose();
        let (weight, bias) = (saved(self.weight)?, saved(self.bias)?);
        let output = saved(self.output.filter(|_| !self.recomputes))?;
        let c = x.dims()[1];
        let places = self.places();
        let wanted = |i: usize| places[i].is_some_and(|i| ctx.needs(i));
        let to = |i: usize| if wanted(i) { vector(&x, self.dtype, c).map(Some) } else { Ok(None) };
        let vectors = [to(0)?, to(1)?, to(2)?];
        let layout = image_layout(&x, *x.shape());
        // Without ReLU, the gradient of the residual is the one that has arrived.
        let masked = wanted(3) && self.output.is_some();
        let to_residual = if masked {
            Some(Tensor::compute_in(x.device(), x.dtype(), layout, |_, _| Ok(()))?)
        } else {
            wanted(3).then(|| grad.clone())
        };
        let (g, xr, w, m, i) = (grad.read(), x.read(), weight.as_ref().map(Tensor::read), mean.read(), inv_std.read());
        let (b, y) = (bias.as_ref().map(Tensor::read), output.as_ref().map(Tensor::read));
        let run = |backend: &'static dyn Backend, input: Option<ViewMut<'_>>| {
            let [mut dw, mut db, mut shift] = vectors.each_ref().map(|vector| vector.as_ref().map(writing));
            let mut residual = to_residual.as_ref().filter(|_| masked).map(writing);
            let (grad, x, weight) = (g.view(), xr.view(), w.as_ref().map(Reading::view));
            let relu = match (&y, self.output) {
                (Some(output), _) => ReluAfterNorm::Output(output.view()),
                (None, Some(_)) => ReluAfterNorm::Recomputed { bias: b.as_ref().map(Reading::view) },
                (None, None) => ReluAfterNorm::None,
            };
            let [weight_grad, bias_grad, shift, residual] =
                [&mut dw, &mut db, &mut shift, &mut residual].map(|to| to.as_mut().map(Writing::view));
            let grads = NormGrads { input, weight: weight_grad, bias: bias_grad };
            let (training, then) =
                (matches!(self.norm, Norm::ByBatch { .. }), BatchNormGradThen { relu, residual, shift });
            let (mean, inv_std) = (m.view(), i.view());
            backend
                .batch_norm_grad(BatchNormGradArgs { training, grad, x, weight, mean, inv_std, grads, then }.checked()?)
        };
        let to_input = if ctx.needs(0) {
            Some(Tensor::compute_in(x.device(), x.dtype(), layout, |backend, out| run(backend, Some(out)))?)
        } else {
            run(x.device().backend()?, None)?;
            None
        };
        let all = vectors.into_iter().chain([to_residual]);
        Ok(std::iter::once(to_input).chain(all.zip(self.has).filter(|(_, has)| *has).map(|(grad, _)| grad)).collect())
    }
}

//! Batch, layer and group normalization.

use kiln_backend::{
    Affine, Arguments, BatchNormArgs, BatchNormEvalArgs, BatchNormGradArgs, DType, Error, LayerNormArgs,
    LayerNormGradArgs, MAX_RANK, NormGrads, Result, RunningStats, Shape,
};
use kiln_derive::located;
use smallvec::{SmallVec, smallvec};

use super::{
    check,
    images::{image_layout, writing},
};
use crate::{
    autocast::{cast_operands, like},
    autograd::{Attribute, Ctx, Grads, grad_enabled, no_grad, record},
    storage::{Reading, Writing},
    tensor::Tensor,
};

/// The running statistics of a batch normalization, one number per channel each, updated in place while training.
#[derive(Clone, Copy, Debug)]
pub struct Running<'a> {
    /// The mean.
    pub mean: &'a Tensor,
    /// The (unbiased) variance.
    pub var: &'a Tensor,
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
    /// channel to compute statistics from, or dtypes or devices differ.
    pub fn batch_norm(
        &self,
        weight: Option<&Tensor>,
        bias: Option<&Tensor>,
        running: Option<Running<'_>>,
        training: bool,
        momentum: f64,
        eps: f64,
    ) -> Result<Tensor> {
        const OP: &str = "batch_norm";
        check::floats(OP, self)?;
        if !(2..=5).contains(&self.rank()) {
            return Err(Error::shape(OP, "[N, C, …] with 2 to 5 dimensions", self.shape()));
        }
        let c = self.dims()[1];
        // The result has the input's dtype, whatever that of scale and shift is.
        let (weight, bias) = (like(weight, self.dtype())?, like(bias, self.dtype())?);
        let (weight, bias) = (weight.as_ref(), bias.as_ref());
        vectors(OP, self, c, &[weight, bias])?;
        if let Some(Running { mean, var }) = running {
            for stat in [mean, var] {
                check::floats(OP, stat)?;
                check::same_device(OP, self, &[stat])?;
                if *stat.shape() != [c] {
                    return Err(Error::shape(OP, format!("running statistics of {c} channels"), stat.shape()));
                }
            }
        }
        // The kernels only take 4-D images.
        let images = match self.rank() {
            4 => self.clone(),
            _ => self.reshape([self.dims()[0], c, 1, self.dims()[2..].iter().product()])?,
        };
        let out = match running {
            Some(running) if !training => images.normalized_by(weight, bias, running, eps),
            _ => {
                if c > 0 && self.numel() == c {
                    let expected = "more than one value per channel while training";
                    return Err(Error::shape(OP, expected, self.shape()));
                }
                let moved = running.filter(|_| training && self.numel() > 0);
                images.normalized_by_batch(weight, bias, moved, momentum, eps)
            }
        }?;
        if self.rank() == 4 { Ok(out) } else { out.reshape(self.dims()) }
    }

    fn normalized_by(
        &self,
        weight: Option<&Tensor>,
        bias: Option<&Tensor>,
        running: Running<'_>,
        eps: f64,
    ) -> Result<Tensor> {
        let stats = self.dtype().accumulator();
        let inputs = inputs(self, weight, bias);
        // A later training step updates the running statistics, perhaps before the backward pass.
        let keep = grad_enabled() && inputs.iter().any(|t| t.requires_grad());
        let own = |t: &Tensor| no_grad(|| if keep { t.to_dtype(stats)?.copy() } else { t.to_dtype(stats) });
        let (mean, var) = (own(running.mean)?, own(running.var)?);
        let operands = Operands::new(self, weight, bias);
        let (m, v) = (mean.read(), var.read());
        let layout = image_layout(self, *self.shape());
        let out = Tensor::compute_in(self.device(), self.dtype(), layout, |backend, out| {
            let (x, affine) = (operands.x.view(), operands.affine());
            backend.batch_norm_eval(BatchNormEvalArgs { x, affine, mean: m.view(), var: v.view(), eps, out }.checked()?)
        })?;
        drop((operands, m, v));
        let saved = Saved { weight, stats: [&mean, &var] };
        let out = saved.record(out, "NativeBatchNormBackward0", self, &inputs, Norm::ByRunning { eps })?;
        let all: SmallVec<[&Tensor; 5]> =
            [Some(self), Some(running.mean), Some(running.var), weight, bias].into_iter().flatten().collect();
        Ok(out.noted("batch_norm", &all, || scaled(eps, weight, bias)))
    }

    fn normalized_by_batch(
        &self,
        weight: Option<&Tensor>,
        bias: Option<&Tensor>,
        running: Option<Running<'_>>,
        momentum: f64,
        eps: f64,
    ) -> Result<Tensor> {
        let (stats, inputs) = (self.dtype().accumulator(), inputs(self, weight, bias));
        // Statistics of another dtype, or that share memory, are updated as copies.
        let apart = |t: &Tensor, other: &Tensor| {
            t.dtype() == stats
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
        let c = self.dims()[1];
        let (mean, inv_std) = (vector(self, stats, c)?, vector(self, stats, c)?);
        let operands = Operands::new(self, weight, bias);
        let layout = image_layout(self, *self.shape());
        let out = Tensor::compute_in(self.device(), self.dtype(), layout, |backend, out| {
            let (mut m, mut i) = (writing(&mean), writing(&inv_std));
            let (x, affine, mean, inv_std) = (operands.x.view(), operands.affine(), m.view(), i.view());
            let args = BatchNormArgs { x, affine, running: None, eps, out, mean, inv_std };
            let Some([mean, var]) = &moved else { return backend.batch_norm(args.checked()?) };
            // Locked in address order, so that two threads never deadlock.
            let address = |t: &Tensor| std::ptr::from_ref(&*t.0.storage) as usize;
            let (mut rm, mut rv);
            if address(mean) < address(var) {
                (rm, rv) = (writing(mean), writing(var));
            } else {
                rv = writing(var);
                rm = writing(mean);
            }
            let running = RunningStats { mean: rm.view(), var: rv.view(), momentum };
            backend.batch_norm(BatchNormArgs { running: Some(running), ..args }.checked()?)
        })?;
        drop(operands);
        if let (Some(r), Some([mean, var])) = (running, &moved) {
            for (own, new) in [(r.mean, mean), (r.var, var)] {
                if own.is_same(new) { own.0.storage.bump_version() } else { no_grad(|| own.copy_(new))? }
            }
        }
        let saved = Saved { weight, stats: [&mean, &inv_std] };
        saved.record(out, "NativeBatchNormBackward0", self, &inputs, Norm::ByBatch { eps })
    }

    /// Normalizes the last dimensions, which have the extents `shape`, together: subtracts their mean, divides by
    /// `sqrt(variance + eps)`, then scales and shifts element by element by `weight` and `bias` of that shape
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.layer_norm.html>).
    ///
    /// # Errors
    /// If the tensor is not floating-point or does not end with these extents, no extents are given, or a vector has
    /// another shape, dtype or device.
    pub fn layer_norm(
        &self,
        shape: &[usize],
        weight: Option<&Tensor>,
        bias: Option<&Tensor>,
        eps: f64,
    ) -> Result<Tensor> {
        cast_operands("layer_norm", [self], [weight, bias], |[x], [weight, bias]| {
            x.layer_norm_as_it_is(shape, weight, bias, eps)
        })
    }

    fn layer_norm_as_it_is(
        &self,
        shape: &[usize],
        weight: Option<&Tensor>,
        bias: Option<&Tensor>,
        eps: f64,
    ) -> Result<Tensor> {
        const OP: &str = "layer_norm";
        check::floats(OP, self)?;
        if shape.is_empty() || !self.dims().ends_with(shape) {
            return Err(Error::shape(OP, format!("a tensor that ends with the extents {shape:?}"), self.shape()));
        }
        for affine in [weight, bias].into_iter().flatten() {
            check::same_kind(OP, self, &[affine])?;
            if affine.dims() != shape {
                return Err(Error::shape(OP, format!("a scale or shift of shape {shape:?}"), affine.shape()));
            }
        }
        let n: usize = shape.iter().product();
        let m: usize = self.dims()[..self.rank() - shape.len()].iter().product();
        let flat = |t: Option<&Tensor>| t.map(|t| t.reshape([n])).transpose();
        let (weight, bias) = (flat(weight)?, flat(bias)?);
        self.reshape([m, n])?.rows_normalized(weight.as_ref(), bias.as_ref(), eps)?.reshape(self.dims())
    }

    fn rows_normalized(&self, weight: Option<&Tensor>, bias: Option<&Tensor>, eps: f64) -> Result<Tensor> {
        let (stats, inputs) = (self.dtype().accumulator(), inputs(self, weight, bias));
        let m = self.dims()[0];
        let (mean, inv_std) = (vector(self, stats, m)?, vector(self, stats, m)?);
        let operands = Operands::new(self, weight, bias);
        let out = Tensor::compute(self.device(), self.dtype(), *self.shape(), |backend, out| {
            let (mut m, mut i) = (writing(&mean), writing(&inv_std));
            let (x, affine, mean, inv_std) = (operands.x.view(), operands.affine(), m.view(), i.view());
            backend.layer_norm(LayerNormArgs { x, affine, eps, out, mean, inv_std }.checked()?)
        })?;
        drop(operands);
        let saved = Saved { weight, stats: [&mean, &inv_std] };
        let out = saved.record(out, "NativeLayerNormBackward0", self, &inputs, Norm::Rows { eps })?;
        Ok(out.described("layer_norm", || scaled(eps, weight, bias)))
    }

    /// Normalizes the channels of `[N, C, …]` in `groups` groups of equal size, each group of each sample by its own
    /// mean and variance; `weight` and `bias` are `[C]`
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.group_norm.html>).
    ///
    /// # Errors
    /// If the tensor is not floating-point or has fewer than 2 dimensions, there are no channels, the groups do not
    /// divide them or contain only one value, or a vector is not `[C]` or has another dtype or device.
    pub fn group_norm(
        &self,
        groups: usize,
        weight: Option<&Tensor>,
        bias: Option<&Tensor>,
        eps: f64,
    ) -> Result<Tensor> {
        cast_operands("group_norm", [self], [weight, bias], |[x], [weight, bias]| {
            x.group_norm_as_it_is(groups, weight, bias, eps)
        })
    }

    fn group_norm_as_it_is(
        &self,
        groups: usize,
        weight: Option<&Tensor>,
        bias: Option<&Tensor>,
        eps: f64,
    ) -> Result<Tensor> {
        const OP: &str = "group_norm";
        check::floats(OP, self)?;
        let divides = |channels: usize| (1..=channels.max(1)).contains(&groups) && channels.is_multiple_of(groups);
        if self.rank() < 2 || !divides(self.dims()[1]) {
            return Err(Error::shape(OP, format!("[N, C, …] with channels in {groups} groups"), self.shape()));
        }
        let (n, c) = (self.dims()[0], self.dims()[1]);
        if c == 0 {
            return Err(Error::shape(OP, "[N, C, …] with at least one channel", self.shape()));
        }
        if self.numel() == groups {
            return Err(Error::shape(OP, "more than one value to normalize together", self.shape()));
        }
        vectors(OP, self, c, &[weight, bias])?;
        let each = self.numel() / (n * groups).max(1);
        // The steps below would each round to half precision.
        let rows = self.widened()?.reshape([n * groups, each])?;
        let mut out = rows.rows_normalized(None, None, eps)?.reshape(self.dims())?;
        let mut dims: SmallVec<[usize; MAX_RANK]> = smallvec![1; self.rank() - 1];
        dims[0] = c;
        if let Some(weight) = weight {
            out = out.mul(&weight.widened()?.reshape(&dims[..])?)?;
        }
        if let Some(bias) = bias {
            out = out.add(&bias.widened()?.reshape(&dims[..])?)?;
        }
        out.to_dtype(self.dtype())
    }
}

/// For exporters: the arguments of a normalization, and which of scale and shift are among its inputs.
fn scaled(eps: f64, weight: Option<&Tensor>, bias: Option<&Tensor>) -> [(&'static str, Attribute); 3] {
    [("eps", eps.into()), ("weight", weight.is_some().into()), ("bias", bias.is_some().into())]
}

/// Checks that scale and shift have one number per channel.
fn vectors(op: &'static str, x: &Tensor, c: usize, affine: &[Option<&Tensor>]) -> Result<()> {
    affine.iter().flatten().try_for_each(|vector| {
        check::same_kind(op, x, &[vector])?;
        if *vector.shape() == [c] {
            return Ok(());
        }
        Err(Error::shape(op, format!("a scale or shift of {c} channels"), vector.shape()))
    })
}

fn inputs<'a>(x: &'a Tensor, weight: Option<&'a Tensor>, bias: Option<&'a Tensor>) -> SmallVec<[&'a Tensor; 3]> {
    [Some(x), weight, bias].into_iter().flatten().collect()
}

/// A new vector with one number per channel or row.
fn vector(like: &Tensor, dtype: DType, n: usize) -> Result<Tensor> {
    Tensor::compute(like.device(), dtype, Shape::new(&[n])?, |_, _| Ok(()))
}

/// The operands, locked.
struct Operands<'a> {
    x: Reading<'a>,
    weight: Option<Reading<'a>>,
    bias: Option<Reading<'a>>,
}

impl<'a> Operands<'a> {
    fn new(x: &'a Tensor, weight: Option<&'a Tensor>, bias: Option<&'a Tensor>) -> Operands<'a> {
        Operands { x: x.read(), weight: weight.map(Tensor::read), bias: bias.map(Tensor::read) }
    }

    fn affine(&self) -> Affine<'_> {
        Affine { weight: self.weight.as_ref().map(Reading::view), bias: self.bias.as_ref().map(Reading::view) }
    }
}

/// The tensors that the gradients of a normalization read besides the input.
struct Saved<'a> {
    weight: Option<&'a Tensor>,
    /// The mean, and `1 / sqrt(variance + eps)`; or running mean and variance.
    stats: [&'a Tensor; 2],
}

impl Saved<'_> {
    fn record(&self, out: Tensor, name: &'static str, x: &Tensor, inputs: &[&Tensor], norm: Norm) -> Result<Tensor> {
        let all: SmallVec<[&Tensor; 4]> =
            [Some(x), Some(self.stats[0]), Some(self.stats[1]), self.weight].into_iter().flatten().collect();
        let (scaled, count) = (self.weight.is_some(), inputs.len());
        record(out, name, inputs, &all, move |ctx| {
            let weight = if scaled { Some(ctx.saved(3)?) } else { None };
            let x = ctx.saved(0)?;
            if ctx.create_graph {
                return recorded_gradients(ctx, x, weight, norm);
            }
            let (mean, stat) = (ctx.saved(1)?, ctx.saved(2)?);
            let inv_std = if let Norm::ByRunning { eps } = norm { stat.add(eps)?.rsqrt()? } else { stat };
            let [x, weight_grad, bias] = gradients(ctx, &x, weight.as_ref(), norm, &mean, &inv_std)?;
            let mut grads: Grads = smallvec![x];
            if scaled {
                grads.push(weight_grad);
            }
            if grads.len() < count {
                grads.push(bias);
            }
            Ok(grads)
        })
    }
}

/// What is normalized, and with which statistics.
#[derive(Clone, Copy)]
enum Norm {
    /// Channels of images, with those of the batch.
    ByBatch { eps: f64 },
    /// Channels of images, with running statistics, which are constants.
    ByRunning { eps: f64 },
    /// Rows of a matrix, each with its own.
    Rows { eps: f64 },
}

/// The gradients, computed with operations that are recorded: those of the normalization written out.
fn recorded_gradients(ctx: &Ctx<'_>, x: Tensor, weight: Option<Tensor>, norm: Norm) -> Result<Grads> {
    let scaled = weight.is_some();
    let inputs: SmallVec<[Tensor; 2]> = [Some(x), weight].into_iter().flatten().collect();
    let mut grads = ctx.composed(&inputs, |inputs| {
        let (x, dtype) = (inputs[0].widened()?, inputs[0].dtype());
        let spread = |t: &Tensor| match norm {
            Norm::Rows { .. } => t.unsqueeze(0),
            _ => t.reshape([1, t.numel(), 1, 1]),
        };
        let average = |t: &Tensor| match norm {
            Norm::Rows { .. } => t.mean_keepdim(1),
            _ => t.mean_keepdim([0, 2, 3]),
        };
        let (centered, var, eps) = match norm {
            Norm::ByRunning { eps } => (x.sub(&spread(&ctx.constant(1)?)?)?, spread(&ctx.constant(2)?)?, eps),
            Norm::ByBatch { eps } | Norm::Rows { eps } => {
                let centered = x.sub(&average(&x)?)?;
                let var = average(&centered.square()?)?;
                (centered, var, eps)
            }
        };
        let mut out = centered.mul(&var.add(eps)?.rsqrt()?)?;
        if scaled {
            out = out.mul(&spread(&inputs[1].widened()?)?)?;
        }
        out.to_dtype(dtype)
    })?;
    if grads.len() < ctx.needs.len() {
        // The gradient of the shift.
        let grad = ctx.grad()?;
        grads.push(ctx.when(grads.len(), || match norm {
            Norm::Rows { .. } => grad.sum(0),
            _ => grad.sum([0, 2, 3]),
        })?);
    }
    Ok(grads)
}

/// The gradients of input, scale and shift, as needed.
fn gradients(
    ctx: &Ctx<'_>,
    x: &Tensor,
    weight: Option<&Tensor>,
    norm: Norm,
    mean: &Tensor,
    inv_std: &Tensor,
) -> Result<[Option<Tensor>; 3]> {
    let grad = ctx.grad()?;
    let (bias_at, count) = (1 + usize::from(weight.is_some()), ctx.needs.len());
    let n = x.dims()[1];
    let wanted = |on: bool| if on { vector(x, x.dtype(), n).map(Some) } else { Ok(None) };
    let to_weight = wanted(weight.is_some() && ctx.needs(1))?;
    let to_bias = wanted(bias_at < count && ctx.needs(bias_at))?;
    let (g, xr, w, m, i) = (grad.read(), x.read(), weight.map(Tensor::read), mean.read(), inv_std.read());
    let (mut dw, mut db) = (to_weight.as_ref().map(writing), to_bias.as_ref().map(writing));
    let mut run = |backend: &'static dyn kiln_backend::Backend, input: Option<kiln_backend::ViewMut<'_>>| {
        let grads = NormGrads { input, weight: dw.as_mut().map(Writing::view), bias: db.as_mut().map(Writing::view) };
        let (grad, x, weight) = (g.view(), xr.view(), w.as_ref().map(Reading::view));
        let (mean, inv_std) = (m.view(), i.view());
        match norm {
            Norm::Rows { .. } => {
                backend.layer_norm_grad(LayerNormGradArgs { grad, x, weight, mean, inv_std, grads }.checked()?)
            }
            Norm::ByBatch { .. } | Norm::ByRunning { .. } => {
                let training = matches!(norm, Norm::ByBatch { .. });
                let args = BatchNormGradArgs { training, grad, x, weight, mean, inv_std, grads };
                backend.batch_norm_grad(args.checked()?)
            }
        }
    };
    let to_input = if ctx.needs(0) {
        let layout = image_layout(x, *x.shape());
        Some(Tensor::compute_in(x.device(), x.dtype(), layout, |backend, out| run(backend, Some(out)))?)
    } else {
        run(x.device().backend()?, None)?;
        None
    };
    drop((dw, db));
    Ok([to_input, to_weight, to_bias])
}

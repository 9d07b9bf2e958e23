//! Layer and group normalization, and what they share with batch normalization.

use kiln_backend::{
    Affine, Arguments, DType, Error, LayerNormArgs, LayerNormGradArgs, MAX_RANK, NormGrads, Result, Shape,
};
use kiln_derive::located;
use smallvec::{SmallVec, smallvec};

use super::{check, images::writing};
use crate::{
    autocast::cast_operands,
    autograd::{Attribute, Ctx, Grads, record},
    storage::{Reading, Writing},
    tensor::Tensor,
};

#[located]
impl Tensor {
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
            x.layer_norm_no_autocast(shape, weight, bias, eps)
        })
    }

    fn layer_norm_no_autocast(
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
        let (scaled_by, count) = (weight.is_some(), inputs.len());
        let all: SmallVec<[&Tensor; 4]> =
            [Some(self), Some(&mean), Some(&inv_std), weight].into_iter().flatten().collect();
        let out = record(out, "NativeLayerNormBackward0", &inputs, &all, move |ctx| {
            let weight = if scaled_by { Some(ctx.saved(3)?) } else { None };
            let x = ctx.saved(0)?;
            if ctx.create_graph {
                let mut grads = recorded_gradients(ctx, x, weight, Norm::Rows { eps })?;
                if grads.len() < count {
                    grads.push(ctx.when(grads.len(), || ctx.grad()?.sum(0))?);
                }
                return Ok(grads);
            }
            let [x, weight, bias] = row_gradients(ctx, &x, weight.as_ref(), &ctx.saved(1)?, &ctx.saved(2)?)?;
            let mut grads: Grads = smallvec![x];
            if scaled_by {
                grads.push(weight);
            }
            if grads.len() < count {
                grads.push(bias);
            }
            Ok(grads)
        })?;
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
            x.group_norm_no_autocast(groups, weight, bias, eps)
        })
    }

    fn group_norm_no_autocast(
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
        vectors(OP, self, self.dtype(), c, &[weight, bias])?;
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
pub(super) fn scaled(eps: f64, weight: Option<&Tensor>, bias: Option<&Tensor>) -> [(&'static str, Attribute); 3] {
    [("eps", eps.into()), ("weight", weight.is_some().into()), ("bias", bias.is_some().into())]
}

/// The dtype of scale and shift: that of what they belong to, or `f32` where they are so beside half precision.
pub(super) fn affine_dtype(x: &Tensor, affine: &[Option<&Tensor>]) -> DType {
    let is_wide = x.dtype().is_half() && affine.iter().flatten().any(|vector| vector.dtype() == DType::F32);
    if is_wide { DType::F32 } else { x.dtype() }
}

/// Checks that scale and shift have one number per channel, and this dtype.
pub(super) fn vectors(op: &'static str, x: &Tensor, dtype: DType, c: usize, affine: &[Option<&Tensor>]) -> Result<()> {
    affine.iter().flatten().try_for_each(|vector| {
        check::same_device(op, x, &[vector])?;
        if vector.dtype() != dtype {
            return Err(Error::dtypes(op, dtype, vector.dtype()));
        }
        if *vector.shape() == [c] {
            return Ok(());
        }
        Err(Error::shape(op, format!("a scale or shift of {c} channels"), vector.shape()))
    })
}

pub(super) fn inputs<'a>(
    x: &'a Tensor,
    weight: Option<&'a Tensor>,
    bias: Option<&'a Tensor>,
) -> SmallVec<[&'a Tensor; 3]> {
    [Some(x), weight, bias].into_iter().flatten().collect()
}

/// A new vector with one number per channel or row.
pub(super) fn vector(like: &Tensor, dtype: DType, n: usize) -> Result<Tensor> {
    Tensor::compute(like.device(), dtype, Shape::new(&[n])?, |_, _| Ok(()))
}

/// The operands, locked.
pub(super) struct Operands<'a> {
    pub(super) x: Reading<'a>,
    weight: Option<Reading<'a>>,
    bias: Option<Reading<'a>>,
}

impl<'a> Operands<'a> {
    pub(super) fn new(x: &'a Tensor, weight: Option<&'a Tensor>, bias: Option<&'a Tensor>) -> Operands<'a> {
        Operands { x: x.read(), weight: weight.map(Tensor::read), bias: bias.map(Tensor::read) }
    }

    pub(super) fn affine(&self) -> Affine<'_> {
        Affine { weight: self.weight.as_ref().map(Reading::view), bias: self.bias.as_ref().map(Reading::view) }
    }
}

/// What is normalized, and with which statistics.
#[derive(Clone, Copy)]
pub(super) enum Norm {
    /// Channels of images, with those of the batch.
    ByBatch { eps: f64 },
    /// Channels of images, with running statistics, which are constants.
    ByRunning { eps: f64 },
    /// Rows of a matrix, each with its own.
    Rows { eps: f64 },
}

/// The gradients of input and scale, computed with operations that are recorded: those of the normalization written out.
pub(super) fn recorded_gradients(ctx: &Ctx<'_>, x: Tensor, weight: Option<Tensor>, norm: Norm) -> Result<Grads> {
    let scaled = weight.is_some();
    let inputs: SmallVec<[Tensor; 2]> = [Some(x), weight].into_iter().flatten().collect();
    ctx.composed(&inputs, |inputs| {
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
    })
}

/// The gradients of input, scale and shift, as needed.
fn row_gradients(
    ctx: &Ctx<'_>,
    x: &Tensor,
    weight: Option<&Tensor>,
    mean: &Tensor,
    inv_std: &Tensor,
) -> Result<[Option<Tensor>; 3]> {
    let grad = ctx.grad()?;
    let bias_at = 1 + usize::from(weight.is_some());
    let wanted = |on: bool| if on { vector(x, x.dtype(), x.dims()[1]).map(Some) } else { Ok(None) };
    let (to_weight, to_bias) = (wanted(weight.is_some() && ctx.needs(1))?, wanted(ctx.needs(bias_at))?);
    let (g, xr, w, m, i) = (grad.read(), x.read(), weight.map(Tensor::read), mean.read(), inv_std.read());
    let (mut dw, mut db) = (to_weight.as_ref().map(writing), to_bias.as_ref().map(writing));
    let mut run = |backend: &'static dyn kiln_backend::Backend, input: Option<kiln_backend::ViewMut<'_>>| {
        let grads = NormGrads { input, weight: dw.as_mut().map(Writing::view), bias: db.as_mut().map(Writing::view) };
        let (grad, x, weight) = (g.view(), xr.view(), w.as_ref().map(Reading::view));
        let (mean, inv_std) = (m.view(), i.view());
        backend.layer_norm_grad(LayerNormGradArgs { grad, x, weight, mean, inv_std, grads }.checked()?)
    };
    let to_input = if ctx.needs(0) {
        Some(Tensor::compute(x.device(), x.dtype(), *x.shape(), |backend, out| run(backend, Some(out)))?)
    } else {
        run(x.device().backend()?, None)?;
        None
    };
    drop((dw, db));
    Ok([to_input, to_weight, to_bias])
}

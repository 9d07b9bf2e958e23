//! `linear`: a linear layer, alone or fused with a following ReLU.

use std::sync::Arc;

use kiln_backend::{
    Activation, Arguments, Error, LinearArgs, LinearGradArgs, LinearReluGradArgs, MAX_RANK, ReluMask, Result, Shape,
    ViewMut,
};
use kiln_derive::located;
use smallvec::smallvec;

use super::{check, matmul::product};
use crate::{
    autocast::cast_operands,
    autograd::{Ctx, FusedReluBackward, Grads, ReluEpilogue, is_recorded, record_node},
    tensor::Tensor,
};

#[located]
impl Tensor {
    /// `self · weightᵀ + bias` over the last dimension: `self` is `[…, K]`, `weight` `[N, K]`, `bias` `[N]`, the result
    /// `[…, N]`. One fused primitive. As in PyTorch, `weight` may be a vector `[K]`, for a single output feature whose
    /// dimension is dropped; `bias` is then a scalar.
    ///
    /// # Errors
    /// If the shapes do not fit, or dtypes or devices differ.
    pub fn linear(&self, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        cast_operands("linear", [self, weight], [bias], |[x, w], [b]| x.linear_layer(w, b, false))
    }

    /// [`linear`](Tensor::linear) followed by ReLU, in one primitive.
    ///
    /// On CUDA, ReLU is cuBLASLt's, which turns NaN into 0, while [`relu`](Tensor::relu) keeps NaN: a network that has
    /// diverged may show it only after its last linear layer.
    ///
    /// # Errors
    /// Those of [`linear`](Tensor::linear).
    pub fn linear_relu(&self, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        cast_operands("linear", [self, weight], [bias], |[x, w], [b]| x.linear_layer(w, b, true))
            .map_err(|error| error.of_op("linear_relu"))
    }

    fn linear_layer(&self, weight: &Tensor, bias: Option<&Tensor>, relu: bool) -> Result<Tensor> {
        const OP: &str = "linear";
        check::floats(OP, self)?;
        check::same_kind(OP, self, &[weight])?;
        if weight.rank() == 1 {
            return self.linear_by_vector(weight, bias, relu);
        }
        if weight.rank() != 2 {
            return Err(Error::shape(OP, "a weight [out features, in features]", weight.shape()));
        }
        let (n, k) = weight.dims2()?;
        if self.rank() == 0 || self.dims().last() != Some(&k) {
            let expected = format!("the last extent of the input must be the weight's second, {k}");
            return Err(Error::shapes(OP, self.shape(), weight.shape(), expected));
        }
        if let Some(bias) = bias {
            check::same_kind(OP, self, &[bias])?;
            if *bias.shape() != [n] {
                let expected = format!("the bias must have shape [{n}], one element for each output feature");
                return Err(Error::shapes(OP, weight.shape(), bias.shape(), expected));
            }
        }
        if self.rank() != 2 {
            let mut dims = [0; MAX_RANK];
            dims[..self.rank()].copy_from_slice(self.dims());
            dims[self.rank() - 1] = n;
            let rows = self.dims()[..self.rank() - 1].iter().product::<usize>();
            return self.reshape([rows, k])?.linear_layer(weight, bias, relu)?.reshape(&dims[..self.rank()]);
        }
        let (with_bias, without) = ([self, weight, bias.unwrap_or(weight)], [self, weight]);
        let inputs: &[&Tensor] = if bias.is_some() { &with_bias } else { &without };
        let (out, mask) = forward(self, weight, bias, relu, is_recorded(inputs))?;
        let name = match (relu, bias) {
            (true, _) => "ReluBackward0",
            (false, Some(_)) => "AddmmBackward0",
            (false, None) => "MmBackward0",
        };
        // The gradient of each operand reads the other operand; that of ReLU reads the output.
        let saved = [self, weight, &out];
        let saved = &saved[..2 + usize::from(relu)];
        let of_bias = bias.is_some_and(Tensor::requires_grad);
        let epilogue = mask.map(|mask| ReluEpilogue { output: 2, mask: Some(Arc::new(mask)), bias: of_bias });
        let result = record_node(out.clone(), name.into(), inputs, saved, epilogue, move |ctx| gradients(ctx, relu))?;
        Ok(result.described("linear", || [("relu", relu.into())]))
    }

    /// A single output feature, whose dimension is dropped.
    fn linear_by_vector(&self, weight: &Tensor, bias: Option<&Tensor>, relu: bool) -> Result<Tensor> {
        const OP: &str = "linear";
        if let Some(bias) = bias.filter(|bias| bias.rank() != 0) {
            return Err(Error::shapes(OP, weight.shape(), bias.shape(), "the bias of one feature is a scalar"));
        }
        let bias = bias.map(|bias| bias.reshape([1])).transpose()?;
        let out = self.linear_layer(&weight.unsqueeze(0)?, bias.as_ref(), relu)?;
        out.squeeze(-1)
    }
}

/// The output for checked matrices, and the mask of ReLU if the device kept one for the backward pass.
pub(super) fn forward(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    relu: bool,
    recorded: bool,
) -> Result<(Tensor, Option<ReluMask>)> {
    let shape = Shape::new(&[x.dims()[0], weight.dims()[0]])?;
    let (a, w, b) = (x.read(), weight.read(), bias.map(Tensor::read));
    let b = b.as_ref().map(|b| b.view());
    let mut mask = None;
    let out = Tensor::compute(x.device(), x.dtype(), shape, |backend, out| {
        let activation = if recorded && relu { Activation::ReluWithMask } else { Activation::relu(relu) };
        mask = backend.linear(LinearArgs { x: a.view(), w: w.view(), bias: b, activation, out }.checked()?)?;
        Ok(())
    })?;
    Ok((out, mask))
}

fn gradients(ctx: &Ctx<'_>, relu: bool) -> Result<Grads> {
    if ctx.create_graph {
        return recorded_gradients(ctx, relu);
    }
    let mut grad = ctx.grad()?;
    if relu && ctx.relu_done().is_none() {
        grad = grad.relu_gradient(&ctx.saved(2)?)?;
    }
    let of_input = ctx.when(0, || match ctx.fused_relu {
        Some(relu) => through_relu(relu, &grad, &ctx.saved(1)?),
        None => product(&grad, &ctx.saved(1)?),
    })?;
    let bias_grad = ctx.relu_done().and_then(|done| done.bias.clone());
    if let ([_, true, true], None) = (ctx.needs, &bias_grad) {
        let (weight, bias) = parameter_gradients(&grad, &ctx.saved(0)?)?;
        return Ok(smallvec![of_input, Some(weight), Some(bias)]);
    }
    let mut grads: Grads = smallvec![of_input, ctx.when(1, || product(&grad.t()?, &ctx.saved(0)?))?];
    if ctx.needs.len() == 3 {
        grads.push(ctx.when(2, || bias_grad.map_or_else(|| grad.sum(0), Ok))?);
    }
    Ok(grads)
}

/// [`gradients`], computed with operations that are recorded.
fn recorded_gradients(ctx: &Ctx<'_>, relu: bool) -> Result<Grads> {
    let mut grad = ctx.grad()?;
    if relu {
        grad = grad.masked_fill(&ctx.constant(2)?.le(0)?, 0)?;
    }
    let mut grads: Grads =
        smallvec![ctx.when(0, || grad.matmul(&ctx.saved(1)?))?, ctx.when(1, || grad.t()?.matmul(&ctx.saved(0)?))?];
    if ctx.needs.len() == 3 {
        grads.push(ctx.when(2, || grad.sum(0))?);
    }
    Ok(grads)
}

/// The gradient of the input, through the ReLU that produced it, and the gradient of the bias before that ReLU, in one
/// primitive.
fn through_relu(relu: &FusedReluBackward, grad: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let bias = relu.bias_grad()?;
    let out = {
        let (g, w, y) = (grad.read(), weight.read(), relu.output.read());
        let mut buffer = bias.as_ref().map(|bias| (bias.0.storage.write(), bias.layout()));
        Tensor::compute(grad.device(), grad.dtype(), *relu.output.shape(), |backend, out| {
            let bias = buffer.as_mut().map(|(buffer, layout)| ViewMut { buffer: &mut ***buffer, layout });
            backend.linear_relu_grad(
                LinearReluGradArgs { grad: g.view(), w: w.view(), y: y.view(), mask: relu.mask.as_deref(), out, bias }
                    .checked()?,
            )
        })?
    };
    relu.finish(bias);
    Ok(out)
}

/// The gradients of weight and bias, in one primitive.
pub(super) fn parameter_gradients(grad: &Tensor, x: &Tensor) -> Result<(Tensor, Tensor)> {
    let (n, k) = (grad.dims()[1], x.dims()[1]);
    let bias = Tensor::empty(n, (grad.dtype(), grad.device()))?;
    let weight = {
        let (g, x) = (grad.read(), x.read());
        let mut buffer = bias.0.storage.write();
        Tensor::compute(grad.device(), grad.dtype(), Shape::new(&[n, k])?, |backend, out| {
            let bias = ViewMut { buffer: &mut **buffer, layout: bias.layout() };
            backend.linear_grad(LinearGradArgs { grad: g.view(), x: x.view(), weight: out, bias }.checked()?)
        })?
    };
    Ok((weight, bias))
}

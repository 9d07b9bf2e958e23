//! Two-dimensional convolution and transposed convolution.

use kiln_backend::{
    Arguments, Conv2d, Conv2dArgs, Conv2dGradInputArgs, Conv2dGradWeightArgs, Conv2dReluGradInputArgs, Convolution,
    CopyArgs, Error, Layout, Result, Shape, ViewMut, with_tf32,
};
use kiln_derive::located;
use smallvec::{SmallVec, smallvec};

use super::{
    check,
    images::{self, image_layout},
    pad::PadMode,
};
use crate::{
    autocast::cast_operands,
    autograd::{FusedReluBackward, Grads, ReluEpilogue, no_grad, record, record_gradient, record_node},
    tensor::Tensor,
};

/// The node of the gradients of a convolution.
pub(super) const NODE: &str = "ConvolutionBackwardBackward0";

/// What comes after a convolution, in the same primitive.
#[derive(Clone, Copy)]
struct Then<'a> {
    residual: Option<&'a Tensor>,
    relu: bool,
}

#[located]
impl Tensor {
    /// Convolves images `[N, C, H, W]` (or one image `[C, H, W]`) with a weight `[O, C / groups, kh, kw]` and adds a
    /// bias `[O]`: the result is `[N, O, H', W']` with `H' = floor((H + 2 padding - dilation (kh - 1) - 1) / stride) +
    /// 1` (<https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.conv2d.html>). Channels-last images give
    /// channels-last images.
    ///
    /// # Errors
    /// If the shapes do not fit together, the kernel is larger than the padded image, or dtypes or devices differ.
    pub fn conv2d(&self, weight: &Tensor, bias: Option<&Tensor>, rule: &Conv2d) -> Result<Tensor> {
        self.conv2d_then(weight, bias, rule, Then { residual: None, relu: false })
    }

    /// [`conv2d`](Tensor::conv2d) followed by ReLU, in one primitive.
    ///
    /// On CUDA with a bias, ReLU is cuDNN's, which turns NaN into 0, while [`relu`](Tensor::relu) keeps NaN.
    ///
    /// # Errors
    /// Those of [`conv2d`](Tensor::conv2d).
    pub fn conv2d_relu(&self, weight: &Tensor, bias: Option<&Tensor>, rule: &Conv2d) -> Result<Tensor> {
        self.conv2d_then(weight, bias, rule, Then { residual: None, relu: true })
            .map_err(|error| error.of_op("conv2d_relu"))
    }

    /// `relu(conv2d(self) + residual)` in one primitive: [`conv2d`](Tensor::conv2d), a tensor of the result's shape, and
    /// ReLU, as a residual block ends (PyTorch's `torch.cudnn_convolution_add_relu`). On CUDA the ReLU may be cuDNN's,
    /// which turns NaN into 0.
    ///
    /// # Errors
    /// Those of [`conv2d`](Tensor::conv2d), and if the residual's shape, dtype or device is not the result's.
    pub fn conv2d_add_relu(
        &self,
        weight: &Tensor,
        bias: Option<&Tensor>,
        residual: &Tensor,
        rule: &Conv2d,
    ) -> Result<Tensor> {
        self.conv2d_then(weight, bias, rule, Then { residual: Some(residual), relu: true })
            .map_err(|error| error.of_op("conv2d_add_relu"))
    }

    fn conv2d_then(&self, weight: &Tensor, bias: Option<&Tensor>, rule: &Conv2d, then: Then<'_>) -> Result<Tensor> {
        cast_operands("conv2d", [self, weight], [bias, then.residual], |[x, weight], [bias, residual]| {
            x.conv2d_no_autocast(weight, bias, rule, Then { residual, ..then })
        })
    }

    fn conv2d_no_autocast(
        &self,
        weight: &Tensor,
        bias: Option<&Tensor>,
        rule: &Conv2d,
        then: Then<'_>,
    ) -> Result<Tensor> {
        const OP: &str = "conv2d";
        images::batched(OP, self, |x| {
            check_weight(OP, x, weight, bias, rule)?;
            let channels = x.dims()[1];
            if self.rank() == 3 && weight.dims()[1] == 1 && rule.groups == 1 && channels != 1 {
                // A batch of grayscale images looks like one image with many channels.
                let expected = format!(
                    "a weight [O, C / groups, kh, kw] for C = {channels} channels in 1 groups; a batch of images with one \
                     channel is [N, 1, H, W] (`unsqueeze(1)`)"
                );
                return Err(Error::shapes(OP, x.shape(), weight.shape(), expected));
            }
            check_channels(OP, x, weight, rule)?;
            let residual = match then.residual {
                Some(residual) if self.rank() == 3 => Some(residual.unsqueeze(0)?),
                residual => residual.cloned(),
            };
            x.conv2d_of_batch(weight, bias, rule, Then { residual: residual.as_ref(), ..then })
        })
    }

    /// The convolution of checked operands.
    fn conv2d_of_batch(&self, weight: &Tensor, bias: Option<&Tensor>, rule: &Conv2d, then: Then<'_>) -> Result<Tensor> {
        const OP: &str = "conv2d";
        let (rule, Then { residual, relu }) = (*rule, then);
        let (n, o) = (self.dims()[0], weight.dims()[0]);
        check_bias(OP, bias, o)?;
        let [oh, ow] = output_size(OP, self, weight, &rule)?;
        let layout = image_layout(self, Shape::new(&[n, o, oh, ow])?);
        if let Some(residual) = residual {
            check::same_kind(OP, self, &[residual])?;
            if residual.shape() != layout.shape() {
                return Err(Error::shapes(OP, residual.shape(), layout.shape(), "a residual of the result's shape"));
            }
        }
        let (x, k, b, z) = (self.read(), weight.read(), bias.map(Tensor::read), residual.map(Tensor::read));
        let out = Tensor::compute_in(self.device(), self.dtype(), layout, |backend, out| {
            backend.conv2d(
                Conv2dArgs {
                    rule,
                    x: x.view(),
                    w: k.view(),
                    bias: b.as_ref().map(|b| b.view()),
                    residual: z.as_ref().map(|z| z.view()),
                    relu,
                    out,
                }
                .checked()?,
            )
        })?;
        drop((x, k, b, z));
        let name = if relu { "ReluBackward0" } else { "ConvolutionBackward0" };
        let inputs: SmallVec<[&Tensor; 4]> = [self, weight].into_iter().chain(bias).chain(residual).collect();
        let (has_bias, has_residual) = (bias.is_some(), residual.is_some());
        let result = out.clone();
        let saved: &[&Tensor] = if relu { &[self, weight, &out] } else { &[self, weight] };
        let of_bias = bias.is_some_and(Tensor::requires_grad);
        let epilogue = relu.then_some(ReluEpilogue { output: 2, mask: None, bias: of_bias });
        let result = record_node(result, name.into(), &inputs, saved, epilogue, move |ctx| {
            let (mut grad, mut of_bias) = (ctx.grad()?, None);
            if relu && ctx.create_graph {
                grad = grad.masked_fill(&ctx.constant(2)?.le(0)?, 0)?;
            } else if let Some(done) = ctx.relu_done() {
                of_bias = done.bias.clone();
            } else if relu && has_bias && ctx.needs(2) {
                let (masked, sums) = grad.relu_bias_gradient(&ctx.saved(2)?, 1)?;
                (grad, of_bias) = (masked, Some(sums));
            } else if relu {
                grad = grad.relu_gradient(&ctx.saved(2)?)?;
            }
            let (x, weight) = (ctx.saved(0)?, ctx.saved(1)?);
            let to_input = || match ctx.fused_relu {
                Some(relu) => grad.conv2d_to_input_through_relu(&weight, &rule, relu),
                None => grad.conv2d_input_gradient(&weight, &rule, image_layout(&x, *x.shape())),
            };
            let mut grads: Grads = smallvec![
                ctx.when(0, to_input)?,
                ctx.when(1, || grad.conv2d_weight_gradient(&x, &rule, image_layout(&weight, *weight.shape())))?
            ];
            if has_bias {
                grads.push(if of_bias.is_some() { of_bias } else { ctx.when(2, || grad.sum([0, 2, 3]))? });
            }
            if has_residual {
                grads.push(ctx.when(2 + usize::from(has_bias), || Ok(grad.clone()))?);
            }
            Ok(grads)
        })?;
        Ok(result.described("conv2d", || {
            let Conv2d { stride, padding, dilation, groups } = rule;
            [
                ("stride", (&stride[..]).into()),
                ("padding", (&padding[..]).into()),
                ("dilation", (&dilation[..]).into()),
                ("groups", groups.into()),
                ("residual", has_residual.into()),
                ("relu", relu.into()),
            ]
        }))
    }

    /// The transposed convolution: the gradient of [`conv2d`](Tensor::conv2d) with respect to its input, as an
    /// operation of its own. The images are `[N, C, H, W]` (or one `[C, H, W]`), the weight `[C, O / groups, kh, kw]`,
    /// the result `[N, O, H', W']` with `H' = (H - 1) stride - 2 padding + dilation (kh - 1) + output_padding + 1`
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.conv_transpose2d.html>).
    ///
    /// # Errors
    /// If the shapes do not fit together, the result would be empty, `output_padding` is not below the stride or the
    /// dilation, or dtypes or devices differ.
    pub fn conv_transpose2d(
        &self,
        weight: &Tensor,
        bias: Option<&Tensor>,
        rule: &Conv2d,
        output_padding: [usize; 2],
    ) -> Result<Tensor> {
        const OP: &str = "conv_transpose2d";
        cast_operands(OP, [self, weight], [bias], |[x, weight], [bias]| {
            images::batched(OP, x, |x| x.conv_transpose2d_of_batch(weight, bias, rule, output_padding))
        })
    }

    fn conv_transpose2d_of_batch(
        &self,
        weight: &Tensor,
        bias: Option<&Tensor>,
        rule: &Conv2d,
        output_padding: [usize; 2],
    ) -> Result<Tensor> {
        const OP: &str = "conv_transpose2d";
        let rule = *rule;
        check_weight(OP, self, weight, bias, &rule)?;
        let ((n, _, h, w), (_, _, kh, kw)) = (self.dims4()?, weight.dims4()?);
        let o = check_transposed_channels(OP, self, weight, &rule)?;
        check_bias(OP, bias, o)?;
        let size = transposed_size(OP, self, weight, &rule, output_padding)?;
        let shape = Shape::new(&[n, o, size[0], size[1]])?;
        let more = [0, 1].map(|axis| output_padding[axis] / rule.stride[axis]);
        if more != [0; 2] {
            // The result is that for an image with this many more rows and columns of zeros.
            let rest = [0, 1].map(|axis| output_padding[axis] % rule.stride[axis]);
            let larger = self.pad(&[0, more[1] as i64, 0, more[0] as i64], PadMode::Constant(0.0))?;
            return larger.conv_transpose2d_of_batch(weight, bias, &rule, rest);
        }
        // Whether the convolution maps this size to the image's.
        if rule.output(size, [kh, kw]) != Some([h, w]) {
            let expected = format!("a kernel [{kh}, {kw}] that gives an image, for {rule:?}");
            return Err(Error::shapes(OP, self.shape(), weight.shape(), expected));
        }
        let layout = image_layout(self, shape);
        let out = no_grad(|| {
            let Some(bias) = bias else { return self.conv2d_to_input(weight, &rule, layout) };
            // Half precision is rounded once, after the bias.
            let (x, weight) = (self.widened()?, weight.widened()?);
            let convolve = || x.conv2d_to_input(&weight, &rule, layout);
            let out = if self.dtype().size() == 2 { with_tf32(convolve) } else { convolve() }?;
            out.add_(&bias.widened()?.reshape([o, 1, 1])?)?;
            if out.dtype() == self.dtype() {
                return Ok(out);
            }
            let wide = out.read();
            Tensor::compute_in(self.device(), self.dtype(), layout, |backend, out| {
                backend.copy(CopyArgs { x: wide.view(), out }.checked()?)
            })
        })
        .map_err(|error| error.of_op(OP))?;
        let (with_bias, without) = ([self, weight, bias.unwrap_or(weight)], [self, weight]);
        let inputs: &[&Tensor] = if bias.is_some() { &with_bias } else { &without };
        let out = record(out, "ConvolutionBackward0", inputs, &[self, weight], move |ctx| {
            let (grad, x, weight) = (ctx.grad()?, ctx.saved(0)?, ctx.saved(1)?);
            let mut grads: Grads = smallvec![
                ctx.when(0, || grad.convolved(&weight, &rule, image_layout(&x, *x.shape())))?,
                ctx.when(1, || x.conv2d_weight_gradient(&grad, &rule, image_layout(&weight, *weight.shape())))?
            ];
            if ctx.needs.len() == 3 {
                grads.push(ctx.when(2, || grad.sum([0, 2, 3]))?);
            }
            Ok(grads)
        })?;
        Ok(out.described("conv_transpose2d", || {
            let Conv2d { stride, padding, dilation, groups } = rule;
            [
                ("stride", (&stride[..]).into()),
                ("padding", (&padding[..]).into()),
                ("output_padding", (&output_padding[..]).into()),
                ("dilation", (&dilation[..]).into()),
                ("groups", groups.into()),
            ]
        }))
    }

    /// The gradient of a convolution with respect to its input, in the memory layout `layout`, from the gradient of its
    /// output.
    fn conv2d_to_input(&self, weight: &Tensor, rule: &Conv2d, layout: Layout) -> Result<Tensor> {
        let (g, k) = (self.read(), weight.read());
        Tensor::compute_in(self.device(), self.dtype(), layout, |backend, out| {
            backend.conv2d_grad_input(Conv2dGradInputArgs { rule: *rule, grad: g.view(), w: k.view(), out }.checked()?)
        })
    }

    /// The gradient of a convolution's input through the ReLU that it is the output of, and of the bias before that
    /// ReLU, in one primitive.
    fn conv2d_to_input_through_relu(&self, weight: &Tensor, rule: &Conv2d, relu: &FusedReluBackward) -> Result<Tensor> {
        let (y, bias) = (&relu.output, relu.bias_grad()?);
        let out = {
            let (g, w, y, layout) = (self.read(), weight.read(), y.read(), image_layout(y, *y.shape()));
            let mut buffer = bias.as_ref().map(|bias| (bias.0.storage.write(), bias.layout()));
            Tensor::compute_in(self.device(), self.dtype(), layout, |backend, out| {
                let bias = buffer.as_mut().map(|(buffer, layout)| ViewMut { buffer: &mut ***buffer, layout });
                let (rule, grad, w, y) = (*rule, g.view(), w.view(), y.view());
                backend.conv2d_relu_grad_input(Conv2dReluGradInputArgs { rule, grad, w, y, out, bias }.checked()?)
            })?
        };
        relu.finish(bias);
        Ok(out)
    }

    /// The gradient of a convolution with respect to its weight, in the weight's memory layout, from the gradient of its
    /// output.
    fn conv2d_to_weight(&self, x: &Tensor, rule: &Conv2d, layout: Layout) -> Result<Tensor> {
        let (g, x) = (self.read(), x.read());
        Tensor::compute_in(self.device(), self.dtype(), layout, |backend, out| {
            backend
                .conv2d_grad_weight(Conv2dGradWeightArgs { rule: *rule, grad: g.view(), x: x.view(), out }.checked()?)
        })
    }

    // A convolution is linear in the image and in the weight, so the gradients of the convolution and of its two gradients
    // are these operations again: below, each of the three is recorded in terms of the other two if the pass is recorded.

    /// The convolution without a bias, for gradients.
    fn convolved(&self, weight: &Tensor, rule: &Conv2d, layout: Layout) -> Result<Tensor> {
        let (x, k) = (self.read(), weight.read());
        let out = Tensor::compute_in(self.device(), self.dtype(), layout, |backend, out| {
            let (x, w) = (x.view(), k.view());
            backend.conv2d(Conv2dArgs { rule: *rule, x, w, bias: None, residual: None, relu: false, out }.checked()?)
        })?;
        let rule = *rule;
        record_gradient(out, NODE, &[self, weight], &[self, weight], move |ctx| {
            let (grad, x, weight) = (ctx.grad()?, ctx.saved(0)?, ctx.saved(1)?);
            Ok(smallvec![
                ctx.when(0, || grad.conv2d_input_gradient(&weight, &rule, image_layout(&x, *x.shape())))?,
                ctx.when(1, || grad.conv2d_weight_gradient(&x, &rule, image_layout(&weight, *weight.shape())))?
            ])
        })
    }

    /// The gradient of the image `[…, H, W]` with memory layout `layout`; `self` is the gradient of the output.
    fn conv2d_input_gradient(&self, weight: &Tensor, rule: &Conv2d, layout: Layout) -> Result<Tensor> {
        let (out, rule) = (self.conv2d_to_input(weight, rule, layout)?, *rule);
        record_gradient(out, NODE, &[self, weight], &[self, weight], move |ctx| {
            let (of_image, grad, weight) = (ctx.grad()?, ctx.saved(0)?, ctx.saved(1)?);
            Ok(smallvec![
                ctx.when(0, || of_image.convolved(&weight, &rule, image_layout(&grad, *grad.shape())))?,
                ctx.when(1, || grad.conv2d_weight_gradient(&of_image, &rule, image_layout(&weight, *weight.shape())))?
            ])
        })
    }

    /// The gradient of the weight with memory layout `layout`; `x` is the image, `self` the gradient of the output.
    fn conv2d_weight_gradient(&self, x: &Tensor, rule: &Conv2d, layout: Layout) -> Result<Tensor> {
        let (out, rule) = (self.conv2d_to_weight(x, rule, layout)?, *rule);
        record_gradient(out, NODE, &[self, x], &[self, x], move |ctx| {
            let (of_weight, grad, x) = (ctx.grad()?, ctx.saved(0)?, ctx.saved(1)?);
            Ok(smallvec![
                ctx.when(0, || x.convolved(&of_weight, &rule, image_layout(&grad, *grad.shape())))?,
                ctx.when(1, || grad.conv2d_input_gradient(&of_weight, &rule, image_layout(&x, *x.shape())))?
            ])
        })
    }
}

/// Checks the weight of a convolution in `N` dimensions.
pub(super) fn check_weight<const N: usize>(
    op: &'static str,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    rule: &Convolution<N>,
) -> Result<()> {
    check::same_kind(op, x, &[weight])?;
    if let Some(bias) = bias {
        check::same_kind(op, x, &[bias])?;
    }
    if weight.rank() != N + 2 {
        return Err(Error::shape(op, format!("a weight with {} dimensions", N + 2), weight.shape()));
    }
    if rule.stride.contains(&0) || rule.dilation.contains(&0) || rule.groups == 0 {
        return Err(Error::argument(op, format!("strides, dilations and groups are at least 1, but {rule:?}")));
    }
    Ok(())
}

/// The dimensions of a kernel, as errors name them.
fn kernel_dims<const N: usize>() -> &'static str {
    ["", "k", "kh, kw", "kd, kh, kw"].get(N).copied().unwrap_or("…")
}

/// Checks the channels of a batch and of a convolution's weight.
pub(super) fn check_channels<const N: usize>(
    op: &'static str,
    x: &Tensor,
    weight: &Tensor,
    rule: &Convolution<N>,
) -> Result<()> {
    let (c, o, c_group, groups) = (x.dims()[1], weight.dims()[0], weight.dims()[1], rule.groups);
    if c_group.checked_mul(groups) == Some(c) && o.is_multiple_of(groups) {
        return Ok(());
    }
    let dims = kernel_dims::<N>();
    let expected = format!("a weight [O, C / groups, {dims}] for C = {c} channels in {groups} groups");
    Err(Error::shapes(op, x.shape(), weight.shape(), expected))
}

/// Checks the channels of a batch and of a transposed convolution's weight; returns the number of output channels.
pub(super) fn check_transposed_channels<const N: usize>(
    op: &'static str,
    x: &Tensor,
    weight: &Tensor,
    rule: &Convolution<N>,
) -> Result<usize> {
    let (c, c_weight, o_group, groups) = (x.dims()[1], weight.dims()[0], weight.dims()[1], rule.groups);
    if c_weight != c || !c.is_multiple_of(groups) {
        let dims = kernel_dims::<N>();
        let expected = format!("a weight [C, O / groups, {dims}] for the C = {c} channels in {groups} groups");
        return Err(Error::shapes(op, x.shape(), weight.shape(), expected));
    }
    Ok(Shape::new(&[o_group, groups])?.numel())
}

/// The extents after the channels.
pub(super) fn spatial<const N: usize>(x: &Tensor) -> [usize; N] {
    std::array::from_fn(|axis| x.dims().get(axis + 2).copied().unwrap_or(1))
}

/// The extents of a convolution's result.
pub(super) fn output_size<const N: usize>(
    op: &'static str,
    x: &Tensor,
    weight: &Tensor,
    rule: &Convolution<N>,
) -> Result<[usize; N]> {
    let kernel = spatial(weight);
    rule.output(spatial(x), kernel).ok_or_else(|| {
        let expected = format!("a kernel {kernel:?} that fits into the padded image, for {rule:?}");
        Error::shapes(op, x.shape(), weight.shape(), expected)
    })
}

/// The extents of a transposed convolution's result.
pub(super) fn transposed_size<const N: usize>(
    op: &'static str,
    x: &Tensor,
    weight: &Tensor,
    rule: &Convolution<N>,
    output_padding: [usize; N],
) -> Result<[usize; N]> {
    if (0..N).any(|axis| output_padding[axis] >= rule.stride[axis].max(rule.dilation[axis])) {
        let message =
            format!("the output padding {output_padding:?} must be below the stride or the dilation of {rule:?}");
        return Err(Error::argument(op, message));
    }
    let kernel = spatial(weight);
    rule.transposed_output(spatial(x), kernel, output_padding).ok_or_else(|| {
        let expected = format!("a kernel {kernel:?} that gives an image, for {rule:?}");
        Error::shapes(op, x.shape(), weight.shape(), expected)
    })
}

pub(super) fn check_bias(op: &'static str, bias: Option<&Tensor>, o: usize) -> Result<()> {
    match bias {
        Some(bias) if *bias.shape() != [o] => {
            Err(Error::shape(op, format!("a bias of the {o} output channels"), bias.shape()))
        }
        _ => Ok(()),
    }
}

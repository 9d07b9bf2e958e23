//! Three-dimensional convolution and transposed convolution.

use kiln_backend::{
    Arguments, Conv3d, Conv3dArgs, Conv3dGradInputArgs, Conv3dGradWeightArgs, Error, Result, Shape, with_tf32,
};
use kiln_derive::located;
use smallvec::{SmallVec, smallvec};

use super::{
    conv2d::{
        NODE, check_bias, check_channels, check_transposed_channels, check_weight, output_size, spatial,
        transposed_size,
    },
    images::batched_of,
    pad::PadMode,
};
use crate::{
    autocast::cast_operands,
    autograd::{Grads, no_grad, record, record_gradient},
    tensor::Tensor,
};

#[located]
impl Tensor {
    /// Convolves volumes `[N, C, D, H, W]` (or one volume `[C, D, H, W]`) with a weight `[O, C / groups, kd, kh, kw]` and
    /// adds a bias `[O]`; the result is `[N, O, D', H', W']`, with extents as those of [`conv2d`](Tensor::conv2d)
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.conv3d.html>).
    ///
    /// # Errors
    /// If the shapes do not fit together, the kernel is larger than the padded volume, or dtypes or devices differ.
    pub fn conv3d(&self, weight: &Tensor, bias: Option<&Tensor>, rule: &Conv3d) -> Result<Tensor> {
        const OP: &str = "conv3d";
        cast_operands(OP, [self, weight], [bias], |[x, weight], [bias]| {
            batched_of(OP, 3, x, |x| x.conv3d_of_batch(weight, bias, rule))
        })
    }

    fn conv3d_of_batch(&self, weight: &Tensor, bias: Option<&Tensor>, rule: &Conv3d) -> Result<Tensor> {
        const OP: &str = "conv3d";
        check_weight(OP, self, weight, bias, rule)?;
        check_channels(OP, self, weight, rule)?;
        check_bias(OP, bias, weight.dims()[0])?;
        let out = self.conv3d_forward(weight, bias, rule, output_size(OP, self, weight, rule)?)?;
        let inputs: SmallVec<[&Tensor; 3]> = [self, weight].into_iter().chain(bias).collect();
        let (rule, has_bias) = (*rule, bias.is_some());
        let out = record(out, "ConvolutionBackward0", &inputs, &[self, weight], move |ctx| {
            let (grad, x, weight) = (ctx.grad()?, ctx.saved(0)?, ctx.saved(1)?);
            let mut grads: Grads = smallvec![
                ctx.when(0, || grad.conv3d_input_gradient(&weight, &rule, *x.shape()))?,
                ctx.when(1, || grad.conv3d_weight_gradient(&x, &rule, *weight.shape()))?
            ];
            if has_bias {
                grads.push(ctx.when(2, || grad.sum([0, 2, 3, 4]))?);
            }
            Ok(grads)
        })?;
        Ok(out.described("conv3d", || {
            let Conv3d { stride, padding, dilation, groups } = rule;
            [
                ("stride", (&stride[..]).into()),
                ("padding", (&padding[..]).into()),
                ("dilation", (&dilation[..]).into()),
                ("groups", groups.into()),
            ]
        }))
    }

    /// The transposed convolution: the gradient of [`conv3d`](Tensor::conv3d) with respect to its input, as an operation
    /// of its own. The volumes are `[N, C, D, H, W]` (or one `[C, D, H, W]`), the weight `[C, O / groups, kd, kh, kw]`, the
    /// result `[N, O, D', H', W']`, with extents as those of [`conv_transpose2d`](Tensor::conv_transpose2d)
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.conv_transpose3d.html>).
    ///
    /// # Errors
    /// If the shapes do not fit together, the result would be empty, `output_padding` is not below the stride or the
    /// dilation, or dtypes or devices differ.
    pub fn conv_transpose3d(
        &self,
        weight: &Tensor,
        bias: Option<&Tensor>,
        rule: &Conv3d,
        output_padding: [usize; 3],
    ) -> Result<Tensor> {
        const OP: &str = "conv_transpose3d";
        cast_operands(OP, [self, weight], [bias], |[x, weight], [bias]| {
            batched_of(OP, 3, x, |x| x.conv_transpose3d_of_batch(weight, bias, rule, output_padding))
        })
    }

    fn conv_transpose3d_of_batch(
        &self,
        weight: &Tensor,
        bias: Option<&Tensor>,
        rule: &Conv3d,
        output_padding: [usize; 3],
    ) -> Result<Tensor> {
        const OP: &str = "conv_transpose3d";
        let rule = *rule;
        check_weight(OP, self, weight, bias, &rule)?;
        let o = check_transposed_channels(OP, self, weight, &rule)?;
        check_bias(OP, bias, o)?;
        let [d, h, w] = transposed_size(OP, self, weight, &rule, output_padding)?;
        let more = [0, 1, 2].map(|axis| output_padding[axis] / rule.stride[axis]);
        if more != [0; 3] {
            // The result is that for a volume with this many more planes, rows and columns of zeros.
            let rest = [0, 1, 2].map(|axis| output_padding[axis] % rule.stride[axis]);
            let [planes, rows, columns] = more.map(|count| count as i64);
            let larger = self.pad(&[0, columns, 0, rows, 0, planes], PadMode::Constant(0.0))?;
            return larger.conv_transpose3d_of_batch(weight, bias, &rule, rest);
        }
        let (kernel, size): ([usize; 3], _) = (spatial(weight), spatial(self));
        // Whether the convolution maps this size to the volume's.
        if rule.output([d, h, w], kernel) != Some(size) {
            let expected = format!("a kernel {kernel:?} that gives a volume, for {rule:?}");
            return Err(Error::shapes(OP, self.shape(), weight.shape(), expected));
        }
        let shape = Shape::new(&[self.dims()[0], o, d, h, w])?;
        let out = no_grad(|| {
            let Some(bias) = bias else { return self.conv3d_to_input(weight, &rule, shape) };
            // Half precision is rounded once, after the bias.
            let (x, weight) = (self.widened()?, weight.widened()?);
            let convolve = || x.conv3d_to_input(&weight, &rule, shape);
            let out = if self.dtype().is_half() { with_tf32(convolve) } else { convolve() }?;
            out.add_(&bias.widened()?.reshape([o, 1, 1, 1])?)?;
            out.to_dtype(self.dtype())
        })
        .map_err(|error| error.of_op(OP))?;
        let inputs: SmallVec<[&Tensor; 3]> = [self, weight].into_iter().chain(bias).collect();
        let has_bias = bias.is_some();
        let out = record(out, "ConvolutionBackward0", &inputs, &[self, weight], move |ctx| {
            let (grad, x, weight) = (ctx.grad()?, ctx.saved(0)?, ctx.saved(1)?);
            let mut grads: Grads = smallvec![
                ctx.when(0, || grad.convolved_volumes(&weight, &rule, spatial(&x)))?,
                ctx.when(1, || x.conv3d_weight_gradient(&grad, &rule, *weight.shape()))?
            ];
            if has_bias {
                grads.push(ctx.when(2, || grad.sum([0, 2, 3, 4]))?);
            }
            Ok(grads)
        })?;
        Ok(out.described("conv_transpose3d", || {
            let Conv3d { stride, padding, dilation, groups } = rule;
            [
                ("stride", (&stride[..]).into()),
                ("padding", (&padding[..]).into()),
                ("output_padding", (&output_padding[..]).into()),
                ("dilation", (&dilation[..]).into()),
                ("groups", groups.into()),
            ]
        }))
    }

    /// The convolution of checked operands, to volumes of this size.
    fn conv3d_forward(
        &self,
        weight: &Tensor,
        bias: Option<&Tensor>,
        rule: &Conv3d,
        [d, h, w]: [usize; 3],
    ) -> Result<Tensor> {
        let shape = Shape::new(&[self.dims()[0], weight.dims()[0], d, h, w])?;
        let (x, k, b) = (self.read(), weight.read(), bias.map(Tensor::read));
        Tensor::compute(self.device(), self.dtype(), shape, |backend, out| {
            let (x, w, bias) = (x.view(), k.view(), b.as_ref().map(|b| b.view()));
            backend.conv3d(Conv3dArgs { rule: *rule, x, w, bias, out }.checked()?)
        })
    }

    /// The gradient of a convolution with respect to its input, of this shape, from the gradient of its output.
    fn conv3d_to_input(&self, weight: &Tensor, rule: &Conv3d, shape: Shape) -> Result<Tensor> {
        let (g, k) = (self.read(), weight.read());
        Tensor::compute(self.device(), self.dtype(), shape, |backend, out| {
            backend.conv3d_grad_input(Conv3dGradInputArgs { rule: *rule, grad: g.view(), w: k.view(), out }.checked()?)
        })
    }

    // As in two dimensions, the gradients of the convolution and of its two gradients are these operations again.

    /// The convolution without a bias, for gradients, to volumes of this size.
    fn convolved_volumes(&self, weight: &Tensor, rule: &Conv3d, size: [usize; 3]) -> Result<Tensor> {
        let (out, rule) = (self.conv3d_forward(weight, None, rule, size)?, *rule);
        record_gradient(out, NODE, &[self, weight], &[self, weight], move |ctx| {
            let (grad, x, weight) = (ctx.grad()?, ctx.saved(0)?, ctx.saved(1)?);
            Ok(smallvec![
                ctx.when(0, || grad.conv3d_input_gradient(&weight, &rule, *x.shape()))?,
                ctx.when(1, || grad.conv3d_weight_gradient(&x, &rule, *weight.shape()))?
            ])
        })
    }

    /// The gradient of the volumes, of this shape; `self` is the gradient of the output.
    fn conv3d_input_gradient(&self, weight: &Tensor, rule: &Conv3d, shape: Shape) -> Result<Tensor> {
        let (out, rule) = (self.conv3d_to_input(weight, rule, shape)?, *rule);
        record_gradient(out, NODE, &[self, weight], &[self, weight], move |ctx| {
            let (of_volumes, grad, weight) = (ctx.grad()?, ctx.saved(0)?, ctx.saved(1)?);
            Ok(smallvec![
                ctx.when(0, || of_volumes.convolved_volumes(&weight, &rule, spatial(&grad)))?,
                ctx.when(1, || grad.conv3d_weight_gradient(&of_volumes, &rule, *weight.shape()))?
            ])
        })
    }

    /// The gradient of the weight, of this shape; `x` are the volumes, `self` the gradient of the output.
    fn conv3d_weight_gradient(&self, x: &Tensor, rule: &Conv3d, shape: Shape) -> Result<Tensor> {
        let rule = *rule;
        let out = {
            let (g, x) = (self.read(), x.read());
            Tensor::compute(self.device(), self.dtype(), shape, |backend, out| {
                let (grad, x) = (g.view(), x.view());
                backend.conv3d_grad_weight(Conv3dGradWeightArgs { rule, grad, x, out }.checked()?)
            })?
        };
        record_gradient(out, NODE, &[self, x], &[self, x], move |ctx| {
            let (of_weight, grad, x) = (ctx.grad()?, ctx.saved(0)?, ctx.saved(1)?);
            Ok(smallvec![
                ctx.when(0, || x.convolved_volumes(&of_weight, &rule, spatial(&grad)))?,
                ctx.when(1, || grad.conv3d_input_gradient(&of_weight, &rule, *x.shape()))?
            ])
        })
    }
}

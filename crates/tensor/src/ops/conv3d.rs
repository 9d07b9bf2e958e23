//! Three-dimensional convolution and transposed convolution, as two-dimensional ones of the planes.
//!
//! A convolution over depth, height and width is one over height and width of images that have the planes of a window of
//! depths as their channels: a kernel's taps along the depth are more input channels, and `[O, C / groups, kd, kh, kw]` is,
//! as it lies in memory, the weight `[O, C / groups · kd, kh, kw]`. One copy makes these images, of `kd` planes for each
//! plane of the result. The transposed convolution goes the other way: planes times `kd` output channels, which are added
//! up where they overlap.

use kiln_backend::{Conv2d, Conv3d, DType, Result, with_tf32};
use kiln_derive::located;

use super::{
    conv2d::{
        check_bias, check_channels, check_transposed_channels, check_weight, output_size, spatial, transposed_size,
    },
    images::batched_of,
    pad::PadMode,
};
use crate::{autocast::cast_operands, autograd::is_recorded, tensor::Tensor};

/// The rule of the planes.
fn of_planes(rule: &Conv3d) -> Conv2d {
    let Conv3d { stride: [_, s, t], padding: [_, p, q], dilation: [_, d, e], groups } = *rule;
    Conv2d { stride: [s, t], padding: [p, q], dilation: [d, e], groups }
}

#[located]
impl Tensor {
    /// Convolves volumes `[N, C, D, H, W]` (or one volume `[C, D, H, W]`) with a weight `[O, C / groups, kd, kh, kw]` and
    /// adds a bias `[O]`; the result is `[N, O, D', H', W']`, with extents as those of [`conv2d`](Tensor::conv2d)
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.conv3d.html>).
    ///
    /// It takes memory of `kd` times the size of its input, which is kept for the gradient of the weight.
    ///
    /// # Errors
    /// If the shapes do not fit together, the kernel is larger than the padded volume, or dtypes or devices differ.
    pub fn conv3d(&self, weight: &Tensor, bias: Option<&Tensor>, rule: &Conv3d) -> Result<Tensor> {
        const OP: &str = "conv3d";
        cast_operands(OP, [self, weight], [bias], |[x, weight], [bias]| x.conv3d_no_autocast(weight, bias, rule))
    }

    fn conv3d_no_autocast(&self, weight: &Tensor, bias: Option<&Tensor>, rule: &Conv3d) -> Result<Tensor> {
        const OP: &str = "conv3d";
        batched_of(OP, 3, self, |x| {
            check_weight(OP, x, weight, bias, rule)?;
            check_channels(OP, x, weight, rule)?;
            check_bias(OP, bias, weight.dims()[0])?;
            let [depth, _, _] = output_size(OP, x, weight, rule)?;
            let (n, o, [kd, kh, kw]) = (x.dims()[0], weight.dims()[0], spatial(weight));
            let weight = weight.reshape([o, weight.dims()[1] * kd, kh, kw])?;
            // The gradient of a plane is a sum over the windows that it is in, rounded once.
            let source = if is_recorded(&[x]) { x.widened()? } else { x.clone() };
            let windows = source.depth_windows(rule, kd, depth)?.to_dtype(x.dtype())?;
            let out = windows.conv2d(&weight, bias, &of_planes(rule))?;
            out.reshape([n, depth, o, out.dims()[2], out.dims()[3]])?.permute([0, 2, 1, 3, 4])?.contiguous()
        })
    }

    /// The planes that each of `depth` positions of a kernel reads, `[N · depth, C · kd, H, W]`.
    fn depth_windows(&self, rule: &Conv3d, kd: usize, depth: usize) -> Result<Tensor> {
        let (n, c, [_, h, w]) = (self.dims()[0], self.dims()[1], spatial(self));
        let (stride, dilation, padding) = (rule.stride[0], rule.dilation[0], rule.padding[0] as i64);
        let padded = match padding {
            0 => self.clone(),
            _ => self.pad(&[0, 0, 0, 0, padding, padding], PadMode::Constant(0.0))?,
        };
        let planes = padded.permute([0, 2, 1, 3, 4])?;
        let tap = |tap: usize| {
            let first = tap * dilation;
            let end = first + (depth - 1) * stride + 1;
            planes.slice(1, first as i64, end as i64, stride)?.unsqueeze(3)
        };
        let taps: Vec<Tensor> = (0..kd).map(tap).collect::<Result<_>>()?;
        Tensor::cat(&taps, 3)?.reshape([n * depth, c * kd, h, w])
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
            x.conv_transpose3d_no_autocast(weight, bias, rule, output_padding)
        })
    }

    fn conv_transpose3d_no_autocast(
        &self,
        weight: &Tensor,
        bias: Option<&Tensor>,
        rule: &Conv3d,
        output_padding: [usize; 3],
    ) -> Result<Tensor> {
        const OP: &str = "conv_transpose3d";
        batched_of(OP, 3, self, |x| {
            check_weight(OP, x, weight, bias, rule)?;
            let o = check_transposed_channels(OP, x, weight, rule)?;
            check_bias(OP, bias, o)?;
            let [depth, oh, ow] = transposed_size(OP, x, weight, rule, output_padding)?;
            let (n, c, [d, h, w]) = (x.dims()[0], x.dims()[1], spatial(x));
            let [kd, kh, kw] = spatial(weight);
            // Half precision is rounded once, after the sums.
            let planes = x.widened()?.permute([0, 2, 1, 3, 4])?.reshape([n * d, c, h, w])?;
            let kernel = weight.widened()?.reshape([c, weight.dims()[1] * kd, kh, kw])?;
            let [_, more_rows, more_columns] = output_padding;
            let convolve = || planes.conv_transpose2d(&kernel, None, &of_planes(rule), [more_rows, more_columns]);
            let parts = if x.dtype().is_half() { with_tf32(convolve) } else { convolve() }?;
            // The plane `tap` of what depth `i` adds to the result lies at depth `i stride + tap dilation`.
            let parts = parts.reshape([n, d, o, kd, oh, ow])?.permute([0, 2, 1, 3, 4, 5])?;
            let parts = parts.reshape([n, o, d * kd, oh, ow])?;
            let along =
                |count: usize, step: usize| Tensor::arange(0, count as i64, (DType::I64, x.device()))?.mul(step as i64);
            let depths = along(d, rule.stride[0])?.unsqueeze(1)?.add(&along(kd, rule.dilation[0])?)?.flatten_all()?;
            let padding = rule.padding[0];
            let full = ((d - 1) * rule.stride[0] + (kd - 1) * rule.dilation[0] + 1).max(padding + depth);
            let sums = Tensor::zeros([n, o, full, oh, ow], parts.options())?.index_add(2, &depths, &parts)?;
            let mut out = sums.narrow(2, padding, depth)?;
            if let Some(bias) = bias {
                out = out.add(&bias.widened()?.reshape([o, 1, 1, 1])?)?;
            }
            out.to_dtype(self.dtype())?.contiguous()
        })
    }
}

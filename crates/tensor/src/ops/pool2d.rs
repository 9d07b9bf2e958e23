//! Max and average pooling of images, also adaptive.

use kiln_backend::{
    Arguments, AvgPool2dArgs, AvgPool2dGradArgs, Backend, DType, Error, Layout, MaxPool2dArgs, MaxPool2dGradArgs,
    Pool2d, PoolDivisor, Result, Shape, ViewMut,
};
use kiln_derive::located;

use super::images::{batched, image_layout, with_indices, writing};
use crate::{
    autograd::{one, record, record_gradient},
    tensor::Tensor,
};

/// The windows of a pooling in `N` dimensions: their size, and how they move. Numbers are in the order of the dimensions:
/// depth, height, width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Pooling<const N: usize = 2> {
    pub(super) kernel: [usize; N],
    pub(super) stride: [usize; N],
    pub(super) padding: [usize; N],
    pub(super) dilation: [usize; N],
    pub(super) ceil_mode: bool,
}

impl<const N: usize> Pooling<N> {
    /// Adjacent windows of this size.
    pub fn new(kernel: [usize; N]) -> Pooling<N> {
        Pooling { kernel, stride: kernel, padding: [0; N], dilation: [1; N], ceil_mode: false }
    }

    /// The distance between neighboring windows; by default their size.
    pub fn stride(self, stride: [usize; N]) -> Pooling<N> {
        Pooling { stride, ..self }
    }

    /// How far windows extend over the edges; at most half of their size. Padding never counts as a maximum, and counts
    /// as 0 in an average.
    pub fn padding(self, padding: [usize; N]) -> Pooling<N> {
        Pooling { padding, ..self }
    }

    /// The distance between a window's elements; not for averages.
    pub fn dilation(self, dilation: [usize; N]) -> Pooling<N> {
        Pooling { dilation, ..self }
    }

    /// Whether to round the number of windows up, so that every element is in one.
    pub fn ceil_mode(self, ceil_mode: bool) -> Pooling<N> {
        Pooling { ceil_mode, ..self }
    }

    /// The windows along two of the dimensions; a number past the last stands for windows of one element.
    pub(super) fn of_plane(&self, axes: [usize; 2]) -> Pooling {
        let of = |values: [usize; N], none: usize| axes.map(|axis| values.get(axis).copied().unwrap_or(none));
        Pooling {
            kernel: of(self.kernel, 1),
            stride: of(self.stride, 1),
            padding: of(self.padding, 0),
            dilation: of(self.dilation, 1),
            ceil_mode: self.ceil_mode,
        }
    }

    /// How many windows a batch `[N, C, …]` has along each dimension.
    pub(super) fn size(&self, op: &'static str, x: &Tensor) -> Result<[usize; N]> {
        let Pooling { kernel, stride, padding, dilation, ceil_mode } = *self;
        let mut sizes = [0; N];
        for axis in 0..N {
            if kernel[axis] == 0 || stride[axis] == 0 || dilation[axis] == 0 {
                return Err(Error::argument(
                    op,
                    format!("extents, strides and dilations must be at least 1, got {self:?}"),
                ));
            }
            let reach = (kernel[axis] - 1).saturating_mul(dilation[axis]).saturating_add(1);
            if padding[axis] > reach / 2 {
                return Err(Error::argument(
                    op,
                    format!("the padding must be at most half of the window, got {self:?}"),
                ));
            }
            let along = self.of_plane([axis, N]).pool();
            let Some([size, _]) = along.output([x.dims()[axis + 2], 1], ceil_mode) else {
                let expected = if N == 2 { "images" } else { "extents" };
                return Err(Error::shape(op, format!("{expected} that {self:?} fits into"), x.shape()));
            };
            sizes[axis] = size;
        }
        Ok(sizes)
    }
}

impl Pooling {
    fn pool(&self) -> Pool2d {
        let Pooling { kernel, stride, padding, dilation, .. } = *self;
        Pool2d::Window { kernel, stride, padding, dilation }
    }

    /// The windows, and how many of them an image has.
    fn windows(&self, op: &'static str, x: &Tensor) -> Result<(Pool2d, [usize; 2])> {
        Ok((self.pool(), self.size(op, x)?))
    }
}

/// The output size of adaptive pooling in `N` dimensions: an extent for each, as `[height, width]`, one number for all, or
/// `None` to keep an extent.
pub trait OutputSize<const N: usize = 2> {
    /// The extents.
    fn output_size(&self) -> [Option<usize>; N];
}

impl<const N: usize> OutputSize<N> for usize {
    fn output_size(&self) -> [Option<usize>; N] {
        [Some(*self); N]
    }
}

impl<const N: usize> OutputSize<N> for [usize; N] {
    fn output_size(&self) -> [Option<usize>; N] {
        self.map(Some)
    }
}

impl<const N: usize> OutputSize<N> for [Option<usize>; N] {
    fn output_size(&self) -> [Option<usize>; N] {
        *self
    }
}

/// The output size for a batch `[N, C, …]` that has elements in each plane.
pub(super) fn adaptive_size<const N: usize>(
    op: &'static str,
    x: &Tensor,
    size: &impl OutputSize<N>,
) -> Result<[usize; N]> {
    let extents = &x.dims()[2..];
    if extents.contains(&0) {
        return Err(Error::shape(op, "images that have pixels", x.shape()));
    }
    let mut sizes = [0; N];
    for ((size, wanted), extent) in sizes.iter_mut().zip(size.output_size()).zip(extents) {
        *size = wanted.unwrap_or(*extent);
    }
    Ok(sizes)
}

#[located]
impl Tensor {
    /// The largest element of each window of images `[N, C, H, W]` or `[C, H, W]`; NaN if there is one
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.MaxPool2d.html>).
    ///
    /// # Errors
    /// If the windows do not fit into the images, or those are not floating-point.
    pub fn max_pool2d(&self, pooling: &Pooling) -> Result<Tensor> {
        const OP: &str = "max_pool2d";
        batched(OP, self, |x| {
            let (pool, size) = pooling.windows(OP, x)?;
            Ok(x.max_pooled("MaxPool2DWithIndicesBackward0", pool, size, false)?.0)
        })
    }

    /// [`max_pool2d`](Tensor::max_pool2d), and the position `row * W + column` of each maximum in its plane (`i64`).
    ///
    /// # Errors
    /// Those of [`max_pool2d`](Tensor::max_pool2d).
    pub fn max_pool2d_with_indices(&self, pooling: &Pooling) -> Result<(Tensor, Tensor)> {
        const OP: &str = "max_pool2d_with_indices";
        with_indices(OP, 2, self, |x| {
            let (pool, size) = pooling.windows(OP, x)?;
            positioned(OP, x.max_pooled("MaxPool2DWithIndicesBackward0", pool, size, true)?)
        })
    }

    /// The average of each window of images `[N, C, H, W]` or `[C, H, W]`
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.AvgPool2d.html>).
    ///
    /// # Errors
    /// If the windows do not fit into the images or are dilated, the divisor is 0, or the images are not
    /// floating-point.
    pub fn avg_pool2d(&self, pooling: &Pooling, divisor: PoolDivisor) -> Result<Tensor> {
        const OP: &str = "avg_pool2d";
        check_average(OP, pooling, divisor)?;
        batched(OP, self, |x| {
            let (pool, size) = pooling.windows(OP, x)?;
            x.averaged("AvgPool2DBackward0", pool, divisor, size)
        })
    }

    /// Averages over as many windows as the result `[height, width]` has pixels, which together cover the images;
    /// `None` keeps an extent, and one number is both
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.AdaptiveAvgPool2d.html>).
    ///
    /// # Errors
    /// If the images have no pixels, or are not `[N, C, H, W]` or `[C, H, W]` of floats.
    pub fn adaptive_avg_pool2d(&self, size: impl OutputSize) -> Result<Tensor> {
        const OP: &str = "adaptive_avg_pool2d";
        batched(OP, self, |x| {
            let size = adaptive_size(OP, x, &size)?;
            x.averaged("AdaptiveAvgPool2DBackward0", Pool2d::Adaptive, PoolDivisor::Inside, size)
        })
    }

    /// The largest elements of the windows of [`adaptive_avg_pool2d`](Tensor::adaptive_avg_pool2d).
    ///
    /// # Errors
    /// Those of [`adaptive_avg_pool2d`](Tensor::adaptive_avg_pool2d).
    pub fn adaptive_max_pool2d(&self, size: impl OutputSize) -> Result<Tensor> {
        const OP: &str = "adaptive_max_pool2d";
        batched(OP, self, |x| {
            let size = adaptive_size(OP, x, &size)?;
            Ok(x.max_pooled("AdaptiveMaxPool2DBackward0", Pool2d::Adaptive, size, false)?.0)
        })
    }

    /// [`adaptive_max_pool2d`](Tensor::adaptive_max_pool2d), and the position of each maximum in its plane (`i64`).
    ///
    /// # Errors
    /// Those of [`adaptive_avg_pool2d`](Tensor::adaptive_avg_pool2d).
    pub fn adaptive_max_pool2d_with_indices(&self, size: impl OutputSize) -> Result<(Tensor, Tensor)> {
        const OP: &str = "adaptive_max_pool2d_with_indices";
        with_indices(OP, 2, self, |x| {
            let size = adaptive_size(OP, x, &size)?;
            positioned(OP, x.max_pooled("AdaptiveMaxPool2DBackward0", Pool2d::Adaptive, size, true)?)
        })
    }

    /// The maxima, and their positions: in the plane if requested, otherwise in the smallest dtype if the gradient needs them.
    fn max_pooled(
        &self,
        node: &'static str,
        pool: Pool2d,
        size: [usize; 2],
        wanted: bool,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let (n, c, _, _) = self.dims4()?;
        let layout = image_layout(self, Shape::new(&[n, c, size[0], size[1]])?);
        let needed = wanted || crate::autograd::grad_enabled() && self.requires_grad();
        let no_write = |_: &'static dyn Backend, _: ViewMut<'_>| Ok(());
        let dtype = if wanted { DType::I64 } else { pool.tap_dtype() };
        let indices = needed.then(|| Tensor::compute_in(self.device(), dtype, layout, no_write)).transpose()?;
        let reading = self.read();
        let values = Tensor::compute_in(self.device(), self.dtype(), layout, |backend, out| {
            let mut indices = indices.as_ref().map(writing);
            let (x, indices) = (reading.view(), indices.as_mut().map(|i| i.view()));
            backend.max_pool2d(MaxPool2dArgs { pool, x, out, indices }.checked()?)
        })?;
        drop(reading);
        // Without a gradient, nothing is recorded.
        let values = described(values, self, ["max_pool2d", "adaptive_max_pool2d"], pool, PoolDivisor::WithPadding);
        let names = ["max_pool2d_with_indices", "adaptive_max_pool2d_with_indices"];
        let indices = indices.map(|indices| described(indices, self, names, pool, PoolDivisor::WithPadding));
        let Some(indices) = indices else { return Ok((values, None)) };
        let to = image_layout(self, *self.shape());
        let relu_before = self.ends_in_relu();
        let (maxima, saved) = (values.clone(), [&indices, &values]);
        let values = record(maxima, node, &[self], &saved[..1 + usize::from(relu_before)], move |ctx| {
            let mut grad = ctx.grad()?;
            // A maximum of 0 is that of a window of which ReLU let nothing through, so ReLU's gradient is that of the maxima, of
            // which there are fewer.
            let maxima = ctx.saved.get(1).and_then(|saved| saved.unchanged());
            if let (Some(relu), Some(maxima)) = (ctx.fused_relu, maxima) {
                let (masked, bias) = if relu.bias {
                    let (masked, sums) = grad.relu_bias_gradient(&maxima, 1)?;
                    (masked, Some(sums))
                } else {
                    (grad.relu_gradient(&maxima)?, None)
                };
                relu.finish(bias);
                grad = masked;
            }
            Ok(one(grad.max_unpooled(&ctx.saved(0)?, pool, to)?))
        })?;
        Ok((values, Some(indices)))
    }

    /// The gradient of the image, with memory layout `to`; `self` is the gradient of its maxima at `indices`.
    fn max_unpooled(&self, indices: &Tensor, pool: Pool2d, to: Layout) -> Result<Tensor> {
        let (g, i) = (self.read(), indices.read());
        let out = Tensor::compute_in(self.device(), self.dtype(), to, |backend, out| {
            backend.max_pool2d_grad(MaxPool2dGradArgs { pool, grad: g.view(), indices: i.view(), out }.checked()?)
        })?;
        record_gradient(out, "MaxPool2DWithIndicesBackwardBackward0", &[self], &[indices], move |ctx| {
            let (grad, indices) = (ctx.grad()?, plane_positions(&ctx.saved(0)?, pool, to.dims()[3])?);
            let planes = |t: &Tensor| t.reshape([t.dims()[0], t.dims()[1], t.dims()[2] * t.dims()[3]]);
            Ok(one(planes(&grad)?.gather(2, &planes(&indices)?)?.reshape(indices.shape())?))
        })
    }

    fn averaged(&self, node: &'static str, pool: Pool2d, divisor: PoolDivisor, size: [usize; 2]) -> Result<Tensor> {
        let (n, c, _, _) = self.dims4()?;
        let layout = image_layout(self, Shape::new(&[n, c, size[0], size[1]])?);
        let reading = self.read();
        let out = Tensor::compute_in(self.device(), self.dtype(), layout, |backend, out| {
            backend.avg_pool2d(AvgPool2dArgs { pool, divisor, x: reading.view(), out }.checked()?)
        })?;
        drop(reading);
        let to = image_layout(self, *self.shape());
        let out =
            record(out, node, &[self], &[], move |ctx| Ok(one(ctx.grad()?.avg_unpooled(node, pool, divisor, to)?)))?;
        Ok(described(out, self, ["avg_pool2d", "adaptive_avg_pool2d"], pool, divisor))
    }

    /// The gradient of the image, with memory layout `to`; `self` is the gradient of its averages. Average pooling is linear,
    /// so the gradient of this operation is average pooling again.
    fn avg_unpooled(&self, node: &'static str, pool: Pool2d, divisor: PoolDivisor, to: Layout) -> Result<Tensor> {
        let g = self.read();
        let out = Tensor::compute_in(self.device(), self.dtype(), to, |backend, out| {
            backend.avg_pool2d_grad(AvgPool2dGradArgs { pool, divisor, grad: g.view(), out }.checked()?)
        })?;
        drop(g);
        let (_, _, h, w) = self.dims4()?;
        record_gradient(out, "AvgPool2DBackwardBackward0", &[self], &[], move |ctx| {
            Ok(one(ctx.grad()?.averaged(node, pool, divisor, [h, w])?))
        })
    }
}

/// Maxima with the positions that were asked for.
fn positioned(op: &'static str, (values, indices): (Tensor, Option<Tensor>)) -> Result<(Tensor, Tensor)> {
    Ok((values, indices.ok_or_else(|| Error::argument(op, "the device gave no positions"))?))
}

/// Checks what average pooling does not take.
pub(super) fn check_average<const N: usize>(
    op: &'static str,
    pooling: &Pooling<N>,
    divisor: PoolDivisor,
) -> Result<()> {
    if pooling.dilation == [1; N] && divisor != PoolDivisor::Fixed(0) {
        return Ok(());
    }
    let message = format!("average pooling takes no dilation and no divisor of 0, got {pooling:?} and {divisor:?}");
    Err(Error::argument(op, message))
}

/// Positions of maxima in planes of this width, converted from those that [`Tensor::max_pooled`] saved.
fn plane_positions(saved: &Tensor, pool: Pool2d, width: usize) -> Result<Tensor> {
    let (DType::U8, Pool2d::Window { kernel, stride, padding, dilation }) = (saved.dtype(), pool) else {
        return Ok(saved.clone());
    };
    let (_, _, h, w) = saved.dims4()?;
    let position = |row: usize, column: usize| (row * width + column) as i64;
    let tap = |tap: usize| position(tap / kernel[1] * dilation[0], tap % kernel[1] * dilation[1]);
    let first = |o: usize| position(o / w * stride[0], o % w * stride[1]) - position(padding[0], padding[1]);
    let taps: Vec<i64> = (0..kernel[0] * kernel[1]).map(tap).collect();
    let starts: Vec<i64> = (0..h * w).map(first).collect();
    let (count, device) = (taps.len(), saved.device());
    let (taps, starts) = (Tensor::from_vec(taps, count, device)?, Tensor::from_vec(starts, [1, 1, h, w], device)?);
    let chosen = taps.index_select(0, &saved.flatten_all()?.to_dtype(DType::I64)?)?;
    chosen.reshape(saved.shape())?.add(&starts)
}

/// For exporters: describes a pooling of `x`.
fn described(out: Tensor, x: &Tensor, [op, adaptive]: [&'static str; 2], pool: Pool2d, divisor: PoolDivisor) -> Tensor {
    let Pool2d::Window { kernel, stride, padding, dilation } = pool else {
        return out.noted(adaptive, &[x], || []);
    };
    // Only the result's size shows that it was rounded up.
    let size = |t: &Tensor| t.dims4().map_or([0; 2], |(_, _, h, w)| [h, w]);
    let ceil_mode = pool.output(size(x), false) != Some(size(&out));
    out.noted(op, &[x], || {
        [
            ("kernel", (&kernel[..]).into()),
            ("stride", (&stride[..]).into()),
            ("padding", (&padding[..]).into()),
            ("dilation", (&dilation[..]).into()),
            ("ceil_mode", ceil_mode.into()),
            ("count_include_pad", (divisor == PoolDivisor::WithPadding).into()),
            // 0: the number of elements.
            ("divisor", if let PoolDivisor::Fixed(divisor) = divisor { divisor.into() } else { 0.0.into() }),
        ]
    })
}

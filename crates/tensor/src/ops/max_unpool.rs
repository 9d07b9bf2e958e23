//! Max unpooling: puts the maxima that max pooling found back to their positions, among zeros.

use kiln_backend::{Error, Result};
use kiln_derive::located;

use super::{check, pool2d::Pooling};
use crate::{
    autograd::{no_grad, one, record},
    tensor::Tensor,
};

/// The extents of the result: the given ones, or the smallest that these windows cover without the padding.
fn unpooled_size<const N: usize>(
    op: &'static str,
    x: &Tensor,
    windows: &Pooling<N>,
    given: Option<[usize; N]>,
) -> Result<[usize; N]> {
    let Pooling { kernel, stride, padding, dilation, .. } = *windows;
    if kernel.contains(&0) || stride.contains(&0) || dilation != [1; N] {
        let message = format!("windows and strides must be at least 1 and windows not dilated, got {windows:?}");
        return Err(Error::argument(op, message));
    }
    let extents = &x.dims()[x.rank() - N..];
    let mut size = [0; N];
    for axis in 0..N {
        let padded = extents[axis].saturating_sub(1).saturating_mul(stride[axis]).saturating_add(kernel[axis]);
        let Some(usual) = padded.checked_sub(padding[axis].saturating_mul(2)).filter(|usual| *usual > 0) else {
            return Err(Error::shape(op, format!("maxima of {windows:?}"), x.shape()));
        };
        size[axis] = given.map_or(usual, |given| given[axis]);
        if usual.abs_diff(size[axis]) >= stride[axis] {
            let message =
                format!("extent {} must differ from {usual} by less than the stride {}", size[axis], stride[axis]);
            return Err(Error::argument(op, message));
        }
    }
    Ok(size)
}

/// Unpools `N` dimensions after those of batch and channels.
fn unpooled<const N: usize>(
    op: &'static str,
    x: &Tensor,
    indices: &Tensor,
    windows: &Pooling<N>,
    size: Option<[usize; N]>,
) -> Result<Tensor> {
    check::floats(op, x)?;
    check::same_device(op, x, &[indices])?;
    let indices = check::indices(op, indices)?;
    if x.rank() != N + 1 && x.rank() != N + 2 {
        let expected = ["[N, C, L] or [C, L]", "[N, C, H, W] or [C, H, W]", "[N, C, D, H, W] or [C, D, H, W]"][N - 1];
        return Err(Error::shape(op, expected, x.shape()));
    }
    if indices.shape() != x.shape() {
        return Err(Error::shapes(op, x.shape(), indices.shape(), "a position for each maximum"));
    }
    let size = unpooled_size(op, x, windows, size)?;
    let planes = &x.dims()[..x.rank() - N];
    let count: usize = planes.iter().product();
    let elements: usize = x.dims()[x.rank() - N..].iter().product();
    let flat = |t: &Tensor| t.reshape([count, elements]);
    let (shape, own) = ([planes, &size].concat(), *x.shape());
    let zeros = Tensor::zeros(&shape[..], x.options())?;
    // The whole tensor exists, so that the extents of a plane do not overflow, unless there are no planes.
    let zeros =
        zeros.reshape([count, size.iter().fold(1, |product: usize, extent| product.saturating_mul(*extent))])?;
    let indices = flat(&indices)?;
    let out = no_grad(|| zeros.scatter(1, &indices, &flat(x)?)?.reshape(shape))?;
    // Of maxima at the same position, each gets the gradient there.
    record(out, if N == 3 { "MaxUnpool3DBackward0" } else { "MaxUnpool2DBackward0" }, &[x], &[&indices], move |ctx| {
        let grad = ctx.grad()?;
        let grad = grad.reshape([count, grad.numel() / count.max(1)])?;
        Ok(one(grad.gather(1, &ctx.saved(0)?)?.reshape(own)?))
    })
}

#[located]
impl Tensor {
    /// Puts the maxima of signals `[N, C, L]` or `[C, L]` back to their positions, those of
    /// [`max_pool1d_with_indices`](Tensor::max_pool1d_with_indices), among zeros
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.MaxUnpool1d.html>). Pooling of several lengths gives the same
    /// number of maxima: `size` says which it was; by default `(L - 1) · stride - 2 · padding + kernel`.
    ///
    /// # Errors
    /// If the positions have another shape than the maxima or are out of range, windows are dilated, `size` differs from the
    /// default by the stride or more, or the maxima are not floating-point.
    pub fn max_unpool1d(&self, indices: &Tensor, windows: &Pooling<1>, size: Option<[usize; 1]>) -> Result<Tensor> {
        unpooled("max_unpool1d", self, indices, windows, size)
    }

    /// [`max_unpool1d`](Tensor::max_unpool1d) for images `[N, C, H, W]` or `[C, H, W]`; `size` is `[height, width]`
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.MaxUnpool2d.html>).
    ///
    /// # Errors
    /// Those of [`max_unpool1d`](Tensor::max_unpool1d).
    pub fn max_unpool2d(&self, indices: &Tensor, windows: &Pooling<2>, size: Option<[usize; 2]>) -> Result<Tensor> {
        unpooled("max_unpool2d", self, indices, windows, size)
    }

    /// [`max_unpool1d`](Tensor::max_unpool1d) for volumes `[N, C, D, H, W]` or `[C, D, H, W]`; `size` is `[depth, height,
    /// width]` (<https://docs.pytorch.org/docs/stable/generated/torch.nn.MaxUnpool3d.html>).
    ///
    /// # Errors
    /// Those of [`max_unpool1d`](Tensor::max_unpool1d).
    pub fn max_unpool3d(&self, indices: &Tensor, windows: &Pooling<3>, size: Option<[usize; 3]>) -> Result<Tensor> {
        unpooled("max_unpool3d", self, indices, windows, size)
    }
}

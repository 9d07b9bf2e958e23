//! Pooling over depth, height and width: that over height and width, and then that of the results along the depth.
//! Windows are boxes, so their maxima and averages are those of the planes' maxima and averages.

use kiln_backend::{PoolDivisor, Result};
use kiln_derive::located;

use super::{
    conv2d::spatial,
    images::{batched_of, with_indices},
    pool2d::{OutputSize, Pooling, adaptive_size, check_average},
    rounding::RoundingMode,
};
use crate::{autograd::is_recorded, tensor::Tensor};

/// Pools volumes `[N, C, D, H, W]`: `planes` pools images `[N, C · D, H, W]`, and `columns` the results as images
/// `[N, C, D, H' · W']`.
fn by_axes(
    x: &Tensor,
    planes: impl FnOnce(&Tensor) -> Result<Tensor>,
    columns: impl FnOnce(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let (n, c, [d, h, w]) = (x.dims()[0], x.dims()[1], spatial(x));
    let pooled = planes(&x.reshape([n, c * d, h, w])?)?;
    let [oh, ow] = spatial(&pooled);
    let pooled = columns(&pooled.reshape([n, c, d, oh * ow])?)?;
    pooled.reshape([n, c, pooled.dims()[2], oh, ow])
}

/// The maxima of [`by_axes`] with their positions in the volumes. The first of equal elements is that of the first
/// plane which has it.
fn maxima_by_axes(
    x: &Tensor,
    planes: impl FnOnce(&Tensor) -> Result<(Tensor, Tensor)>,
    columns: impl FnOnce(&Tensor) -> Result<(Tensor, Tensor)>,
) -> Result<(Tensor, Tensor)> {
    let (n, c, [d, h, w]) = (x.dims()[0], x.dims()[1], spatial(x));
    let (pooled, in_planes) = planes(&x.reshape([n, c * d, h, w])?)?;
    let [oh, ow] = spatial(&pooled);
    let (values, chosen) = columns(&pooled.reshape([n, c, d, oh * ow])?)?;
    let shape = [n, c, values.dims()[2], oh, ow];
    // `chosen` are places among the planes' maxima.
    let chosen = chosen.reshape([n, c, shape[2] * oh * ow])?;
    let in_plane = in_planes.reshape([n, c, d * oh * ow])?.gather(2, &chosen)?;
    let depth = chosen.div_rounding((oh * ow).max(1) as i64, Some(RoundingMode::Trunc))?;
    let indices = depth.mul((h * w) as i64)?.add(&in_plane)?;
    Ok((values.reshape(shape)?, indices.reshape(shape)?))
}

/// Volumes whose gradients, sums over windows that overlap in both passes, are rounded once.
fn summed_once(x: &Tensor) -> Result<Tensor> {
    if is_recorded(&[x]) { x.widened() } else { Ok(x.clone()) }
}

#[located]
impl Tensor {
    /// The largest element of each window of volumes `[N, C, D, H, W]` or `[C, D, H, W]`; NaN if there is one
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.MaxPool3d.html>).
    ///
    /// # Errors
    /// If the windows do not fit into the volumes, or those are not floating-point.
    pub fn max_pool3d(&self, pooling: &Pooling<3>) -> Result<Tensor> {
        const OP: &str = "max_pool3d";
        batched_of(OP, 3, self, |x| {
            pooling.size(OP, x)?;
            let maxima = by_axes(
                &summed_once(x)?,
                |planes| planes.max_pool2d(&pooling.of_plane([1, 2])),
                |columns| columns.max_pool2d(&pooling.of_plane([0, 3])),
            )?;
            maxima.to_dtype(x.dtype())
        })
    }

    /// [`max_pool3d`](Tensor::max_pool3d), and the position `(depth * H + row) * W + column` of each maximum in its
    /// volume (`i64`).
    ///
    /// # Errors
    /// Those of [`max_pool3d`](Tensor::max_pool3d).
    pub fn max_pool3d_with_indices(&self, pooling: &Pooling<3>) -> Result<(Tensor, Tensor)> {
        const OP: &str = "max_pool3d_with_indices";
        with_indices(OP, 3, self, |x| {
            pooling.size(OP, x)?;
            let (maxima, indices) = maxima_by_axes(
                &summed_once(x)?,
                |planes| planes.max_pool2d_with_indices(&pooling.of_plane([1, 2])),
                |columns| columns.max_pool2d_with_indices(&pooling.of_plane([0, 3])),
            )?;
            Ok((maxima.to_dtype(x.dtype())?, indices))
        })
    }

    /// The average of each window of volumes `[N, C, D, H, W]` or `[C, D, H, W]`
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.AvgPool3d.html>).
    ///
    /// # Errors
    /// If the windows do not fit into the volumes or are dilated, the divisor is 0, or the volumes are not
    /// floating-point.
    pub fn avg_pool3d(&self, pooling: &Pooling<3>, divisor: PoolDivisor) -> Result<Tensor> {
        const OP: &str = "avg_pool3d";
        check_average(OP, pooling, divisor)?;
        batched_of(OP, 3, self, |x| {
            pooling.size(OP, x)?;
            // A fixed divisor is that of the whole sum. Half precision is rounded once.
            let rest = if let PoolDivisor::Fixed(_) = divisor { PoolDivisor::Fixed(1) } else { divisor };
            let averages = by_axes(
                &x.widened()?,
                |planes| planes.avg_pool2d(&pooling.of_plane([1, 2]), divisor),
                |columns| columns.avg_pool2d(&pooling.of_plane([0, 3]), rest),
            )?;
            averages.to_dtype(x.dtype())
        })
    }

    /// Averages over as many windows as the result has elements, which together cover the volumes
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.AdaptiveAvgPool3d.html>).
    ///
    /// # Errors
    /// If the volumes are empty, or are not volumes `[N, C, D, H, W]` or `[C, D, H, W]` of floats.
    pub fn adaptive_avg_pool3d(&self, size: impl OutputSize<3>) -> Result<Tensor> {
        const OP: &str = "adaptive_avg_pool3d";
        batched_of(OP, 3, self, |x| {
            let [depth, height, width] = adaptive_size(OP, x, &size)?;
            // Half precision is rounded once.
            let averages = by_axes(
                &x.widened()?,
                |planes| planes.adaptive_avg_pool2d([height, width]),
                |columns| columns.adaptive_avg_pool2d([Some(depth), None]),
            )?;
            averages.to_dtype(x.dtype())
        })
    }

    /// The largest elements of the windows of [`adaptive_avg_pool3d`](Tensor::adaptive_avg_pool3d).
    ///
    /// # Errors
    /// Those of [`adaptive_avg_pool3d`](Tensor::adaptive_avg_pool3d).
    pub fn adaptive_max_pool3d(&self, size: impl OutputSize<3>) -> Result<Tensor> {
        const OP: &str = "adaptive_max_pool3d";
        batched_of(OP, 3, self, |x| {
            let [depth, height, width] = adaptive_size(OP, x, &size)?;
            by_axes(
                x,
                |planes| planes.adaptive_max_pool2d([height, width]),
                |columns| columns.adaptive_max_pool2d([Some(depth), None]),
            )
        })
    }

    /// [`adaptive_max_pool3d`](Tensor::adaptive_max_pool3d), and the position `(depth * H + row) * W + column` of each
    /// maximum in its volume (`i64`).
    ///
    /// # Errors
    /// Those of [`adaptive_avg_pool3d`](Tensor::adaptive_avg_pool3d).
    pub fn adaptive_max_pool3d_with_indices(&self, size: impl OutputSize<3>) -> Result<(Tensor, Tensor)> {
        const OP: &str = "adaptive_max_pool3d_with_indices";
        with_indices(OP, 3, self, |x| {
            let [depth, height, width] = adaptive_size(OP, x, &size)?;
            maxima_by_axes(
                x,
                |planes| planes.adaptive_max_pool2d_with_indices([height, width]),
                |columns| columns.adaptive_max_pool2d_with_indices([Some(depth), None]),
            )
        })
    }
}

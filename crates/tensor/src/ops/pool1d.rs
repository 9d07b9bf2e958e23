//! Pooling along one dimension: that of images of height 1.

use kiln_backend::{PoolDivisor, Result};
use kiln_derive::located;

use super::{
    images::{batched_of, with_indices},
    pool2d::{OutputSize, Pooling, adaptive_size, check_average},
};
use crate::tensor::Tensor;

/// Pools signals `[N, C, L]` as images of height 1, in which a position is a column.
fn in_rows(x: &Tensor, pool: impl FnOnce(&Tensor) -> Result<(Tensor, Tensor)>) -> Result<(Tensor, Tensor)> {
    let (values, indices) = pool(&x.unsqueeze(2)?)?;
    Ok((values.squeeze(2)?, indices.squeeze(2)?))
}

#[located]
impl Tensor {
    /// The largest element of each window of signals `[N, C, L]` or `[C, L]`; NaN if there is one
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.MaxPool1d.html>).
    ///
    /// # Errors
    /// If the windows do not fit into the signals, or those are not floating-point.
    pub fn max_pool1d(&self, pooling: &Pooling<1>) -> Result<Tensor> {
        const OP: &str = "max_pool1d";
        batched_of(OP, 1, self, |x| {
            pooling.size(OP, x)?;
            x.unsqueeze(2)?.max_pool2d(&pooling.of_plane([1, 0]))?.squeeze(2)
        })
    }

    /// [`max_pool1d`](Tensor::max_pool1d), and the position of each maximum in its signal (`i64`).
    ///
    /// # Errors
    /// Those of [`max_pool1d`](Tensor::max_pool1d).
    pub fn max_pool1d_with_indices(&self, pooling: &Pooling<1>) -> Result<(Tensor, Tensor)> {
        const OP: &str = "max_pool1d_with_indices";
        with_indices(OP, 1, self, |x| {
            pooling.size(OP, x)?;
            in_rows(x, |x| x.max_pool2d_with_indices(&pooling.of_plane([1, 0])))
        })
    }

    /// The average of each window of signals `[N, C, L]` or `[C, L]`
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.AvgPool1d.html>).
    ///
    /// # Errors
    /// If the windows do not fit into the signals or are dilated, the divisor is 0, or the signals are not
    /// floating-point.
    pub fn avg_pool1d(&self, pooling: &Pooling<1>, divisor: PoolDivisor) -> Result<Tensor> {
        const OP: &str = "avg_pool1d";
        check_average(OP, pooling, divisor)?;
        batched_of(OP, 1, self, |x| {
            pooling.size(OP, x)?;
            x.unsqueeze(2)?.avg_pool2d(&pooling.of_plane([1, 0]), divisor)?.squeeze(2)
        })
    }

    /// Averages over as many windows as the result has elements, which together cover the signals
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.AdaptiveAvgPool1d.html>).
    ///
    /// # Errors
    /// If the signals are empty, or are not signals `[N, C, L]` or `[C, L]` of floats.
    pub fn adaptive_avg_pool1d(&self, size: impl OutputSize<1>) -> Result<Tensor> {
        const OP: &str = "adaptive_avg_pool1d";
        batched_of(OP, 1, self, |x| {
            let [length] = adaptive_size(OP, x, &size)?;
            x.unsqueeze(2)?.adaptive_avg_pool2d([1, length])?.squeeze(2)
        })
    }

    /// The largest elements of the windows of [`adaptive_avg_pool1d`](Tensor::adaptive_avg_pool1d).
    ///
    /// # Errors
    /// Those of [`adaptive_avg_pool1d`](Tensor::adaptive_avg_pool1d).
    pub fn adaptive_max_pool1d(&self, size: impl OutputSize<1>) -> Result<Tensor> {
        const OP: &str = "adaptive_max_pool1d";
        batched_of(OP, 1, self, |x| {
            let [length] = adaptive_size(OP, x, &size)?;
            x.unsqueeze(2)?.adaptive_max_pool2d([1, length])?.squeeze(2)
        })
    }

    /// [`adaptive_max_pool1d`](Tensor::adaptive_max_pool1d), and the position of each maximum in its signal (`i64`).
    ///
    /// # Errors
    /// Those of [`adaptive_avg_pool1d`](Tensor::adaptive_avg_pool1d).
    pub fn adaptive_max_pool1d_with_indices(&self, size: impl OutputSize<1>) -> Result<(Tensor, Tensor)> {
        const OP: &str = "adaptive_max_pool1d_with_indices";
        with_indices(OP, 1, self, |x| {
            let [length] = adaptive_size(OP, x, &size)?;
            in_rows(x, |x| x.adaptive_max_pool2d_with_indices([1, length]))
        })
    }
}

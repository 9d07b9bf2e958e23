//! Power-average pooling, the `p`-norm of each window.

use kiln_backend::{Error, PoolDivisor, Result};
use kiln_derive::located;

use super::{check, pool2d::Pooling};
use crate::tensor::Tensor;

/// The `p`-th root of sums of `p`-th powers, which `average` computes with the windows' volume as the divisor: as in PyTorch
/// also of windows that are cut off.
fn powered<const N: usize>(
    op: &'static str,
    x: &Tensor,
    p: f64,
    pooling: &Pooling<N>,
    average: impl FnOnce(&Tensor, PoolDivisor) -> Result<Tensor>,
) -> Result<Tensor> {
    check::floats(op, x)?;
    if p == 0.0 {
        return Err(Error::argument(op, "the norm's exponent is 0"));
    }
    let volume: f64 = pooling.kernel.iter().map(|&extent| extent as f64).product();
    let averages = average(&x.widened()?.pow(p)?, PoolDivisor::WithPadding)?;
    averages.sign()?.mul(&averages.abs()?.relu()?)?.mul(volume)?.pow(1.0 / p)?.to_dtype(x.dtype())
}

#[located]
impl Tensor {
    /// The `p`-norm of each window of signals `[N, C, L]` or `[C, L]`: `(Σ x^p)^(1/p)`
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.LPPool1d.html>). Where the sum of an odd `p` is below 0,
    /// the result is 0 or NaN.
    ///
    /// # Errors
    /// Those of [`avg_pool1d`](Tensor::avg_pool1d); or if `p` is 0.
    pub fn lp_pool1d(&self, p: f64, pooling: &Pooling<1>) -> Result<Tensor> {
        powered("lp_pool1d", self, p, pooling, |powers, divisor| powers.avg_pool1d(pooling, divisor))
    }

    /// The `p`-norm of each window of images `[N, C, H, W]` or `[C, H, W]`: `(Σ x^p)^(1/p)`
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.LPPool2d.html>). Where the sum of an odd `p` is below 0,
    /// the result is 0 or NaN.
    ///
    /// # Errors
    /// Those of [`avg_pool2d`](Tensor::avg_pool2d); or if `p` is 0.
    pub fn lp_pool2d(&self, p: f64, pooling: &Pooling<2>) -> Result<Tensor> {
        powered("lp_pool2d", self, p, pooling, |powers, divisor| powers.avg_pool2d(pooling, divisor))
    }

    /// The `p`-norm of each window of volumes `[N, C, D, H, W]` or `[C, D, H, W]`: `(Σ x^p)^(1/p)`
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.LPPool3d.html>). Where the sum of an odd `p` is below 0,
    /// the result is 0 or NaN.
    ///
    /// # Errors
    /// Those of [`avg_pool3d`](Tensor::avg_pool3d); or if `p` is 0.
    pub fn lp_pool3d(&self, p: f64, pooling: &Pooling<3>) -> Result<Tensor> {
        powered("lp_pool3d", self, p, pooling, |powers, divisor| powers.avg_pool3d(pooling, divisor))
    }
}

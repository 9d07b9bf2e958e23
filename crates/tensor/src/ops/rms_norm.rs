//! Normalizations by sums of squares: `rms_norm`, `local_response_norm`, `normalize`.

use kiln_backend::{DType, Dims, Error, PoolDivisor, Result};
use kiln_derive::located;

use super::{check, pad::PadMode, pool2d::Pooling};
use crate::{autocast::cast_operands, tensor::Tensor};

/// The number that [`Tensor::rms_norm`] adds if none is given: the distance from 1 to the next number of the dtype that it
/// computes in.
fn epsilon(dtype: DType) -> f64 {
    if dtype == DType::F64 { f64::EPSILON } else { f64::from(f32::EPSILON) }
}

#[located]
impl Tensor {
    /// Divides by the root mean square over the last dimensions, which have the extents `shape`:
    /// `x / sqrt(mean(x²) + eps)`, then scales element by element by `weight` of that shape (Zhang & Sennrich, 2019;
    /// <https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.rms_norm.html>). Without `eps` it is the machine
    /// epsilon of `f32`, or of `f64` for `f64`.
    ///
    /// # Errors
    /// If the tensor is not floating-point or does not end with these extents, no extents are given, or the scale has
    /// another shape, dtype or device.
    pub fn rms_norm(&self, shape: &[usize], weight: Option<&Tensor>, eps: Option<f64>) -> Result<Tensor> {
        cast_operands("rms_norm", [self], [weight], |[x], [weight]| x.rms_norm_no_autocast(shape, weight, eps))
    }

    fn rms_norm_no_autocast(&self, shape: &[usize], weight: Option<&Tensor>, eps: Option<f64>) -> Result<Tensor> {
        const OP: &str = "rms_norm";
        check::floats(OP, self)?;
        if shape.is_empty() || !self.dims().ends_with(shape) {
            return Err(Error::shape(OP, format!("a tensor that ends with the extents {shape:?}"), self.shape()));
        }
        if let Some(weight) = weight {
            check::same_kind(OP, self, &[weight])?;
            if weight.dims() != shape {
                return Err(Error::shape(OP, format!("a scale of shape {shape:?}"), weight.shape()));
            }
        }
        // The steps below would each round to half precision.
        let x = self.widened()?;
        let dims: Vec<i64> = (1..=shape.len() as i64).map(|dim| -dim).collect();
        let mean_square = x.square()?.mean_keepdim(&dims[..])?;
        let mut out = x.mul(&mean_square.add(eps.unwrap_or_else(|| epsilon(self.dtype())))?.rsqrt()?)?;
        if let Some(weight) = weight {
            out = out.mul(&weight.widened()?)?;
        }
        out.to_dtype(self.dtype())
    }

    /// Divides each element of `[N, C, …]` by `(k + alpha · mean)^beta`, where `mean` is the average of the squares in
    /// `size` neighboring channels at the same place (Krizhevsky et al., 2012;
    /// <https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.local_response_norm.html>). Channels past
    /// the first and the last count as 0.
    ///
    /// # Errors
    /// If the tensor is not floating-point or has fewer than 3 dimensions, or `size` is 0.
    pub fn local_response_norm(&self, size: usize, alpha: f64, beta: f64, k: f64) -> Result<Tensor> {
        cast_operands("local_response_norm", [self], [], |[x], []| {
            x.local_response_norm_no_autocast(size, alpha, beta, k)
        })
    }

    fn local_response_norm_no_autocast(&self, size: usize, alpha: f64, beta: f64, k: f64) -> Result<Tensor> {
        const OP: &str = "local_response_norm";
        check::floats(OP, self)?;
        if self.rank() < 3 {
            return Err(Error::shape(OP, "[N, C, …] with at least 3 dimensions", self.shape()));
        }
        if size == 0 {
            return Err(Error::argument(OP, "the number of channels to average over is 0"));
        }
        if self.numel() == 0 {
            return Ok(self.clone());
        }
        let x = self.widened()?;
        // The channels are the rows of an image.
        let (n, c) = (self.dims()[0], self.dims()[1]);
        let squares = x.square()?.reshape([n, 1, c, self.numel() / (n * c)])?;
        let sides = [0, 0, (size / 2) as i64, ((size - 1) / 2) as i64];
        let windows = Pooling::new([size, 1]).stride([1, 1]);
        let mean = squares.pad(&sides, PadMode::Constant(0.0))?.avg_pool2d(&windows, PoolDivisor::WithPadding)?;
        let divisor = mean.mul(alpha)?.add(k)?.pow(beta)?;
        x.div(&divisor.reshape(self.dims())?)?.to_dtype(self.dtype())
    }

    /// Divides by the `p`-norm over `dims`, or by `eps` if that is larger: vectors of length 1, PyTorch's
    /// `torch.nn.functional.normalize`
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.normalize.html>).
    ///
    /// # Errors
    /// If the tensor is not floating-point, or a dimension is out of range.
    pub fn normalize(&self, p: impl Into<f64>, dims: impl Dims, eps: f64) -> Result<Tensor> {
        check::floats("normalize", self)?;
        cast_operands("normalize", [self], [], |[own], []| {
            let x = own.widened()?;
            x.div(&x.norm_keepdim(p, dims)?.clamp_min(eps)?)?.to_dtype(own.dtype())
        })
    }
}

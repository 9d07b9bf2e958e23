//! Normalizations by sums of squares: `RMSNorm`, `LocalResponseNorm`.

use kiln_derive::located;
use kiln_tensor::{Error, Result, Tensor, TensorOptions};

use super::sizes::{python_bool, python_float, tuple};
use crate::{
    module::{Hooks, Module},
    parameter::Parameter,
};

/// Divides by the root mean square over the last dimensions, then scales each element (Zhang & Sennrich, 2019;
/// <https://docs.pytorch.org/docs/stable/generated/torch.nn.RMSNorm.html>).
#[derive(Debug, Module)]
#[module(save, extra_repr = "describe")]
pub struct RMSNorm {
    /// The scale, initially 1.
    pub weight: Option<Parameter>,
    #[module(skip, save)]
    normalized_shape: Vec<usize>,
    #[module(skip, save)]
    eps: Option<f64>,
    hooks: Hooks,
}

#[located(site)]
impl RMSNorm {
    /// A layer for tensors that end with these extents, with a scale and the machine epsilon as `eps`.
    ///
    /// # Errors
    /// If there are no extents, or memory runs out.
    pub fn new(normalized_shape: &[usize]) -> Result<RMSNorm> {
        RMSNorm::with_options(normalized_shape, None, true, TensorOptions::new())
    }

    /// A layer with another `eps`, with or without a scale.
    ///
    /// # Errors
    /// Those of [`new`](RMSNorm::new); or if the dtype is not floating-point, or the device is not available.
    pub fn with_options(
        normalized_shape: &[usize],
        eps: impl Into<Option<f64>>,
        elementwise_affine: bool,
        tensor: impl Into<TensorOptions>,
    ) -> Result<RMSNorm> {
        if normalized_shape.is_empty() {
            return Err(Error::argument("RMSNorm", "it normalizes at least one dimension"));
        }
        let scale = || Parameter::new(Tensor::full(normalized_shape, 1.0, tensor)?);
        Ok(RMSNorm {
            weight: elementwise_affine.then(scale).transpose()?,
            normalized_shape: normalized_shape.to_vec(),
            eps: eps.into(),
            hooks: Hooks::default(),
        })
    }

    fn describe(&self) -> String {
        let (shape, affine) = (tuple(&self.normalized_shape), python_bool(self.weight.is_some()));
        let eps = self.eps.map_or_else(|| "None".into(), python_float);
        format!("{shape}, eps={eps}, elementwise_affine={affine}")
    }
}

#[located(module)]
impl Module for RMSNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.rms_norm(&self.normalized_shape, self.weight.as_deref(), self.eps)
    }
}

/// Divides each element of `[N, C, …]` by a power of the average of the squares in neighboring channels (Krizhevsky et al.,
/// 2012; <https://docs.pytorch.org/docs/stable/generated/torch.nn.LocalResponseNorm.html>).
#[derive(Clone, Copy, Debug, Module)]
#[module(save, extra_repr = "describe")]
pub struct LocalResponseNorm {
    size: usize,
    alpha: f64,
    beta: f64,
    k: f64,
}

#[located(site)]
impl LocalResponseNorm {
    /// A layer over this many channels: `alpha` is 1e-4, `beta` 0.75, `k` 1.
    #[must_use]
    pub fn new(size: usize) -> LocalResponseNorm {
        LocalResponseNorm { size, alpha: 1e-4, beta: 0.75, k: 1.0 }
    }

    /// The factor of the average.
    #[must_use]
    pub fn alpha(self, alpha: f64) -> LocalResponseNorm {
        LocalResponseNorm { alpha, ..self }
    }

    /// The exponent.
    #[must_use]
    pub fn beta(self, beta: f64) -> LocalResponseNorm {
        LocalResponseNorm { beta, ..self }
    }

    /// The number added before the power.
    #[must_use]
    pub fn k(self, k: f64) -> LocalResponseNorm {
        LocalResponseNorm { k, ..self }
    }

    fn describe(&self) -> String {
        let [alpha, beta, k] = [self.alpha, self.beta, self.k].map(python_float);
        format!("{}, alpha={alpha}, beta={beta}, k={k}", self.size)
    }
}

#[located(module)]
impl Module for LocalResponseNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.local_response_norm(self.size, self.alpha, self.beta, self.k)
    }
}

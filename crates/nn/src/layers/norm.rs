//! Normalization layers: batch, layer and group normalization.

use std::cell::Cell;

use kiln_derive::located;
use kiln_tensor::{BatchNorm, DType, Error, Result, Running, Tensor, TensorOptions, no_grad};

use super::{
    channel_norm::{channel_norm, describe, norm_options},
    sizes::{python_bool, python_float, tuple},
};
use crate::{
    module::{Hooks, Module},
    parameter::{Buffer, Parameter, Training},
};

/// What a layer computes besides its normalization.
#[derive(Clone, Copy, Default)]
pub(super) struct Around<'a> {
    pub bias_before: Option<&'a Tensor>,
    pub residual: Option<&'a Tensor>,
    pub relu: bool,
}

norm_options! {
    /// Options of [`BatchNorm1d`], [`BatchNorm2d`] and [`BatchNorm3d`]: by default with scale, shift and running
    /// statistics.
    BatchNormOptions true
}

/// Normalizes, and updates the running statistics to the average of all `count` batches. The count stays on the device.
fn averaged(
    running: Running<'_>,
    count: &Tensor,
    normalize: impl FnOnce(Running<'_>) -> Result<Tensor>,
) -> Result<Tensor> {
    let (mean, var) = (running.mean.zeros_like()?, running.var.zeros_like()?);
    let out = normalize(Running { mean: &mean, var: &var })?;
    no_grad(|| {
        let dtype = mean.dtype();
        let share = count.to_dtype(if dtype == DType::F64 { dtype } else { DType::F32 })?.reciprocal()?;
        let (kept, share) = (share.neg()?.add(1.0)?.to_dtype(dtype)?, share.to_dtype(dtype)?);
        for (running, batch) in [(running.mean, &mean), (running.var, &var)] {
            running.mul_(&kept)?;
            running.add_(&batch.mul(&share)?)?;
        }
        Ok(out)
    })
}

thread_local! {
    static CUMULATIVE: Cell<bool> = const { Cell::new(false) };
}

/// Whether running statistics are averages over all batches, whatever the momentum of a layer is.
fn is_cumulative() -> bool {
    CUMULATIVE.with(Cell::get)
}

/// Calls `f` with the running statistics of batch normalization averaged over all batches, as with a momentum of
/// `None`.
pub(crate) fn cumulative_statistics<T>(f: impl FnOnce() -> T) -> T {
    /// Restores the old setting, also after a panic.
    struct Reset(bool);
    impl Drop for Reset {
        fn drop(&mut self) {
            CUMULATIVE.with(|on| on.set(self.0));
        }
    }
    let _reset = Reset(CUMULATIVE.with(|on| on.replace(true)));
    f()
}

/// Batch normalization layers, which differ in the ranks that they accept.
macro_rules! batch_norms {
    ($($(#[$doc:meta])* $name:ident $takes:literal $($rank:literal)|+;)*) => {$(
        channel_norm! {
            $(#[$doc])*
            ///
            /// In training mode it normalizes by the mean and variance of the batch and updates the running statistics; in
            /// evaluation mode, by the running statistics. Then it scales and shifts.
            $name BatchNormOptions "The number of batches so far (`i64`)."
        }

        #[located(site)]
        impl $name {
            /// The normalization with what surrounds it.
            pub(super) fn run(&self, x: &Tensor, around: Around<'_>) -> Result<Tensor> {
                if !matches!(x.rank(), $($rank)|+) {
                    return Err(Error::shape(stringify!($name), $takes, x.shape()));
                }
                let running = self.running_mean.as_deref().zip(self.running_var.as_deref());
                let training = self.training.is_on();
                let running = running.map(|(mean, var)| Running { mean, var });
                let (weight, bias) = (self.weight.as_deref(), self.bias.as_deref());
                let other = if training { self.training.batch_normalizer() } else { None };
                let Around { bias_before, residual, relu } = around;
                let normalize = |running: Option<Running<'_>>, count: Option<&Tensor>, momentum: f64| match &other {
                    None => {
                        let eps = self.eps;
                        x.batch_norm_with(&BatchNorm {
                            weight, bias, running, count, training, momentum, eps, bias_before, residual, relu,
                        })
                    }
                    Some(other) => {
                        let y = other.batch_norm(x, weight, bias, running, momentum, self.eps)?;
                        count.map_or(Ok(()), |count| no_grad(|| count.add_(1)).map(drop))?;
                        let y = residual.map_or(Ok(y.clone()), |residual| y.add(residual))?;
                        if relu { y.relu() } else { Ok(y) }
                    }
                };
                let count = self.num_batches_tracked.as_deref().filter(|_| training);
                if let (Some(count), None, Some(running)) = (count, self.momentum.filter(|_| !is_cumulative()), running) {
                    no_grad(|| count.add_(1))?;
                    return averaged(running, count, |batch| normalize(Some(batch), None, 1.0));
                }
                normalize(running, count, self.momentum.unwrap_or(0.0))
            }
        }

        #[located(module)]
        impl Module for $name {
            fn forward(&self, x: &Tensor) -> Result<Tensor> {
                self.run(x, Around::default())
            }

            fn forward_relu(&self, x: &Tensor) -> Result<Tensor> {
                self.run(x, Around { relu: true, ..Around::default() })
            }
        }
    )*};
}
batch_norms! {
    /// Normalizes each channel of `[N, C]` or `[N, C, L]` (Ioffe & Szegedy, 2015;
    /// <https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm1d.html>).
    BatchNorm1d "[N, C] or [N, C, L]" 2 | 3;
    /// Normalizes each channel of images `[N, C, H, W]` (Ioffe & Szegedy, 2015;
    /// <https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html>).
    BatchNorm2d "images [N, C, H, W] (one image is made a batch by `unsqueeze(0)`)" 4;
    /// Normalizes each channel of volumes `[N, C, D, H, W]` (Ioffe & Szegedy, 2015;
    /// <https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm3d.html>).
    BatchNorm3d "volumes [N, C, D, H, W] (one volume is made a batch by `unsqueeze(0)`)" 5;
}

impl BatchNorm2d {
    /// The number added to the variance.
    pub(super) fn eps(&self) -> f64 {
        self.eps
    }

    /// Whether it takes away a bias of its input, as statistics of the batch do.
    pub(super) fn removes_bias(&self) -> bool {
        let by_batch = self.is_training() || self.running_mean.is_none() || self.running_var.is_none();
        by_batch && (!self.is_training() || self.training.batch_normalizer().is_none())
    }

    /// Whether it normalizes by the batch and updates its running statistics.
    pub(super) fn is_training(&self) -> bool {
        self.training.is_on()
    }
}

/// Normalizes the last dimensions together, then scales and shifts each element (Ba, Kiros & Hinton, 2016;
/// <https://docs.pytorch.org/docs/stable/generated/torch.nn.LayerNorm.html>).
#[derive(Debug, Module)]
#[module(save, extra_repr = "describe")]
pub struct LayerNorm {
    /// The scale, initially 1.
    pub weight: Option<Parameter>,
    /// The shift, initially 0.
    pub bias: Option<Parameter>,
    #[module(skip, save)]
    normalized_shape: Vec<usize>,
    eps: f64,
    hooks: Hooks,
}

#[located(site)]
impl LayerNorm {
    /// A layer for tensors that end with these extents, with scale and shift and `eps` of 1e-5.
    ///
    /// # Errors
    /// If there are no extents, or memory runs out.
    pub fn new(normalized_shape: &[usize]) -> Result<LayerNorm> {
        LayerNorm::with_options(normalized_shape, 1e-5, true, true, TensorOptions::new())
    }

    /// A layer with another `eps`, with or without scale (`elementwise_affine`) and shift.
    ///
    /// # Errors
    /// Those of [`new`](LayerNorm::new); or if the dtype is not floating-point, or the device is not available.
    pub fn with_options(
        normalized_shape: &[usize],
        eps: f64,
        elementwise_affine: bool,
        bias: bool,
        tensor: impl Into<TensorOptions>,
    ) -> Result<LayerNorm> {
        if normalized_shape.is_empty() {
            return Err(Error::argument("LayerNorm", "it normalizes at least one dimension"));
        }
        let tensor = tensor.into();
        let parameter = |value: f64| Parameter::new(Tensor::full(normalized_shape, value, tensor)?);
        Ok(LayerNorm {
            weight: elementwise_affine.then(|| parameter(1.0)).transpose()?,
            bias: (elementwise_affine && bias).then(|| parameter(0.0)).transpose()?,
            normalized_shape: normalized_shape.to_vec(),
            eps,
            hooks: Hooks::default(),
        })
    }

    fn describe(&self) -> String {
        let shape = tuple(&self.normalized_shape);
        let (eps, affine) = (python_float(self.eps), python_bool(self.weight.is_some()));
        let bias = python_bool(self.bias.is_some());
        format!("{shape}, eps={eps}, elementwise_affine={affine}, bias={bias}")
    }
}

#[located(module)]
impl Module for LayerNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.layer_norm(&self.normalized_shape, self.weight.as_deref(), self.bias.as_deref(), self.eps)
    }
}

/// Normalizes groups of channels of each sample of `[N, C, …]`, then scales and shifts each channel (Wu & He, 2018;
/// <https://docs.pytorch.org/docs/stable/generated/torch.nn.GroupNorm.html>).
#[derive(Debug, Module)]
#[module(save, extra_repr = "describe")]
pub struct GroupNorm {
    /// The scale, initially 1.
    pub weight: Option<Parameter>,
    /// The shift, initially 0.
    pub bias: Option<Parameter>,
    num_groups: usize,
    num_channels: usize,
    eps: f64,
    hooks: Hooks,
}

#[located(site)]
impl GroupNorm {
    /// A layer with scale and shift and `eps` of 1e-5.
    ///
    /// # Errors
    /// If the groups do not divide the channels, or memory runs out.
    pub fn new(num_groups: usize, num_channels: usize) -> Result<GroupNorm> {
        GroupNorm::with_options(num_groups, num_channels, 1e-5, true, true, TensorOptions::new())
    }

    /// A layer with another `eps`, with or without scale (`affine`) and shift.
    ///
    /// # Errors
    /// Those of [`new`](GroupNorm::new); or if the dtype is not floating-point, or the device is not available.
    pub fn with_options(
        num_groups: usize,
        num_channels: usize,
        eps: f64,
        affine: bool,
        bias: bool,
        tensor: impl Into<TensorOptions>,
    ) -> Result<GroupNorm> {
        if num_groups == 0 || !num_channels.is_multiple_of(num_groups) {
            let message = format!("{num_groups} groups do not divide {num_channels} channels");
            return Err(Error::argument("GroupNorm", message));
        }
        let tensor = tensor.into();
        let parameter = |value: f64| Parameter::new(Tensor::full(num_channels, value, tensor)?);
        Ok(GroupNorm {
            weight: affine.then(|| parameter(1.0)).transpose()?,
            bias: (affine && bias).then(|| parameter(0.0)).transpose()?,
            num_groups,
            num_channels,
            eps,
            hooks: Hooks::default(),
        })
    }

    fn describe(&self) -> String {
        let (eps, affine) = (python_float(self.eps), python_bool(self.weight.is_some()));
        let bias = python_bool(self.bias.is_some());
        format!("{}, {}, eps={eps}, affine={affine}, bias={bias}", self.num_groups, self.num_channels)
    }
}

#[located(module)]
impl Module for GroupNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.group_norm(self.num_groups, self.weight.as_deref(), self.bias.as_deref(), self.eps)
    }
}

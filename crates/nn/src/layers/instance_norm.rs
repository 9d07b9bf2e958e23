//! Instance normalization layers.

use kiln_derive::located;
use kiln_tensor::{DType, Error, Result, Running, Tensor, TensorOptions};

use super::norm::{describe, norm_options};
use crate::{
    module::Module,
    parameter::{Buffer, Parameter, Training},
};

norm_options! {
    /// Options of [`InstanceNorm1d`], [`InstanceNorm2d`] and [`InstanceNorm3d`]: by default without scale, shift and running
    /// statistics.
    InstanceNormOptions false
}

/// Instance normalization layers, which differ in the ranks that they accept.
macro_rules! instance_norms {
    ($($(#[$doc:meta])* $name:ident $takes:literal $rank:literal;)*) => {$(
        $(#[$doc])*
        ///
        /// Statistics are those of each channel of each sample, unless running statistics are kept
        /// ([`InstanceNormOptions::track_running_stats`]) and the layer is in evaluation mode.
        #[derive(Debug, Module)]
        #[module(save, extra_repr = "describe")]
        pub struct $name {
            /// The scale, initially 1.
            pub weight: Option<Parameter>,
            /// The shift, initially 0.
            pub bias: Option<Parameter>,
            /// The running mean, initially 0.
            pub running_mean: Option<Buffer>,
            /// The running variance, initially 1.
            pub running_var: Option<Buffer>,
            /// As in PyTorch's state dicts; it is not counted.
            pub num_batches_tracked: Option<Buffer>,
            num_features: usize,
            eps: f64,
            momentum: Option<f64>,
            training: Training,
        }

        #[located(site)]
        impl $name {
            /// A layer for this many channels.
            ///
            /// # Errors
            /// If memory runs out.
            pub fn new(num_features: usize) -> Result<$name> {
                $name::with_options(num_features, InstanceNormOptions::default())
            }

            /// A layer with options.
            ///
            /// # Errors
            /// If the dtype is not floating-point, the device is not available, or memory runs out.
            pub fn with_options(num_features: usize, options: InstanceNormOptions) -> Result<$name> {
                let InstanceNormOptions { eps, momentum, affine, bias, track_running_stats, tensor } = options;
                let parameter = |value: f64| Parameter::new(Tensor::full(num_features, value, tensor)?);
                let tracked = |value: f64| Ok::<_, Error>(Buffer::new(Tensor::full(num_features, value, tensor)?));
                let count = || Ok::<_, Error>(Buffer::new(Tensor::zeros((), tensor)?.to_dtype(DType::I64)?));
                Ok($name {
                    weight: affine.then(|| parameter(1.0)).transpose()?,
                    bias: (affine && bias).then(|| parameter(0.0)).transpose()?,
                    running_mean: track_running_stats.then(|| tracked(0.0)).transpose()?,
                    running_var: track_running_stats.then(|| tracked(1.0)).transpose()?,
                    num_batches_tracked: track_running_stats.then(count).transpose()?,
                    num_features,
                    eps,
                    momentum,
                    training: Training::default(),
                })
            }

            fn describe(&self) -> String {
                let flags = [self.weight.is_some(), self.bias.is_some(), self.running_mean.is_some()];
                describe(self.num_features, self.eps, self.momentum, flags)
            }
        }

        #[located(module)]
        impl Module for $name {
            fn forward(&self, x: &Tensor) -> Result<Tensor> {
                let single = x.rank() + 1 == $rank;
                if !single && x.rank() != $rank {
                    return Err(Error::shape(stringify!($name), $takes, x.shape()));
                }
                let running = self.running_mean.as_deref().zip(self.running_var.as_deref());
                let running = running.map(|(mean, var)| Running { mean, var });
                let by_input = self.training.is_on() || running.is_none();
                let (weight, bias) = (self.weight.as_deref(), self.bias.as_deref());
                let batch = if single { x.unsqueeze(0)? } else { x.clone() };
                let momentum = self.momentum.unwrap_or(0.0);
                let out = batch.instance_norm(running, weight, bias, by_input, momentum, self.eps);
                let out = out.map_err(|error| error.with_shape(batch.shape(), x.shape()))?;
                if single { out.squeeze(0) } else { Ok(out) }
            }
        }
    )*};
}
instance_norms! {
    /// Normalizes each channel of each signal of `[N, C, L]`, or of one `[C, L]` (Ulyanov et al., 2016;
    /// <https://docs.pytorch.org/docs/stable/generated/torch.nn.InstanceNorm1d.html>).
    InstanceNorm1d "[N, C, L] or [C, L]" 3;
    /// Normalizes each channel of each image of `[N, C, H, W]`, or of one `[C, H, W]` (Ulyanov et al., 2016;
    /// <https://docs.pytorch.org/docs/stable/generated/torch.nn.InstanceNorm2d.html>).
    InstanceNorm2d "images [N, C, H, W] or [C, H, W]" 4;
    /// Normalizes each channel of each volume of `[N, C, D, H, W]`, or of one `[C, D, H, W]` (Ulyanov et al., 2016;
    /// <https://docs.pytorch.org/docs/stable/generated/torch.nn.InstanceNorm3d.html>).
    InstanceNorm3d "volumes [N, C, D, H, W] or [C, D, H, W]" 5;
}

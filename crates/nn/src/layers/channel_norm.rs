//! What batch and instance normalization layers have in common: options, parameters, running statistics, constructors.

use super::sizes::{python_bool, python_float};

/// Options of normalizations by channel, which differ in their defaults.
macro_rules! norm_options {
    ($(#[$doc:meta])* $name:ident $defaults:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        #[must_use]
        pub struct $name {
            pub(super) eps: f64,
            pub(super) momentum: Option<f64>,
            pub(super) affine: bool,
            pub(super) bias: bool,
            pub(super) track_running_stats: bool,
            pub(super) tensor: TensorOptions,
        }

        impl Default for $name {
            fn default() -> Self {
                let (tensor, on) = (TensorOptions::new(), $defaults);
                $name { eps: 1e-5, momentum: Some(0.1), affine: on, bias: true, track_running_stats: on, tensor }
            }
        }

        impl $name {
            /// The number added to the variance.
            pub fn eps(self, eps: f64) -> Self {
                $name { eps, ..self }
            }

            /// The weight of each batch in the running statistics; in batch normalization, `None` makes them the average of
            /// all batches.
            pub fn momentum(self, momentum: Option<f64>) -> Self {
                $name { momentum, ..self }
            }

            /// Whether to scale and shift.
            pub fn affine(self, affine: bool) -> Self {
                $name { affine, ..self }
            }

            /// Whether to shift, if there is a scale.
            pub fn bias(self, bias: bool) -> Self {
                $name { bias, ..self }
            }

            /// Whether to keep running statistics; without them, every batch is normalized by its own.
            pub fn track_running_stats(self, track: bool) -> Self {
                $name { track_running_stats: track, ..self }
            }

            /// Sets the dtype and device.
            pub fn tensor(self, options: impl Into<TensorOptions>) -> Self {
                $name { tensor: options.into(), ..self }
            }
        }
    };
}
pub(super) use norm_options;

/// A layer that normalizes by channel: its struct and constructors. `$count` documents `num_batches_tracked`.
macro_rules! channel_norm {
    ($(#[$doc:meta])* $name:ident $options:ident $count:literal) => {
        $(#[$doc])*
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
            #[doc = $count]
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
                $name::with_options(num_features, $options::default())
            }

            /// A layer with options.
            ///
            /// # Errors
            /// If the dtype is not floating-point, the device is not available, or memory runs out.
            pub fn with_options(num_features: usize, options: $options) -> Result<$name> {
                let $options { eps, momentum, affine, bias, track_running_stats, tensor } = options;
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
    };
}
pub(super) use channel_norm;

/// The text that PyTorch prints of a normalization by channel, with scale, shift and running statistics or without.
pub(super) fn describe(num_features: usize, eps: f64, momentum: Option<f64>, flags: [bool; 3]) -> String {
    let [affine, bias, track] = flags.map(python_bool);
    let (eps, momentum) = (python_float(eps), momentum.map_or_else(|| "None".into(), python_float));
    format!("{num_features}, eps={eps}, momentum={momentum}, affine={affine}, bias={bias}, track_running_stats={track}")
}

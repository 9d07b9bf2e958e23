//! Instance normalization layers.

use kiln_derive::located;
use kiln_tensor::{DType, Error, Result, Running, Tensor, TensorOptions};

use super::channel_norm::{channel_norm, describe, norm_options};
use crate::{
    module::Module,
    parameter::{Buffer, Parameter, Training},
};

norm_options! {
    /// Options of [`InstanceNorm1d`], [`InstanceNorm2d`] and [`InstanceNorm3d`]: by default without scale, shift and
    /// running statistics.
    InstanceNormOptions false
}

/// Instance normalization layers, which differ in the ranks that they accept.
macro_rules! instance_norms {
    ($($(#[$doc:meta])* $name:ident $takes:literal $rank:literal;)*) => {$(
        channel_norm! {
            $(#[$doc])*
            ///
            /// Statistics are those of each channel of each sample, unless running statistics are kept
            /// ([`InstanceNormOptions::track_running_stats`]) and the layer is in evaluation mode.
            $name InstanceNormOptions "As in PyTorch's state dicts; it is not counted."
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

//! Layers that move elements between channels and pixels, or reorder channels.

use kiln_derive::located;
use kiln_tensor::{Result, Tensor};

use crate::module::Module;

macro_rules! shuffles {
    ($($(#[$doc:meta])* $name:ident $setting:ident $setting_doc:literal $method:ident;)*) => {$(
        $(#[$doc])*
        ///
        #[doc = concat!("(<https://docs.pytorch.org/docs/stable/generated/torch.nn.", stringify!($name), ".html>)")]
        ///
        /// # Errors
        #[doc = concat!("`forward` has those of [`Tensor::", stringify!($method), "`].")]
        #[derive(Clone, Copy, Debug, Module)]
        #[module(save, extra_repr = "describe")]
        pub struct $name {
            $setting: usize,
        }

        impl $name {
            #[doc = $setting_doc]
            #[must_use]
            pub fn new($setting: usize) -> $name {
                $name { $setting }
            }

            fn describe(&self) -> String {
                format!(concat!(stringify!($setting), "={}"), self.$setting)
            }
        }

        #[located(module)]
        impl Module for $name {
            fn forward(&self, x: &Tensor) -> Result<Tensor> {
                x.$method(self.$setting)
            }
        }
    )*};
}
shuffles! {
    /// Makes `r²` channels one channel of images that are `r` times as high and wide (Shi et al., 2016): `[…, C r², H, W]` to
    /// `[…, C, H r, W r]`.
    PixelShuffle upscale_factor "A layer for this `r`." pixel_shuffle;
    /// Undoes [`PixelShuffle`]: `[…, C, H r, W r]` to `[…, C r², H, W]`.
    PixelUnshuffle downscale_factor "A layer for this `r`." pixel_unshuffle;
    /// Interleaves groups of the channels of `[N, C, …]` (Zhang et al., 2018): channel `i` of every group comes before channel
    /// `i + 1` of any.
    ChannelShuffle groups "A layer for this number of groups, which divides the channels." channel_shuffle;
}

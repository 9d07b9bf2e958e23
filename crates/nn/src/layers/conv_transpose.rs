//! Transposed convolution layers in one, two and three dimensions.

use kiln_derive::located;
use kiln_tensor::{Result, Tensor};

use super::{
    conv_options::{ConvOptions, kernel},
    sizes::Sizes,
};

use crate::{
    module::Module,
    parameter::{Parameter, Training},
};

/// Transposed convolution layers, which differ in the number of dimensions.
macro_rules! transposed_convolutions {
    ($($(#[$doc:meta])* $name:ident $n:literal $shape:literal $method:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Module)]
        #[module(save, extra_repr = "describe")]
        pub struct $name {
            #[doc = concat!("`[in, out / groups, ", $shape, "]`")]
            pub weight: Parameter,
            /// `[out]`
            pub bias: Option<Parameter>,
            #[module(skip, save)]
            options: ConvOptions<$n>,
            padding: [usize; $n],
            training: Training,
        }

        #[located(site)]
        impl $name {
            /// A layer with stride 1, no padding and a bias.
            ///
            /// # Errors
            /// If the kernel is empty, or memory runs out.
            pub fn new(in_channels: usize, out_channels: usize, kernel_size: impl Into<Sizes<$n>>) -> Result<$name> {
                $name::with_options(in_channels, out_channels, kernel_size, ConvOptions::default())
            }

            /// A layer with options.
            ///
            /// # Errors
            /// If the groups do not divide the channels, kernel, stride or dilation is 0, or the padding is not zeros and
            /// the same on opposite sides.
            pub fn with_options(
                in_channels: usize,
                out_channels: usize,
                kernel_size: impl Into<Sizes<$n>>,
                options: ConvOptions<$n>,
            ) -> Result<$name> {
                const LAYER: &str = stringify!($name);
                let padding = options.transposed_padding(LAYER)?;
                let kernel = kernel_size.into().get();
                let (weight, bias) = options.parameters(LAYER, [in_channels, out_channels], kernel, out_channels)?;
                Ok($name { weight, bias, options, padding, training: Training::default() })
            }

            fn describe(&self) -> String {
                let (first, second) = match self.weight.dims() {
                    &[c, o, ..] => (c, o * self.options.groups),
                    _ => (0, 0),
                };
                self.options.describe([first, second], kernel(&self.weight), self.bias.is_some())
            }
        }

        #[located(module)]
        impl Module for $name {
            fn forward(&self, x: &Tensor) -> Result<Tensor> {
                let rule = self.options.rule(self.padding);
                x.$method(&self.weight, self.bias.as_deref(), &rule, self.options.output_padding.get())
            }
        }
    )*};
}
transposed_convolutions! {
    /// A transposed convolution, which makes signals longer
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.ConvTranspose1d.html>).
    ///
    /// `weight` is `[in, out / groups, k]` and `bias` `[out]`, both drawn uniformly from `±1/√(out / groups · k)`.
    ConvTranspose1d 1 "k" conv_transpose1d;
    /// A two-dimensional transposed convolution, which makes images larger
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.ConvTranspose2d.html>).
    ///
    /// `weight` is `[in, out / groups, kh, kw]` and `bias` `[out]`, both drawn uniformly from `±1/√(out / groups · kh ·
    /// kw)`.
    ConvTranspose2d 2 "kh, kw" conv_transpose2d;
    /// A three-dimensional transposed convolution, which makes volumes larger
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.ConvTranspose3d.html>).
    ///
    /// `weight` is `[in, out / groups, kd, kh, kw]` and `bias` `[out]`, both drawn uniformly from `±1/√(out / groups · kd ·
    /// kh · kw)`.
    ConvTranspose3d 3 "kd, kh, kw" conv_transpose3d;
}

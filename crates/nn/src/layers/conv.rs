//! Convolution layers in one, two and three dimensions.

use kiln_derive::located;
use kiln_tensor::{Convolution, Result, Tensor};

use super::{
    conv_options::{Conv2dOptions, ConvOptions, kernel},
    fold_cache::FoldCache,
    sizes::Sizes,
};

use crate::{
    module::Module,
    parameter::{Parameter, Training},
};

/// What the convolution layers of all dimensions have in common; `$extra` are more fields.
macro_rules! convolution {
    ($name:ident $n:literal $($extra:ident: $value:expr)?) => {
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
            /// If the groups do not divide the channels, kernel, stride or dilation is 0, `Padding::Same` is combined with
            /// a stride, or an option is only for transposed convolutions.
            pub fn with_options(
                in_channels: usize,
                out_channels: usize,
                kernel_size: impl Into<Sizes<$n>>,
                options: ConvOptions<$n>,
            ) -> Result<$name> {
                const LAYER: &str = stringify!($name);
                options.check(LAYER)?;
                let kernel = kernel_size.into().get();
                let (weight, bias) = options.parameters(LAYER, [out_channels, in_channels], kernel, out_channels)?;
                Ok($name { weight, bias, options, training: Training::default() $(, $extra: $value)? })
            }

            /// The number of input channels.
            #[must_use]
            pub fn in_channels(&self) -> usize {
                self.weight.dims().get(1).map_or(0, |c| c * self.options.groups)
            }

            /// The number of output channels.
            #[must_use]
            pub fn out_channels(&self) -> usize {
                self.weight.dims().first().copied().unwrap_or(0)
            }

            /// The extents of the kernel.
            #[must_use]
            pub fn kernel_size(&self) -> [usize; $n] {
                kernel(&self.weight)
            }

            /// Stride, padding, dilation and groups; `None` unless the padding is zeros and the same on opposite sides.
            #[must_use]
            pub fn rule(&self) -> Option<Convolution<$n>> {
                self.options.plain_rule(self.kernel_size())
            }

            fn describe(&self) -> String {
                let channels = [self.in_channels(), self.out_channels()];
                self.options.describe(channels, self.kernel_size(), self.bias.is_some())
            }
        }
    };
}

/// A two-dimensional convolution: images `[N, in, H, W]` to `[N, out, H', W']`
/// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.Conv2d.html>).
///
/// `weight` is `[out, in / groups, kh, kw]` and `bias` `[out]`, both drawn uniformly from `±1/√(in / groups · kh ·
/// kw)`.
///
/// ```
/// use kiln_nn::{Conv2d, Conv2dOptions, Module};
/// use kiln_tensor::{Device, Tensor};
/// # fn main() -> kiln_tensor::Result<()> {
/// let conv = Conv2d::with_options(3, 64, 3, Conv2dOptions::default().padding(1))?;
/// assert_eq!(conv.to_string(), "Conv2d(3, 64, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))");
/// assert_eq!(conv.forward(&Tensor::zeros([1, 3, 8, 8], Device::Cpu)?)?.dims(), [1, 64, 8, 8]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Module)]
#[module(save, extra_repr = "describe")]
pub struct Conv2d {
    /// `[out, in / groups, kh, kw]`
    pub weight: Parameter,
    /// `[out]`
    pub bias: Option<Parameter>,
    #[module(skip, save)]
    options: Conv2dOptions,
    training: Training,
    /// Weight and bias with the normalization after it in them.
    #[module(skip)]
    pub(super) folded: FoldCache,
}
convolution!(Conv2d 2 folded: FoldCache::default());

impl Conv2d {
    /// The convolution by this weight and this bias, plus a tensor of the result's shape, and ReLU after it.
    pub(super) fn convolve(
        &self,
        x: &Tensor,
        (weight, bias): (&Tensor, Option<&Tensor>),
        residual: Option<&Tensor>,
        relu: bool,
    ) -> Result<Tensor> {
        let conv = |x: &Tensor, rule: &Convolution<2>| match (residual, relu) {
            (None, false) => x.conv2d(weight, bias, rule),
            (None, true) => x.conv2d_relu(weight, bias, rule),
            (Some(residual), true) => x.conv2d_add_relu(weight, bias, residual, rule),
            (Some(residual), false) => x.conv2d(weight, bias, rule)?.add(residual),
        };
        self.options.padded(x, self.kernel_size(), conv).map_err(|error| error.of_op("conv2d"))
    }
}

#[located(module)]
impl Module for Conv2d {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.convolve(x, (&self.weight, self.bias.as_deref()), None, false)
    }

    fn forward_relu(&self, x: &Tensor) -> Result<Tensor> {
        self.convolve(x, (&self.weight, self.bias.as_deref()), None, true)
    }
}

/// Convolution layers without fused forms.
macro_rules! convolutions {
    ($($(#[$doc:meta])* $name:ident $n:literal $shape:literal $method:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Module)]
        #[module(save, extra_repr = "describe")]
        pub struct $name {
            #[doc = concat!("`[out, in / groups, ", $shape, "]`")]
            pub weight: Parameter,
            /// `[out]`
            pub bias: Option<Parameter>,
            #[module(skip, save)]
            options: ConvOptions<$n>,
            training: Training,
        }
        convolution!($name $n);

        #[located(module)]
        impl Module for $name {
            fn forward(&self, x: &Tensor) -> Result<Tensor> {
                let (weight, bias) = (&self.weight, self.bias.as_deref());
                self.options.padded(x, self.kernel_size(), |x, rule| x.$method(weight, bias, rule))
            }
        }
    )*};
}
convolutions! {
    /// A convolution of signals `[N, in, L]` to `[N, out, L']`
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.Conv1d.html>).
    ///
    /// `weight` is `[out, in / groups, k]` and `bias` `[out]`, both drawn uniformly from `±1/√(in / groups · k)`.
    Conv1d 1 "k" conv1d;
    /// A convolution of volumes `[N, in, D, H, W]` to `[N, out, D', H', W']`
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.Conv3d.html>).
    ///
    /// `weight` is `[out, in / groups, kd, kh, kw]` and `bias` `[out]`, both drawn uniformly from `±1/√(in / groups · kd ·
    /// kh · kw)`.
    Conv3d 3 "kd, kh, kw" conv3d;
}

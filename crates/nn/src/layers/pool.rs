//! Pooling layers: max and average pooling, also adaptive.

use kiln_derive::located;
use kiln_tensor::{Error, PoolDivisor, Pooling, Result, Tensor};

use super::pair::{AdaptiveSize, Pair, python_bool};
use crate::module::Module;

/// The largest element of each window of images
/// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.MaxPool2d.html>).
#[derive(Clone, Copy, Debug, Module)]
#[module(save, extra_repr = "describe")]
pub struct MaxPool2d {
    #[module(skip, save)]
    kernel_size: Pair,
    #[module(skip, save)]
    stride: Pair,
    #[module(skip, save)]
    padding: Pair,
    #[module(skip, save)]
    dilation: Pair,
    ceil_mode: bool,
}

#[located(site)]
impl MaxPool2d {
    /// Adjacent windows of this size.
    #[must_use]
    pub fn new(kernel_size: impl Into<Pair>) -> MaxPool2d {
        let kernel_size = kernel_size.into();
        let (padding, dilation) = (Pair::Both(0), Pair::Both(1));
        MaxPool2d { kernel_size, stride: kernel_size, padding, dilation, ceil_mode: false }
    }

    /// The distance between neighboring windows.
    #[must_use]
    pub fn stride(self, stride: impl Into<Pair>) -> MaxPool2d {
        MaxPool2d { stride: stride.into(), ..self }
    }

    /// How far windows extend over the edges, at most half of their size.
    #[must_use]
    pub fn padding(self, padding: impl Into<Pair>) -> MaxPool2d {
        MaxPool2d { padding: padding.into(), ..self }
    }

    /// The distance between a window's elements.
    #[must_use]
    pub fn dilation(self, dilation: impl Into<Pair>) -> MaxPool2d {
        MaxPool2d { dilation: dilation.into(), ..self }
    }

    /// Whether the number of windows is rounded up.
    #[must_use]
    pub fn ceil_mode(self, ceil_mode: bool) -> MaxPool2d {
        MaxPool2d { ceil_mode, ..self }
    }

    /// The windows, as [`Tensor::max_pool2d`] takes them.
    pub fn windows(&self) -> Pooling {
        Pooling::new(self.kernel_size.get())
            .stride(self.stride.get())
            .padding(self.padding.get())
            .dilation(self.dilation.get())
            .ceil_mode(self.ceil_mode)
    }

    /// The maxima and their positions `row * W + column` in their planes, PyTorch's `return_indices=True`.
    ///
    /// # Errors
    /// Those of [`Tensor::max_pool2d`].
    pub fn forward_with_indices(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        x.max_pool2d_with_indices(&self.windows())
    }

    fn describe(&self) -> String {
        let MaxPool2d { kernel_size, stride, padding, dilation, ceil_mode } = self;
        let ceil = python_bool(*ceil_mode);
        format!("kernel_size={kernel_size}, stride={stride}, padding={padding}, dilation={dilation}, ceil_mode={ceil}")
    }
}

#[located(module)]
impl Module for MaxPool2d {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.max_pool2d(&self.windows())
    }
}

/// The average of each window of images
/// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.AvgPool2d.html>).
#[derive(Clone, Copy, Debug, Module)]
#[module(save, extra_repr = "describe")]
pub struct AvgPool2d {
    #[module(skip, save)]
    kernel_size: Pair,
    #[module(skip, save)]
    stride: Pair,
    #[module(skip, save)]
    padding: Pair,
    ceil_mode: bool,
    #[module(skip, save)]
    divisor: PoolDivisor,
}

#[located(site)]
impl AvgPool2d {
    /// Adjacent windows of this size.
    #[must_use]
    pub fn new(kernel_size: impl Into<Pair>) -> AvgPool2d {
        let kernel_size = kernel_size.into();
        let divisor = PoolDivisor::WithPadding;
        AvgPool2d { kernel_size, stride: kernel_size, padding: Pair::Both(0), ceil_mode: false, divisor }
    }

    /// The distance between neighboring windows.
    #[must_use]
    pub fn stride(self, stride: impl Into<Pair>) -> AvgPool2d {
        AvgPool2d { stride: stride.into(), ..self }
    }

    /// How far windows extend over the edges, at most half of their size; padding counts as 0.
    #[must_use]
    pub fn padding(self, padding: impl Into<Pair>) -> AvgPool2d {
        AvgPool2d { padding: padding.into(), ..self }
    }

    /// Whether the number of windows is rounded up.
    #[must_use]
    pub fn ceil_mode(self, ceil_mode: bool) -> AvgPool2d {
        AvgPool2d { ceil_mode, ..self }
    }

    /// Whether elements in the padding count in the divisor; by default they do.
    #[must_use]
    pub fn count_include_pad(self, count: bool) -> AvgPool2d {
        AvgPool2d { divisor: if count { PoolDivisor::WithPadding } else { PoolDivisor::Inside }, ..self }
    }

    /// Divides by this number instead of the number of elements.
    ///
    /// # Errors
    /// If it is 0.
    pub fn divisor_override(self, divisor: i64) -> Result<AvgPool2d> {
        if divisor == 0 {
            return Err(Error::argument("AvgPool2d", "the divisor is 0"));
        }
        Ok(AvgPool2d { divisor: PoolDivisor::Fixed(divisor), ..self })
    }

    fn describe(&self) -> String {
        format!("kernel_size={}, stride={}, padding={}", self.kernel_size, self.stride, self.padding)
    }
}

#[located(module)]
impl Module for AvgPool2d {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let windows = Pooling::new(self.kernel_size.get())
            .stride(self.stride.get())
            .padding(self.padding.get())
            .ceil_mode(self.ceil_mode);
        x.avg_pool2d(&windows, self.divisor)
    }
}

/// Layers that give images of a fixed size.
macro_rules! adaptive {
    ($($(#[$doc:meta])* $name:ident $method:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Module)]
        #[module(save, extra_repr = "describe")]
        pub struct $name {
            #[module(skip, save)]
            output_size: AdaptiveSize,
        }

        #[located(site)]
        impl $name {
            /// A layer that gives images of this height and width; `None` keeps the input's.
            #[must_use]
            pub fn new(output_size: impl Into<AdaptiveSize>) -> $name {
                $name { output_size: output_size.into() }
            }

            /// Height and width of the output; `None` is the input's.
            #[must_use]
            pub fn output_size(&self) -> [Option<usize>; 2] {
                self.output_size.get()
            }

            fn describe(&self) -> String {
                format!("output_size={}", self.output_size)
            }
        }

        #[located(module)]
        impl Module for $name {
            fn forward(&self, x: &Tensor) -> Result<Tensor> {
                x.$method(self.output_size.get())
            }
        }
    )*};
}
adaptive! {
    /// Averages over windows that cover the images, whatever their size
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.AdaptiveAvgPool2d.html>).
    AdaptiveAvgPool2d adaptive_avg_pool2d;
    /// Maxima over windows that cover the images, whatever their size
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.AdaptiveMaxPool2d.html>).
    AdaptiveMaxPool2d adaptive_max_pool2d;
}

//! Pooling layers in one, two and three dimensions: maxima, averages and norms of windows, also adaptive.

use kiln_derive::located;
use kiln_tensor::{Error, PoolDivisor, Pooling, Result, Tensor};

use super::sizes::{AdaptiveSize, Sizes, python_bool, python_float};
use crate::module::Module;

/// Settings that all kinds of windows have.
macro_rules! window_settings {
    ($name:ident $n:literal $given:expr) => {
        #[located(site)]
        impl $name {
            /// The distance between neighboring windows.
            #[must_use]
            pub fn stride(self, stride: impl Into<Sizes<$n>>) -> $name {
                $name { stride: $given(stride.into()), ..self }
            }

            /// How far windows extend over the edges, at most half of their size; padding never is a maximum, and counts as 0
            /// in an average.
            #[must_use]
            pub fn padding(self, padding: impl Into<Sizes<$n>>) -> $name {
                $name { padding: $given(padding.into()), ..self }
            }

            /// Whether the number of windows is rounded up.
            #[must_use]
            pub fn ceil_mode(self, ceil_mode: bool) -> $name {
                $name { ceil_mode, ..self }
            }
        }
    };
}

/// Layers that differ in the number of dimensions.
macro_rules! max_pools {
    ($($(#[$doc:meta])* $name:ident $n:literal $method:ident $with_indices:ident $positions:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Module)]
        #[module(save, extra_repr = "describe")]
        pub struct $name {
            #[module(skip, save)]
            kernel_size: Sizes<$n>,
            #[module(skip, save)]
            stride: Sizes<$n>,
            #[module(skip, save)]
            padding: Sizes<$n>,
            #[module(skip, save)]
            dilation: Sizes<$n>,
            ceil_mode: bool,
        }

        window_settings!($name $n std::convert::identity);

        #[located(site)]
        impl $name {
            /// Adjacent windows of this size.
            #[must_use]
            pub fn new(kernel_size: impl Into<Sizes<$n>>) -> $name {
                let kernel_size = kernel_size.into();
                let (padding, dilation) = (Sizes::All(0), Sizes::All(1));
                $name { kernel_size, stride: kernel_size, padding, dilation, ceil_mode: false }
            }

            /// The distance between a window's elements.
            #[must_use]
            pub fn dilation(self, dilation: impl Into<Sizes<$n>>) -> $name {
                $name { dilation: dilation.into(), ..self }
            }

            #[doc = concat!("The windows, as [`Tensor::", stringify!($method), "`] takes them.")]
            pub fn windows(&self) -> Pooling<$n> {
                Pooling::new(self.kernel_size.get())
                    .stride(self.stride.get())
                    .padding(self.padding.get())
                    .dilation(self.dilation.get())
                    .ceil_mode(self.ceil_mode)
            }

            #[doc = concat!("The maxima and their positions ", $positions, ", PyTorch's `return_indices=True`.")]
            ///
            /// # Errors
            #[doc = concat!("Those of [`Tensor::", stringify!($method), "`].")]
            pub fn forward_with_indices(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
                x.$with_indices(&self.windows())
            }

            fn describe(&self) -> String {
                let $name { kernel_size, stride, padding, dilation, ceil_mode } = self;
                let ceil = python_bool(*ceil_mode);
                format!(
                    "kernel_size={kernel_size}, stride={stride}, padding={padding}, dilation={dilation}, ceil_mode={ceil}"
                )
            }
        }

        #[located(module)]
        impl Module for $name {
            fn forward(&self, x: &Tensor) -> Result<Tensor> {
                x.$method(&self.windows())
            }
        }
    )*};
}
max_pools! {
    /// The largest element of each window of signals
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.MaxPool1d.html>).
    MaxPool1d 1 max_pool1d max_pool1d_with_indices "in their signals";
    /// The largest element of each window of images
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.MaxPool2d.html>).
    MaxPool2d 2 max_pool2d max_pool2d_with_indices "`row * W + column` in their planes";
    /// The largest element of each window of volumes
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.MaxPool3d.html>).
    MaxPool3d 3 max_pool3d max_pool3d_with_indices "`(depth * H + row) * W + column` in their volumes";
}

/// Layers that differ in the number of dimensions, and in how their numbers print.
macro_rules! avg_pools {
    ($($(#[$doc:meta])* $name:ident $n:literal $method:ident $given:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Module)]
        #[module(save, extra_repr = "describe")]
        pub struct $name {
            #[module(skip, save)]
            kernel_size: Sizes<$n>,
            #[module(skip, save)]
            stride: Sizes<$n>,
            #[module(skip, save)]
            padding: Sizes<$n>,
            ceil_mode: bool,
            #[module(skip, save)]
            divisor: PoolDivisor,
        }

        window_settings!($name $n $given);

        #[located(site)]
        impl $name {
            /// Adjacent windows of this size.
            #[must_use]
            pub fn new(kernel_size: impl Into<Sizes<$n>>) -> $name {
                let kernel_size = $given(kernel_size.into());
                let (padding, divisor) = ($given(Sizes::All(0)), PoolDivisor::WithPadding);
                $name { kernel_size, stride: kernel_size, padding, ceil_mode: false, divisor }
            }

            /// Whether elements in the padding count in the divisor; by default they do.
            #[must_use]
            pub fn count_include_pad(self, count: bool) -> $name {
                $name { divisor: if count { PoolDivisor::WithPadding } else { PoolDivisor::Inside }, ..self }
            }

            /// Divides by this number instead of the number of elements.
            ///
            /// # Errors
            /// If it is 0.
            pub fn divisor_override(self, divisor: i64) -> Result<$name> {
                if divisor == 0 {
                    return Err(Error::argument(stringify!($name), "the divisor is 0"));
                }
                Ok($name { divisor: PoolDivisor::Fixed(divisor), ..self })
            }

            fn describe(&self) -> String {
                format!("kernel_size={}, stride={}, padding={}", self.kernel_size, self.stride, self.padding)
            }
        }

        #[located(module)]
        impl Module for $name {
            fn forward(&self, x: &Tensor) -> Result<Tensor> {
                let windows = Pooling::new(self.kernel_size.get())
                    .stride(self.stride.get())
                    .padding(self.padding.get())
                    .ceil_mode(self.ceil_mode);
                x.$method(&windows, self.divisor)
            }
        }
    )*};
}
avg_pools! {
    /// The average of each window of signals
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.AvgPool1d.html>).
    AvgPool1d 1 avg_pool1d |sizes: Sizes<1>| Sizes::Each(sizes.get());
    /// The average of each window of images
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.AvgPool2d.html>).
    AvgPool2d 2 avg_pool2d std::convert::identity;
    /// The average of each window of volumes
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.AvgPool3d.html>).
    AvgPool3d 3 avg_pool3d std::convert::identity;
}

/// Layers that differ in the number of dimensions.
macro_rules! lp_pools {
    ($($(#[$doc:meta])* $name:ident $n:literal $method:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Module)]
        #[module(save, extra_repr = "describe")]
        pub struct $name {
            norm_type: f64,
            #[module(skip, save)]
            kernel_size: Sizes<$n>,
            #[module(skip, save)]
            stride: Option<Sizes<$n>>,
            ceil_mode: bool,
        }

        #[located(site)]
        impl $name {
            /// The norm with this exponent of adjacent windows of this size.
            #[must_use]
            pub fn new(norm_type: f64, kernel_size: impl Into<Sizes<$n>>) -> $name {
                $name { norm_type, kernel_size: kernel_size.into(), stride: None, ceil_mode: false }
            }

            /// The distance between neighboring windows.
            #[must_use]
            pub fn stride(self, stride: impl Into<Sizes<$n>>) -> $name {
                $name { stride: Some(stride.into()), ..self }
            }

            /// Whether the number of windows is rounded up.
            #[must_use]
            pub fn ceil_mode(self, ceil_mode: bool) -> $name {
                $name { ceil_mode, ..self }
            }

            fn describe(&self) -> String {
                let stride = self.stride.map_or_else(|| "None".to_owned(), |stride| stride.to_string());
                let (norm_type, ceil) = (python_float(self.norm_type), python_bool(self.ceil_mode));
                format!("norm_type={norm_type}, kernel_size={}, stride={stride}, ceil_mode={ceil}", self.kernel_size)
            }
        }

        #[located(module)]
        impl Module for $name {
            fn forward(&self, x: &Tensor) -> Result<Tensor> {
                let windows = Pooling::new(self.kernel_size.get()).ceil_mode(self.ceil_mode);
                let windows = self.stride.map_or(windows, |stride| windows.stride(stride.get()));
                x.$method(self.norm_type, &windows)
            }
        }
    )*};
}
lp_pools! {
    /// The norm of each window of signals
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.LPPool1d.html>).
    LPPool1d 1 lp_pool1d;
    /// The norm of each window of images
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.LPPool2d.html>).
    LPPool2d 2 lp_pool2d;
    /// The norm of each window of volumes
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.LPPool3d.html>).
    LPPool3d 3 lp_pool3d;
}

/// Layers whose results have a fixed size.
macro_rules! adaptive {
    ($($(#[$doc:meta])* $name:ident $n:literal $method:ident $($with_indices:ident)?;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Module)]
        #[module(save, extra_repr = "describe")]
        pub struct $name {
            #[module(skip, save)]
            output_size: AdaptiveSize<$n>,
        }

        #[located(site)]
        impl $name {
            /// A layer whose results have these extents; `None` keeps the input's.
            #[must_use]
            pub fn new(output_size: impl Into<AdaptiveSize<$n>>) -> $name {
                $name { output_size: output_size.into() }
            }

            /// The extents of the output; `None` is the input's.
            #[must_use]
            pub fn output_size(&self) -> [Option<usize>; $n] {
                self.output_size.get()
            }

            $(
                #[doc = concat!("The maxima and their positions, as [`Tensor::", stringify!($with_indices), "`] gives them.")]
                ///
                /// # Errors
                #[doc = concat!("Those of [`Tensor::", stringify!($method), "`].")]
                pub fn forward_with_indices(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
                    x.$with_indices(self.output_size.get())
                }
            )?

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
    /// Averages over windows that cover the signals, whatever their length
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.AdaptiveAvgPool1d.html>).
    AdaptiveAvgPool1d 1 adaptive_avg_pool1d;
    /// Averages over windows that cover the images, whatever their size
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.AdaptiveAvgPool2d.html>).
    AdaptiveAvgPool2d 2 adaptive_avg_pool2d;
    /// Averages over windows that cover the volumes, whatever their size
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.AdaptiveAvgPool3d.html>).
    AdaptiveAvgPool3d 3 adaptive_avg_pool3d;
    /// Maxima over windows that cover the signals, whatever their length
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.AdaptiveMaxPool1d.html>).
    AdaptiveMaxPool1d 1 adaptive_max_pool1d adaptive_max_pool1d_with_indices;
    /// Maxima over windows that cover the images, whatever their size
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.AdaptiveMaxPool2d.html>).
    AdaptiveMaxPool2d 2 adaptive_max_pool2d adaptive_max_pool2d_with_indices;
    /// Maxima over windows that cover the volumes, whatever their size
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.AdaptiveMaxPool3d.html>).
    AdaptiveMaxPool3d 3 adaptive_max_pool3d adaptive_max_pool3d_with_indices;
}

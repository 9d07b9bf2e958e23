//! Fractional max pooling layers: maxima of windows whose distances are drawn.

use kiln_derive::located;
use kiln_tensor::{Error, Result, Tensor};

use super::sizes::Sizes;
use crate::module::Module;

macro_rules! fractional_pools {
    ($($(#[$doc:meta])* $name:ident $n:literal $method:ident $with_indices:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Module)]
        #[module(save)]
        pub struct $name {
            #[module(skip, save)]
            kernel_size: Sizes<$n>,
            #[module(skip, save)]
            output_size: Option<Sizes<$n>>,
            #[module(skip, save)]
            output_ratio: [f64; $n],
        }

        #[located(site)]
        impl $name {
            /// Maxima of this many windows of this size.
            #[must_use]
            pub fn with_output_size(kernel_size: impl Into<Sizes<$n>>, output_size: impl Into<Sizes<$n>>) -> $name {
                let output_size = Some(output_size.into());
                $name { kernel_size: kernel_size.into(), output_size, output_ratio: [1.0; $n] }
            }

            /// Maxima of windows of this size, as many as a share of the input's extents, rounded down.
            ///
            /// # Errors
            /// If a share is not between 0 and 1.
            pub fn with_output_ratio(kernel_size: impl Into<Sizes<$n>>, output_ratio: [f64; $n]) -> Result<$name> {
                if let Some(ratio) = output_ratio.iter().find(|ratio| !(**ratio > 0.0 && **ratio < 1.0)) {
                    return Err(Error::argument(stringify!($name), format!("output_ratio {ratio} is not between 0 and 1")));
                }
                Ok($name { kernel_size: kernel_size.into(), output_size: None, output_ratio })
            }

            #[doc = concat!("The maxima and their positions in their planes; `random_samples` as in [`Tensor::", stringify!($method), "`].")]
            ///
            /// # Errors
            #[doc = concat!("Those of [`Tensor::", stringify!($method), "`].")]
            pub fn forward_with_indices(&self, x: &Tensor, random_samples: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
                let size = match self.output_size {
                    Some(size) => size.get(),
                    None => {
                        let dims = x.dims();
                        if dims.len() < $n {
                            return Err(Error::shape(stringify!($method), concat!("at least ", $n, " dimensions"), x.shape()));
                        }
                        let extents = &dims[dims.len() - $n..];
                        std::array::from_fn(|axis| (extents[axis] as f64 * self.output_ratio[axis]) as usize)
                    }
                };
                x.$with_indices(self.kernel_size.get(), size, random_samples)
            }
        }

        #[located(module)]
        impl Module for $name {
            fn forward(&self, x: &Tensor) -> Result<Tensor> {
                Ok(self.forward_with_indices(x, None)?.0)
            }
        }
    )*};
}
fractional_pools! {
    /// The largest elements of overlapping windows of images whose distances are drawn anew in each call (Graham, 2014;
    /// <https://docs.pytorch.org/docs/stable/generated/torch.nn.FractionalMaxPool2d.html>).
    FractionalMaxPool2d 2 fractional_max_pool2d fractional_max_pool2d_with_indices;
    /// The largest elements of overlapping windows of volumes whose distances are drawn anew in each call (Graham, 2014;
    /// <https://docs.pytorch.org/docs/stable/generated/torch.nn.FractionalMaxPool3d.html>).
    FractionalMaxPool3d 3 fractional_max_pool3d fractional_max_pool3d_with_indices;
}

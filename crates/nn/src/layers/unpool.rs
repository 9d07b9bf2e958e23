//! Layers that undo max pooling, as far as that is possible: maxima at their positions, zeros elsewhere.

use kiln_derive::located;
use kiln_tensor::{Pooling, Result, Tensor};

use super::sizes::{Sizes, tuple};
use crate::module::Module;

macro_rules! unpools {
    ($($(#[$doc:meta])* $name:ident $n:literal $pool:literal $extents:literal $method:ident;)*) => {$(
        $(#[$doc])*
        ///
        /// ```
        #[doc = concat!("use kiln_nn::{", $pool, ", ", stringify!($name), "};")]
        #[doc = concat!("let (pool, unpool) = (", $pool, "::new(2), ", stringify!($name), "::new(2));")]
        #[doc = concat!("let x = kiln_tensor::Tensor::randn([1, 3", $extents, "], kiln_tensor::Device::Cpu)?;")]
        /// let (maxima, indices) = pool.forward_with_indices(&x)?;
        /// assert_eq!(unpool.forward(&maxima, &indices)?.shape(), x.shape());
        /// # Ok::<(), kiln_tensor::Error>(())
        /// ```
        #[derive(Clone, Copy, Debug, Module)]
        #[module(save, extra_repr = "describe")]
        pub struct $name {
            #[module(skip, save)]
            kernel_size: [usize; $n],
            #[module(skip, save)]
            stride: [usize; $n],
            #[module(skip, save)]
            padding: [usize; $n],
        }

        #[located(site)]
        impl $name {
            /// Undoes pooling of adjacent windows of this size.
            #[must_use]
            pub fn new(kernel_size: impl Into<Sizes<$n>>) -> $name {
                let kernel_size = kernel_size.into().get();
                $name { kernel_size, stride: kernel_size, padding: [0; $n] }
            }

            /// The distance between neighboring windows.
            #[must_use]
            pub fn stride(self, stride: impl Into<Sizes<$n>>) -> $name {
                $name { stride: stride.into().get(), ..self }
            }

            /// How far windows extended over the edges.
            #[must_use]
            pub fn padding(self, padding: impl Into<Sizes<$n>>) -> $name {
                $name { padding: padding.into().get(), ..self }
            }

            /// The maxima `x` at the positions that pooling gave for them, among zeros.
            ///
            /// # Errors
            #[doc = concat!("Those of [`Tensor::", stringify!($method), "`].")]
            pub fn forward(&self, x: &Tensor, indices: &Tensor) -> Result<Tensor> {
                self.unpool(x, indices, None)
            }

            /// [`forward`](Self::forward) with the extents of what was pooled, where several would have given these maxima.
            ///
            /// # Errors
            #[doc = concat!("Those of [`Tensor::", stringify!($method), "`].")]
            pub fn forward_with_size(&self, x: &Tensor, indices: &Tensor, size: [usize; $n]) -> Result<Tensor> {
                self.unpool(x, indices, Some(size))
            }

            fn unpool(&self, x: &Tensor, indices: &Tensor, size: Option<[usize; $n]>) -> Result<Tensor> {
                let windows = Pooling::new(self.kernel_size).stride(self.stride).padding(self.padding);
                x.$method(indices, &windows, size)
            }

            fn describe(&self) -> String {
                let [kernel, stride, padding] = [&self.kernel_size, &self.stride, &self.padding].map(|sizes| tuple(sizes));
                format!("kernel_size={kernel}, stride={stride}, padding={padding}")
            }
        }
    )*};
}
unpools! {
    /// Undoes [`MaxPool1d`](crate::MaxPool1d)
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.MaxUnpool1d.html>).
    MaxUnpool1d 1 "MaxPool1d" ", 8" max_unpool1d;
    /// Undoes [`MaxPool2d`](crate::MaxPool2d)
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.MaxUnpool2d.html>).
    MaxUnpool2d 2 "MaxPool2d" ", 8, 6" max_unpool2d;
    /// Undoes [`MaxPool3d`](crate::MaxPool3d)
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.MaxUnpool3d.html>).
    MaxUnpool3d 3 "MaxPool3d" ", 4, 8, 6" max_unpool3d;
}

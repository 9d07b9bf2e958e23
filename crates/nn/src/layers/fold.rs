//! `Unfold` and `Fold`: the blocks of images under a sliding window, and the sums of such blocks.

use kiln_derive::located;
use kiln_tensor::{Result, SlidingWindow, Tensor};

use super::sizes::Pair;
use crate::module::Module;

macro_rules! folds {
    ($($(#[$doc:meta])* $name:ident ($($size:ident)?) $new_doc:literal |$layer:ident, $x:ident| $run:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Module)]
        #[module(save, extra_repr = "describe")]
        pub struct $name {
            $(#[module(skip, save)]
            $size: Pair,)?
            #[module(skip, save)]
            kernel_size: Pair,
            #[module(skip, save)]
            dilation: Pair,
            #[module(skip, save)]
            padding: Pair,
            #[module(skip, save)]
            stride: Pair,
        }

        impl $name {
            #[doc = $new_doc]
            #[must_use]
            pub fn new($($size: impl Into<Pair>,)? kernel_size: impl Into<Pair>) -> $name {
                let [dilation, padding, stride] = [1, 0, 1].map(Pair::All);
                $name { $($size: $size.into(),)? kernel_size: kernel_size.into(), dilation, padding, stride }
            }

            /// The distance of the window's elements.
            #[must_use]
            pub fn dilation(self, dilation: impl Into<Pair>) -> $name {
                $name { dilation: dilation.into(), ..self }
            }

            /// Zeros on each side of the images.
            #[must_use]
            pub fn padding(self, padding: impl Into<Pair>) -> $name {
                $name { padding: padding.into(), ..self }
            }

            /// The distance of blocks.
            #[must_use]
            pub fn stride(self, stride: impl Into<Pair>) -> $name {
                $name { stride: stride.into(), ..self }
            }

            fn window(&self) -> SlidingWindow {
                SlidingWindow {
                    kernel_size: self.kernel_size.get(),
                    dilation: self.dilation.get(),
                    padding: self.padding.get(),
                    stride: self.stride.get(),
                }
            }

            fn describe(&self) -> String {
                let size: [String; _] = [$(format!(concat!(stringify!($size), "={}, "), self.$size))?];
                let size = size.concat();
                let (kernel, dilation, padding, stride) = (self.kernel_size, self.dilation, self.padding, self.stride);
                format!("{size}kernel_size={kernel}, dilation={dilation}, padding={padding}, stride={stride}")
            }
        }

        #[located(module)]
        impl Module for $name {
            fn forward(&self, $x: &Tensor) -> Result<Tensor> {
                let $layer = self;
                $run
            }
        }
    )*};
}
folds! {
    /// The blocks of images `[N, C, H, W]` or `[C, H, W]` under a sliding window, as columns: `[N, C · kernel elements, blocks]`
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.Unfold.html>).
    ///
    /// # Errors
    /// `forward` has those of [`Tensor::im2col`].
    Unfold () "Blocks of this size at every place." |layer, x| x.im2col(layer.window());

    /// Adds up blocks, `[N, C · kernel elements, blocks]` or without `N`, where a sliding window takes them from images: `[N, C, H,
    /// W]` (<https://docs.pytorch.org/docs/stable/generated/torch.nn.Fold.html>).
    ///
    /// # Errors
    /// `forward` has those of [`Tensor::col2im`].
    Fold (output_size) "Images of this size, from blocks at every place." |layer, x| {
        x.col2im(layer.output_size.get(), layer.window())
    };
}

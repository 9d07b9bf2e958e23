//! Dropout layers.

use kiln_derive::located;
use kiln_tensor::{Error, Result, Tensor};

use crate::{module::Module, parameter::Training};

/// Layers that drop elements or channels with a probability.
macro_rules! dropouts {
    ($($(#[$doc:meta])* $name:ident |$x:ident, $p:ident, $training:ident| $run:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Module)]
        #[module(save, extra_repr = "describe")]
        pub struct $name {
            p: f64,
            inplace: bool,
            training: Training,
        }

        #[located(site)]
        impl $name {
            /// A layer that drops with probability `p`; PyTorch's default is 0.5.
            ///
            /// # Errors
            /// If `p` is outside `[0, 1]`.
            pub fn new(p: f64) -> Result<$name> {
                if !(0.0..=1.0).contains(&p) {
                    let message = format!("the probability {p} is outside [0, 1]");
                    return Err(Error::argument(stringify!($name), message));
                }
                Ok($name { p, inplace: false, training: Training::default() })
            }

            /// Makes it print `inplace=True`. It computes the same: the input is not overwritten.
            #[must_use]
            pub fn inplace(self) -> $name {
                $name { inplace: true, ..self }
            }

            fn describe(&self) -> String {
                // `{:?}` keeps the `.0` of whole numbers, as Python does.
                format!("p={:?}, inplace={}", self.p, if self.inplace { "True" } else { "False" })
            }
        }

        #[located(module)]
        impl Module for $name {
            fn forward(&self, $x: &Tensor) -> Result<Tensor> {
                let ($p, $training) = (self.p, self.training.is_on());
                $run
            }
        }
    )*};
}
dropouts! {
    /// While training, sets elements to 0 with probability `p` and divides the others by `1 - p` (Srivastava et al.,
    /// 2014); in evaluation mode, returns its input.
    Dropout |x, p, training| x.dropout(p, training);
    /// While training, sets whole channels of `[N, C, …]` to 0 with probability `p` and divides the others by `1 - p`
    /// (Tompson et al., 2015); in evaluation mode, returns its input.
    Dropout2d |x, p, training| {
        if x.rank() < 2 {
            return Err(Error::shape("Dropout2d", "[N, C, …]", x.shape()));
        }
        if !training || p == 0.0 {
            return Ok(x.clone());
        }
        let mut channels = vec![1; x.rank()];
        channels[..2].copy_from_slice(&x.dims()[..2]);
        x.mul(&Tensor::ones(&channels[..], x.options())?.dropout(p, true)?)
    };
}

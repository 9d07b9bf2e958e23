//! Dropout layers.

use kiln_derive::located;
use kiln_tensor::{Error, Result, Shape, Tensor};

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
    Dropout2d |x, p, training| channels(stringify!(Dropout2d), x, p, training);
    /// [`Dropout2d`] for signals `[N, C, L]` or `[C, L]`.
    Dropout1d |x, p, training| {
        if !matches!(x.rank(), 2 | 3) {
            return Err(Error::shape("Dropout1d", "[N, C, L] or [C, L]", x.shape()));
        }
        sample(3, x, |x| channels("Dropout1d", x, p, training))
    };
    /// [`Dropout2d`] for volumes `[N, C, D, H, W]` or `[C, D, H, W]`.
    Dropout3d |x, p, training| sample(5, x, |x| channels("Dropout3d", x, p, training));
    /// While training, sets elements with probability `p` to the value to which [`SELU`](crate::SELU) maps large negative
    /// numbers, and scales and shifts all, so that mean and variance are kept (Klambauer et al., 2017); in evaluation mode,
    /// returns its input.
    AlphaDropout |x, p, training| alpha(x, x.shape(), p, training);
    /// [`AlphaDropout`] of whole channels of `[N, C, …]`.
    FeatureAlphaDropout |x, p, training| alpha(x, &per_channel("FeatureAlphaDropout", x)?, p, training);
}

/// Calls `f` with a batch of `rank` dimensions, made of a single sample if there is one dimension less.
fn sample(rank: usize, x: &Tensor, f: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    if x.rank() + 1 == rank { f(&x.unsqueeze(0)?)?.squeeze(0) } else { f(x) }
}

/// The shape of one number for each channel.
fn per_channel(layer: &'static str, x: &Tensor) -> Result<Shape> {
    if x.rank() < 2 {
        return Err(Error::shape(layer, "[N, C, …]", x.shape()));
    }
    let mut channels = vec![1; x.rank()];
    channels[..2].copy_from_slice(&x.dims()[..2]);
    Shape::new(&channels)
}

/// Drops whole channels.
fn channels(layer: &'static str, x: &Tensor, p: f64, training: bool) -> Result<Tensor> {
    let shape = per_channel(layer, x)?;
    if !training || p == 0.0 {
        return Ok(x.clone());
    }
    x.mul(&Tensor::ones(shape, x.options())?.dropout(p, true)?)
}

/// Sets what is dropped to the limit of SELU, and restores mean and variance. There is one draw for each element of `shape`,
/// which broadcasts to that of `x`.
fn alpha(x: &Tensor, shape: &Shape, p: f64, training: bool) -> Result<Tensor> {
    /// The limit, less the sign.
    const ALPHA: f64 = 1.758_099_340_847_376_6;
    if !training || p == 0.0 {
        return Ok(x.clone());
    }
    if p == 1.0 {
        return x.mul(0.0);
    }
    let scale = 1.0 / ((ALPHA * ALPHA * p + 1.0) * (1.0 - p)).sqrt();
    let kept = Tensor::empty(*shape, x.options())?;
    kept.bernoulli_(1.0 - p)?;
    let shift = kept.mul(ALPHA * scale)?.add(ALPHA * scale * (p - 1.0))?;
    x.mul(&kept.mul(scale)?)?.add(&shift)
}

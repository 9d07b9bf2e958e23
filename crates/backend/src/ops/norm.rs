//! Batch and layer normalization, and their gradients.

use crate::{Result, View, ViewMut};

/// Scale and shift of a normalisation: one number a channel (or a column), of the input's dtype.
#[derive(Clone, Copy, Debug, Default)]
pub struct Affine<'a> {
    /// The scale; 1 if there is none.
    pub weight: Option<View<'a>>,
    /// The shift; 0 if there is none.
    pub bias: Option<View<'a>>,
}

/// Where the gradients of a normalisation go; those left out are not computed.
#[derive(Debug, Default)]
pub struct NormGrads<'a> {
    /// Of the input, in its shape.
    pub input: Option<ViewMut<'a>>,
    /// Of the scale.
    pub weight: Option<ViewMut<'a>>,
    /// Of the shift.
    pub bias: Option<ViewMut<'a>>,
}

/// The running statistics that a training step of batch normalisation moves, one number a channel, of the accumulation
/// type (`f32` for half precision, else the input's): `running = (1 - momentum) * running + momentum * batch`.
#[derive(Debug)]
pub struct RunningStats<'a> {
    /// The mean.
    pub mean: ViewMut<'a>,
    /// The variance; it is moved towards the unbiased one (divisor `n - 1`).
    pub var: ViewMut<'a>,
    /// How far it moves.
    pub momentum: f64,
}

/// Batch normalization.
pub trait BatchNormBackend {
    /// Batch normalisation while training: each channel of `x` (`[N, C, H, W]`, any strides) minus its mean, times
    /// `inv_std = 1 / sqrt(biased variance + eps)`, then scaled and shifted. `mean` and `inv_std` (`[C]`, of the
    /// accumulation type) receive what the gradient needs; `running` is moved.
    #[allow(clippy::too_many_arguments)] // one fused kernel
    fn batch_norm(
        &self,
        eps: f64,
        x: View,
        affine: Affine,
        running: Option<RunningStats>,
        out: ViewMut,
        mean: ViewMut,
        inv_std: ViewMut,
    ) -> Result<()>;
    /// Batch normalisation with given statistics (`[C]`, of the accumulation type).
    fn batch_norm_eval(&self, eps: f64, x: View, affine: Affine, mean: View, var: View, out: ViewMut) -> Result<()>;
    /// The gradients of batch normalisation: of [`batch_norm`](BatchNormBackend::batch_norm) if `training`, whose statistics
    /// depend on the input, else with the statistics as constants. `weight` is the scale.
    #[allow(clippy::too_many_arguments)] // one fused kernel
    fn batch_norm_grad(
        &self,
        training: bool,
        grad: View,
        x: View,
        weight: Option<View>,
        mean: View,
        inv_std: View,
        grads: NormGrads,
    ) -> Result<()>;
}

/// Layer normalization.
pub trait LayerNormBackend {
    /// Normalises each row of `x` (`[M, N]`) as [`batch_norm`](crate::BatchNormBackend::batch_norm) does a channel; scale and shift are
    /// `[N]`, `mean` and `inv_std` `[M]`, of the accumulation type.
    fn layer_norm(
        &self,
        eps: f64,
        x: View,
        affine: Affine,
        out: ViewMut,
        mean: ViewMut,
        inv_std: ViewMut,
    ) -> Result<()>;
    /// Its gradients.
    fn layer_norm_grad(
        &self,
        grad: View,
        x: View,
        weight: Option<View>,
        mean: View,
        inv_std: View,
        grads: NormGrads,
    ) -> Result<()>;
}

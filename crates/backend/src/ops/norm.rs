//! Batch and layer normalization, and their gradients.

use crate::{
    contract::{Arguments, Checked, has_dtype, has_shape, is_float, same_shape},
    dtype::DType,
    error::{Error, Result},
    view::{View, ViewMut},
};

/// Scale and shift of a normalization: one number per channel (or column), both of the input's dtype; with batch
/// normalization, as all vectors `[C]` below, alternatively of the [accumulator](crate::DType::accumulator) type.
#[derive(Clone, Copy, Debug, Default)]
pub struct Affine<'a> {
    /// The scale; 1 if not given.
    pub weight: Option<View<'a>>,
    /// The shift; 0 if not given.
    pub bias: Option<View<'a>>,
}

/// Receivers of a normalization's gradients; those left out are not computed.
#[derive(Debug, Default)]
pub struct NormGrads<'a> {
    /// The gradient of the input, in its shape.
    pub input: Option<ViewMut<'a>>,
    /// The gradient of the scale.
    pub weight: Option<ViewMut<'a>>,
    /// The gradient of the shift.
    pub bias: Option<ViewMut<'a>>,
}

/// The running statistics that a training step of batch normalization updates, one number per channel, both of the input's
/// dtype or both of its [accumulator](crate::DType::accumulator) type: `running = (1 - momentum) * running + momentum * batch`.
#[derive(Debug)]
pub struct RunningStats<'a> {
    /// The mean.
    pub mean: ViewMut<'a>,
    /// The variance; it is updated with the unbiased variance of the batch (divisor `n - 1`).
    pub var: ViewMut<'a>,
    /// The weight of the new batch.
    pub momentum: f64,
    /// The number of batches so far, one `i64`, which is incremented.
    pub count: Option<ViewMut<'a>>,
    /// What the images lack: the bias `[C]` of the convolution that made them, of the dtype of scale and shift. A
    /// normalization by the statistics of the batch removes it, so it is only added to the mean with which the running one
    /// is updated.
    pub shift: Option<View<'a>>,
}

/// What follows a batch normalization in the same pass over memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct BatchNormThen<'a> {
    /// A tensor of the result's shape that is added, as at the end of a residual block.
    pub residual: Option<View<'a>>,
    /// Whether ReLU comes last; NaN stays NaN.
    pub relu: bool,
}

/// The ReLU after a batch normalization, for the gradient: which elements passed it.
#[derive(Clone, Copy, Debug, Default)]
pub enum ReluAfterNorm<'a> {
    /// There was none.
    #[default]
    None,
    /// Those that are positive if they are normalized, scaled and shifted again; for the statistics of the batch and
    /// without a residual. It saves reading the output.
    Recomputed {
        /// The shift, `[C]`.
        bias: Option<View<'a>>,
    },
    /// Those where this output of ReLU is not 0.
    Output(View<'a>),
}

/// The parts of a gradient that belong to what was [fused](BatchNormThen) to a batch normalization.
#[derive(Debug, Default)]
pub struct BatchNormGradThen<'a> {
    /// The ReLU at the end.
    pub relu: ReluAfterNorm<'a>,
    /// Receives the gradient of the residual, in the shape of the images: the incoming one where ReLU let the output
    /// through.
    pub residual: Option<ViewMut<'a>>,
    /// Receives the gradient of [`RunningStats::shift`], `[C]`: zeros, since no output depends on it.
    pub shift: Option<ViewMut<'a>>,
}

/// Arguments of [`batch_norm`](BatchNormBackend::batch_norm).
#[derive(Debug)]
pub struct BatchNormArgs<'a> {
    /// The images, `[N, C, H, W]`.
    pub x: View<'a>,
    /// Scale and shift, `[C]`.
    pub affine: Affine<'a>,
    /// The running statistics, `[C]`, which are updated.
    pub running: Option<RunningStats<'a>>,
    /// The number added to the variance.
    pub eps: f64,
    /// What follows.
    pub then: BatchNormThen<'a>,
    /// The normalized images, in the shape of `x`.
    pub out: ViewMut<'a>,
    /// Receives the mean of each channel, `[C]` of the accumulator type.
    pub mean: ViewMut<'a>,
    /// Receives `1 / sqrt(variance + eps)` of each channel, as `mean`.
    pub inv_std: ViewMut<'a>,
}

/// Arguments of [`batch_norm_eval`](BatchNormBackend::batch_norm_eval).
#[derive(Debug)]
pub struct BatchNormEvalArgs<'a> {
    /// The images, `[N, C, H, W]`.
    pub x: View<'a>,
    /// Scale and shift, `[C]`.
    pub affine: Affine<'a>,
    /// The mean of each channel, `[C]` of the accumulator type.
    pub mean: View<'a>,
    /// The variance of each channel, as `mean`.
    pub var: View<'a>,
    /// The number added to the variance.
    pub eps: f64,
    /// What follows.
    pub then: BatchNormThen<'a>,
    /// The normalized images, in the shape of `x`.
    pub out: ViewMut<'a>,
}

/// Arguments of [`batch_norm_grad`](BatchNormBackend::batch_norm_grad).
#[derive(Debug)]
pub struct BatchNormGradArgs<'a> {
    /// Whether the statistics depend on the input; otherwise they are constants.
    pub training: bool,
    /// The gradient of the normalized images.
    pub grad: View<'a>,
    /// The images, `[N, C, H, W]`.
    pub x: View<'a>,
    /// The scale, `[C]`.
    pub weight: Option<View<'a>>,
    /// The mean of each channel, `[C]` of the accumulator type.
    pub mean: View<'a>,
    /// `1 / sqrt(variance + eps)` of each channel, as `mean`.
    pub inv_std: View<'a>,
    /// Receivers of the gradients; those of scale and shift are `[C]`.
    pub grads: NormGrads<'a>,
    /// What follows the normalization.
    pub then: BatchNormGradThen<'a>,
}

/// Arguments of [`layer_norm`](LayerNormBackend::layer_norm).
#[derive(Debug)]
pub struct LayerNormArgs<'a> {
    /// The rows, `[M, N]`.
    pub x: View<'a>,
    /// Scale and shift, `[N]`.
    pub affine: Affine<'a>,
    /// The number added to the variance.
    pub eps: f64,
    /// The normalized rows, in the shape of `x`.
    pub out: ViewMut<'a>,
    /// Receives the mean of each row, `[M]` of the accumulator type.
    pub mean: ViewMut<'a>,
    /// Receives `1 / sqrt(variance + eps)` of each row, as `mean`.
    pub inv_std: ViewMut<'a>,
}

/// Arguments of [`layer_norm_grad`](LayerNormBackend::layer_norm_grad).
#[derive(Debug)]
pub struct LayerNormGradArgs<'a> {
    /// The gradient of the normalized rows.
    pub grad: View<'a>,
    /// The rows, `[M, N]`.
    pub x: View<'a>,
    /// The scale, `[N]`.
    pub weight: Option<View<'a>>,
    /// The mean of each row, `[M]` of the accumulator type.
    pub mean: View<'a>,
    /// `1 / sqrt(variance + eps)` of each row, as `mean`.
    pub inv_std: View<'a>,
    /// Receivers of the gradients; those of scale and shift are `[N]`.
    pub grads: NormGrads<'a>,
}

impl Arguments for BatchNormArgs<'_> {
    fn check(&self) -> Result<()> {
        let shift = self.running.as_ref().and_then(|running| running.shift);
        let check = NormCheck::images("batch_norm", self.x, &[self.affine.weight, self.affine.bias, shift])?;
        if let Some(RunningStats { mean, var, count, shift, .. }) = &self.running {
            let dtype = if mean.dtype() == self.x.dtype() { mean.dtype() } else { check.x.dtype().accumulator() };
            check.statistics(dtype, [mean.as_view(), var.as_view()])?;
            check.affine(&[*shift])?;
            if let Some(count) = count {
                has_dtype(check.op, DType::I64, count.dtype())?;
                has_shape(check.op, "a number of batches", count.layout, &[])?;
            }
        }
        check.residual(&self.then)?;
        check.forward(&self.out, &self.affine, [self.mean.as_view(), self.inv_std.as_view()])
    }
}

impl Arguments for BatchNormEvalArgs<'_> {
    fn check(&self) -> Result<()> {
        let check = NormCheck::images("batch_norm", self.x, &[self.affine.weight, self.affine.bias])?;
        check.residual(&self.then)?;
        check.forward(&self.out, &self.affine, [self.mean, self.var])
    }
}

impl Arguments for BatchNormGradArgs<'_> {
    fn check(&self) -> Result<()> {
        let BatchNormGradThen { relu, residual, shift } = &self.then;
        let [weight_grad, bias_grad, shift_grad] =
            [&self.grads.weight, &self.grads.bias, shift].map(|grad| grad.as_ref().map(ViewMut::as_view));
        let bias = if let ReluAfterNorm::Recomputed { bias } = *relu { bias } else { None };
        let vectors = [self.weight, bias, weight_grad, bias_grad, shift_grad];
        let check = NormCheck::images("batch_norm_grad", self.x, &vectors)?;
        match *relu {
            ReluAfterNorm::Recomputed { .. } if !self.training => {
                let message = "which elements passed ReLU is recomputed only from the statistics of the batch";
                return Err(Error::argument(check.op, message));
            }
            ReluAfterNorm::Recomputed { bias } => check.affine(&[bias])?,
            ReluAfterNorm::Output(output) => check.like_input(output)?,
            ReluAfterNorm::None => {}
        }
        residual.iter().try_for_each(|residual| check.like_input(residual.as_view()))?;
        check.affine(&[shift_grad])?;
        check.backward(self.grad, self.weight, [self.mean, self.inv_std], &self.grads)
    }
}

impl Arguments for LayerNormArgs<'_> {
    fn check(&self) -> Result<()> {
        let check = NormCheck::rows("layer_norm", self.x)?;
        check.forward(&self.out, &self.affine, [self.mean.as_view(), self.inv_std.as_view()])
    }
}

impl Arguments for LayerNormGradArgs<'_> {
    fn check(&self) -> Result<()> {
        let check = NormCheck::rows("layer_norm_grad", self.x)?;
        check.backward(self.grad, self.weight, [self.mean, self.inv_std], &self.grads)
    }
}

/// The dtype and sizes that a normalization's operands are checked against.
struct NormCheck<'a> {
    op: &'static str,
    x: View<'a>,
    /// Number of groups of elements that are normalized together.
    groups: usize,
    /// Number of elements in a scale or shift.
    affine: usize,
    /// The dtype of scale and shift.
    affine_dtype: DType,
}

impl<'a> NormCheck<'a> {
    /// `vectors` are all scales and shifts with their gradients.
    fn images(op: &'static str, x: View<'a>, vectors: &[Option<View>]) -> Result<NormCheck<'a>> {
        is_float(op, x.dtype())?;
        let is_wide = vectors.iter().flatten().any(|vector| vector.dtype() != x.dtype());
        let affine_dtype = if is_wide { x.dtype().accumulator() } else { x.dtype() };
        match *x.layout.dims() {
            [_, c, _, _] => Ok(NormCheck { op, x, groups: c, affine: c, affine_dtype }),
            _ => Err(Error::shape(op, "images [N, C, H, W]", x.layout.shape())),
        }
    }

    fn rows(op: &'static str, x: View<'a>) -> Result<NormCheck<'a>> {
        is_float(op, x.dtype())?;
        match *x.layout.dims() {
            [m, n] => Ok(NormCheck { op, x, groups: m, affine: n, affine_dtype: x.dtype() }),
            _ => Err(Error::shape(op, "rows [M, N]", x.layout.shape())),
        }
    }

    fn like_input(&self, view: View) -> Result<()> {
        has_dtype(self.op, self.x.dtype(), view.dtype())?;
        same_shape(self.op, &[self.x.layout, view.layout])
    }

    fn residual(&self, then: &BatchNormThen) -> Result<()> {
        then.residual.map_or(Ok(()), |residual| self.like_input(residual))
    }

    fn affine(&self, vectors: &[Option<View>]) -> Result<()> {
        vectors.iter().flatten().try_for_each(|vector| {
            has_dtype(self.op, self.affine_dtype, vector.dtype())?;
            has_shape(self.op, "a scale or shift", vector.layout, &[self.affine])
        })
    }

    fn stats(&self, vectors: [View; 2]) -> Result<()> {
        self.statistics(self.x.dtype().accumulator(), vectors)
    }

    fn statistics(&self, dtype: DType, vectors: [View; 2]) -> Result<()> {
        vectors.into_iter().try_for_each(|vector| {
            has_dtype(self.op, dtype, vector.dtype())?;
            has_shape(self.op, "a statistic", vector.layout, &[self.groups])
        })
    }

    fn forward(&self, out: &ViewMut, affine: &Affine, stats: [View; 2]) -> Result<()> {
        self.like_input(out.as_view())?;
        self.affine(&[affine.weight, affine.bias])?;
        self.stats(stats)
    }

    fn backward(&self, grad: View, weight: Option<View>, stats: [View; 2], grads: &NormGrads) -> Result<()> {
        self.like_input(grad)?;
        self.stats(stats)?;
        self.affine(&[weight])?;
        if let Some(input) = &grads.input {
            self.like_input(input.as_view())?;
        }
        self.affine(&[&grads.weight, &grads.bias].map(|grad| grad.as_ref().map(ViewMut::as_view)))
    }
}

/// Batch normalization.
pub trait BatchNormBackend {
    /// Batch normalization while training: each channel of the images (any strides) minus its mean, times `1 /
    /// sqrt(biased variance + eps)`, then scaled and shifted. Writes the statistics that the gradient needs, and
    /// updates the running ones and their count, and adds a residual and applies ReLU if wanted.
    fn batch_norm(&self, args: Checked<BatchNormArgs>) -> Result<()>;
    /// Batch normalization with given statistics.
    fn batch_norm_eval(&self, args: Checked<BatchNormEvalArgs>) -> Result<()>;
    /// The gradients of batch normalization.
    fn batch_norm_grad(&self, args: Checked<BatchNormGradArgs>) -> Result<()>;
}

/// Layer normalization.
pub trait LayerNormBackend {
    /// Normalizes each row as [`batch_norm`](BatchNormBackend::batch_norm) does a channel.
    fn layer_norm(&self, args: Checked<LayerNormArgs>) -> Result<()>;
    /// Its gradients.
    fn layer_norm_grad(&self, args: Checked<LayerNormGradArgs>) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dtype::DType,
        layout::Layout,
        testing::{Memory, layout},
    };

    #[test]
    fn shapes_and_dtypes_are_checked() {
        let images = [layout(&[2, 3, 4, 5]), layout(&[2, 4, 3, 5]), layout(&[6, 20])];
        let [x, other, matrix] = &images;
        let (c, rows, columns) = (layout(&[3]), layout(&[6]), layout(&[20]));
        let (half, single) = (Memory(DType::F16), Memory(DType::F32));
        let (mut out, mut mean, mut inv) = (half, single, single);
        let mut batch = |x, to, weight, stat: &Layout| {
            let affine = Affine { weight: Some(half.view(weight)), bias: None };
            let (out, mean, inv_std) = (out.view_mut(to), mean.view_mut(stat), inv.view_mut(stat));
            let then = BatchNormThen::default();
            BatchNormArgs { x: half.view(x), affine, running: None, eps: 0.1, then, out, mean, inv_std }.check().is_ok()
        };
        assert!(batch(x, x, &c, &c));
        assert!(!batch(x, other, &c, &c) && !batch(x, x, &rows, &c) && !batch(x, x, &c, &rows));
        assert!(!batch(matrix, matrix, &c, &c));
        let vectors = |weight: &Memory, bias: &Memory| {
            let affine = Affine { weight: Some(weight.view(&c)), bias: Some(bias.view(&c)) };
            let (mut to, stat, then) = (half, single.view(&c), BatchNormThen::default());
            let (x, out) = (half.view(x), to.view_mut(x));
            BatchNormEvalArgs { x, affine, mean: stat, var: stat, eps: 0.1, then, out }.check().is_ok()
        };
        // Both of the images' dtype, or both of the one that they are computed in.
        assert!(vectors(&half, &half) && vectors(&single, &single));
        assert!(!vectors(&half, &single) && !vectors(&single, &half));
        assert!(!vectors(&Memory(DType::BF16), &Memory(DType::BF16)));
        let mut layer = |x, stat: &Memory, affine: &Layout, numbers: &Layout| {
            let affine = Affine { weight: None, bias: Some(half.view(affine)) };
            let mut kept = [*stat, *stat];
            let [mean, inv_std] = kept.each_mut().map(|memory| memory.view_mut(numbers));
            LayerNormArgs { x: half.view(x), affine, eps: 0.1, out: out.view_mut(x), mean, inv_std }.check().is_ok()
        };
        assert!(layer(matrix, &single, &columns, &rows));
        // Statistics are of the accumulator type, scale and shift of the input's.
        assert!(!layer(matrix, &half, &columns, &rows) && !layer(matrix, &single, &rows, &columns));
        let of_ints = Memory(DType::I32);
        let (x, mean, inv_std) = (of_ints.view(matrix), single.view(&rows), single.view(&rows));
        let grads = NormGrads::default();
        assert!(LayerNormGradArgs { grad: x, x, weight: None, mean, inv_std, grads }.check().is_err());
        let (x, mut to) = (half.view(matrix), single);
        let grads = NormGrads { weight: Some(to.view_mut(&columns)), ..NormGrads::default() };
        assert!(LayerNormGradArgs { grad: x, x, weight: None, mean, inv_std, grads }.check().is_err());
    }
}

//! A convolution and the batch normalization after it as one convolution, in evaluation: the running statistics and the
//! affine parameters are folded into its weight and bias.

use kiln_derive::located;
use kiln_tensor::{
    Error, Result, Tensor,
    autograd::{is_grad_enabled, traced_steps},
};

use super::{
    activation::ReLU,
    conv::Conv2d,
    fold_cache::Sources,
    norm::{Around, BatchNorm2d},
};
use crate::{
    module::{Module, is_hooked},
    summary::is_observed,
};

/// The sum of tensors of one shape.
fn add(y: &Tensor, residual: &Tensor) -> Result<Tensor> {
    if residual.shape() != y.shape() {
        return Err(Error::shapes("add", y.shape(), residual.shape(), "a residual of the result's shape"));
    }
    y.add(residual)
}

#[located(site)]
impl Conv2d {
    /// The convolution, then a batch normalization, then `+ residual`, then ReLU: how blocks of residual networks compute.
    /// `residual` has the shape of the result. The normalization, the sum and ReLU are one primitive.
    ///
    /// Layers with forward hooks run one by one.
    ///
    /// In training mode, the convolution's bias is added to the running mean alone: the mean of the batch takes it away
    /// from the images, and its gradient is zeros.
    ///
    /// In evaluation mode, where no gradients are recorded, the normalization is folded into the convolution: its weight is
    /// multiplied by `γ / sqrt(running_var + eps)` per output channel, and its bias becomes `(bias - running_mean) · γ /
    /// sqrt(running_var + eps) + β`, computed in `f64` and rounded once. Both are kept until one of the tensors that they
    /// are computed from changes. Results differ from those of separate layers by rounding: in `f32` by less than 1e-5 of
    /// the largest one; in `f16` and `bf16` by what rounding the weight and the bias to that type causes, as in PyTorch's
    /// `fuse_conv_bn_weights`
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.fusion.fuse_conv_bn_weights.html>).
    ///
    /// # Errors
    /// Those of the layers, and if the residual has another shape than the result.
    pub fn forward_norm(
        &self,
        x: &Tensor,
        norm: &BatchNorm2d,
        residual: Option<&Tensor>,
        relu: Option<&ReLU>,
    ) -> Result<Tensor> {
        let has_hooks = is_hooked(self) || is_hooked(norm);
        if !has_hooks && let Some(folded) = self.fold_forward(x, norm, residual, relu.is_some())? {
            return Ok(folded);
        }
        if !has_hooks && !is_observed() {
            return self.fused_forward(x, norm, residual, relu.is_some());
        }
        let mut y = norm.forward(&self.forward(x)?)?;
        if let Some(residual) = residual {
            y = add(&y, residual)?;
        }
        relu.map_or_else(|| Ok(y.clone()), |relu| relu.forward(&y))
    }

    /// [`forward_norm`](Conv2d::forward_norm) without folding: the normalization adds the residual and applies ReLU,
    /// and where it removes the convolution's bias, none is added.
    pub(super) fn fused_forward(
        &self,
        x: &Tensor,
        norm: &BatchNorm2d,
        residual: Option<&Tensor>,
        relu: bool,
    ) -> Result<Tensor> {
        let bias = self.bias.as_deref();
        let (bias, bias_before) = if norm.removes_bias() { (None, bias) } else { (bias, None) };
        let y = self.convolve(x, (&self.weight, bias), None, false)?;
        // A residual of another dtype determines the dtype of the sum.
        if let Some(residual) = residual.filter(|residual| residual.dtype() != y.dtype()) {
            let sum = add(&norm.run(&y, Around { bias_before, ..Around::default() })?, residual)?;
            return if relu { sum.relu() } else { Ok(sum) };
        }
        norm.run(&y, Around { bias_before, residual, relu })
    }

    /// [`forward_norm`](Conv2d::forward_norm) with the folded weight and bias; `None` unless there are such, and the result
    /// has no history.
    pub(super) fn fold_forward(
        &self,
        x: &Tensor,
        norm: &BatchNorm2d,
        residual: Option<&Tensor>,
        relu: bool,
    ) -> Result<Option<Tensor>> {
        if norm.is_training() {
            // The weight is going to change.
            self.folded.clear();
            return Ok(None);
        }
        let [mean, var] = [&norm.running_mean, &norm.running_var].map(|stat| stat.as_deref());
        let affine = [norm.weight.as_deref(), norm.bias.as_deref()];
        let sources: Sources<'_> = [Some(&*self.weight), self.bias.as_deref(), affine[0], affine[1], mean, var];
        let mut operands = [Some(x), residual].into_iter().chain(sources).flatten();
        let is_recorded = is_grad_enabled() && operands.any(Tensor::requires_grad);
        // Exporters and summaries are shown the layers.
        if mean.is_none() || var.is_none() || is_recorded || traced_steps().is_some() || x.rank() != 4 {
            return Ok(None);
        }
        // What does not fit together is an error of the layer that it is given to.
        let channels = self.out_channels();
        let fits = |(i, source): (usize, &Tensor)| {
            let is_weight = i == 0;
            source.device() == x.device()
                && (is_weight || source.dims() == [channels])
                && if i < 4 { source.dtype() == x.dtype() } else { source.dtype().is_float() }
        };
        if !sources.iter().enumerate().filter_map(|(i, source)| Some((i, (*source)?))).all(fits) {
            return Ok(None);
        }
        let Some((weight, bias)) = self.folded.get(sources, norm.eps())? else { return Ok(None) };
        self.convolve(x, (&weight, Some(&bias)), residual, relu).map(Some)
    }
}

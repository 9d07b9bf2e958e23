//! Transformers: encoder and decoder layers, stacks of them, and the whole model.

use kiln_derive::located;
use kiln_tensor::{Error, Result, Tensor, TensorOptions};

use super::attention::{AttentionMasks, MultiheadAttention, MultiheadAttentionOptions};
use crate::{
    layers::{
        dropout::Dropout,
        linear::{Linear, LinearOptions},
        norm::LayerNorm,
    },
    module::{Hooks, Module, ModuleTree},
    saved_choice,
};

/// The activation between the linear layers of a transformer layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TransformerActivation {
    /// ReLU.
    #[default]
    ReLU,
    /// GELU.
    GELU,
}

saved_choice!(TransformerActivation { ReLU "relu", GELU "gelu" });

/// Options of the layers of a transformer.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct TransformerOptions {
    dim_feedforward: usize,
    dropout: f64,
    activation: TransformerActivation,
    layer_norm_eps: f64,
    batch_first: bool,
    norm_first: bool,
    bias: bool,
    tensor: TensorOptions,
}

impl Default for TransformerOptions {
    fn default() -> Self {
        TransformerOptions {
            dim_feedforward: 2048,
            dropout: 0.1,
            activation: TransformerActivation::ReLU,
            layer_norm_eps: 1e-5,
            batch_first: false,
            norm_first: false,
            bias: true,
            tensor: TensorOptions::new(),
        }
    }
}

impl TransformerOptions {
    /// The number of features between the two linear layers; 2048 by default.
    pub fn dim_feedforward(self, dim_feedforward: usize) -> Self {
        TransformerOptions { dim_feedforward, ..self }
    }

    /// The dropout probability; 0.1 by default.
    pub fn dropout(self, dropout: f64) -> Self {
        TransformerOptions { dropout, ..self }
    }

    /// The activation between the two linear layers.
    pub fn activation(self, activation: TransformerActivation) -> Self {
        TransformerOptions { activation, ..self }
    }

    /// The number added to the variance in normalizations.
    pub fn layer_norm_eps(self, layer_norm_eps: f64) -> Self {
        TransformerOptions { layer_norm_eps, ..self }
    }

    /// Whether sequences are `[N, L, features]`; by default they are `[L, N, features]`.
    pub fn batch_first(self, batch_first: bool) -> Self {
        TransformerOptions { batch_first, ..self }
    }

    /// Whether normalizations come before attention and linear layers rather than after the sum (Xiong et al., 2020).
    pub fn norm_first(self, norm_first: bool) -> Self {
        TransformerOptions { norm_first, ..self }
    }

    /// Whether linear layers and normalizations have biases.
    pub fn bias(self, bias: bool) -> Self {
        TransformerOptions { bias, ..self }
    }

    /// Sets the dtype and device.
    pub fn tensor(self, options: impl Into<TensorOptions>) -> Self {
        TransformerOptions { tensor: options.into(), ..self }
    }

    fn attention(self, d_model: usize, nhead: usize) -> Result<MultiheadAttention> {
        let options = MultiheadAttentionOptions::default().dropout(self.dropout).bias(self.bias);
        MultiheadAttention::with_options(d_model, nhead, options.batch_first(self.batch_first).tensor(self.tensor))
    }

    fn linear(self, inputs: usize, outputs: usize) -> Result<Linear> {
        Linear::with_options(inputs, outputs, LinearOptions::default().bias(self.bias).tensor(self.tensor))
    }

    fn norm(self, d_model: usize) -> Result<LayerNorm> {
        LayerNorm::with_options(&[d_model], self.layer_norm_eps, true, self.bias, self.tensor)
    }
}

/// A transformer encoder layer: self-attention and two linear layers, each with a residual connection and a
/// normalization (Vaswani et al., 2017;
/// <https://docs.pytorch.org/docs/stable/generated/torch.nn.TransformerEncoderLayer.html>).
#[derive(Debug, Module)]
#[module(save)]
pub struct TransformerEncoderLayer {
    self_attn: MultiheadAttention,
    linear1: Linear,
    dropout: Dropout,
    linear2: Linear,
    norm1: LayerNorm,
    norm2: LayerNorm,
    dropout1: Dropout,
    dropout2: Dropout,
    activation: TransformerActivation,
    norm_first: bool,
    hooks: Hooks,
}

/// `linear2(dropout(activation(linear1(x))))`.
fn feed_forward(
    x: &Tensor,
    linear1: &Linear,
    activation: TransformerActivation,
    dropout: &Dropout,
    linear2: &Linear,
) -> Result<Tensor> {
    let x = match activation {
        TransformerActivation::ReLU => linear1.forward_relu(x)?,
        TransformerActivation::GELU => linear1.forward(x)?.gelu()?,
    };
    linear2.forward(&dropout.forward(&x)?)
}

/// `x + part(norm(x))`, or `norm(x + part(x))`.
fn shortcut(
    x: &Tensor,
    norm: &LayerNorm,
    norm_first: bool,
    part: impl FnOnce(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    if norm_first { x.add(&part(&norm.forward(x)?)?) } else { norm.forward(&x.add(&part(x)?)?) }
}

#[located(site)]
impl TransformerEncoderLayer {
    /// A layer for sequences of `d_model` features, with `nhead` heads.
    ///
    /// # Errors
    /// If the heads do not divide the features, the dropout is not a probability, the dtype is not floating-point, the
    /// device is not available, or memory runs out.
    pub fn new(d_model: usize, nhead: usize, options: TransformerOptions) -> Result<TransformerEncoderLayer> {
        let dropout = || Dropout::new(options.dropout);
        Ok(TransformerEncoderLayer {
            self_attn: options.attention(d_model, nhead)?,
            linear1: options.linear(d_model, options.dim_feedforward)?,
            dropout: dropout()?,
            linear2: options.linear(options.dim_feedforward, d_model)?,
            norm1: options.norm(d_model)?,
            norm2: options.norm(d_model)?,
            dropout1: dropout()?,
            dropout2: dropout()?,
            activation: options.activation,
            norm_first: options.norm_first,
            hooks: Hooks::default(),
        })
    }

    /// The output for a source with masks.
    ///
    /// # Errors
    /// If shapes, dtypes or devices do not fit.
    pub fn forward_masked(&self, src: &Tensor, masks: AttentionMasks<'_>) -> Result<Tensor> {
        self.hooks.run(self, src, |src| self.encode(src, masks))
    }

    fn encode(&self, src: &Tensor, masks: AttentionMasks<'_>) -> Result<Tensor> {
        let x = shortcut(src, &self.norm1, self.norm_first, |x| {
            self.dropout1.forward(&self.self_attn.attend(x, x, x, masks)?)
        })?;
        shortcut(&x, &self.norm2, self.norm_first, |x| {
            self.dropout2.forward(&feed_forward(x, &self.linear1, self.activation, &self.dropout, &self.linear2)?)
        })
    }
}

#[located(module)]
impl Module for TransformerEncoderLayer {
    /// Without masks.
    fn forward(&self, src: &Tensor) -> Result<Tensor> {
        self.encode(src, AttentionMasks::none())
    }
}

/// A transformer decoder layer: self-attention, attention to the encoder's output, and two linear layers, each with a
/// residual connection and a normalization (Vaswani et al., 2017;
/// <https://docs.pytorch.org/docs/stable/generated/torch.nn.TransformerDecoderLayer.html>).
#[derive(Debug, Module)]
#[module(save)]
pub struct TransformerDecoderLayer {
    self_attn: MultiheadAttention,
    multihead_attn: MultiheadAttention,
    linear1: Linear,
    dropout: Dropout,
    linear2: Linear,
    norm1: LayerNorm,
    norm2: LayerNorm,
    norm3: LayerNorm,
    dropout1: Dropout,
    dropout2: Dropout,
    dropout3: Dropout,
    activation: TransformerActivation,
    norm_first: bool,
    hooks: Hooks,
}

#[located(site)]
impl TransformerDecoderLayer {
    /// A layer for sequences of `d_model` features, with `nhead` heads.
    ///
    /// # Errors
    /// Those of [`TransformerEncoderLayer::new`].
    pub fn new(d_model: usize, nhead: usize, options: TransformerOptions) -> Result<TransformerDecoderLayer> {
        let dropout = || Dropout::new(options.dropout);
        Ok(TransformerDecoderLayer {
            self_attn: options.attention(d_model, nhead)?,
            multihead_attn: options.attention(d_model, nhead)?,
            linear1: options.linear(d_model, options.dim_feedforward)?,
            dropout: dropout()?,
            linear2: options.linear(options.dim_feedforward, d_model)?,
            norm1: options.norm(d_model)?,
            norm2: options.norm(d_model)?,
            norm3: options.norm(d_model)?,
            dropout1: dropout()?,
            dropout2: dropout()?,
            dropout3: dropout()?,
            activation: options.activation,
            norm_first: options.norm_first,
            hooks: Hooks::default(),
        })
    }

    /// The output for a target and the encoder's output ("memory"), with masks for both.
    ///
    /// # Errors
    /// If shapes, dtypes or devices do not fit.
    pub fn forward_masked(
        &self,
        tgt: &Tensor,
        memory: &Tensor,
        tgt_masks: AttentionMasks<'_>,
        memory_masks: AttentionMasks<'_>,
    ) -> Result<Tensor> {
        self.hooks.run(self, tgt, |tgt| self.decode(tgt, memory, tgt_masks, memory_masks))
    }

    fn decode(
        &self,
        tgt: &Tensor,
        memory: &Tensor,
        tgt_masks: AttentionMasks<'_>,
        memory_masks: AttentionMasks<'_>,
    ) -> Result<Tensor> {
        let x = shortcut(tgt, &self.norm1, self.norm_first, |x| {
            self.dropout1.forward(&self.self_attn.attend(x, x, x, tgt_masks)?)
        })?;
        let x = shortcut(&x, &self.norm2, self.norm_first, |x| {
            self.dropout2.forward(&self.multihead_attn.attend(x, memory, memory, memory_masks)?)
        })?;
        shortcut(&x, &self.norm3, self.norm_first, |x| {
            self.dropout3.forward(&feed_forward(x, &self.linear1, self.activation, &self.dropout, &self.linear2)?)
        })
    }
}

/// A stack of encoder layers (<https://docs.pytorch.org/docs/stable/generated/torch.nn.TransformerEncoder.html>).
#[derive(Debug, Module)]
#[module(save)]
pub struct TransformerEncoder {
    /// The layers.
    pub layers: Vec<TransformerEncoderLayer>,
    /// The normalization after the last layer.
    pub norm: Option<LayerNorm>,
    hooks: Hooks,
}

#[located(site)]
impl TransformerEncoder {
    /// A stack of `num_layers` layers, each initialized separately (PyTorch copies one), with an optional normalization
    /// at the end.
    ///
    /// # Errors
    /// Those of [`TransformerEncoderLayer::new`].
    pub fn new(
        d_model: usize,
        nhead: usize,
        num_layers: usize,
        norm: bool,
        options: TransformerOptions,
    ) -> Result<TransformerEncoder> {
        let layers = (0..num_layers).map(|_| TransformerEncoderLayer::new(d_model, nhead, options));
        Ok(TransformerEncoder {
            layers: layers.collect::<Result<_>>()?,
            norm: norm.then(|| options.norm(d_model)).transpose()?,
            hooks: Hooks::default(),
        })
    }

    /// The output for a source with masks.
    ///
    /// # Errors
    /// If shapes, dtypes or devices do not fit.
    pub fn forward_masked(&self, src: &Tensor, masks: AttentionMasks<'_>) -> Result<Tensor> {
        self.hooks.run(self, src, |src| self.encode(src, masks))
    }

    fn encode(&self, src: &Tensor, masks: AttentionMasks<'_>) -> Result<Tensor> {
        let mut x = src.clone();
        for layer in &self.layers {
            x = layer.forward_masked(&x, masks)?;
        }
        self.norm.as_ref().map_or(Ok(x.clone()), |norm| norm.forward(&x))
    }
}

#[located(module)]
impl Module for TransformerEncoder {
    /// Without masks.
    fn forward(&self, src: &Tensor) -> Result<Tensor> {
        self.encode(src, AttentionMasks::none())
    }
}

/// A stack of decoder layers (<https://docs.pytorch.org/docs/stable/generated/torch.nn.TransformerDecoder.html>).
#[derive(Debug, Module)]
#[module(save)]
pub struct TransformerDecoder {
    /// The layers.
    pub layers: Vec<TransformerDecoderLayer>,
    /// The normalization after the last layer.
    pub norm: Option<LayerNorm>,
    hooks: Hooks,
}

#[located(site)]
impl TransformerDecoder {
    /// A stack of `num_layers` layers, each initialized separately (PyTorch copies one), with an optional normalization
    /// at the end.
    ///
    /// # Errors
    /// Those of [`TransformerEncoderLayer::new`].
    pub fn new(
        d_model: usize,
        nhead: usize,
        num_layers: usize,
        norm: bool,
        options: TransformerOptions,
    ) -> Result<TransformerDecoder> {
        let layers = (0..num_layers).map(|_| TransformerDecoderLayer::new(d_model, nhead, options));
        Ok(TransformerDecoder {
            layers: layers.collect::<Result<_>>()?,
            norm: norm.then(|| options.norm(d_model)).transpose()?,
            hooks: Hooks::default(),
        })
    }

    /// The output for a target and the encoder's output, with masks for both.
    ///
    /// # Errors
    /// If shapes, dtypes or devices do not fit.
    pub fn forward_masked(
        &self,
        tgt: &Tensor,
        memory: &Tensor,
        tgt_masks: AttentionMasks<'_>,
        memory_masks: AttentionMasks<'_>,
    ) -> Result<Tensor> {
        self.hooks.run(self, tgt, |tgt| self.decode(tgt, memory, tgt_masks, memory_masks))
    }

    fn decode(
        &self,
        tgt: &Tensor,
        memory: &Tensor,
        tgt_masks: AttentionMasks<'_>,
        memory_masks: AttentionMasks<'_>,
    ) -> Result<Tensor> {
        let mut x = tgt.clone();
        for layer in &self.layers {
            x = layer.forward_masked(&x, memory, tgt_masks, memory_masks)?;
        }
        self.norm.as_ref().map_or(Ok(x.clone()), |norm| norm.forward(&x))
    }
}

/// An encoder and a decoder (Vaswani et al., 2017;
/// <https://docs.pytorch.org/docs/stable/generated/torch.nn.Transformer.html>).
#[derive(Debug, Module)]
#[module(save)]
pub struct Transformer {
    /// The encoder, which reads the source.
    pub encoder: TransformerEncoder,
    /// The decoder, which reads the target and the encoder's output.
    pub decoder: TransformerDecoder,
    d_model: usize,
    hooks: Hooks,
}

/// The masks of a [`Transformer`]: for the source, the target, and the encoder's output.
#[derive(Clone, Copy, Debug, Default)]
pub struct TransformerMasks<'a> {
    /// For self-attention in the source.
    pub src: AttentionMasks<'a>,
    /// For self-attention in the target.
    pub tgt: AttentionMasks<'a>,
    /// For attention from the target to the encoder's output.
    pub memory: AttentionMasks<'a>,
}

#[located(site)]
impl Transformer {
    /// An encoder and a decoder with this many layers, each with a normalization at its end (PyTorch's defaults are
    /// `d_model` 512, 8 heads, 6 and 6 layers).
    ///
    /// # Errors
    /// Those of [`TransformerEncoderLayer::new`].
    pub fn new(
        d_model: usize,
        nhead: usize,
        num_encoder_layers: usize,
        num_decoder_layers: usize,
        options: TransformerOptions,
    ) -> Result<Transformer> {
        let encoder = TransformerEncoder::new(d_model, nhead, num_encoder_layers, true, options)?;
        let decoder = TransformerDecoder::new(d_model, nhead, num_decoder_layers, true, options)?;
        let transformer = Transformer { encoder, decoder, d_model, hooks: Hooks::default() };
        for parameter in ModuleTree::parameters(&transformer) {
            if parameter.rank() > 1 {
                crate::init::xavier_uniform_(&parameter, 1.0)?;
            }
        }
        Ok(transformer)
    }

    /// The decoder's output for a source and a target.
    ///
    /// # Errors
    /// If shapes, dtypes or devices do not fit.
    pub fn forward_masked(&self, src: &Tensor, tgt: &Tensor, masks: TransformerMasks<'_>) -> Result<Tensor> {
        self.hooks.run(self, src, |src| {
            for x in [src, tgt] {
                if x.dims().last() != Some(&self.d_model) {
                    return Err(Error::shape("Transformer", format!("[…, {}]", self.d_model), x.shape()));
                }
            }
            let memory = self.encoder.forward_masked(src, masks.src)?;
            self.decoder.forward_masked(tgt, &memory, masks.tgt, masks.memory)
        })
    }
}

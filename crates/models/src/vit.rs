//! Vision transformers: an image as a sequence of patches.

use kiln_derive::located;
use kiln_nn::{
    Conv2d, Conv2dOptions, Dropout, GELU, LayerNorm, Linear, Module, MultiheadAttention, MultiheadAttentionOptions,
    Parameter, Sequential, init,
};
use kiln_tensor::{Device, Error, Result, Tensor};

/// What is added to variances.
const EPS: f64 = 1e-6;

/// Options of [`VisionTransformer`]; by default those of ViT-B/16.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct VisionTransformerOptions {
    image_size: usize,
    patch_size: usize,
    num_layers: usize,
    num_heads: usize,
    hidden_dim: usize,
    mlp_dim: usize,
    dropout: f64,
    attention_dropout: f64,
    num_classes: usize,
}

impl Default for VisionTransformerOptions {
    fn default() -> Self {
        VisionTransformerOptions {
            image_size: 224,
            patch_size: 16,
            num_layers: 12,
            num_heads: 12,
            hidden_dim: 768,
            mlp_dim: 3072,
            dropout: 0.0,
            attention_dropout: 0.0,
            num_classes: 1000,
        }
    }
}

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $ty:ty;)*) => {
        impl VisionTransformerOptions {$(
            $(#[$doc])*
            pub fn $name(self, $name: $ty) -> Self {
                VisionTransformerOptions { $name, ..self }
            }
        )*}
    };
}
setters! {
    /// Sets the height and width of the images in pixels, a multiple of the patches'; by default 224.
    image_size: usize;
    /// Sets the height and width of the patches in pixels; by default 16.
    patch_size: usize;
    /// Sets the number of encoder blocks; by default 12.
    num_layers: usize;
    /// Sets the number of heads of each attention layer, a divisor of the features; by default 12.
    num_heads: usize;
    /// Sets the number of features of each patch; by default 768.
    hidden_dim: usize;
    /// Sets the number of features between the linear layers of a block; by default 3072.
    mlp_dim: usize;
    /// Sets the dropout probability in the blocks; by default 0.
    dropout: f64;
    /// Sets the dropout probability of attention weights; by default 0.
    attention_dropout: f64;
    /// Sets the number of classes; by default ImageNet's 1000.
    num_classes: usize;
}

/// A linear layer, GELU and a linear layer: torchvision's `MLPBlock`.
#[derive(Debug, Module)]
#[module(save)]
pub struct MLPBlock {
    #[module(name = "0")]
    linear1: Linear,
    #[module(name = "1")]
    activation: GELU,
    #[module(name = "2")]
    dropout1: Dropout,
    #[module(name = "3")]
    linear2: Linear,
    #[module(name = "4")]
    dropout2: Dropout,
}

impl MLPBlock {
    fn new(features: usize, hidden: usize, dropout: f64) -> Result<MLPBlock> {
        let linear = |inputs, outputs| -> Result<Linear> {
            let linear = Linear::new(inputs, outputs)?;
            init::xavier_uniform_(&linear.weight, 1.0)?;
            linear.bias.as_deref().map_or(Ok(()), |bias| init::normal_(bias, 0.0, 1e-6))?;
            Ok(linear)
        };
        Ok(MLPBlock {
            linear1: linear(features, hidden)?,
            activation: GELU::new(),
            dropout1: Dropout::new(dropout)?,
            linear2: linear(hidden, features)?,
            dropout2: Dropout::new(dropout)?,
        })
    }
}

#[located(site)]
impl Module for MLPBlock {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.dropout1.forward(&self.activation.forward(&self.linear1.forward(x)?)?)?;
        self.dropout2.forward(&self.linear2.forward(&x)?)
    }
}

/// Attention and an [`MLPBlock`], each after a normalization and with its input added: torchvision's `EncoderBlock`.
#[derive(Debug, Module)]
#[module(save)]
pub struct EncoderBlock {
    ln_1: LayerNorm,
    self_attention: MultiheadAttention,
    dropout: Dropout,
    ln_2: LayerNorm,
    mlp: MLPBlock,
}

fn norm(features: usize) -> Result<LayerNorm> {
    LayerNorm::with_options(&[features], EPS, true, true, Device::Cpu)
}

impl EncoderBlock {
    fn new(options: VisionTransformerOptions) -> Result<EncoderBlock> {
        let VisionTransformerOptions { num_heads, hidden_dim, mlp_dim, dropout, attention_dropout, .. } = options;
        let attention = MultiheadAttentionOptions::default().dropout(attention_dropout).batch_first(true);
        Ok(EncoderBlock {
            ln_1: norm(hidden_dim)?,
            self_attention: MultiheadAttention::with_options(hidden_dim, num_heads, attention)?,
            dropout: Dropout::new(dropout)?,
            ln_2: norm(hidden_dim)?,
            mlp: MLPBlock::new(hidden_dim, mlp_dim, dropout)?,
        })
    }
}

#[located(site)]
impl Module for EncoderBlock {
    /// Maps `[N, L, features]` to the same shape.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.self_attention.forward(&self.ln_1.forward(x)?)?;
        let x = self.dropout.forward(&y)?.add(x)?;
        x.add(&self.mlp.forward(&self.ln_2.forward(&x)?)?)
    }
}

/// Position embeddings, the blocks, and a normalization: torchvision's `Encoder`.
#[derive(Debug, Module)]
#[module(save)]
pub struct Encoder {
    pos_embedding: Parameter,
    dropout: Dropout,
    layers: Sequential,
    ln: LayerNorm,
}

impl Encoder {
    fn new(positions: usize, options: VisionTransformerOptions) -> Result<Encoder> {
        let pos_embedding = Parameter::new(Tensor::randn([1, positions, options.hidden_dim], Device::Cpu)?.mul(0.02)?)?;
        let mut layers = Sequential::new();
        for i in 0..options.num_layers {
            layers = layers.add_named(format!("encoder_layer_{i}"), EncoderBlock::new(options)?)?;
        }
        let (dropout, ln) = (Dropout::new(options.dropout)?, norm(options.hidden_dim)?);
        Ok(Encoder { pos_embedding, dropout, layers, ln })
    }
}

#[located(site)]
impl Module for Encoder {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.dropout.forward(&x.add(&*self.pos_embedding)?)?;
        self.ln.forward(&self.layers.forward(&x)?)
    }
}

/// The vision transformer of Dosovitskiy et al. (2021), with torchvision's structure and parameter names
/// (<https://docs.pytorch.org/vision/stable/models/vision_transformer.html>), so that its checkpoints load. Images are
/// `[N, 3, size, size]`; they are cut into patches, each of which becomes a token.
///
/// Parameters are initialized as in torchvision; the last layer with zeros, so an untrained network rates all classes alike.
#[derive(Debug, Module)]
#[module(save)]
pub struct VisionTransformer {
    /// The token whose last features are classified, `[1, 1, features]`.
    pub class_token: Parameter,
    /// The convolution that makes tokens of patches.
    pub conv_proj: Conv2d,
    /// The blocks.
    pub encoder: Encoder,
    /// A linear layer, named `head`.
    pub heads: Sequential,
    image_size: usize,
}

#[located(site)]
impl VisionTransformer {
    /// Creates the network.
    ///
    /// # Errors
    /// If the image cannot be cut into patches, features cannot be divided among the heads, a number is 0, a probability is
    /// not one, or memory runs out.
    pub fn new(options: VisionTransformerOptions) -> Result<VisionTransformer> {
        const OP: &str = "VisionTransformer";
        let VisionTransformerOptions { image_size, patch_size, hidden_dim, num_classes, .. } = options;
        if patch_size == 0 || image_size == 0 || !image_size.is_multiple_of(patch_size) {
            let message = format!("images of {image_size} pixels cannot be cut into patches of {patch_size}");
            return Err(Error::argument(OP, message));
        }
        if [options.num_heads, hidden_dim, options.mlp_dim, num_classes].contains(&0) {
            return Err(Error::argument(OP, "heads, features and classes must not be 0"));
        }
        let conv_proj = Conv2d::with_options(3, hidden_dim, patch_size, Conv2dOptions::default().stride(patch_size))?;
        let fan_in = (3 * patch_size * patch_size) as f64;
        init::trunc_normal_(&conv_proj.weight, 0.0, (1.0 / fan_in).sqrt(), -2.0, 2.0)?;
        conv_proj.bias.as_deref().map_or(Ok(()), init::zeros_)?;
        let head = Linear::new(hidden_dim, num_classes)?;
        init::zeros_(&head.weight)?;
        head.bias.as_deref().map_or(Ok(()), init::zeros_)?;
        Ok(VisionTransformer {
            class_token: Parameter::new(Tensor::zeros([1, 1, hidden_dim], Device::Cpu)?)?,
            conv_proj,
            encoder: Encoder::new((image_size / patch_size).pow(2) + 1, options)?,
            heads: Sequential::new().add_named("head", head)?,
            image_size,
        })
    }
}

#[located(site)]
impl Module for VisionTransformer {
    /// Maps `[N, 3, size, size]` to logits `[N, classes]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (n, _, h, w) = x.dims4()?;
        if (h, w) != (self.image_size, self.image_size) {
            let size = self.image_size;
            return Err(Error::shape("VisionTransformer", format!("[N, 3, {size}, {size}]"), x.shape()));
        }
        let patches = self.conv_proj.forward(x)?.flatten(2, -1)?.transpose(1, 2)?;
        let token = self.class_token.expand([n, 1, self.class_token.size(2)?])?;
        // Under autocast the patches are in the low dtype, the token is not.
        let token = token.to_dtype(patches.dtype())?;
        let x = self.encoder.forward(&Tensor::cat(&[token, patches], 1)?)?;
        self.heads.forward(&x.select(1, 0)?)
    }
}

/// ViT-B/16, torchvision's `vit_b_16`.
///
/// # Errors
/// Those of [`VisionTransformer::new`].
pub fn vit_b_16(options: VisionTransformerOptions) -> Result<VisionTransformer> {
    VisionTransformer::new(options)
}

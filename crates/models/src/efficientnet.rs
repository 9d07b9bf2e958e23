//! EfficientNet, the image classifier of inverted residual blocks whose width, depth and resolution grow together.

use kiln_derive::located;
use kiln_nn::{
    AdaptiveAvgPool2d, Conv2d, Dropout, Linear, Module, Sequential, SiLU, Sigmoid,
    init::{self, FanMode, Nonlinearity},
};
use kiln_tensor::{Error, Result, Tensor};

use crate::{
    conv_norm_activation::{Conv2dNormActivation, ConvSizes, rounded},
    stochastic_depth::StochasticDepth,
};

/// A stage of EfficientNet-B0.
struct Stage {
    /// Channels inside a block per input channel.
    expansion: usize,
    kernel: usize,
    /// Of the first block.
    stride: usize,
    outputs: usize,
    blocks: usize,
}

const fn stage(expansion: usize, kernel: usize, stride: usize, outputs: usize, blocks: usize) -> Stage {
    Stage { expansion, kernel, stride, outputs, blocks }
}

const STAGES: [Stage; 7] = [
    stage(1, 3, 1, 16, 1),
    stage(6, 3, 2, 24, 2),
    stage(6, 5, 2, 40, 2),
    stage(6, 3, 2, 80, 3),
    stage(6, 5, 1, 112, 3),
    stage(6, 5, 2, 192, 4),
    stage(6, 3, 1, 320, 1),
];

/// Channels before the first stage, for a width of 1.
const STEM: f64 = 32.0;

/// Options of [`EfficientNet`]; by default B0's.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct EfficientNetOptions {
    num_classes: usize,
    width_mult: f64,
    depth_mult: f64,
    dropout: f64,
    stochastic_depth_prob: f64,
}

impl Default for EfficientNetOptions {
    fn default() -> Self {
        EfficientNetOptions {
            num_classes: 1000,
            width_mult: 1.0,
            depth_mult: 1.0,
            dropout: 0.2,
            stochastic_depth_prob: 0.2,
        }
    }
}

impl EfficientNetOptions {
    /// Sets the number of classes; by default ImageNet's 1000.
    pub fn num_classes(self, num_classes: usize) -> Self {
        EfficientNetOptions { num_classes, ..self }
    }

    /// Sets a factor for the numbers of channels; by default 1.
    pub fn width_mult(self, width_mult: f64) -> Self {
        EfficientNetOptions { width_mult, ..self }
    }

    /// Sets a factor for the numbers of blocks, which are rounded up; by default 1.
    pub fn depth_mult(self, depth_mult: f64) -> Self {
        EfficientNetOptions { depth_mult, ..self }
    }

    /// Sets the dropout probability before the classifier; by default 0.2.
    pub fn dropout(self, dropout: f64) -> Self {
        EfficientNetOptions { dropout, ..self }
    }

    /// Sets the probability with which the last block is left out while training; that of the others grows linearly from
    /// 0 to it. By default 0.2.
    pub fn stochastic_depth_prob(self, stochastic_depth_prob: f64) -> Self {
        EfficientNetOptions { stochastic_depth_prob, ..self }
    }
}

fn with_silu(sizes: ConvSizes) -> Result<Conv2dNormActivation> {
    Conv2dNormActivation::new(sizes, SiLU::new().inplace())
}

/// Multiplies each channel by a number in 0 to 1 that two 1×1 convolutions compute from the means of all channels: a
/// squeeze-and-excitation block (Hu et al., 2018), torchvision's `SqueezeExcitation`.
#[derive(Debug, Module)]
#[module(save)]
pub struct SqueezeExcitation {
    avgpool: AdaptiveAvgPool2d,
    fc1: Conv2d,
    fc2: Conv2d,
    activation: SiLU,
    scale_activation: Sigmoid,
}

impl SqueezeExcitation {
    fn new(channels: usize, squeezed: usize) -> Result<SqueezeExcitation> {
        let convolution = |inputs, outputs| -> Result<Conv2d> {
            let conv = Conv2d::new(inputs, outputs, 1)?;
            init::kaiming_normal_(&conv.weight, FanMode::FanOut, Nonlinearity::ReLU)?;
            conv.bias.as_deref().map_or(Ok(()), init::zeros_)?;
            Ok(conv)
        };
        Ok(SqueezeExcitation {
            avgpool: AdaptiveAvgPool2d::new(1),
            fc1: convolution(channels, squeezed)?,
            fc2: convolution(squeezed, channels)?,
            activation: SiLU::new().inplace(),
            scale_activation: Sigmoid::new(),
        })
    }
}

#[located(site)]
impl Module for SqueezeExcitation {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let scale = self.activation.forward(&self.fc1.forward(&self.avgpool.forward(x)?)?)?;
        x.mul(&self.scale_activation.forward(&self.fc2.forward(&scale)?)?)
    }
}

/// An inverted residual block with squeeze-and-excitation: a 1×1 convolution that expands the channels, a depthwise
/// convolution, [`SqueezeExcitation`], and a 1×1 convolution that projects to fewer channels without an activation. If the
/// shape is unchanged, the input is added.
#[derive(Debug, Module)]
#[module(save)]
pub struct MBConv {
    block: Sequential,
    stochastic_depth: StochasticDepth,
    use_res_connect: bool,
}

impl MBConv {
    fn new(inputs: usize, outputs: usize, stride: usize, stage: &Stage, drop: f64) -> Result<MBConv> {
        let hidden = rounded((inputs * stage.expansion) as f64);
        let mut block = Sequential::new();
        if hidden != inputs {
            block.push(with_silu(ConvSizes::pointwise(inputs, hidden))?);
        }
        block.push(with_silu(ConvSizes::depthwise(hidden, stage.kernel, stride))?);
        block.push(SqueezeExcitation::new(hidden, (inputs / 4).max(1))?);
        block.push(Conv2dNormActivation::linear(ConvSizes::pointwise(hidden, outputs))?);
        let stochastic_depth = StochasticDepth::rows(drop)?;
        Ok(MBConv { block, stochastic_depth, use_res_connect: stride == 1 && inputs == outputs })
    }
}

#[located(site)]
impl Module for MBConv {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.block.forward(x)?;
        if self.use_res_connect { self.stochastic_depth.forward(&y)?.add(x) } else { Ok(y) }
    }
}

/// The network of Tan & Le (2019), with torchvision's structure and parameter names
/// (<https://docs.pytorch.org/vision/stable/models/efficientnet.html>), so that its checkpoints load. Images are
/// `[N, 3, H, W]`; those of ImageNet are 224×224 for B0.
///
/// Parameters are initialized as in torchvision: convolutions by [`init::kaiming_normal_`] with the fan-out, the linear layer
/// uniformly in `±1/sqrt(classes)`.
#[derive(Debug, Module)]
#[module(save)]
pub struct EfficientNet {
    /// A convolution, seven stages of blocks, a convolution.
    pub features: Sequential,
    /// The mean of all pixels.
    pub avgpool: AdaptiveAvgPool2d,
    /// Dropout and a linear layer.
    pub classifier: Sequential,
}

#[located(site)]
impl EfficientNet {
    /// Creates the network.
    ///
    /// # Errors
    /// If a factor is not in `(0, 64]`, a probability is not one, there are no classes, or memory runs out.
    pub fn new(options: EfficientNetOptions) -> Result<EfficientNet> {
        let EfficientNetOptions { num_classes, width_mult, depth_mult, dropout, stochastic_depth_prob } = options;
        for factor in [width_mult, depth_mult] {
            if !(factor > 0.0 && factor <= 64.0) {
                return Err(Error::argument("EfficientNet", format!("the factor {factor} is not in (0, 64]")));
            }
        }
        if num_classes == 0 {
            return Err(Error::argument("EfficientNet", "there are no classes"));
        }
        let blocks = |stage: &Stage| (stage.blocks as f64 * depth_mult).ceil() as usize;
        let all_blocks: usize = STAGES.iter().map(blocks).sum();
        let mut channels = rounded(STEM * width_mult);
        let mut features = Sequential::new().add(with_silu(ConvSizes::stem(channels))?);
        let mut built = 0;
        for stage in &STAGES {
            let outputs = rounded(stage.outputs as f64 * width_mult);
            let mut layers = Sequential::new();
            for i in 0..blocks(stage) {
                let drop = stochastic_depth_prob * built as f64 / all_blocks as f64;
                layers.push(MBConv::new(channels, outputs, if i == 0 { stage.stride } else { 1 }, stage, drop)?);
                (channels, built) = (outputs, built + 1);
            }
            features.push(layers);
        }
        features.push(with_silu(ConvSizes::pointwise(channels, 4 * channels))?);
        let linear = Linear::new(4 * channels, num_classes)?;
        let range = 1.0 / (num_classes as f64).sqrt();
        init::uniform_(&linear.weight, -range, range)?;
        linear.bias.as_deref().map_or(Ok(()), init::zeros_)?;
        let classifier = Sequential::new().add(Dropout::new(dropout)?.inplace()).add(linear);
        Ok(EfficientNet { features, avgpool: AdaptiveAvgPool2d::new(1), classifier })
    }
}

#[located(site)]
impl Module for EfficientNet {
    /// Maps `[N, 3, H, W]` to logits `[N, classes]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.avgpool.forward(&self.features.forward(x)?)?;
        self.classifier.forward(&x.flatten(1, -1)?)
    }
}

/// EfficientNet-B0, torchvision's `efficientnet_b0`.
///
/// # Errors
/// Those of [`EfficientNet::new`].
pub fn efficientnet_b0(options: EfficientNetOptions) -> Result<EfficientNet> {
    EfficientNet::new(options)
}

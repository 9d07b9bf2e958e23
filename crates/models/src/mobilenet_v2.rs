//! MobileNetV2, the image classifier with inverted residual blocks for small devices.

use kiln_derive::located;
use kiln_nn::{BatchNorm2d, Conv2dOptions, Dropout, Linear, Module, ReLU6, Sequential, init};
use kiln_tensor::{Error, Result, Tensor};

use crate::conv_norm_activation::{Conv2dNormActivation, ConvSizes, convolution, rounded};

/// The blocks of each stage: expansion, channels, number of blocks, stride of the first block.
const STAGES: [(usize, usize, usize, usize); 7] =
    [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)];

/// Options of [`MobileNetV2`].
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct MobileNetV2Options {
    num_classes: usize,
    width_mult: f64,
    dropout: f64,
}

impl Default for MobileNetV2Options {
    fn default() -> Self {
        MobileNetV2Options { num_classes: 1000, width_mult: 1.0, dropout: 0.2 }
    }
}

impl MobileNetV2Options {
    /// Sets the number of classes; by default ImageNet's 1000.
    pub fn num_classes(self, num_classes: usize) -> Self {
        MobileNetV2Options { num_classes, ..self }
    }

    /// Sets a factor for the numbers of channels; by default 1.
    pub fn width_mult(self, width_mult: f64) -> Self {
        MobileNetV2Options { width_mult, ..self }
    }

    /// Sets the dropout probability before the classifier; by default 0.2.
    pub fn dropout(self, dropout: f64) -> Self {
        MobileNetV2Options { dropout, ..self }
    }
}

fn with_relu6(sizes: ConvSizes) -> Result<Conv2dNormActivation> {
    Conv2dNormActivation::new(sizes, ReLU6::new().inplace())
}

/// A 1×1 convolution that expands the channels, a depthwise 3×3 convolution, and a 1×1 convolution that projects to
/// fewer channels without an activation. If the shape is unchanged, the input is added.
#[derive(Debug, Module)]
#[module(save)]
pub struct InvertedResidual {
    conv: Sequential,
    use_res_connect: bool,
}

impl InvertedResidual {
    fn new(inputs: usize, outputs: usize, stride: usize, expansion: usize) -> Result<InvertedResidual> {
        let hidden = inputs * expansion;
        let mut conv = Sequential::new();
        if expansion != 1 {
            conv.push(with_relu6(ConvSizes::pointwise(inputs, hidden))?);
        }
        conv.push(with_relu6(ConvSizes::depthwise(hidden, 3, stride))?);
        conv.push(convolution(hidden, outputs, 1, Conv2dOptions::default())?);
        conv.push(BatchNorm2d::new(outputs)?);
        Ok(InvertedResidual { conv, use_res_connect: stride == 1 && inputs == outputs })
    }
}

#[located(site)]
impl Module for InvertedResidual {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.conv.forward(x)?;
        if self.use_res_connect { x.add(&y) } else { Ok(y) }
    }
}

/// The network of inverted residuals of Sandler, Howard, Zhu, Zhmoginov & Chen (2018), with torchvision's structure and parameter
/// names (<https://docs.pytorch.org/vision/stable/models/mobilenetv2.html>), so that its checkpoints load. Images are
/// `[N, 3, H, W]`; ImageNet's are 224×224.
#[derive(Debug, Module)]
#[module(save)]
pub struct MobileNetV2 {
    /// A convolution, the inverted residuals, a convolution.
    pub features: Sequential,
    /// Dropout and a linear layer.
    pub classifier: Sequential,
}

#[located(site)]
impl MobileNetV2 {
    /// Creates the network.
    ///
    /// # Errors
    /// If the factor is not in `(0, 64]`, the dropout is not a probability, or memory runs out.
    pub fn new(options: MobileNetV2Options) -> Result<MobileNetV2> {
        let MobileNetV2Options { num_classes, width_mult, dropout } = options;
        if !(width_mult > 0.0 && width_mult <= 64.0) {
            return Err(Error::argument("MobileNetV2", format!("the factor {width_mult} is not in (0, 64]")));
        }
        let mut channels = rounded(32.0 * width_mult);
        let mut features = Sequential::new().add(with_relu6(ConvSizes::stem(channels))?);
        for (expansion, width, blocks, stride) in STAGES {
            let outputs = rounded(width as f64 * width_mult);
            for i in 0..blocks {
                features.push(InvertedResidual::new(channels, outputs, if i == 0 { stride } else { 1 }, expansion)?);
                channels = outputs;
            }
        }
        let last = rounded(1280.0 * width_mult.max(1.0));
        features.push(with_relu6(ConvSizes::pointwise(channels, last))?);
        let linear = Linear::new(last, num_classes)?;
        init::normal_(&linear.weight, 0.0, 0.01)?;
        if let Some(bias) = &linear.bias {
            init::zeros_(bias)?;
        }
        Ok(MobileNetV2 { features, classifier: Sequential::new().add(Dropout::new(dropout)?).add(linear) })
    }
}

#[located(site)]
impl Module for MobileNetV2 {
    /// Maps `[N, 3, H, W]` to logits `[N, classes]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.features.forward(x)?.adaptive_avg_pool2d([Some(1), Some(1)])?;
        self.classifier.forward(&x.flatten(1, -1)?)
    }
}

//! A convolution, a batch normalization and an activation: torchvision's `Conv2dNormActivation`.

use kiln_derive::located;
use kiln_nn::{
    BatchNorm2d, Conv2d, Conv2dOptions, Module,
    init::{self, FanMode, Nonlinearity},
};
use kiln_tensor::{Result, Tensor};

/// A convolution without bias that preserves the size except for its stride, a batch normalization and, in most places, an
/// activation.
#[derive(Debug, Module)]
#[module(save)]
pub struct Conv2dNormActivation {
    #[module(name = "0")]
    conv: Conv2d,
    #[module(name = "1")]
    norm: BatchNorm2d,
    #[module(name = "2")]
    activation: Option<Box<dyn Module>>,
}

/// Its convolution: `kernel` × `kernel` pixels.
#[derive(Clone, Copy)]
pub(crate) struct ConvSizes {
    pub inputs: usize,
    pub outputs: usize,
    pub kernel: usize,
    pub stride: usize,
    pub groups: usize,
}

impl ConvSizes {
    /// A 1×1 convolution.
    pub fn pointwise(inputs: usize, outputs: usize) -> ConvSizes {
        ConvSizes { inputs, outputs, kernel: 1, stride: 1, groups: 1 }
    }

    /// A convolution of each channel by itself.
    pub fn depthwise(channels: usize, kernel: usize, stride: usize) -> ConvSizes {
        ConvSizes { inputs: channels, outputs: channels, kernel, stride, groups: channels }
    }

    /// The 3×3 convolution of images that a network begins with, which halves the resolution.
    pub fn stem(outputs: usize) -> ConvSizes {
        ConvSizes { inputs: 3, outputs, kernel: 3, stride: 2, groups: 1 }
    }
}

impl Conv2dNormActivation {
    pub(crate) fn new(sizes: ConvSizes, activation: impl Module + 'static) -> Result<Conv2dNormActivation> {
        Ok(Conv2dNormActivation { activation: Some(Box::new(activation)), ..Conv2dNormActivation::linear(sizes)? })
    }

    /// Without an activation.
    pub(crate) fn linear(sizes: ConvSizes) -> Result<Conv2dNormActivation> {
        let ConvSizes { inputs, outputs, kernel, stride, groups } = sizes;
        let options = Conv2dOptions::default().stride(stride).padding((kernel - 1) / 2).groups(groups);
        Ok(Conv2dNormActivation {
            conv: convolution(inputs, outputs, kernel, options)?,
            norm: BatchNorm2d::new(outputs)?,
            activation: None,
        })
    }
}

/// The nearest multiple of 8, at least 8 and at least nine tenths of `channels`: a number of channels times a factor.
pub(crate) fn rounded(channels: f64) -> usize {
    let nearest = (((channels + 4.0) / 8.0).floor() * 8.0).max(8.0);
    (if nearest < 0.9 * channels { nearest + 8.0 } else { nearest }) as usize
}

/// A convolution without bias, initialized as in torchvision's networks.
pub(crate) fn convolution(inputs: usize, outputs: usize, kernel: usize, options: Conv2dOptions) -> Result<Conv2d> {
    let conv = Conv2d::with_options(inputs, outputs, kernel, options.bias(false))?;
    init::kaiming_normal_(&conv.weight, FanMode::FanOut, Nonlinearity::ReLU)?;
    Ok(conv)
}

#[located(site)]
impl Module for Conv2dNormActivation {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.conv.forward_norm(x, &self.norm, None, None)?;
        match &self.activation {
            Some(activation) => activation.forward(&y),
            None => Ok(y),
        }
    }
}

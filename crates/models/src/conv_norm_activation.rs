//! A convolution, a batch normalization and an activation: torchvision's `Conv2dNormActivation`.

use kiln_derive::located;
use kiln_nn::{
    BatchNorm2d, Conv2d, Conv2dOptions, Module, ReLU6,
    init::{self, FanMode, Nonlinearity},
};
use kiln_tensor::{Result, Tensor};

/// A convolution without bias that preserves the size except for its stride, a batch normalization, and [`ReLU6`].
#[derive(Debug, Module)]
#[module(save)]
pub struct Conv2dNormActivation {
    #[module(name = "0")]
    conv: Conv2d,
    #[module(name = "1")]
    norm: BatchNorm2d,
    #[module(name = "2")]
    activation: ReLU6,
}

impl Conv2dNormActivation {
    pub(crate) fn new(
        inputs: usize,
        outputs: usize,
        kernel: usize,
        stride: usize,
        groups: usize,
    ) -> Result<Conv2dNormActivation> {
        let options = Conv2dOptions::default().stride(stride).padding((kernel - 1) / 2).groups(groups);
        Ok(Conv2dNormActivation {
            conv: convolution(inputs, outputs, kernel, options)?,
            norm: BatchNorm2d::new(outputs)?,
            activation: ReLU6::new().inplace(),
        })
    }
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
        self.activation.forward(&self.conv.forward_norm(x, &self.norm, None, None)?)
    }
}

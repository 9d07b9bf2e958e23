//! `Linear`: the fully connected layer.

use kiln_derive::located;
use kiln_tensor::{Result, Tensor, TensorOptions};

use crate::{
    init::{self, FanMode, Nonlinearity},
    module::Module,
    parameter::{Parameter, Training},
};

/// Options of [`Linear`].
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct LinearOptions {
    bias: bool,
    tensor: TensorOptions,
}

impl Default for LinearOptions {
    fn default() -> Self {
        LinearOptions { bias: true, tensor: TensorOptions::new() }
    }
}

impl LinearOptions {
    /// Whether to add a bias.
    pub fn bias(self, bias: bool) -> LinearOptions {
        LinearOptions { bias, ..self }
    }

    /// Sets the dtype and device.
    pub fn tensor(self, options: impl Into<TensorOptions>) -> LinearOptions {
        LinearOptions { tensor: options.into(), ..self }
    }
}

/// `y = x · weightᵀ + bias` over the last dimension: `[…, in_features]` to `[…, out_features]`.
///
/// `weight` is `[out_features, in_features]` and `bias` `[out_features]`, both drawn uniformly from `±1/√in_features`
/// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.Linear.html>).
#[derive(Debug, Module)]
#[module(save, extra_repr = "describe")]
pub struct Linear {
    /// `[out_features, in_features]`
    pub weight: Parameter,
    /// `[out_features]`
    pub bias: Option<Parameter>,
    training: Training,
}

#[located(site)]
impl Linear {
    /// A layer with a bias, in `f32` on the CPU; [`to`](crate::ModuleTree::to) moves it.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn new(in_features: usize, out_features: usize) -> Result<Linear> {
        Linear::with_options(in_features, out_features, LinearOptions::default())
    }

    /// A layer with options.
    ///
    /// # Errors
    /// If the dtype is not floating-point, the device is not available, or memory runs out.
    pub fn with_options(in_features: usize, out_features: usize, options: LinearOptions) -> Result<Linear> {
        let weight = Tensor::empty([out_features, in_features], options.tensor)?;
        // As in PyTorch: `a = √5` makes the bound 1/√fan_in.
        init::kaiming_uniform_(&weight, FanMode::FanIn, Nonlinearity::LeakyReLU(5f64.sqrt()))?;
        let bias = if options.bias {
            let bound = if in_features > 0 { 1.0 / (in_features as f64).sqrt() } else { 0.0 };
            let bias = Tensor::empty(out_features, options.tensor)?;
            init::uniform_(&bias, -bound, bound)?;
            Some(Parameter::new(bias)?)
        } else {
            None
        };
        Ok(Linear { weight: Parameter::new(weight)?, bias, training: Training::default() })
    }

    /// The extent of the last dimension of the input.
    #[must_use]
    pub fn in_features(&self) -> usize {
        self.weight.dims().get(1).copied().unwrap_or(0)
    }

    /// The extent of the last dimension of the output.
    #[must_use]
    pub fn out_features(&self) -> usize {
        self.weight.dims().first().copied().unwrap_or(0)
    }

    fn describe(&self) -> String {
        let bias = if self.bias.is_some() { "True" } else { "False" };
        format!("in_features={}, out_features={}, bias={bias}", self.in_features(), self.out_features())
    }
}

#[located(module)]
impl Module for Linear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.linear(&self.weight, self.bias.as_deref())
    }

    fn forward_relu(&self, x: &Tensor) -> Result<Tensor> {
        x.linear_relu(&self.weight, self.bias.as_deref()).map_err(|error| error.of_op("linear"))
    }
}

//! `Bilinear`: a bilinear map of two vectors.

use kiln_derive::located;
use kiln_tensor::{Result, Tensor, TensorOptions};

use super::sizes::python_bool;
use crate::{
    init,
    module::{Hooks, Module},
    parameter::Parameter,
};

/// The bilinear map `x1ᵀ A x2 + b` of vectors along the last dimensions
/// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.Bilinear.html>).
///
/// `weight` is `[out, in1, in2]` and `bias` `[out]`, both drawn uniformly from `±1/√in1`.
#[derive(Debug, Module)]
#[module(save, extra_repr = "describe")]
pub struct Bilinear {
    /// `[out, in1, in2]`
    pub weight: Parameter,
    /// `[out]`
    pub bias: Option<Parameter>,
    hooks: Hooks,
}

#[located(site)]
impl Bilinear {
    /// A layer with a bias.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn new(in1_features: usize, in2_features: usize, out_features: usize) -> Result<Bilinear> {
        Bilinear::with_options(in1_features, in2_features, out_features, true, TensorOptions::new())
    }

    /// A layer with or without a bias.
    ///
    /// # Errors
    /// If the dtype is not floating-point, the device is not available, or memory runs out.
    pub fn with_options(
        in1_features: usize,
        in2_features: usize,
        out_features: usize,
        bias: bool,
        tensor: impl Into<TensorOptions>,
    ) -> Result<Bilinear> {
        let tensor = tensor.into();
        let bound = if in1_features > 0 { 1.0 / (in1_features as f64).sqrt() } else { 0.0 };
        let drawn = |values: Tensor| {
            init::uniform_(&values, -bound, bound)?;
            Parameter::new(values)
        };
        let weight = drawn(Tensor::empty([out_features, in1_features, in2_features], tensor)?)?;
        let bias = if bias { Some(drawn(Tensor::empty(out_features, tensor)?)?) } else { None };
        Ok(Bilinear { weight, bias, hooks: Hooks::default() })
    }

    /// The result `[…, out]` for vectors `[…, in1]` and `[…, in2]`.
    ///
    /// # Errors
    /// Those of [`Tensor::bilinear`].
    pub fn forward(&self, input1: &Tensor, input2: &Tensor) -> Result<Tensor> {
        self.hooks.run(self, input1, |input1| input1.bilinear(input2, &self.weight, self.bias.as_deref()))
    }

    fn describe(&self) -> String {
        let extent = |dim: usize| self.weight.dims().get(dim).copied().unwrap_or(0);
        let (in1, in2, out) = (extent(1), extent(2), extent(0));
        let bias = python_bool(self.bias.is_some());
        format!("in1_features={in1}, in2_features={in2}, out_features={out}, bias={bias}")
    }
}

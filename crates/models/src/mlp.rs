//! The multi-layer perceptron: linear layers with ReLU between them.

use kiln_derive::located;
use kiln_nn::{Flatten, Linear, Module, ReLU, Sequential};
use kiln_tensor::{Error, Result, Tensor};

/// Linear layers with ReLU between them, applied to samples of any shape, which are flattened: the network of PyTorch's
/// quickstart tutorial (<https://docs.pytorch.org/tutorials/beginner/basics/quickstart_tutorial.html>), with its
/// parameter names.
///
/// ```
/// use kiln_models::Mlp;
/// use kiln_nn::{Module, ModuleTree};
/// # fn main() -> kiln_tensor::Result<()> {
/// let model = Mlp::new(&[784, 512, 512, 10])?;
/// assert_eq!(model.num_parameters(), 669_706);
/// assert_eq!(model.named_parameters()[0].0, "linear_relu_stack.0.weight");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Module)]
#[module(save)]
pub struct Mlp {
    flatten: Flatten,
    linear_relu_stack: Sequential,
}

#[located(site)]
impl Mlp {
    /// A network with these numbers of features: of the input, of each hidden layer, of the output.
    ///
    /// # Errors
    /// If there are fewer than two numbers, or memory runs out.
    pub fn new(features: &[usize]) -> Result<Mlp> {
        if features.len() < 2 {
            return Err(Error::argument("Mlp", format!("{features:?} must have at least an input and an output")));
        }
        let mut linear_relu_stack = Sequential::new();
        for (i, pair) in features.windows(2).enumerate() {
            if i > 0 {
                linear_relu_stack.push(ReLU::new());
            }
            linear_relu_stack.push(Linear::new(pair[0], pair[1])?);
        }
        Ok(Mlp { flatten: Flatten::new(), linear_relu_stack })
    }
}

#[located(site)]
impl Module for Mlp {
    /// Maps `[N, …]` to logits `[N, classes]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.linear_relu_stack.forward(&self.flatten.forward(x)?)
    }
}

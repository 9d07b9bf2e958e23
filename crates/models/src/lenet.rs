//! LeNet, the convolutional network for handwritten digits.

use kiln_derive::located;
use kiln_nn::{Conv2d, Linear, MaxPool2d, Module};
use kiln_tensor::{Result, Tensor};

/// The convolutional network for handwritten digits (LeCun, Bottou, Bengio & Haffner, 1998) in the form of PyTorch's
/// tutorial (<https://docs.pytorch.org/tutorials/beginner/blitz/neural_networks_tutorial.html>), with its parameter
/// names: two 5×5 convolutions with ReLU and max-pooling, then three linear layers. Images are `[N, 1, 32, 32]`.
///
/// ```
/// use kiln_models::LeNet;
/// use kiln_nn::{Module, ModuleTree};
/// use kiln_tensor::{Device, Tensor};
/// # fn main() -> kiln_tensor::Result<()> {
/// let model = LeNet::new(10)?;
/// assert_eq!(model.named_parameters().len(), 10);
/// assert_eq!(model.forward(&Tensor::randn([1, 1, 32, 32], Device::Cpu)?)?.dims(), [1, 10]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Module)]
#[module(save)]
pub struct LeNet {
    conv1: Conv2d,
    conv2: Conv2d,
    fc1: Linear,
    fc2: Linear,
    fc3: Linear,
}

#[located(site)]
impl LeNet {
    /// A network with this many classes.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn new(num_classes: usize) -> Result<LeNet> {
        Ok(LeNet {
            conv1: Conv2d::new(1, 6, 5)?,
            conv2: Conv2d::new(6, 16, 5)?,
            fc1: Linear::new(16 * 5 * 5, 120)?,
            fc2: Linear::new(120, 84)?,
            fc3: Linear::new(84, num_classes)?,
        })
    }
}

#[located(site)]
impl Module for LeNet {
    /// Maps `[N, 1, 32, 32]` to logits `[N, classes]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let pool = MaxPool2d::new(2);
        let x = pool.forward(&self.conv1.forward_relu(x)?)?;
        let x = pool.forward(&self.conv2.forward_relu(&x)?)?.flatten(1, -1)?;
        let x = self.fc2.forward_relu(&self.fc1.forward_relu(&x)?)?;
        self.fc3.forward(&x)
    }
}

//! AlexNet, the image classifier with five convolutions.

use kiln_derive::located;
use kiln_nn::{AdaptiveAvgPool2d, Conv2d, Conv2dOptions, Dropout, Linear, MaxPool2d, Module, ReLU, Sequential};
use kiln_tensor::{Result, Tensor};

/// AlexNet in the form of "One weird trick for parallelizing convolutional neural networks" (Krizhevsky, 2014), with
/// torchvision's structure and parameter names (<https://docs.pytorch.org/vision/stable/models/alexnet.html>), so that its
/// checkpoints load. Images are `[N, 3, H, W]`, of at least 63×63 pixels; ImageNet's are 224×224.
#[derive(Debug, Module)]
#[module(save)]
pub struct AlexNet {
    /// Convolutions, ReLUs and max-poolings.
    pub features: Sequential,
    /// Pools to 6×6 pixels, whatever the size of the images.
    pub avgpool: AdaptiveAvgPool2d,
    /// Linear layers with dropout.
    pub classifier: Sequential,
}

#[located(site)]
impl AlexNet {
    /// A network with this many classes. `dropout` is the dropout probability of its classifier; torchvision's is 0.5.
    ///
    /// # Errors
    /// If the dropout is not a probability, or memory runs out.
    pub fn new(num_classes: usize, dropout: f64) -> Result<AlexNet> {
        let conv = |inputs, outputs, kernel, stride, padding| {
            Conv2d::with_options(inputs, outputs, kernel, Conv2dOptions::default().stride(stride).padding(padding))
        };
        let pool = || MaxPool2d::new(3).stride(2);
        let features = Sequential::new()
            .add(conv(3, 64, 11, 4, 2)?)
            .add(ReLU::inplace())
            .add(pool())
            .add(conv(64, 192, 5, 1, 2)?)
            .add(ReLU::inplace())
            .add(pool())
            .add(conv(192, 384, 3, 1, 1)?)
            .add(ReLU::inplace())
            .add(conv(384, 256, 3, 1, 1)?)
            .add(ReLU::inplace())
            .add(conv(256, 256, 3, 1, 1)?)
            .add(ReLU::inplace())
            .add(pool());
        let classifier = Sequential::new()
            .add(Dropout::new(dropout)?)
            .add(Linear::new(256 * 6 * 6, 4096)?)
            .add(ReLU::inplace())
            .add(Dropout::new(dropout)?)
            .add(Linear::new(4096, 4096)?)
            .add(ReLU::inplace())
            .add(Linear::new(4096, num_classes)?);
        Ok(AlexNet { features, avgpool: AdaptiveAvgPool2d::new((6, 6)), classifier })
    }
}

#[located(site)]
impl Module for AlexNet {
    /// Maps `[N, 3, H, W]` to logits `[N, classes]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.avgpool.forward(&self.features.forward(x)?)?;
        self.classifier.forward(&x.flatten(1, -1)?)
    }
}

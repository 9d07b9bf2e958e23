//! VGG11 to VGG19, image classifiers of 3×3 convolutions, with and without batch normalization.

use kiln_derive::located;
use kiln_nn::{
    AdaptiveAvgPool2d, BatchNorm2d, Conv2d, Conv2dOptions, Dropout, Linear, MaxPool2d, Module, ReLU, Sequential,
    init::{self, FanMode, Nonlinearity},
};
use kiln_tensor::{Error, Result, Tensor};

/// The published depths: the number of layers with weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VggDepth {
    /// 8 convolutions.
    Vgg11,
    /// 10 convolutions.
    Vgg13,
    /// 13 convolutions.
    Vgg16,
    /// 16 convolutions.
    Vgg19,
}

impl VggDepth {
    /// The number of convolutions in each of the five blocks; each block ends with a max-pooling.
    fn blocks(self) -> [usize; 5] {
        match self {
            VggDepth::Vgg11 => [1, 1, 2, 2, 2],
            VggDepth::Vgg13 => [2, 2, 2, 2, 2],
            VggDepth::Vgg16 => [2, 2, 3, 3, 3],
            VggDepth::Vgg19 => [2, 2, 4, 4, 4],
        }
    }
}

/// Options of [`Vgg`], besides its depth.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct VggOptions {
    num_classes: usize,
    batch_norm: bool,
    dropout: f64,
    width: f64,
    in_channels: usize,
}

impl Default for VggOptions {
    fn default() -> Self {
        VggOptions { num_classes: 1000, batch_norm: false, dropout: 0.5, width: 1.0, in_channels: 3 }
    }
}

impl VggOptions {
    /// Sets the number of classes; by default ImageNet's 1000.
    pub fn num_classes(self, num_classes: usize) -> Self {
        VggOptions { num_classes, ..self }
    }

    /// Sets whether a batch normalization follows each convolution; by default not.
    pub fn batch_norm(self, batch_norm: bool) -> Self {
        VggOptions { batch_norm, ..self }
    }

    /// Sets the dropout probability in the classifier; by default 0.5.
    pub fn dropout(self, dropout: f64) -> Self {
        VggOptions { dropout, ..self }
    }

    /// Sets a factor for the numbers of channels and hidden features; by default 1.
    pub fn width(self, width: f64) -> Self {
        VggOptions { width, ..self }
    }

    /// Sets the number of channels of the images; by default 3.
    pub fn in_channels(self, in_channels: usize) -> Self {
        VggOptions { in_channels, ..self }
    }
}

/// The very deep convolutional networks of Simonyan & Zisserman (2014), with torchvision's structure and parameter names
/// (<https://docs.pytorch.org/vision/stable/models/vgg.html>), so that its checkpoints load. Images are `[N, 3, H, W]`, of
/// at least 32×32 pixels; ImageNet's are 224×224.
///
/// Parameters are initialized as in torchvision: convolutions by [`init::kaiming_normal_`] with the fan-out, linear
/// layers from a normal distribution with standard deviation 0.01, biases 0.
///
/// # Fine-tuning
/// ```no_run
/// use kiln_models::{VggOptions, vgg16};
/// use kiln_nn::{Linear, ModuleTree, optim::SGD};
/// # fn main() -> kiln_tensor::Result<()> {
/// let mut model = vgg16(VggOptions::default())?;
/// model.features.requires_grad_(false)?; // records no tape and keeps no activations
/// model.classifier.replace(6, Linear::new(4096, 10)?)?;
/// let optimizer = SGD::new(model.classifier.named_parameters(), 1e-3)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Module)]
#[module(save, name = "VGG")]
pub struct Vgg {
    /// Convolutions, ReLUs and max-poolings.
    pub features: Sequential,
    /// Pools to 7×7 pixels, whatever the size of the images.
    pub avgpool: AdaptiveAvgPool2d,
    /// Linear layers with dropout.
    pub classifier: Sequential,
}

#[located(site)]
impl Vgg {
    /// A network of this depth.
    ///
    /// # Errors
    /// If the width leaves no channels, the dropout is not a probability, or memory runs out.
    pub fn new(depth: VggDepth, options: VggOptions) -> Result<Vgg> {
        let scaled = |n: usize| ((n as f64 * options.width).round() as usize).max(1);
        if !(options.width > 0.0 && options.width <= 64.0) {
            return Err(Error::argument("Vgg", format!("the width {} is not in (0, 64]", options.width)));
        }
        let mut features = Sequential::new();
        let mut channels = options.in_channels;
        for (convolutions, width) in depth.blocks().into_iter().zip([64, 128, 256, 512, 512]) {
            for _ in 0..convolutions {
                let conv = Conv2d::with_options(channels, scaled(width), 3, Conv2dOptions::default().padding(1))?;
                init::kaiming_normal_(&conv.weight, FanMode::FanOut, Nonlinearity::ReLU)?;
                if let Some(bias) = &conv.bias {
                    init::zeros_(bias)?;
                }
                features.push(conv);
                if options.batch_norm {
                    features.push(BatchNorm2d::new(scaled(width))?);
                }
                features.push(ReLU::inplace());
                channels = scaled(width);
            }
            features.push(MaxPool2d::new(2));
        }
        let hidden = scaled(4096);
        let linear = |inputs: usize, outputs: usize| {
            let linear = Linear::new(inputs, outputs)?;
            init::normal_(&linear.weight, 0.0, 0.01)?;
            if let Some(bias) = &linear.bias {
                init::zeros_(bias)?;
            }
            Ok::<_, Error>(linear)
        };
        let classifier = Sequential::new()
            .add(linear(channels * 7 * 7, hidden)?)
            .add(ReLU::inplace())
            .add(Dropout::new(options.dropout)?)
            .add(linear(hidden, hidden)?)
            .add(ReLU::inplace())
            .add(Dropout::new(options.dropout)?)
            .add(linear(hidden, options.num_classes)?);
        Ok(Vgg { features, avgpool: AdaptiveAvgPool2d::new((7, 7)), classifier })
    }
}

#[located(site)]
impl Module for Vgg {
    /// Maps `[N, 3, H, W]` to logits `[N, classes]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.avgpool.forward(&self.features.forward(x)?)?;
        self.classifier.forward(&x.flatten(1, -1)?)
    }
}

macro_rules! depths {
    ($($name:ident $with_norm:ident $depth:ident $text:literal;)*) => {$(
        #[doc = concat!("VGG with ", $text, " weight layers, torchvision's `", stringify!($name), "`.")]
        ///
        /// # Errors
        /// Those of [`Vgg::new`].
        pub fn $name(options: VggOptions) -> Result<Vgg> {
            Vgg::new(VggDepth::$depth, options)
        }

        #[doc = concat!(
            "VGG with ", $text, " weight layers and batch normalization, torchvision's `", stringify!($with_norm), "`."
        )]
        ///
        /// # Errors
        /// Those of [`Vgg::new`].
        pub fn $with_norm(options: VggOptions) -> Result<Vgg> {
            Vgg::new(VggDepth::$depth, options.batch_norm(true))
        }
    )*};
}
depths! {
    vgg11 vgg11_bn Vgg11 "11";
    vgg13 vgg13_bn Vgg13 "13";
    vgg16 vgg16_bn Vgg16 "16";
    vgg19 vgg19_bn Vgg19 "19";
}

//! Ready-made models.

#![forbid(unsafe_code)]

mod alexnet;
mod conv_norm_activation;
mod efficientnet;
mod imagenet;
mod lenet;
mod mlp;
mod mobilenet_v2;
mod resnet;
mod stochastic_depth;
mod vgg;
mod vit;

use kiln_nn::saved::Registry;

pub use alexnet::AlexNet;
pub use conv_norm_activation::Conv2dNormActivation;
pub use efficientnet::{EfficientNet, EfficientNetOptions, MBConv, SqueezeExcitation, efficientnet_b0};
pub use imagenet::IMAGENET_CLASSES;
pub use lenet::LeNet;
pub use mlp::Mlp;
pub use mobilenet_v2::{InvertedResidual, MobileNetV2, MobileNetV2Options};
pub use resnet::{
    BasicBlock, Bottleneck, ResNet, ResNetBlock, ResNetOptions, resnet18, resnet34, resnet50, resnet101, resnet152,
    resnext50_32x4d, resnext101_32x8d, resnext101_64x4d, wide_resnet50_2, wide_resnet101_2,
};
pub use stochastic_depth::StochasticDepth;
pub use vgg::{Vgg, VggDepth, VggOptions, vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn};
pub use vit::{Encoder, EncoderBlock, MLPBlock, VisionTransformer, VisionTransformerOptions, vit_b_16};

/// The registry of the layers of `kiln-nn` and the models of this crate, for files that hold whole models.
#[must_use]
pub fn registry() -> Registry {
    Registry::new()
        .with::<AlexNet>()
        .with::<BasicBlock>()
        .with::<Bottleneck>()
        .with::<Conv2dNormActivation>()
        .with::<EfficientNet>()
        .with::<Encoder>()
        .with::<EncoderBlock>()
        .with::<InvertedResidual>()
        .with::<LeNet>()
        .with::<MBConv>()
        .with::<MLPBlock>()
        .with::<MobileNetV2>()
        .with::<Mlp>()
        .with::<ResNet>()
        .with::<SqueezeExcitation>()
        .with::<StochasticDepth>()
        .with::<Vgg>()
        .with::<VisionTransformer>()
}

//! A function for each network that has published weights.

use kiln_derive::located;
use kiln_models::{
    AlexNet, EfficientNet, EfficientNetOptions, MobileNetV2, MobileNetV2Options, ResNet, ResNetOptions, Vgg,
    VggOptions, VisionTransformer, VisionTransformerOptions,
};
use kiln_tensor::Result;

use super::{Hub, files::Weights};

macro_rules! networks {
    ($($name:ident $model:ident $make:expr, $title:literal;)*) => {$(
        #[doc = concat!($title, ", torchvision's `", stringify!($name), "`, with published weights, in evaluation mode.")]
        ///
        /// # Errors
        /// If there are no such weights, they are not on this machine and cannot be downloaded, or the file is damaged.
        #[located(site)]
        pub fn $name(weights: Weights) -> Result<$model> {
            Hub::new().pretrained(stringify!($name), weights, || $make)
        }
    )*};
}
networks! {
    alexnet AlexNet AlexNet::new(1000, 0.5), "AlexNet";
    efficientnet_b0 EfficientNet kiln_models::efficientnet_b0(EfficientNetOptions::default()), "EfficientNet-B0";
    mobilenet_v2 MobileNetV2 MobileNetV2::new(MobileNetV2Options::default()), "MobileNetV2";
    resnet18 ResNet kiln_models::resnet18(ResNetOptions::default()), "ResNet-18";
    resnet34 ResNet kiln_models::resnet34(ResNetOptions::default()), "ResNet-34";
    resnet50 ResNet kiln_models::resnet50(ResNetOptions::default()), "ResNet-50";
    resnet101 ResNet kiln_models::resnet101(ResNetOptions::default()), "ResNet-101";
    resnet152 ResNet kiln_models::resnet152(ResNetOptions::default()), "ResNet-152";
    resnext50_32x4d ResNet kiln_models::resnext50_32x4d(ResNetOptions::default()), "ResNeXt-50";
    resnext101_32x8d ResNet kiln_models::resnext101_32x8d(ResNetOptions::default()), "ResNeXt-101";
    resnext101_64x4d ResNet kiln_models::resnext101_64x4d(ResNetOptions::default()), "ResNeXt-101";
    wide_resnet50_2 ResNet kiln_models::wide_resnet50_2(ResNetOptions::default()), "Wide ResNet-50";
    wide_resnet101_2 ResNet kiln_models::wide_resnet101_2(ResNetOptions::default()), "Wide ResNet-101";
    vgg11 Vgg kiln_models::vgg11(VggOptions::default()), "VGG11";
    vgg11_bn Vgg kiln_models::vgg11_bn(VggOptions::default()), "VGG11 with batch normalization";
    vgg13 Vgg kiln_models::vgg13(VggOptions::default()), "VGG13";
    vgg13_bn Vgg kiln_models::vgg13_bn(VggOptions::default()), "VGG13 with batch normalization";
    vgg16 Vgg kiln_models::vgg16(VggOptions::default()), "VGG16";
    vgg16_bn Vgg kiln_models::vgg16_bn(VggOptions::default()), "VGG16 with batch normalization";
    vgg19 Vgg kiln_models::vgg19(VggOptions::default()), "VGG19";
    vgg19_bn Vgg kiln_models::vgg19_bn(VggOptions::default()), "VGG19 with batch normalization";
}

/// ViT-B/16, torchvision's `vit_b_16`, with published weights, in evaluation mode: for images of 224 pixels a side, of 384 with
/// [`Weights::ImageNet1kSwagE2e`].
///
/// # Errors
/// If there are no such weights, they are not on this machine and cannot be downloaded, or the file is damaged.
#[located(site)]
pub fn vit_b_16(weights: Weights) -> Result<VisionTransformer> {
    let side = if weights == Weights::ImageNet1kSwagE2e { 384 } else { 224 };
    let options = VisionTransformerOptions::default().image_size(side);
    Hub::new().pretrained("vit_b_16", weights, || kiln_models::vit_b_16(options))
}

//! The weights that torchvision publishes, and a function for each network that has published weights.

use kiln_derive::located;
use kiln_models::{AlexNet, MobileNetV2, MobileNetV2Options, ResNet, ResNetOptions, Vgg, VggOptions};
use kiln_tensor::Result;

use super::{Hub, Weights};

/// A published file.
pub(super) struct File {
    /// torchvision's name of the network.
    pub net: &'static str,
    pub weights: Weights,
    /// The file's name, without the digits of the hash.
    stem: &'static str,
    /// The SHA-256 of the file, or as much of it as is publicly known. Its first eight digits are part of the
    /// file's name.
    pub sha256: &'static str,
}

impl File {
    /// The official name.
    pub fn name(&self) -> String {
        format!("{}-{}.pth", self.stem, &self.sha256[..8])
    }
}

pub(super) const FILES: &[File] = &[
    File { net: "alexnet", weights: Weights::ImageNet1k, stem: "alexnet-owt", sha256: "7be5be79" },
    File { net: "mobilenet_v2", weights: Weights::ImageNet1k, stem: "mobilenet_v2", sha256: "b0353104" },
    File { net: "mobilenet_v2", weights: Weights::ImageNet1kV2, stem: "mobilenet_v2", sha256: "7ebf99e0" },
    File { net: "resnet18", weights: Weights::ImageNet1k, stem: "resnet18", sha256: "f37072fd" },
    File { net: "resnet34", weights: Weights::ImageNet1k, stem: "resnet34", sha256: "b627a593" },
    File { net: "resnet50", weights: Weights::ImageNet1k, stem: "resnet50", sha256: "0676ba61" },
    File { net: "resnet50", weights: Weights::ImageNet1kV2, stem: "resnet50", sha256: "11ad3fa6" },
    File { net: "resnet101", weights: Weights::ImageNet1k, stem: "resnet101", sha256: "63fe2227" },
    File { net: "resnet101", weights: Weights::ImageNet1kV2, stem: "resnet101", sha256: "cd907fc2" },
    File { net: "resnet152", weights: Weights::ImageNet1k, stem: "resnet152", sha256: "394f9c45" },
    File { net: "resnet152", weights: Weights::ImageNet1kV2, stem: "resnet152", sha256: "f82ba261" },
    File { net: "resnext50_32x4d", weights: Weights::ImageNet1k, stem: "resnext50_32x4d", sha256: "7cdf4587" },
    File { net: "resnext50_32x4d", weights: Weights::ImageNet1kV2, stem: "resnext50_32x4d", sha256: "1a0047aa" },
    File { net: "resnext101_32x8d", weights: Weights::ImageNet1k, stem: "resnext101_32x8d", sha256: "8ba56ff5" },
    File { net: "resnext101_32x8d", weights: Weights::ImageNet1kV2, stem: "resnext101_32x8d", sha256: "110c445d" },
    File { net: "resnext101_64x4d", weights: Weights::ImageNet1k, stem: "resnext101_64x4d", sha256: "173b62eb" },
    File { net: "wide_resnet50_2", weights: Weights::ImageNet1k, stem: "wide_resnet50_2", sha256: "95faca4d" },
    File { net: "wide_resnet50_2", weights: Weights::ImageNet1kV2, stem: "wide_resnet50_2", sha256: "9ba9bcbe" },
    File { net: "wide_resnet101_2", weights: Weights::ImageNet1k, stem: "wide_resnet101_2", sha256: "32ee1156" },
    File { net: "wide_resnet101_2", weights: Weights::ImageNet1kV2, stem: "wide_resnet101_2", sha256: "d733dc28" },
    File { net: "vgg11", weights: Weights::ImageNet1k, stem: "vgg11", sha256: "8a719046" },
    File { net: "vgg11_bn", weights: Weights::ImageNet1k, stem: "vgg11_bn", sha256: "6002323d" },
    File { net: "vgg13", weights: Weights::ImageNet1k, stem: "vgg13", sha256: "19584684" },
    File { net: "vgg13_bn", weights: Weights::ImageNet1k, stem: "vgg13_bn", sha256: "abd245e5" },
    File {
        net: "vgg16",
        weights: Weights::ImageNet1k,
        stem: "vgg16",
        sha256: "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    },
    File {
        net: "vgg16_bn",
        weights: Weights::ImageNet1k,
        stem: "vgg16_bn",
        sha256: "6c64b3138f2f4fcb3bcc4cafde11619c4f440eb1631787e93a682fd88305888a",
    },
    File {
        net: "vgg19",
        weights: Weights::ImageNet1k,
        stem: "vgg19",
        sha256: "dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44",
    },
    File {
        net: "vgg19_bn",
        weights: Weights::ImageNet1k,
        stem: "vgg19_bn",
        sha256: "c79401a0cf3cb42714e4182f5868c7a6f4f4534f5df9e956e2bb2098de41cbb6",
    },
];

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

#[cfg(test)]
mod tests {
    use super::*;

    /// Digits are part of names, and no network has two files for the same weights.
    #[test]
    fn the_list_is_sound() {
        for (i, file) in FILES.iter().enumerate() {
            assert!(file.sha256.len() == 8 || file.sha256.len() == 64, "{}", file.net);
            assert!(file.sha256.bytes().all(|b| b.is_ascii_hexdigit()), "{}", file.net);
            let again = FILES[..i].iter().any(|other| (other.net, other.weights) == (file.net, file.weights));
            assert!(!again && file.stem.starts_with(file.net), "{}", file.net);
        }
    }
}

//! The files of weights that torchvision publishes.

use kiln_tensor::StateDict;

/// Which published weights to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// Trained on ImageNet with 1000 classes: torchvision's `IMAGENET1K_V1`.
    ImageNet1k,
    /// Trained on the same data with torchvision's newer recipe: `IMAGENET1K_V2`.
    ImageNet1kV2,
    /// Trained on images with hashtags (Singh et al., 2022), then on ImageNet with images of 384 pixels a side:
    /// `IMAGENET1K_SWAG_E2E_V1`, for uses that are not commercial (CC BY-NC 4.0).
    ImageNet1kSwagE2e,
    /// The same without the second training, but for the last layer: `IMAGENET1K_SWAG_LINEAR_V1`, under the same license.
    ImageNet1kSwagLinear,
}

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
    File {
        net: "efficientnet_b0",
        weights: Weights::ImageNet1k,
        stem: "efficientnet_b0_rwightman",
        sha256: "7f5810bc",
    },
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
    File { net: "vit_b_16", weights: Weights::ImageNet1k, stem: "vit_b_16", sha256: "c867db91" },
    File { net: "vit_b_16", weights: Weights::ImageNet1kSwagE2e, stem: "vit_b_16_swag", sha256: "9ac1b537" },
    File { net: "vit_b_16", weights: Weights::ImageNet1kSwagLinear, stem: "vit_b_16_lc_swag", sha256: "4e70ced5" },
];

/// Names in files that are older than the layer: torchvision's `MLPBlock` was a struct before it became a sequence.
const RENAMED: [(&str, &str); 2] = [(".mlp.linear_1.", ".mlp.0."), (".mlp.linear_2.", ".mlp.3.")];

/// A state dict with the names that torchvision's networks have now.
pub(super) fn with_present_names(state: StateDict) -> StateDict {
    let renamed = |name: String| RENAMED.iter().fold(name, |name, (old, new)| name.replace(old, new));
    state.into_iter().map(|(name, tensor)| (renamed(name), tensor)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_tensor::{Device, Result, Tensor};

    #[test]
    #[cfg(feature = "cpu")]
    fn old_names_become_present_ones() -> Result<()> {
        let tensor = Tensor::zeros(1, Device::Cpu)?;
        let layer = |name: &str| (format!("encoder.layers.encoder_layer_11.{name}"), tensor.clone());
        let old = [layer("mlp.linear_1.weight"), layer("mlp.linear_2.bias"), layer("ln_1.weight")];
        let want = [layer("mlp.0.weight"), layer("mlp.3.bias"), layer("ln_1.weight")];
        let new = with_present_names(old.into_iter().collect());
        assert!(new.keys().eq(want.iter().map(|(name, _)| name)), "{:?}", new.keys());
        Ok(())
    }

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

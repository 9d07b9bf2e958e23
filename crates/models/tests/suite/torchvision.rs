//! Networks against torchvision: how they print, names and shapes of their tensors, logits at full size, and a training
//! step of small ones (`tests/golden/make_models.py`).

use crate::common::{assert_logits, assert_step, fill, golden, images};
use kiln_models::{
    AlexNet, EfficientNet, EfficientNetOptions, MobileNetV2, MobileNetV2Options, ResNet, ResNetBlock, ResNetOptions,
    VisionTransformer, VisionTransformerOptions, efficientnet_b0, resnet18, resnet34, resnet50, resnet101, resnet152,
    resnext50_32x4d, resnext101_32x8d, resnext101_64x4d, vit_b_16, wide_resnet50_2, wide_resnet101_2,
};
use kiln_nn::{Module, ModuleTree};
use kiln_tensor::{DType, Device, Result, Tensor, no_grad_guard};

/// What the filled parameters are scaled by.
const GAIN: f64 = 6.0;

/// Printed as torchvision prints it, with tensors of the same names and shapes, in the same order.
fn assert_listed(name: &str, model: &dyn ModuleTree) {
    let golden = &golden("models.json")["listed"][name];
    assert_eq!(model.to_string(), golden["printed"].as_str().unwrap(), "{name}");
    let shapes = golden["state"].as_object().unwrap();
    let state = model.state_dict();
    assert_eq!(state.len(), shapes.len(), "{name}");
    for (key, shape) in shapes {
        let shape: Vec<usize> = serde_json::from_value(shape.clone()).unwrap();
        assert_eq!(state.get(key).map(|tensor| tensor.dims().to_vec()), Some(shape), "{name}: {key}");
    }
}

/// The logits of an image of ImageNet's size, from parameters that are filled by number.
fn assert_full_size(name: &str, model: &impl Module) -> Result<()> {
    assert_listed(name, model);
    fill(model, GAIN)?;
    model.eval();
    let _guard = no_grad_guard();
    assert_logits(&model.forward(&images(1, 224)?)?, &golden("models.json")["full_size"][name], 1e-4)
}

#[test]
fn alexnet_is_torchvisions() -> Result<()> {
    assert_full_size("alexnet", &AlexNet::new(1000, 0.5)?)
}

#[test]
fn mobilenet_v2_is_torchvisions() -> Result<()> {
    assert_full_size("mobilenet_v2", &MobileNetV2::new(MobileNetV2Options::default())?)
}

/// Channels are rounded to multiples of 8 as torchvision rounds them.
#[test]
fn one_step_of_a_narrow_mobilenet_v2_is_torchvisions() -> Result<()> {
    let options = MobileNetV2Options::default().num_classes(10).width_mult(0.3).dropout(0.0);
    let model = MobileNetV2::new(options)?;
    fill(&model, GAIN)?;
    let model = model.to_dtype(DType::F64)?;
    let golden = &golden("models.json")["steps"]["mobilenet_v2"];
    assert_step(&model, &images(4, 64)?.to_dtype(DType::F64)?, golden, 1e-7)?;
    assert!(MobileNetV2::new(options.width_mult(0.0)).is_err());
    Ok(())
}

#[test]
fn efficientnet_b0_is_torchvisions() -> Result<()> {
    assert_full_size("efficientnet_b0", &efficientnet_b0(EfficientNetOptions::default())?)
}

/// Numbers of channels are rounded to multiples of 8, and numbers of blocks up.
#[test]
fn one_step_of_a_narrow_efficientnet_is_torchvisions() -> Result<()> {
    let options = EfficientNetOptions::default().num_classes(10).width_mult(0.3).depth_mult(0.5);
    let model = EfficientNet::new(options.dropout(0.0).stochastic_depth_prob(0.0))?;
    fill(&model, GAIN)?;
    let model = model.to_dtype(DType::F64)?;
    let golden = &golden("models.json")["steps"]["efficientnet"];
    assert_step(&model, &images(4, 64)?.to_dtype(DType::F64)?, golden, 1e-7)?;
    assert!(EfficientNet::new(options.width_mult(0.0)).is_err() && EfficientNet::new(options.dropout(2.0)).is_err());
    assert!(
        EfficientNet::new(options.depth_mult(f64::NAN)).is_err() && EfficientNet::new(options.num_classes(0)).is_err()
    );
    assert!(EfficientNet::new(options.stochastic_depth_prob(1.5)).is_err());
    Ok(())
}

/// Prints as torchvision's, with the same names. Its 86 million parameters take a while to draw and to fill: their logits are
/// compared by hand.
#[test]
#[ignore = "draws and fills 86 million parameters"]
fn vit_b_16_is_torchvisions() -> Result<()> {
    assert_full_size("vit_b_16", &vit_b_16(VisionTransformerOptions::default())?)
}

fn small_vit() -> VisionTransformerOptions {
    let options = VisionTransformerOptions::default().image_size(32).patch_size(8).num_layers(2).num_heads(4);
    options.hidden_dim(24).mlp_dim(40).num_classes(10)
}

#[test]
fn one_step_of_a_small_vit_is_torchvisions() -> Result<()> {
    let model = VisionTransformer::new(small_vit())?;
    fill(&model, GAIN)?;
    let model = model.to_dtype(DType::F64)?;
    let golden = &golden("models.json")["steps"]["vit"];
    assert_step(&model, &images(4, 32)?.to_dtype(DType::F64)?, golden, 1e-7)
}

/// A block prints as torchvision's; the whole network is twelve of them.
#[test]
fn a_vit_prints_and_initializes_as_torchvisions() -> Result<()> {
    let golden = golden("models.json");
    let golden = golden["listed"]["vit_b_16"]["printed"].as_str().unwrap();
    let options = small_vit().image_size(64).hidden_dim(768).mlp_dim(3072).num_heads(12).num_classes(1000);
    let model = VisionTransformer::new(options.patch_size(16).num_layers(1))?;
    let (before, after) = golden.split_once("      (encoder_layer_1)").unwrap();
    let rest = &after[after.find("    )\n    (ln): ").unwrap()..];
    assert_eq!(model.to_string(), format!("{before}{rest}"));

    let std = |name: &str| model.state_dict()[name].std((), 1)?.item::<f64>();
    // What torchvision draws from: within a hundredth, of many numbers.
    let close = |name: &str, want: f64| Ok::<_, kiln_tensor::Error>((std(name)? / want - 1.0).abs() < 0.01);
    assert!(close("conv_proj.weight", (1.0f64 / 768.0).sqrt())? && std("heads.head.weight")? == 0.0);
    let uniform = (6.0f64 / (768.0 + 3072.0) / 3.0).sqrt();
    assert!(close("encoder.layers.encoder_layer_0.mlp.0.weight", uniform)?);
    assert!((std("encoder.pos_embedding")? / 0.02 - 1.0).abs() < 0.05 && std("class_token")? == 0.0);
    Ok(())
}

#[test]
fn impossible_vits_are_errors() -> Result<()> {
    for options in [
        small_vit().patch_size(7),
        small_vit().patch_size(0),
        small_vit().image_size(0),
        small_vit().num_heads(5),
        small_vit().num_heads(0),
        small_vit().hidden_dim(0),
        small_vit().num_classes(0),
        small_vit().dropout(-0.1),
        small_vit().attention_dropout(1.5),
    ] {
        assert!(VisionTransformer::new(options).is_err(), "{options:?}");
    }
    let model = VisionTransformer::new(small_vit())?;
    assert_eq!(model.forward(&Tensor::zeros([0, 3, 32, 32], Device::Cpu)?)?.dims(), [0, 10]);
    let error = model.forward(&Tensor::zeros([1, 3, 32, 40], Device::Cpu)?).unwrap_err();
    assert!(error.to_string().contains("[N, 3, 32, 32]"), "{error}");
    Ok(())
}

#[test]
fn resnet18_is_torchvisions() -> Result<()> {
    assert_full_size("resnet18", &resnet18(ResNetOptions::default())?)
}

#[test]
fn resnet50_is_torchvisions() -> Result<()> {
    assert_full_size("resnet50", &resnet50(ResNetOptions::default())?)
}

#[test]
fn resnext50_is_torchvisions() -> Result<()> {
    assert_listed("resnext50_32x4d", &resnext50_32x4d(ResNetOptions::default())?);
    Ok(())
}

type Make = fn(ResNetOptions) -> Result<ResNet>;

/// The numbers of tensors and of elements in the state dict, for those of the family that differ in numbers only.
fn assert_counted(models: &[(&str, Make)]) -> Result<()> {
    let golden = golden("models.json");
    for (name, make) in models {
        let state = make(ResNetOptions::default())?.state_dict();
        let (tensors, elements) = (state.len(), state.values().map(Tensor::numel).sum::<usize>());
        assert_eq!(serde_json::json!([tensors, elements]), golden["counted"][name], "{name}");
    }
    Ok(())
}

#[test]
fn deep_and_wide_resnets_have_torchvisions_sizes() -> Result<()> {
    assert_counted(&[("resnet34", resnet34), ("resnet101", resnet101), ("wide_resnet50_2", wide_resnet50_2)])
}

#[test]
#[ignore = "draws 360 million parameters"]
fn the_largest_resnets_have_torchvisions_sizes() -> Result<()> {
    assert_counted(&[
        ("resnet152", resnet152),
        ("resnext101_32x8d", resnext101_32x8d),
        ("resnext101_64x4d", resnext101_64x4d),
        ("wide_resnet101_2", wide_resnet101_2),
    ])
}

#[test]
fn one_step_of_short_resnets_is_torchvisions() -> Result<()> {
    let golden = golden("models.json");
    let options = ResNetOptions::default().num_classes(10);
    let dilated = options.width_per_group(16).replace_stride_with_dilation([false, true, true]);
    let cases = [
        ("basic", ResNetBlock::Basic, [2, 1, 1, 1], options),
        ("bottleneck", ResNetBlock::Bottleneck, [1, 1, 1, 1], options),
        ("groups", ResNetBlock::Bottleneck, [1, 1, 1, 1], options.groups(8).width_per_group(8)),
        ("dilated", ResNetBlock::Bottleneck, [1, 1, 2, 1], dilated),
    ];
    for (name, block, layers, options) in cases {
        let model = ResNet::new(block, layers, options)?;
        fill(&model, GAIN)?;
        let model = model.to_dtype(DType::F64)?;
        assert_step(&model, &images(4, 64)?.to_dtype(DType::F64)?, &golden["steps"][name], 1e-7)?;
    }
    Ok(())
}

#[test]
fn impossible_resnets_are_errors() -> Result<()> {
    let options = ResNetOptions::default().num_classes(2);
    assert!(resnet18(options.groups(2)).is_err());
    assert!(resnet18(options.replace_stride_with_dilation([false, false, true])).is_err());
    assert!(ResNet::new(ResNetBlock::Basic, [1, 0, 1, 1], options).is_err());
    assert!(ResNet::new(ResNetBlock::Bottleneck, [1; 4], options.width_per_group(0)).is_err());
    assert!(AlexNet::new(10, 1.5).is_err());
    let error = AlexNet::new(10, 0.5)?.forward(&Tensor::zeros([1, 3, 32, 32], Device::Cpu)?).unwrap_err();
    assert!(error.to_string().contains("max_pool2d"), "{error}");
    Ok(())
}

/// A block that starts as the identity: of a stage without a shortcut convolution nothing but ReLU is left.
#[test]
fn zero_init_residual_makes_blocks_identities() -> Result<()> {
    let options = ResNetOptions::default().num_classes(2).zero_init_residual(true);
    let model = ResNet::new(ResNetBlock::Basic, [1, 1, 1, 1], options)?;
    let x = Tensor::rand([2, 64, 8, 8], Device::Cpu)?;
    assert_eq!(model.layer1.forward(&x)?.to_vec::<f32>()?, x.to_vec::<f32>()?);
    Ok(())
}

/// Parameters are drawn as torchvision draws them: by their spread, of a few thousand numbers or more, within six hundredths.
#[test]
fn parameters_are_drawn_as_torchvisions() -> Result<()> {
    let spread = |model: &dyn ModuleTree, name: &str, want: f64| {
        let parameter = &model.state_dict()[name];
        let got = parameter.std((), 1).unwrap().item::<f64>().unwrap();
        assert!(parameter.numel() > 4_000 && (got / want - 1.0).abs() < 0.06, "{name}: {got}, not {want}");
    };
    let constant = |model: &dyn ModuleTree, name: &str, want: f32| {
        assert!(model.state_dict()[name].to_vec::<f32>().unwrap().iter().all(|&value| value == want), "{name}");
    };
    // Kaiming's normal distribution with the fan-out: output channels of a group times the kernel's elements.
    let fan_out = |channels: usize, kernel: usize| (2.0 / (channels * kernel * kernel) as f64).sqrt();
    // Linear's own: uniform between -1 / sqrt(features) and that.
    let linear = |features: usize| (1.0 / 3.0 / features as f64).sqrt();

    let resnet = ResNet::new(ResNetBlock::Bottleneck, [1; 4], ResNetOptions::default().num_classes(10))?;
    spread(&resnet, "conv1.weight", fan_out(64, 7));
    spread(&resnet, "layer2.0.conv2.weight", fan_out(128, 3));
    spread(&resnet, "layer3.0.downsample.0.weight", fan_out(1024, 1));
    spread(&resnet, "fc.weight", linear(2048));
    constant(&resnet, "layer1.0.bn3.weight", 1.0);
    constant(&resnet, "layer1.0.bn3.bias", 0.0);

    let mobile = MobileNetV2::new(MobileNetV2Options::default().num_classes(10))?;
    spread(&mobile, "features.18.0.weight", fan_out(1280, 1));
    spread(&mobile, "features.14.conv.1.0.weight", fan_out(576, 3));
    spread(&mobile, "classifier.1.weight", 0.01);
    constant(&mobile, "classifier.1.bias", 0.0);

    let efficient = EfficientNet::new(EfficientNetOptions::default().num_classes(10))?;
    spread(&efficient, "features.8.0.weight", fan_out(1280, 1));
    spread(&efficient, "features.4.1.block.2.fc1.weight", fan_out(20, 1));
    spread(&efficient, "classifier.1.weight", (1.0 / 3.0 / 10.0f64).sqrt());
    constant(&efficient, "classifier.1.bias", 0.0);

    let alexnet = AlexNet::new(10, 0.5)?;
    spread(&alexnet, "features.3.weight", linear(64 * 25));
    spread(&alexnet, "classifier.1.weight", linear(9216));
    Ok(())
}

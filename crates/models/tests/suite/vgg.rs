//! VGG against torchvision: how it prints, names, logits, and one training step.

use crate::common::{assert_logits, assert_step, fill, golden, images};
use kiln_models::{Vgg, VggOptions, vgg11_bn, vgg16, vgg16_bn};
use kiln_nn::{Linear, Module, ModuleTree, Sequential, summary};
use kiln_tensor::{Device, Result, Tensor, no_grad_guard};
use serde_json::Value;

/// What the filled parameters are scaled by.
const GAIN: f64 = 24.0;

/// One step of VGG16 of an eighth of the width, whose parameters are filled by number.
fn step(model: &Vgg, golden: &Value, channels_last: bool) -> Result<()> {
    fill(model, GAIN)?;
    let mut x = images(4, 64)?;
    if channels_last {
        x = x.channels_last()?;
        assert!(model.features.forward(&x)?.is_channels_last());
    }
    assert_step(model, &x, golden, 1e-3)
}

fn narrow() -> VggOptions {
    VggOptions::default().num_classes(10).dropout(0.0).width(0.125)
}

#[test]
fn one_step_is_pytorchs() -> Result<()> {
    let golden = golden("vgg.json");
    step(&vgg16(narrow())?, &golden["plain"], false)?;
    step(&vgg16(narrow())?, &golden["plain"], true)?;
    step(&vgg16_bn(narrow())?, &golden["batch_norm"], false)
}

/// The network of full size on an image of ImageNet's size, too, because the model is here anyway.
#[test]
fn vgg16_prints_is_named_and_computes_as_in_torchvision() -> Result<()> {
    let golden = golden("vgg.json");
    let model = vgg16(VggOptions::default())?;
    assert_eq!(model.to_string(), golden["printed"]["vgg16"].as_str().unwrap());
    assert_eq!(model.num_parameters(), 138_357_544);
    let names = |model: &dyn ModuleTree| -> Vec<Value> {
        model.state_dict().keys().map(|name| Value::String(name.clone())).collect()
    };
    let sorted = |names: &Value| {
        let mut names = names.as_array().unwrap().clone();
        names.sort_by_key(|name| name.as_str().unwrap().to_owned());
        names
    };
    let mut own = names(&model);
    own.sort_by_key(|name| name.as_str().unwrap().to_owned());
    assert_eq!(own, sorted(&golden["names"]));
    model.eval();
    fill(&model, GAIN)?;
    {
        let _guard = no_grad_guard();
        assert_logits(&model.forward(&images(1, 224)?)?, &golden["full_size"], 1e-4)?;
    }
    drop(model);
    let model = vgg11_bn(VggOptions::default().width(0.125))?;
    let mut own = names(&model);
    own.sort_by_key(|name| name.as_str().unwrap().to_owned());
    assert_eq!(own, sorted(&golden["names_bn"]));
    Ok(())
}

#[test]
fn a_summary_counts_what_vgg16_does() -> Result<()> {
    let table = summary(&vgg16(VggOptions::default().width(0.25))?, [1, 3, 64, 64])?;
    let row = &table.rows()[2];
    assert_eq!((row.name.as_str(), row.output.dims()), ("features.2", &[1, 16, 64, 64][..]));
    assert_eq!((row.parameters, row.multiply_adds), (16 * 16 * 9 + 16, 16 * 16 * 9 * 64 * 64));
    assert_eq!(table.rows().last().unwrap().name, "classifier.6");
    assert!(table.to_string().lines().next().unwrap().starts_with("Layer"));
    Ok(())
}

/// Fine-tuning: what is frozen records nothing, and keeps no activations.
#[test]
fn frozen_features_record_no_tape() -> Result<()> {
    let mut model = vgg16(narrow())?;
    model.features.requires_grad_(false)?;
    model.classifier.replace(6, Linear::new(512, 3)?)?;
    let x = Tensor::rand([2, 3, 32, 32], Device::Cpu)?;
    let features = model.features.forward(&x)?;
    assert!(!features.requires_grad());
    let logits = model.forward(&x)?;
    assert_eq!(logits.dims(), [2, 3]);
    logits.sum(())?.backward()?;
    let with_gradients = |part: &Sequential| part.named_parameters().iter().filter(|(_, p)| p.grad().is_some()).count();
    assert_eq!((with_gradients(&model.features), with_gradients(&model.classifier)), (0, 6));
    assert!(vgg16(narrow().width(0.0)).is_err() && vgg16(narrow().dropout(2.0)).is_err());
    Ok(())
}

//! VGG against torchvision: printing, names, logits, and one training step.

#[path = "../../../tests/golden/fractions.rs"]
mod fractions;

use fractions::fractions;
use kiln_models::{Vgg, VggOptions, vgg11_bn, vgg16, vgg16_bn};
use kiln_nn::{CrossEntropyLoss, Linear, Module, ModuleTree, Sequential, summary};
use kiln_tensor::{Device, Result, Tensor, no_grad, no_grad_guard};
use serde_json::Value;

fn golden() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/vgg.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}

/// Fills all parameters by number.
fn fill(model: &Vgg) -> Result<()> {
    for (i, (_, parameter)) in model.named_parameters().iter().enumerate() {
        let fan_in = if parameter.rank() > 1 { parameter.numel() / parameter.dims()[0] } else { 25 };
        let values = Tensor::from_vec(fractions(parameter.numel(), i as u32), parameter.dims(), Device::Cpu)?;
        // The factor is rounded to f32, as PyTorch does with a number that meets a tensor.
        no_grad(|| parameter.copy_(&values.mul((24.0 / fan_in as f64).sqrt())?))?;
    }
    Ok(())
}

fn images(batch: usize, size: usize) -> Result<Tensor> {
    Tensor::from_vec(fractions(batch * 3 * size * size, 1000), [batch, 3, size, size], Device::Cpu)?.mul(2.0)
}

/// Asserts that logits are PyTorch's, up to 1e-4 of the largest.
#[track_caller]
fn assert_logits(logits: &Tensor, want: &Value) -> Result<()> {
    let (got, want) = (logits.flatten_all()?.to_vec::<f32>()?, numbers(want));
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(0.0f64, |a, b| a.max(b.abs()));
    for (got, want) in got.iter().zip(&want) {
        assert!((f64::from(*got) - want).abs() <= 1e-4 * largest, "logits: {got} instead of {want}");
    }
    Ok(())
}

/// One step of VGG16 of an eighth of the width, whose parameters are filled by number.
fn step(model: &Vgg, golden: &Value, channels_last: bool) -> Result<()> {
    fill(model)?;
    let parameters = model.named_parameters();
    let mut x = images(4, 64)?;
    if channels_last {
        x = x.channels_last()?;
        assert!(model.features.forward(&x)?.is_channels_last());
    }
    let y = Tensor::new(&[0i64, 3, 6, 9], Device::Cpu)?;
    let logits = model.forward(&x)?;
    let loss = CrossEntropyLoss::new().forward(&logits, &y)?;
    loss.backward()?;
    assert_logits(&logits, &golden["logits"])?;
    assert!((f64::from(loss.item::<f32>()?) - golden["loss"].as_f64().unwrap()).abs() < 1e-3);
    for (i, (name, parameter)) in parameters.iter().enumerate() {
        let grad = parameter.grad().unwrap().flatten_all()?.to_vec::<f32>()?;
        let want = &golden["grads"][name];
        let length = want["norm"].as_f64().unwrap();
        // What should be zero, a bias before a batch normalisation, is not exactly so.
        let bound = 1e-3 * length + 1e-4;
        let got = norm(grad.iter().map(|&g| f64::from(g)));
        assert!((got - length).abs() <= bound, "{name}: a gradient of length {got} instead of {length}");
        let along = fractions(grad.len(), 2000 + i as u32);
        let dot: f64 = grad.iter().zip(&along).map(|(&g, &a)| f64::from(g) * f64::from(a)).sum();
        let want_dot = want["dot"].as_f64().unwrap();
        assert!((dot - want_dot).abs() <= bound, "{name}: {dot} instead of {want_dot} along a direction");
        for (got, want) in grad.iter().zip(numbers(&want["first"])) {
            assert!((f64::from(*got) - want).abs() <= bound, "{name}: {got} instead of {want}");
        }
    }
    Ok(())
}

fn narrow() -> VggOptions {
    VggOptions::default().num_classes(10).dropout(0.0).width(0.125)
}

#[test]
fn one_step_is_pytorchs() -> Result<()> {
    let golden = golden();
    step(&vgg16(narrow())?, &golden["plain"], false)?;
    step(&vgg16(narrow())?, &golden["plain"], true)?;
    step(&vgg16_bn(narrow())?, &golden["batch_norm"], false)
}

/// The network of full size on an image of ImageNet's size, too, because the model is here anyway.
#[test]
fn vgg16_prints_is_named_and_computes_as_in_torchvision() -> Result<()> {
    let golden = golden();
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
    fill(&model)?;
    {
        let _guard = no_grad_guard();
        assert_logits(&model.forward(&images(1, 224)?)?, &golden["full_size"])?;
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

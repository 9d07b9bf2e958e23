//! The quickstart tutorial's network, trained from the same weights on the same batches as PyTorch: the
//! losses are PyTorch's. `tests/golden/make_mlp_curve.py` has the formulas.

use crate::checkout;
use kiln::{
    data::FashionMNIST,
    models::Mlp,
    nn::{CrossEntropyLoss, StateDict},
    optim::{Adam, Optimizer, SGD},
    prelude::*,
};
use serde_json::Value;

const BATCH: usize = 64;

fn golden() -> Value {
    let path = checkout::path("tests/golden/mlp_curve.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

/// Element `i` of parameter number `j`.
fn weight(i: u64, j: u64, fan_in: usize) -> f32 {
    let h = ((i + 1) * 2_654_435_761 + j * 40_503) % (1 << 32);
    ((h as f64 / 4_294_967_296.0 - 0.5) * 2.0 / (fan_in as f64).sqrt()) as f32
}

fn network(dtype: DType) -> kiln::Result<Mlp> {
    let model = Mlp::new(&[784, 512, 512, 10])?;
    let mut state = StateDict::new();
    let mut fan_in = 0;
    for (j, (name, parameter)) in model.named_parameters().into_iter().enumerate() {
        if parameter.rank() == 2 {
            fan_in = parameter.size(1)?;
        }
        let values = (0..parameter.numel() as u64).map(|i| weight(i, j as u64, fan_in)).collect();
        state.insert(name, Tensor::from_vec(values, parameter.shape(), Device::Cpu)?);
    }
    model.load_state_dict(&state, true)?;
    model.to_dtype(dtype)
}

fn losses(model: &Mlp, optimizer: &mut dyn Optimizer, dtype: DType, steps: usize) -> kiln::Result<Vec<f64>> {
    let data = FashionMNIST::train().root(checkout::path("crates/data/assets/fashion-mnist")).load()?;
    let loss_fn = CrossEntropyLoss::new();
    (0..steps)
        .map(|step| {
            let batch: Vec<usize> = (step * BATCH..(step + 1) * BATCH).map(|i| i % data.len()).collect();
            let (x, y) = data.get_batch(&batch)?;
            let loss = loss_fn.forward(&model.forward(&x.to_dtype(dtype)?)?, &y)?;
            optimizer.zero_grad();
            loss.backward()?;
            optimizer.step()?;
            loss.item::<f64>()
        })
        .collect()
}

fn assert_close(got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (step, (got, want)) in got.iter().zip(want).enumerate() {
        let difference = ((got - want) / want).abs();
        assert!(difference <= tolerance, "step {step}: loss {got}, PyTorch's is {want}: {difference:.1e} apart");
    }
}

#[test]
fn the_initial_weights_are_those_of_the_script() {
    for sample in golden()["parameter_samples"].as_array().unwrap() {
        let j = sample["parameter"].as_u64().unwrap();
        let fan_in = if j < 2 { 784 } else { 512 };
        let want: Vec<f32> = numbers(&sample["values"]).into_iter().map(|v| v as f32).collect();
        let got: Vec<f32> = (0..want.len() as u64).map(|i| weight(i, j, fan_in)).collect();
        assert_eq!(got, want, "parameter {j}");
    }
}

#[test]
fn two_hundred_steps_of_sgd_in_f32_are_within_1e_4_of_pytorch() -> kiln::Result<()> {
    let run = &golden()["sgd"];
    let model = network(DType::F32)?;
    let mut optimizer = SGD::new(model.named_parameters(), run["args"]["lr"].as_f64().unwrap())?;
    assert_close(&losses(&model, &mut optimizer, DType::F32, 200)?, &numbers(&run["losses"]), 1e-4);
    Ok(())
}

#[test]
fn two_hundred_steps_of_sgd_in_f64_are_within_1e_9_of_pytorch() -> kiln::Result<()> {
    let run = &golden()["sgd"];
    let model = network(DType::F64)?;
    let mut optimizer = SGD::new(model.named_parameters(), run["args"]["lr"].as_f64().unwrap())?;
    assert_close(&losses(&model, &mut optimizer, DType::F64, 200)?, &numbers(&run["losses_f64"]), 1e-9);
    Ok(())
}

#[test]
fn adam_follows_pytorch() -> kiln::Result<()> {
    let run = &golden()["adam"];
    let lr = run["args"]["lr"].as_f64().unwrap();
    let model = network(DType::F64)?;
    let mut optimizer = Adam::new(model.named_parameters(), lr)?;
    assert_close(&losses(&model, &mut optimizer, DType::F64, 100)?, &numbers(&run["losses_f64"]), 1e-9);

    // In f32, runs of PyTorch itself that add in another order are within 1e-4 of each other for so long.
    let steps = run["steps_within_1e-4"].as_u64().unwrap() as usize;
    let model = network(DType::F32)?;
    let mut optimizer = Adam::new(model.named_parameters(), lr)?;
    assert_close(&losses(&model, &mut optimizer, DType::F32, steps)?, &numbers(&run["losses"])[..steps], 3e-4);
    Ok(())
}

//! Networks with computed parameters, compared with PyTorch's results for the same parameters.

#![allow(dead_code)] // each test file uses a part

#[path = "../../../../tests/support/checkout.rs"]
mod checkout;
#[path = "../../../../tests/golden/fractions.rs"]
mod fractions;

pub use fractions::fractions;
use kiln_nn::{CrossEntropyLoss, Module, ModuleTree};
use kiln_tensor::{DType, Device, Result, Tensor, no_grad};
use serde_json::Value;

/// A golden file.
pub fn golden(name: &str) -> Value {
    let path = checkout::path("tests/golden").join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

pub fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}

/// Fills all parameters by number, those of `n` inputs with numbers in `± sqrt(gain / n) / 2`.
pub fn fill(model: &dyn ModuleTree, gain: f64) -> Result<()> {
    for (i, (_, parameter)) in model.named_parameters().iter().enumerate() {
        let fan_in = if parameter.rank() > 1 { parameter.numel() / parameter.dims()[0] } else { 25 };
        let values = Tensor::from_vec(fractions(parameter.numel(), i as u32), parameter.dims(), Device::Cpu)?;
        // The factor is rounded to f32, as PyTorch does with a number that meets a tensor.
        no_grad(|| parameter.copy_(&values.mul((gain / fan_in as f64).sqrt())?))?;
    }
    Ok(())
}

pub fn images(batch: usize, size: usize) -> Result<Tensor> {
    Tensor::from_vec(fractions(batch * 3 * size * size, 1000), [batch, 3, size, size], Device::Cpu)?.mul(2.0)
}

/// Asserts that logits are PyTorch's, up to this share of the largest.
#[track_caller]
pub fn assert_logits(logits: &Tensor, want: &Value, tolerance: f64) -> Result<()> {
    let (got, want) = (logits.to_dtype(DType::F64)?.flatten_all()?.to_vec::<f64>()?, numbers(want));
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(0.0f64, |a, b| a.max(b.abs()));
    for (got, want) in got.iter().zip(&want) {
        assert!((got - want).abs() <= tolerance * largest, "logits: {got} instead of {want}");
    }
    Ok(())
}

/// One step of cross-entropy on 4 images: the logits, the loss, and of each gradient its length and its product with a
/// direction. Of the running statistics the length.
pub fn assert_step(model: &impl Module, x: &Tensor, golden: &Value, tolerance: f64) -> Result<()> {
    let y = Tensor::new(&[0i64, 3, 6, 9], Device::Cpu)?;
    let logits = model.forward(x)?;
    let loss = CrossEntropyLoss::new().forward(&logits, &y)?;
    loss.backward()?;
    assert_logits(&logits, &golden["logits"], tolerance / 10.0)?;
    let loss = loss.to_dtype(DType::F64)?.item::<f64>()?;
    assert!((loss - golden["loss"].as_f64().unwrap()).abs() < tolerance);
    for (i, (name, parameter)) in model.named_parameters().iter().enumerate() {
        let grad = parameter.grad().unwrap().to_dtype(DType::F64)?.flatten_all()?.to_vec::<f64>()?;
        let want = &golden["grads"][name];
        let length = want["norm"].as_f64().unwrap();
        // What should be zero, a bias before a batch normalization, is not exactly so.
        let bound = tolerance * (length + 0.1);
        let got = norm(grad.iter().copied());
        assert!((got - length).abs() <= bound, "{name}: a gradient of length {got} instead of {length}");
        let along = fractions(grad.len(), 2000 + i as u32);
        let dot: f64 = grad.iter().zip(&along).map(|(&g, &a)| g * f64::from(a)).sum();
        let want_dot = want["dot"].as_f64().unwrap();
        assert!((dot - want_dot).abs() <= bound, "{name}: {dot} instead of {want_dot} along a direction");
        if let Some(first) = want.get("first") {
            for (got, want) in grad.iter().zip(numbers(first)) {
                assert!((got - want).abs() <= bound, "{name}: {got} instead of {want}");
            }
        }
    }
    if let Some(buffers) = golden.get("buffers") {
        let state = model.state_dict();
        for (name, want) in buffers.as_object().unwrap() {
            let got = norm(state[name].to_dtype(DType::F64)?.flatten_all()?.to_vec::<f64>()?.into_iter());
            let want = want.as_f64().unwrap();
            assert!((got - want).abs() <= tolerance * want, "{name}: of length {got} instead of {want}");
        }
    }
    Ok(())
}

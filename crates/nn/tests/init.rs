//! Initializers against PyTorch: the bound or standard deviation of each distribution.

mod common;

use std::sync::{Mutex, MutexGuard};

use common::{json, number, values};
use kiln_nn::{
    Linear, LinearOptions,
    init::{self, FanMode, Nonlinearity},
};
use kiln_tensor::{DType, Device, Tensor, manual_seed};
use serde_json::Value;

/// Seeds the process' one generator for a test, and keeps it from the others that draw of it.
fn seeded(seed: u64) -> MutexGuard<'static, ()> {
    static GENERATOR: Mutex<()> = Mutex::new(());
    let guard = GENERATOR.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    manual_seed(seed);
    guard
}

fn nonlinearity(name: &str, param: Option<f64>) -> Nonlinearity {
    match name {
        "sigmoid" => Nonlinearity::Sigmoid,
        "tanh" => Nonlinearity::Tanh,
        "relu" => Nonlinearity::ReLU,
        "leaky_relu" => Nonlinearity::LeakyReLU(param.unwrap_or(0.01)),
        "selu" => Nonlinearity::SELU,
        "linear" | "conv1d" | "conv2d" | "conv3d" => Nonlinearity::Linear,
        other => panic!("no nonlinearity {other}"),
    }
}

/// Asserts that all values lie within the bound and fill it, as far as their number allows.
#[track_caller]
fn assert_uniform(tensor: &Tensor, bound: f64, what: &str) {
    let values = values(tensor);
    let largest = values.iter().fold(0f64, |m, v| m.max(v.abs()));
    // The largest of n even draws misses the bound by about a share of 1/n.
    let slack = (20.0 / values.len() as f64).min(1.0);
    assert!(largest <= bound * (1.0 + 1e-6) && largest >= bound * (1.0 - slack), "{what}: {largest} for {bound}");
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    assert!(mean.abs() <= 5.0 * bound / (3.0 * values.len() as f64).sqrt(), "{what}: mean {mean}");
}

#[track_caller]
fn assert_normal(tensor: &Tensor, mean: f64, std: f64, what: &str) {
    let values = values(tensor);
    let n = values.len() as f64;
    let m = values.iter().sum::<f64>() / n;
    let s = (values.iter().map(|v| (v - m).powi(2)).sum::<f64>() / n).sqrt();
    assert!((m - mean).abs() <= 5.0 * std / n.sqrt(), "{what}: mean {m}, not {mean}");
    assert!((s - std).abs() <= 5.0 * std / (2.0 * n).sqrt(), "{what}: deviation {s}, not {std}");
}

#[test]
fn gains_equal_pytorchs() {
    for case in json("init.json")["calculate_gain"].as_array().unwrap() {
        let got = init::calculate_gain(nonlinearity(case["nonlinearity"].as_str().unwrap(), case["param"].as_f64()));
        assert!((got - case["gain"].as_f64().unwrap()).abs() < 1e-15, "{case}: {got}");
    }
}

#[test]
fn bounds_and_deviations_equal_pytorchs() {
    let _alone = seeded(1);
    for case in json("init.json")["initializers"].as_array().unwrap() {
        let shape: Vec<usize> =
            case["shape"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as usize).collect();
        let (tensor, args) = (Tensor::empty(&shape, Device::Cpu).unwrap(), &case["args"]);
        let fans = init::calculate_fan_in_and_fan_out(&tensor).unwrap();
        assert_eq!(fans, (case["fan_in"].as_u64().unwrap() as usize, case["fan_out"].as_u64().unwrap() as usize));
        let mode = if args["mode"] == "fan_out" { FanMode::FanOut } else { FanMode::FanIn };
        let kind = |args: &Value| nonlinearity(args["nonlinearity"].as_str().unwrap(), args["a"].as_f64());
        match case["init"].as_str().unwrap() {
            "xavier_uniform_" => init::xavier_uniform_(&tensor, number(args, "gain", 1.0)),
            "xavier_normal_" => init::xavier_normal_(&tensor, number(args, "gain", 1.0)),
            "kaiming_uniform_" => init::kaiming_uniform_(&tensor, mode, kind(args)),
            "kaiming_normal_" => init::kaiming_normal_(&tensor, mode, kind(args)),
            other => panic!("no initializer {other}"),
        }
        .unwrap();
        match (case["bound"].as_f64(), case["std"].as_f64()) {
            (Some(bound), _) => assert_uniform(&tensor, bound, &case.to_string()),
            (_, Some(std)) => assert_normal(&tensor, 0.0, std, &case.to_string()),
            _ => panic!("{case}"),
        }
    }
}

#[test]
fn a_linear_layer_starts_as_pytorchs() {
    let _alone = seeded(2);
    for case in json("init.json")["linear"].as_array().unwrap() {
        let (input, output) = (case["in_features"].as_u64().unwrap(), case["out_features"].as_u64().unwrap());
        let layer = Linear::new(input as usize, output as usize).unwrap();
        assert_eq!(layer.weight.dims(), [output as usize, input as usize]);
        assert_uniform(&layer.weight, case["weight_bound"].as_f64().unwrap(), &format!("weight of {case}"));
        assert_uniform(layer.bias.as_ref().unwrap(), case["bias_bound"].as_f64().unwrap(), &format!("bias of {case}"));
    }
    let layer = Linear::with_options(2, 3, LinearOptions::default().bias(false).tensor(DType::F64)).unwrap();
    assert_eq!((layer.bias.is_none(), layer.weight.dtype(), layer.weight.requires_grad()), (true, DType::F64, true));
    // Nothing to draw, and nothing to divide by.
    assert_eq!(Linear::new(0, 3).unwrap().bias.unwrap().to_vec::<f32>().unwrap(), [0.0; 3]);
}

#[test]
fn one_seed_gives_one_layer() {
    let layer = |seed| {
        let _alone = seeded(seed);
        Linear::new(5, 4).unwrap().weight.to_vec::<f32>().unwrap()
    };
    assert_eq!(layer(7), layer(7));
    assert_ne!(layer(7), layer(8));
}

#[test]
fn constants_and_truncation() {
    let _alone = seeded(3);
    let x = Tensor::empty([2, 3], Device::Cpu).unwrap().requires_grad_(true).unwrap();
    init::eye_(&x).unwrap();
    assert_eq!(values(&x), [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
    init::constant_(&x, 0.5).unwrap();
    assert_eq!(values(&x), [0.5; 6]);
    init::ones_(&x).unwrap();
    assert_eq!(values(&x), [1.0; 6]);
    init::zeros_(&x).unwrap();
    assert_eq!(values(&x), [0.0; 6]);

    let x = Tensor::empty(20_000, Device::Cpu).unwrap();
    init::normal_(&x, 2.0, 0.5).unwrap();
    assert_normal(&x, 2.0, 0.5, "normal_");
    init::trunc_normal_(&x, 0.0, 1.0, -2.0, 2.0).unwrap();
    // The deviation of a normal distribution cut at two deviations.
    assert_normal(&x, 0.0, 0.879_626, "trunc_normal_");
    assert!(values(&x).iter().all(|v| v.abs() <= 2.0));
    assert!(init::trunc_normal_(&x.narrow(0, 0, 2).unwrap(), 0.0, 1.0, 1e3, 1e4).is_err());
}

#[test]
fn vectors_have_no_fans() {
    let x = Tensor::empty(3, Device::Cpu).unwrap();
    let error = init::xavier_uniform_(&x, 1.0).unwrap_err().to_string();
    assert!(error.contains("at least 2 dimensions"), "{error}");
    assert!(init::eye_(&x).is_err());
}

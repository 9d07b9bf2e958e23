//! `apply`, modules by path, and norms.
use kiln_nn::{Embedding, Linear, Module, ModuleExt, ModuleTree, ReLU, Sequential, init, optim::get_total_norm, seq};
use kiln_tensor::{DType, Device, Error, Result, Tensor, no_grad};
use serde_json::json;

use crate::{assert_near, beside_others, common, network, numbers};

#[test]
fn apply_and_norms_are_pytorchs() -> Result<()> {
    let _beside = beside_others();
    let golden = common::json("hooks.json");
    let model = network(&golden)?;
    let mut order = Vec::new();
    model.apply(|module| {
        order.push(module.type_name().to_owned());
        Ok(())
    })?;
    assert_eq!(json!(order), golden["apply"]);
    assert_eq!(model.grad_norm(2.0)?.item::<f32>()?, 0.0, "without gradients");

    let x = Tensor::from_vec(numbers(&golden["x"]), [2, 1, 2, 3], Device::Cpu)?;
    model.forward(&x)?.square()?.sum(())?.backward()?;
    for (p, want) in golden["norms"].as_object().unwrap() {
        let p: f64 = p.parse().unwrap();
        let got = [model.parameter_norm(p)?, model.grad_norm(p)?];
        assert!(got.iter().all(|norm| !norm.requires_grad() && norm.dims().is_empty()));
        let got = got.iter().map(Tensor::item::<f64>).collect::<Result<Vec<_>>>()?;
        assert_near(&got, &numbers(want), &format!("norm {p}"));
    }
    for p in [0.0, -1.0, f64::NAN] {
        assert!(model.grad_norm(p).unwrap_err().to_string().contains("norm_type"));
    }
    assert!(get_total_norm([Tensor::ones(2, DType::I64)?], 2.0).unwrap_err().to_string().contains("floating"));
    // Half precision is summed in f32, and a part of a model has norms of its own.
    let half = Linear::new(300, 300)?;
    no_grad(|| half.weight.fill_(16.0))?;
    let half = seq![half.to_dtype(DType::F16)?];
    let norm = half.get_submodule("0")?.parameter_norm(2.0)?;
    assert_eq!((norm.dtype(), norm.item::<f32>()?.round()), (DType::F32, 4800.0));
    Ok(())
}

#[test]
fn apply_initializes_by_type_and_stops_at_an_error() -> Result<()> {
    let _beside = beside_others();
    #[derive(Module)]
    struct Net {
        body: Sequential,
        head: Vec<Linear>,
        boxed: Box<dyn Module>,
    }
    let net = Net {
        body: seq![Linear::new(3, 4)?, ReLU::new()],
        head: vec![Linear::new(4, 1)?],
        boxed: Box::new(Embedding::new(5, 2)?),
    };
    let mut seen = 0;
    net.apply(|module| {
        if let Some(linear) = module.downcast_ref::<Linear>() {
            seen += 1;
            init::constant_(&linear.weight, 0.5)?;
        }
        if module.downcast_ref::<Embedding>().is_some() || module.downcast_ref::<Net>().is_some() {
            seen += 10;
        }
        Ok(())
    })?;
    assert_eq!(seen, 22);
    assert!(net.head[0].weight.to_vec::<f32>()?.iter().all(|w| *w == 0.5));
    assert!(net.get_parameter("body.0.weight")?.to_vec::<f32>()?.iter().all(|w| *w == 0.5));
    let mut calls = 0;
    let error = net.apply(|_| {
        calls += 1;
        Err(Error::argument("mine", "no"))
    });
    assert!(error.is_err() && calls == 1);
    Ok(())
}

#[test]
fn parts_are_found_by_path() -> Result<()> {
    let _beside = beside_others();
    let model = seq![Linear::new(3, 4)?, seq![Linear::new(4, 2)?, ReLU::new()]];
    assert_eq!(model.get_submodule("")?.type_name(), "Sequential");
    assert_eq!(model.get_submodule("1.1")?.type_name(), "ReLU");
    assert_eq!(model.get_parameter("1.0.bias")?.dims(), [2]);
    let error = model.get_submodule("1.7").unwrap_err();
    assert!(error.to_string().contains("Sequential has no module \"1.7\""), "{error}");
    assert!(error.location().unwrap().file().ends_with("trees.rs"));
    let error = model.get_parameter("1.0.bais").unwrap_err().to_string();
    assert!(error.contains("no parameter \"1.0.bais\" (\"1.0.bias\"?)"), "{error}");
    // A part alone is frozen.
    model.get_submodule("1")?.requires_grad_(false)?;
    assert_eq!(model.parameters().iter().map(Tensor::requires_grad).collect::<Vec<_>>(), [true, true, false, false]);
    Ok(())
}

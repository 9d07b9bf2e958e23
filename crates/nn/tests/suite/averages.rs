//! Averages of weights, and statistics recomputed for them, against PyTorch (`tests/golden/make_averages.py`).

use crate::common::{Golden, assert_close, suite_device, values};
use kiln_nn::{
    BatchNorm1d, Linear, Module, ModuleTree, Sequential, StateDict,
    optim::{Average, AveragedModel, update_bn},
    seq,
};
use kiln_tensor::{DType, Device, Error, ErrorKind, Result, Tensor};

fn network() -> Result<Sequential> {
    seq![Linear::new(3, 4)?, BatchNorm1d::new(4)?, Linear::new(4, 2)?].to_dtype(DType::F64)?.to(suite_device())
}

/// What a golden file has under a prefix.
fn state(golden: &Golden, prefix: &str) -> StateDict {
    let own = golden.all().filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?.to_owned(), tensor.clone())));
    own.collect()
}

#[track_caller]
fn assert_state(got: &StateDict, want: &StateDict, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: {:?}, not {:?}", got.keys(), want.keys());
    for (name, tensor) in got {
        assert_close(tensor, &want[name], &format!("{what}, {name}"));
    }
}

#[test]
fn averages_are_pytorchs() -> Result<()> {
    let golden = Golden::open("averages.safetensors");
    let cases = [
        ("mean", Average::Mean, false),
        ("mean_buffers", Average::Mean, true),
        ("exponential", Average::Exponential(0.8), false),
        ("exponential_buffers", Average::Exponential(0.3), true),
        ("custom", Average::Custom(Box::new(|a, b, n| a.maximum(b)?.add(n as f64))), false),
    ];
    for (name, average, use_buffers) in cases {
        let model = network()?;
        let averaged = AveragedModel::new(network()?, average)?.use_buffers(use_buffers);
        for step in 1..=5 {
            model.load_state_dict(&state(&golden, &format!("model/{step}/")), true)?;
            averaged.update_parameters(&model)?;
            let want = state(&golden, &format!("{name}/{step}/"));
            assert_state(&averaged.state_dict(), &want, &format!("{name}, update {step}"));
        }
        assert_eq!(averaged.n_averaged()?, 5);
        // It goes on from its state dict, under PyTorch's names.
        let again = AveragedModel::new(network()?, Average::Mean)?;
        again.load_state_dict(&averaged.state_dict(), true)?;
        assert_eq!(again.n_averaged()?, 5);
    }
    Ok(())
}

#[test]
fn statistics_are_computed_anew() -> Result<()> {
    let golden = Golden::open("averages.safetensors");
    let averaged = AveragedModel::new(network()?, Average::Mean)?;
    averaged.load_state_dict(&state(&golden, "mean/5/"), true)?;
    averaged.eval();
    let batches: Vec<Tensor> = (0..3).map(|i| golden.get("batches", &i.to_string())).collect();
    update_bn(batches.iter().map(|batch| Ok(batch.clone())), &averaged)?;
    assert_state(&averaged.state_dict(), &state(&golden, "update_bn/"), "update_bn");
    assert!(!averaged.is_training());
    // The layer's own momentum counts again.
    averaged.train();
    let before = averaged.state_dict()["module.1.running_mean"].copy()?;
    averaged.forward(&batches[0])?;
    let hidden = averaged.module().named_children()[0].1.state_dict();
    let batch = batches[0].matmul(&hidden["weight"].t()?)?.add(&hidden["bias"])?.mean(0)?;
    let want = before.mul(0.9)?.add(&batch.mul(0.1)?)?;
    assert_close(&averaged.state_dict()["module.1.running_mean"], &want.detach(), "momentum");
    // A batch that is an error is handed on, and the mode is what it was.
    averaged.eval();
    let failing = [Ok(batches[0].clone()), Err(Error::argument("loader", "no more"))];
    assert!(update_bn(failing, &averaged).unwrap_err().to_string().contains("no more"));
    assert!(!averaged.is_training());
    // Without batch normalization nothing is read.
    update_bn(std::iter::from_fn(|| panic!("nothing is read")), &Linear::new(2, 2)?)
}

#[test]
fn a_model_of_another_kind_is_refused() -> Result<()> {
    let averaged = AveragedModel::new(Linear::new(2, 2)?, Average::Mean)?;
    let before = values(&averaged.state_dict()["module.weight"]);
    for other in [Linear::new(3, 2)?, Linear::new(2, 3)?] {
        let error = averaged.update_parameters(&other).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Argument { op: "AveragedModel", .. }), "{error}");
    }
    assert_eq!((values(&averaged.state_dict()["module.weight"]), averaged.n_averaged()?), (before, 0));
    for decay in [-0.1, 1.1, f64::NAN] {
        assert!(AveragedModel::new(Linear::new(2, 2)?, Average::Exponential(decay)).is_err());
    }
    // On another dtype the average keeps its own.
    let half = Linear::new(2, 2)?.to_dtype(DType::BF16)?;
    averaged.update_parameters(&half)?;
    let weight = &averaged.state_dict()["module.weight"];
    assert_eq!((weight.dtype(), weight.device()), (DType::F32, Device::Cpu));
    Ok(())
}

//! Continues runs that PyTorch began: states of its optimizers (`tests/golden/make_checkpoints.py`) load into Kiln's,
//! and the parameters after more steps are those of PyTorch's continued run.

use std::{collections::HashMap, path::PathBuf};

use crate::checkout;
use kiln_io::{LoadOptions, PthFile, load};
use kiln_nn::{
    Linear, Module, ModuleTree,
    functional::mse_loss,
    optim::{
        ASGDOptions, AdadeltaOptions, AdafactorOptions, Adagrad, AdagradOptions, Adam, AdamOptions, AdamW,
        AdamWOptions, AdamaxOptions, AdjustLr, Muon, MuonOptions, NAdamOptions, Optim, Optimizer, RAdamOptions,
        RMSprop, RMSpropOptions, RpropOptions, SGD, SGDOptions, UpdateRule,
    },
};
use kiln_tensor::{Device, Result, StateDict, Tensor};

fn golden(name: &str) -> PathBuf {
    checkout::path("tests/golden/pth/optimizers").join(name)
}

fn expected(run: &str) -> HashMap<String, Tensor> {
    let mut all = load(golden("expected.safetensors"), Device::Cpu).unwrap();
    all.extend(load(golden("more_expected.safetensors"), Device::Cpu).unwrap());
    let own = |name: &String| Some(name.strip_prefix(run)?.strip_prefix('/')?.to_owned());
    all.iter().filter_map(|(name, tensor)| Some((own(name)?, tensor.clone()))).collect()
}

/// Loads model and optimizer, makes three steps, and compares.
fn continues(run: &str, make: impl Fn(&Linear) -> Result<Box<dyn Optimizer>>) -> Result<()> {
    let file = PthFile::open(golden(&format!("{run}.pth")))?;
    let want = expected(run);
    let model = Linear::new(3, 2)?;
    model.load_state_dict(&file.state_dict(Device::Cpu)?, true)?;
    let mut optimizer = make(&model)?;
    optimizer.load_state_dict(&file.optimizer_state(Device::Cpu)?)?;
    for _ in 0..3 {
        optimizer.zero_grad();
        mse_loss(&model.forward(&want["inputs"])?, &want["targets"])?.backward()?;
        optimizer.step()?;
    }
    for (name, tensor) in model.state_dict() {
        let (got, want) = (tensor.to_vec::<f32>()?, want[&name].to_vec::<f32>()?);
        // Muon's products are of bf16.
        let tolerance = if run == "muon" { 5e-3 } else { 2e-6 };
        let near = got.iter().zip(&want).all(|(a, b)| (a - b).abs() <= tolerance * b.abs().max(1.0));
        assert!(near, "{run} {name}: {got:?}, and PyTorch has {want:?}");
    }
    Ok(())
}

#[test]
fn a_run_of_pytorch_goes_on() -> Result<()> {
    // All hyperparameters come from the file; what they are made with here is wrong on purpose.
    let sgd = |model: &Linear| -> Result<Box<dyn Optimizer>> { Ok(Box::new(SGD::new(model.named_parameters(), 9.0)?)) };
    let adam =
        |model: &Linear| -> Result<Box<dyn Optimizer>> { Ok(Box::new(Adam::new(model.named_parameters(), 9.0)?)) };
    let adamw = |model: &Linear| -> Result<Box<dyn Optimizer>> { Ok(Box::new(AdamW::new(model.parameters(), 9.0)?)) };
    let rmsprop =
        |model: &Linear| -> Result<Box<dyn Optimizer>> { Ok(Box::new(RMSprop::new(model.parameters(), 9.0)?)) };
    let adagrad =
        |model: &Linear| -> Result<Box<dyn Optimizer>> { Ok(Box::new(Adagrad::new(model.parameters(), 9.0)?)) };
    for run in ["sgd", "sgd_momentum", "sgd_dampening"] {
        continues(run, sgd)?;
    }
    for run in ["adam", "adam_amsgrad"] {
        continues(run, adam)?;
    }
    for run in ["adamw", "adamw_tensor_lr"] {
        continues(run, adamw)?;
    }
    for run in ["rmsprop", "rmsprop_all"] {
        continues(run, rmsprop)?;
    }
    for run in ["adagrad", "adagrad_plain"] {
        continues(run, adagrad)?;
    }
    // The others, one by one.
    fn of<O: UpdateRule + Default>(model: &Linear) -> Result<Box<dyn Optimizer>> {
        Ok(Box::new(Optim::<O>::new(model.named_parameters(), O::default())?))
    }
    continues("adadelta", of::<AdadeltaOptions>)?;
    continues("adafactor", of::<AdafactorOptions>)?;
    continues("adamax", of::<AdamaxOptions>)?;
    continues("asgd", of::<ASGDOptions>)?;
    continues("nadam", of::<NAdamOptions>)?;
    continues("radam", of::<RAdamOptions>)?;
    continues("rprop", of::<RpropOptions>)?;
    continues("muon", |model| Ok(Box::new(Muon::new([("weight", &*model.weight)], 9.0)?)))?;
    continues("groups", |model| {
        let group = |name: &str, param: &Tensor| (vec![(name.to_owned(), param.clone())], SGDOptions::new(9.0));
        let bias = model.bias.as_deref().expect("it has a bias");
        Ok(Box::new(SGD::with_groups([group("weight", &model.weight), group("bias", bias)])?))
    })
}

#[test]
fn hyper_parameters_are_those_of_the_file() -> Result<()> {
    fn of<O: UpdateRule + PartialEq>(run: &str, options: O, want: O) -> Result<()> {
        let model = Linear::new(3, 2)?;
        let mut optimizer = Optim::<O>::new(model.parameters(), options)?;
        optimizer.load_state_dict(&PthFile::open(golden(run))?.optimizer_state(Device::Cpu)?)?;
        assert_eq!(optimizer.param_groups()[0].options, want, "{run}");
        Ok(())
    }
    of("sgd_momentum.pth", SGDOptions::new(1.0), SGDOptions::new(0.1).momentum(0.9).weight_decay(0.01).nesterov(true))?;
    of("adam.pth", AdamOptions::new(1.0), AdamOptions::new(0.05).betas((0.8, 0.95)).weight_decay(0.1))?;
    of("adam_amsgrad.pth", AdamOptions::new(1.0), AdamOptions::new(0.05).amsgrad(true).maximize(true))?;
    of("adamw.pth", AdamWOptions::new(1.0), AdamWOptions::new(0.05))?;
    of("rmsprop_all.pth", RMSpropOptions::new(1.0), RMSpropOptions::new(0.05).momentum(0.5).centered(true))?;
    of("adafactor.pth", AdafactorOptions::new(1.0), AdafactorOptions::new(0.1).weight_decay(0.1).eps((None, 0.01)))?;
    of("nadam.pth", NAdamOptions::new(1.0), NAdamOptions::new(0.05).weight_decay(0.1).decoupled_weight_decay(true))?;
    of("asgd.pth", ASGDOptions::new(1.0), ASGDOptions::new(0.05).t0(2.0).lambd(0.1))?;
    of("rprop.pth", RpropOptions::new(1.0), RpropOptions::new(0.05).etas((0.4, 1.5)))?;
    of("adagrad.pth", AdagradOptions::new(1.0), AdagradOptions::new(0.1).lr_decay(0.1).initial_accumulator_value(0.2))
}

#[test]
fn the_settings_of_muon_are_read() -> Result<()> {
    let weight = Tensor::zeros([2, 3], Device::Cpu)?.requires_grad_(true)?;
    let mut optimizer = Muon::new([&weight], 1.0)?;
    optimizer.load_state_dict(&PthFile::open(golden("muon.pth"))?.optimizer_state(Device::Cpu)?)?;
    let want = MuonOptions::new(0.05).ns_steps(6).adjust_lr_fn(AdjustLr::MatchRmsAdamw);
    assert_eq!(optimizer.param_groups()[0].options, want);
    Ok(())
}

#[test]
fn what_is_no_state_of_these_optimizers_is_an_error() -> Result<()> {
    let file = PthFile::open(golden("adam.pth"))?;
    for (options, want) in [
        (LoadOptions::default().key("model"), "no state of an optimizer"),
        (LoadOptions::default().key("absent"), "\"absent\""),
    ] {
        let message = file.optimizer_state(options).unwrap_err().to_string();
        assert!(message.contains(want) && message.contains("adam.pth"), "{message}");
    }
    assert!(!file.optimizer_state(LoadOptions::default().key("optimizer"))?.is_empty());
    let message = PthFile::open(golden("lbfgs.pth"))?.optimizer_state(Device::Cpu).unwrap_err().to_string();
    assert!(message.contains("LBFGS"), "{message}");
    let model = Linear::new(3, 2)?;
    // PyTorch's Adam and AdamW keep the same tensors, and differ in what they do with them.
    let mut adamw = AdamW::new(model.parameters(), 0.1)?;
    let message = adamw.load_state_dict(&file.optimizer_state(Device::Cpu)?).unwrap_err().to_string();
    assert!(message.contains("that of Adam and cannot be loaded into AdamW"), "{message}");
    let of_adamw = PthFile::open(golden("adamw.pth"))?.optimizer_state(Device::Cpu)?;
    let message = Adam::new(model.parameters(), 0.1)?.load_state_dict(&of_adamw).unwrap_err().to_string();
    assert!(message.contains("that of AdamW and cannot be loaded into Adam"), "{message}");
    let mut sgd = SGD::new(model.parameters(), 0.1)?;
    let before: StateDict = sgd.state_dict()?;
    assert!(sgd.load_state_dict(&file.optimizer_state(Device::Cpu)?).is_err(), "it is Adam's");
    assert_eq!(before.keys().collect::<Vec<_>>(), sgd.state_dict()?.keys().collect::<Vec<_>>());
    Ok(())
}

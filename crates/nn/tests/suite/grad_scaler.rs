//! Gradient scaling against PyTorch: which steps are skipped, how the scale moves, and what parameters become.

use crate::common::{json, number, with_args};
use kiln_nn::{
    Linear, Module, ModuleTree,
    functional::mse_loss,
    optim::{
        ASGDOptions, AdadeltaOptions, Adafactor, Adagrad, AdagradOptions, Adam, AdamOptions, AdamWOptions, Adamax,
        GradScaler, GradScaling, GroupRates, Lion, Muon, NAdam, NAdamOptions, Optim, Optimizer, RAdam, RMSpropOptions,
        Rprop, RpropOptions, SGD, SGDOptions, UpdateRule, clip_grad_norm_,
    },
};
use kiln_tensor::{DType, Device, Result, StateDict, Tensor, no_grad};
use serde_json::Value;

fn values(of: &Value) -> Vec<f32> {
    let value = |value: &Value| match value.as_str() {
        Some(text) => text.parse::<f64>().unwrap(),
        None => value.as_f64().unwrap(),
    };
    of.as_array().unwrap().iter().map(|one| value(one) as f32).collect()
}

fn vector(of: &Value) -> Result<Tensor> {
    let values = values(of);
    Tensor::from_slice(&values, values.len(), Device::Cpu)
}

fn copies(state: &StateDict) -> Result<StateDict> {
    no_grad(|| state.iter().map(|(name, tensor)| Ok((name.clone(), tensor.copy()?))).collect())
}

/// A case of the golden file, by the fused primitive or by tensor operations.
fn run<O: UpdateRule + Default>(golden: &Value, case: &Value, fused: bool) -> Result<()> {
    let name = case["name"].as_str().unwrap();
    let options = &case["scaler"];
    let new_scaler = || {
        GradScaler::new()
            .init_scale(number(options, "init_scale", 65536.0))
            .growth_factor(number(options, "growth_factor", 2.0))
            .backoff_factor(number(options, "backoff_factor", 0.5))
            .growth_interval(number(options, "growth_interval", 2000.0) as i32)
    };
    let params: Vec<Tensor> = golden["initial"]
        .as_array()
        .unwrap()
        .iter()
        .map(|at| vector(at)?.requires_grad_(true))
        .collect::<Result<_>>()?;
    let build = || -> Result<Vec<Optim<O>>> {
        let options = with_args(O::default(), &case["args"]);
        if case["apart"].as_bool().unwrap() {
            params.iter().map(|param| Ok(Optim::new([param], options)?.fused(fused))).collect()
        } else {
            Ok(vec![Optim::new(&params, options)?.fused(fused)])
        }
    };
    let (mut optimizers, mut scaler) = (build()?, new_scaler());
    let (accumulate, grads) = (case["accumulate"].as_u64().unwrap(), golden["grads"].as_array().unwrap());
    for (number, (grads, want)) in grads.iter().zip(case["steps"].as_array().unwrap()).enumerate() {
        if case["restart"].as_u64() == Some(number as u64) {
            let states = optimizers.iter().map(Optim::state_dict).collect::<Result<Vec<_>>>()?;
            let (states, state) =
                (states.iter().map(copies).collect::<Result<Vec<_>>>()?, copies(&scaler.state_dict()?)?);
            (optimizers, scaler) = (build()?, GradScaler::new());
            scaler.load_state_dict(&state)?;
            optimizers.iter_mut().zip(&states).try_for_each(|(one, state)| one.load_state_dict(state))?;
        }
        optimizers.iter().for_each(Optim::zero_grad);
        for _ in 0..accumulate {
            let product = |i: usize| params[i].mul(&vector(&grads[i])?)?.sum(());
            let loss = product(0)?.add(&product(1)?)?.div(accumulate as f64)?;
            scaler.scale(&loss)?.backward()?;
        }
        for optimizer in &mut optimizers {
            if let Some(clip) = case["clip"].as_f64() {
                scaler.unscale_(optimizer)?;
                clip_grad_norm_(optimizer.parameters(), clip, 2.0)?;
            }
            scaler.step(optimizer)?;
        }
        scaler.update()?;
        let what = format!("{name}, step {number}, fused: {fused}");
        assert_eq!(scaler.get_scale()?, want["scale"].as_f64().unwrap(), "{what}");
        let tracker = scaler.state_dict()?["_growth_tracker"].item::<i64>()?;
        assert_eq!(tracker, want["tracker"].as_i64().unwrap(), "{what}");
        for (param, want) in params.iter().zip(want["params"].as_array().unwrap()) {
            for (got, want) in param.detach().to_vec::<f32>()?.into_iter().zip(values(want)) {
                assert!((got - want).abs() <= 2e-6 * want.abs().max(1.0), "{what}: {got}, not {want}");
            }
        }
    }
    Ok(())
}

#[test]
fn scales_and_parameters_are_pytorchs() -> Result<()> {
    let golden = json("grad_scaler.json");
    for case in golden["cases"].as_array().unwrap() {
        for fused in [true, false] {
            match case["optimizer"].as_str().unwrap() {
                "SGD" => run::<SGDOptions>(&golden, case, fused)?,
                "Adam" => run::<AdamOptions>(&golden, case, fused)?,
                "AdamW" => run::<AdamWOptions>(&golden, case, fused)?,
                "RMSprop" => run::<RMSpropOptions>(&golden, case, fused)?,
                "Adagrad" => run::<AdagradOptions>(&golden, case, fused)?,
                "Adadelta" => run::<AdadeltaOptions>(&golden, case, fused)?,
                "NAdam" => run::<NAdamOptions>(&golden, case, fused)?,
                "ASGD" => run::<ASGDOptions>(&golden, case, fused)?,
                "Rprop" => run::<RpropOptions>(&golden, case, fused)?,
                other => panic!("an optimizer {other}"),
            }
        }
    }
    Ok(())
}

/// Every optimizer, in every dtype: a step that is skipped changes nothing, and one that is not equals one without a scaler.
#[test]
fn skipped_steps_change_nothing() -> Result<()> {
    type Make = fn(Vec<Tensor>) -> Result<Box<dyn Optimizer>>;
    let all: [(&str, Make); 12] = [
        ("SGD", |p| Ok(Box::new(SGD::new(p, SGDOptions::new(0.1).momentum(0.9))?))),
        ("Adam", |p| Ok(Box::new(Adam::new(p, 0.1)?))),
        ("Adam by operations", |p| Ok(Box::new(Adam::new(p, 0.1)?.fused(false)))),
        ("Adamax", |p| Ok(Box::new(Adamax::new(p, 0.1)?))),
        ("Adafactor", |p| Ok(Box::new(Adafactor::new(p, 0.1)?))),
        ("Lion", |p| Ok(Box::new(Lion::new(p, 0.1)?))),
        ("Muon", |p| Ok(Box::new(Muon::new(p, 0.1)?))),
        ("NAdam", |p| Ok(Box::new(NAdam::new(p, 0.1)?))),
        ("RAdam", |p| Ok(Box::new(RAdam::new(p, 0.1)?))),
        ("Rprop", |p| Ok(Box::new(Rprop::new(p, 0.1)?))),
        ("one of another crate", |p| Ok(Box::new(Foreign(SGD::new(p, 0.1)?)))),
        ("Adagrad", |p| Ok(Box::new(Adagrad::new(p, 0.1)?))),
    ];
    for (name, make) in all {
        for dtype in [DType::F32, DType::F64, DType::BF16, DType::F16] {
            let new = || -> Result<_> {
                let values = Tensor::arange(0, 6, Device::Cpu)?.to_dtype(DType::F32)?.reshape([2, 3])?.mul(0.25)?;
                let param = values.to_dtype(dtype)?.requires_grad_(true)?;
                Ok((param.clone(), make(vec![param])?))
            };
            let ((scaled, mut optimizer), (plain, mut other)) = (new()?, new()?);
            let mut scaler = GradScaler::new().init_scale(4.0);
            // Of f64, since states may be NaN.
            let bits = |tensor: &Tensor| -> Result<Vec<u64>> {
                let values = tensor.detach().to_dtype(DType::F64)?.flatten(0, -1)?.to_vec::<f64>()?;
                Ok(values.into_iter().map(f64::to_bits).collect())
            };
            let left = |optimizer: &dyn Optimizer, param: &Tensor| -> Result<Vec<Vec<u64>>> {
                optimizer.state_dict()?.values().chain([param]).map(bits).collect()
            };
            for step in 0..5 {
                let values = [0.5f32, -1.0, if step == 2 { f32::INFINITY } else { 2.0 }, 0.25, -0.5, 1.0];
                let grad = Tensor::from_slice(&values, [2, 3], Device::Cpu)?.to_dtype(dtype)?;
                plain.set_grad(Some(grad.copy()?))?;
                scaler.scale(&Tensor::zeros((), Device::Cpu)?)?;
                let scale = scaler.get_scale()?;
                scaled.set_grad(Some(grad.mul(scale)?))?;
                let before = left(&*optimizer, &scaled)?;
                scaler.step(&mut *optimizer)?;
                scaler.update()?;
                if step == 2 {
                    assert!(before == left(&*optimizer, &scaled)?, "{name} {dtype}");
                    assert_eq!(scaler.get_scale()?, scale / 2.0, "{name} {dtype}");
                    continue;
                }
                other.step()?;
                assert!(left(&*optimizer, &scaled)? == left(&*other, &plain)?, "{name} {dtype}, step {step}");
            }
        }
    }
    Ok(())
}

/// An optimizer that knows nothing of scalers.
struct Foreign(SGD);

impl Optimizer for Foreign {
    fn step(&mut self) -> Result<()> {
        self.0.step()
    }
    fn zero_grad(&self) {
        self.0.zero_grad();
    }
    fn parameters(&self) -> Vec<Tensor> {
        self.0.parameters()
    }
    fn unused_parameters(&self) -> &[String] {
        self.0.unused_parameters()
    }
    fn rates(&self) -> Vec<GroupRates> {
        self.0.rates()
    }
    fn set_rates(&mut self, rates: &[GroupRates]) -> Result<()> {
        self.0.set_rates(rates)
    }
    fn state_dict(&self) -> Result<StateDict> {
        self.0.state_dict()
    }
    fn load_state_dict(&mut self, state: &StateDict) -> Result<()> {
        self.0.load_state_dict(state)
    }
}

fn network() -> Result<(Linear, Adam, Tensor)> {
    let model = Linear::new(3, 2)?;
    let optimizer = Adam::new(model.named_parameters(), 0.1)?;
    let loss = mse_loss(&model.forward(&Tensor::ones([4, 3], Device::Cpu)?)?, &Tensor::zeros([4, 2], Device::Cpu)?)?;
    Ok((model, optimizer, loss))
}

#[track_caller]
fn refused<T>(result: Result<T>, words: &str) {
    let error = result.err().unwrap_or_else(|| panic!("no error: {words}")).to_string();
    assert!(error.contains(words), "{error}");
}

#[test]
fn calls_out_of_order_are_errors() -> Result<()> {
    let (_model, mut optimizer, loss) = network()?;
    let mut scaler = GradScaler::new();
    refused(scaler.unscale_(&mut optimizer), "before scale()");
    refused(scaler.step(&mut optimizer), "before scale()");
    refused(scaler.update(), "before scale()");
    let scaled = scaler.scale(&loss)?;
    refused(scaler.update(), "no inf checks");
    refused(scaler.step(&mut optimizer), "has a gradient");
    scaled.backward()?;
    scaler.unscale_(&mut optimizer)?;
    assert_eq!(scaler.found_inf(&optimizer).unwrap().item::<f32>()?, 0.0);
    refused(scaler.unscale_(&mut optimizer), "already been called");
    scaler.step(&mut optimizer)?;
    refused(scaler.unscale_(&mut optimizer), "after step()");
    refused(scaler.step(&mut optimizer), "already been called");
    scaler.update()?;
    scaler.step(&mut optimizer)?;
    scaler.update_with(8.0)?;
    assert_eq!(scaler.get_scale()?, 8.0);

    for (scaler, words) in [
        (GradScaler::new().growth_factor(1.0), "growth factor 1"),
        (GradScaler::new().backoff_factor(1.0), "backoff factor 1"),
        (GradScaler::new().growth_interval(0), "growth interval 0"),
        (GradScaler::new().init_scale(f64::INFINITY), "scale inf"),
        (GradScaler::new().init_scale(-1.0), "scale -1"),
    ] {
        let mut scaler = scaler;
        refused(scaler.scale(&loss), words);
    }
    refused(GradScaler::new().scale(&Tensor::zeros((), DType::I64)?), "floating-point");
    // Half precision.
    let half = Tensor::ones(2, DType::F16)?.requires_grad_(true)?;
    let mut optimizer = SGD::new([&half], 0.5)?;
    let mut scaler = GradScaler::new().init_scale(16.0);
    scaler.scale(&half.sum(())?)?.backward()?;
    refused(scaler.unscale_(&mut optimizer), "vanish");
    scaler.step(&mut optimizer)?;
    assert_eq!(half.detach().to_dtype(DType::F32)?.to_vec::<f32>()?, [0.5, 0.5]);
    Ok(())
}

#[test]
fn a_scaler_that_is_not_enabled_does_nothing() -> Result<()> {
    let (model, mut optimizer, loss) = network()?;
    let mut scaler = GradScaler::new().enabled(false);
    assert!(scaler.scale(&loss)?.is_same(&loss) && !scaler.is_enabled());
    loss.backward()?;
    scaler.unscale_(&mut optimizer)?;
    let before = model.weight.detach().copy()?.to_vec::<f32>()?;
    scaler.step(&mut optimizer)?;
    scaler.update()?;
    scaler.update_with(3.0)?;
    assert_ne!(before, model.weight.detach().to_vec::<f32>()?);
    assert_eq!(scaler.get_scale()?, 1.0);
    let state = scaler.state_dict()?;
    assert!(state.is_empty());
    refused(GradScaler::new().load_state_dict(&state), "not enabled");
    scaler.load_state_dict(&GradScaler::new().state_dict()?)
}

#[test]
fn states_are_saved_and_loaded() -> Result<()> {
    let mut scaler = GradScaler::new().init_scale(32.0).growth_interval(7);
    let state = scaler.state_dict()?;
    let keys: Vec<&String> = state.keys().collect();
    assert_eq!(keys, ["scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"]);
    let mut missing = state.clone();
    missing.shift_remove("scale");
    refused(scaler.load_state_dict(&missing), "scale");
    let mut wrong = state.clone();
    wrong.insert("backoff_factor".into(), Tensor::full((), 2.0, DType::F64)?);
    refused(scaler.load_state_dict(&wrong), "backoff factor 2");
    let mut other = GradScaler::new();
    other.load_state_dict(&state)?;
    assert_eq!((other.get_scale()?, other.get_growth_interval()), (32.0, 7));
    // Also where it is in use.
    let (_model, mut optimizer, loss) = network()?;
    scaler.set_growth_interval(1);
    scaler.scale(&loss)?.backward()?;
    scaler.step(&mut optimizer)?;
    scaler.update()?;
    assert_eq!(scaler.get_scale()?, 64.0);
    scaler.load_state_dict(&state)?;
    assert_eq!((scaler.get_scale()?, scaler.get_growth_interval()), (32.0, 7));
    Ok(())
}

/// What another rank has found.
#[test]
fn the_decision_may_be_made_with_others() -> Result<()> {
    let (model, mut optimizer, loss) = network()?;
    let mut scaler = GradScaler::new().reduce_found_inf(|found| found.fill_(1.0));
    let before = model.weight.detach().to_vec::<f32>()?;
    scaler.scale(&loss)?.backward()?;
    scaler.step(&mut optimizer)?;
    scaler.update()?;
    assert_eq!((model.weight.detach().to_vec::<f32>()?, scaler.get_scale()?), (before, 32768.0));
    // Without gradients of its own, an optimizer's step is decided all the same.
    optimizer.step_scaled(GradScaling { found_inf: &Tensor::zeros((), DType::F32)?, scale: None })
}

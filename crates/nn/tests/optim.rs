//! Optimizers and gradient clipping against PyTorch.

mod common;

use common::{Golden, assert_close, number, with_args};
use kiln_nn::optim::{
    AdadeltaOptions, Adagrad, AdagradOptions, Adam, AdamOptions, AdamW, AdamWOptions, Optim, Optimizer, RMSprop,
    RMSpropOptions, SGD, SGDOptions, UpdateRule, clip_grad_norm_, clip_grad_value_,
};
use kiln_nn::{Conv2d, Module, ModuleTree};
use kiln_tensor::{Device, Result, StateDict, Tensor, manual_seed, no_grad};
use serde_json::Value;

/// Both ways: by the fused primitive, where there is one, and by tensor operations.
fn run<O: UpdateRule + Default>(golden: &Golden, name: &str, args: &Value) -> Result<()> {
    run_fused::<O>(golden, name, args, true)?;
    run_fused::<O>(golden, name, args, false)
}

fn run_fused<O: UpdateRule + Default>(golden: &Golden, name: &str, args: &Value, fused: bool) -> Result<()> {
    let params: Vec<Tensor> =
        (0..2).map(|i| golden.get(name, &format!("param{i}")).copy()?.requires_grad_(true)).collect::<Result<_>>()?;
    let options = with_args(O::default(), args);
    let mut optimizer = match args["groups"].as_array() {
        Some(groups) => Optim::with_groups(
            params.iter().zip(groups).map(|(param, own)| (vec![param.clone()], with_args(options, own))),
        )?,
        None => Optim::new(&params, options)?,
    }
    .fused(fused);
    for step in 1..=6 {
        for (i, param) in params.iter().enumerate() {
            param.set_grad(golden.find(name, &format!("step{step}/grad{i}")))?;
        }
        optimizer.step()?;
        for (i, param) in params.iter().enumerate() {
            let want = golden.get(name, &format!("step{step}/param{i}"));
            assert_close(param, &want, &format!("{name}, step {step}, parameter {i}, fused: {fused}"));
        }
        let unused: Vec<String> =
            (0..2).filter(|&i| params[i].grad().is_none()).map(|i: usize| i.to_string()).collect();
        assert_eq!(optimizer.unused_parameters(), unused, "{name}, step {step}");
    }
    Ok(())
}

#[test]
fn steps_equal_pytorchs() {
    let golden = Golden::open("optim.safetensors");
    let mut count = 0;
    for case in &golden.cases {
        let (name, args) = (case["name"].as_str().unwrap(), &case["args"]);
        let result = match case["op"].as_str().unwrap() {
            "SGD" => run::<SGDOptions>(&golden, name, args),
            "Adam" => run::<AdamOptions>(&golden, name, args),
            "AdamW" => run::<AdamWOptions>(&golden, name, args),
            "RMSprop" => run::<RMSpropOptions>(&golden, name, args),
            "Adadelta" => run::<AdadeltaOptions>(&golden, name, args),
            "Adagrad" => run::<AdagradOptions>(&golden, name, args),
            _ => continue,
        };
        result.unwrap_or_else(|e| panic!("{name}: {e}"));
        count += 1;
    }
    assert_eq!(count, 50);
}

#[test]
fn clipped_gradients_equal_pytorchs() {
    let golden = Golden::open("optim.safetensors");
    let mut count = 0;
    for case in &golden.cases {
        let (name, args) = (case["name"].as_str().unwrap(), &case["args"]);
        let op = case["op"].as_str().unwrap();
        if !op.starts_with("clip") {
            continue;
        }
        let params: Vec<Tensor> = (0..2)
            .map(|i| {
                let grad = golden.get(name, &format!("grad{i}")).copy().unwrap();
                let param = grad.zeros_like().unwrap().requires_grad_(true).unwrap();
                param.set_grad(Some(grad)).unwrap();
                param
            })
            .collect();
        if op == "clip_grad_norm_" {
            let total =
                clip_grad_norm_(&params, number(args, "max_norm", 0.0), number(args, "norm_type", 2.0)).unwrap();
            assert_close(&total, &golden.get(name, "total_norm"), name);
        } else {
            clip_grad_value_(&params, number(args, "clip_value", 0.0)).unwrap();
        }
        for (i, param) in params.iter().enumerate() {
            assert_close(&param.grad().unwrap(), &golden.get(name, &format!("out{i}")), &format!("{name}, {i}"));
        }
        count += 1;
    }
    assert_eq!(count, 17);
}

#[test]
fn clipping_refuses_what_makes_no_sense() {
    let param = Tensor::ones(2, Device::Cpu).unwrap();
    assert!(clip_grad_norm_([&param], -1.0, 2.0).is_err());
    assert!(clip_grad_norm_([&param], f64::NAN, 2.0).is_err());
    assert!(clip_grad_norm_([&param], 1.0, 0.0).is_err());
    assert!(clip_grad_value_([&param], -1.0).is_err());
    // Without gradients there is nothing to clip.
    assert_eq!(clip_grad_norm_([&param], 1.0, 2.0).unwrap().item::<f32>().unwrap(), 0.0);
}

/// A leaf of ones that requires gradients.
fn leaf(len: usize) -> Tensor {
    Tensor::ones(len, Device::Cpu).unwrap().requires_grad_(true).unwrap()
}

/// Gradients that depend on the step and on the parameter.
fn set_grads(params: &[Tensor], step: usize) {
    for (i, param) in params.iter().enumerate() {
        let grad = Tensor::arange(0.0, param.numel() as f64, Device::Cpu).unwrap();
        param.set_grad(Some(grad.add((step * 3 + i) as f64 * 0.37 - 1.0).unwrap())).unwrap();
    }
}

fn resumes<O: UpdateRule>(options: O) {
    let make = |params: &[Tensor]| {
        let named = |range: std::ops::Range<usize>| -> Vec<(String, Tensor)> {
            range.map(|i| (format!("layer.{i}"), params[i].clone())).collect()
        };
        let mut slow = options;
        *slow.lr_mut() *= 0.1;
        Optim::with_groups([(named(0..2), options), (named(2..3), slow)]).unwrap()
    };
    let params = [leaf(3), leaf(2), leaf(4)];
    let mut whole = make(&params);
    for step in 0..3 {
        set_grads(&params, step);
        whole.step().unwrap();
    }
    whole.set_lr(0.0123).unwrap();

    let copies: Vec<Tensor> =
        params.iter().map(|p| no_grad(|| p.copy()).unwrap().requires_grad_(true).unwrap()).collect();
    let state = whole.state_dict().unwrap();
    let mut resumed = make(&copies);
    resumed.load_state_dict(&state).unwrap();
    assert_eq!(resumed.lr(), 0.0123);
    for step in 3..6 {
        for (optimizer, params) in [(&mut whole, &params[..]), (&mut resumed, &copies[..])] {
            set_grads(params, step);
            optimizer.step().unwrap();
        }
        for (a, b) in params.iter().zip(&copies) {
            // Bit for bit.
            assert_eq!(a.to_vec::<f32>().unwrap(), b.to_vec::<f32>().unwrap(), "{} step {step}", O::NAME);
        }
    }
}

#[test]
fn a_loaded_state_goes_on_bit_for_bit() {
    resumes(AdadeltaOptions::new(0.5).weight_decay(0.1));
    resumes(SGDOptions::new(0.1).momentum(0.9).dampening(0.2));
    resumes(AdamOptions::new(0.1).amsgrad(true));
    resumes(AdamWOptions::new(0.1));
    resumes(RMSpropOptions::new(0.1).centered(true).momentum(0.5));
    resumes(AdagradOptions::new(0.1).lr_decay(0.1).initial_accumulator_value(0.1));
}

/// Invalid hyperparameters are named.
#[test]
fn invalid_hyper_parameters_are_named() {
    fn refused(options: impl UpdateRule, what: &str) {
        let error = options.validate().expect_err(what).to_string();
        assert!(error.contains(what), "{error}");
    }
    refused(SGDOptions::new(-0.1), "learning rate -0.1");
    refused(SGDOptions::new(f64::NAN), "learning rate NaN");
    refused(SGDOptions::new(0.1).nesterov(true), "nesterov");
    refused(SGDOptions::new(0.1).momentum(0.9).dampening(0.1).nesterov(true), "nesterov");
    refused(SGDOptions::new(0.1).dampening(f64::INFINITY), "dampening");
    refused(SGDOptions::new(0.1).momentum(-1.0), "momentum");
    refused(AdamOptions::new(0.1).betas((0.9, 1.0)), "betas (0.9, 1.0)");
    refused(AdamWOptions::new(0.1).betas((-0.1, 0.9)), "betas");
    refused(AdamOptions::new(0.1).eps(-1.0), "eps");
    refused(RMSpropOptions::new(0.1).alpha(-0.5), "alpha");
    refused(AdagradOptions::new(0.1).initial_accumulator_value(-1.0), "initial accumulator");
    refused(AdadeltaOptions::new(0.1).rho(1.5), "rho 1.5");
}

/// The fused primitive keeps as many states as the rule names.
#[test]
fn a_fused_rule_has_the_states_that_are_named() {
    fn check(options: impl UpdateRule) {
        let states = options.fused().map(|rule| rule.states());
        assert_eq!(states, Some(options.states().len()), "{options:?}");
    }
    check(SGDOptions::default());
    check(SGDOptions::default().momentum(0.9));
    for amsgrad in [false, true] {
        check(AdamOptions::default().amsgrad(amsgrad));
        check(AdamWOptions::default().amsgrad(amsgrad));
    }
    for centered in [false, true] {
        for momentum in [0.0, 0.9] {
            check(RMSpropOptions::default().centered(centered).momentum(momentum));
        }
    }
    check(AdagradOptions::default());
}

/// In half precision a rule of tensor operations computes in `f32` and rounds once, as the fused one does.
#[test]
fn half_precision_is_updated_in_f32() {
    use kiln_tensor::DType;
    for dtype in [DType::F16, DType::BF16] {
        let ends: Vec<Vec<f32>> = [true, false]
            .map(|fused| {
                let x = Tensor::new([1.0f32, -3.0, 0.25], Device::Cpu).unwrap().to_dtype(dtype).unwrap();
                let x = x.detach().requires_grad_(true).unwrap();
                let mut adam = Adam::new([&x], AdamOptions::new(0.01).amsgrad(true)).unwrap().fused(fused);
                for step in 0..5 {
                    let grad = Tensor::new([0.5f32, -1.0 + step as f32, 1e-3], Device::Cpu).unwrap();
                    x.set_grad(Some(grad.to_dtype(dtype).unwrap())).unwrap();
                    adam.step().unwrap();
                }
                x.to_dtype(DType::F32).unwrap().to_vec::<f32>().unwrap()
            })
            .into();
        assert_eq!(ends[0], ends[1], "{dtype}");
    }
}

#[test]
fn state_has_pytorchs_names() {
    let params = [leaf(2)];
    let mut adam = Adam::new([("fc.weight", &params[0])], 0.1).unwrap();
    set_grads(&params, 0);
    adam.step().unwrap();
    let keys: Vec<String> = adam.state_dict().unwrap().keys().cloned().collect();
    let want = [
        "name",
        "param_groups.0.lr",
        "param_groups.0.betas",
        "param_groups.0.eps",
        "param_groups.0.weight_decay",
        "param_groups.0.amsgrad",
        "param_groups.0.maximize",
        "state.fc.weight.step",
        "state.fc.weight.exp_avg",
        "state.fc.weight.exp_avg_sq",
    ];
    assert_eq!(keys, want);
}

#[test]
fn a_state_that_does_not_fit_changes_nothing() {
    let params = [leaf(2)];
    let mut adam = Adam::new(&params, 0.1).unwrap();
    set_grads(&params, 0);
    adam.step().unwrap();
    let mut state = adam.state_dict().unwrap();

    let mut nameless = state.clone();
    nameless.shift_remove("name");
    let error = Adagrad::new(&params, 0.5).unwrap().load_state_dict(&nameless).unwrap_err().to_string();
    assert!(error.contains("state.0.sum") && error.contains("state.0.exp_avg"), "{error}");

    let mut other = Adam::new([leaf(3)], 0.7).unwrap();
    let error = other.load_state_dict(&state).unwrap_err().to_string();
    assert!(error.contains("exp_avg") && error.contains("[3]") && error.contains("[2]"), "{error}");
    assert_eq!(other.lr(), 0.7);

    state.insert("param_groups.0.lr".into(), Tensor::new(-1.0f64, Device::Cpu).unwrap());
    assert!(adam.load_state_dict(&state).is_err());
    assert_eq!(adam.lr(), 0.1);
}

/// Also where all names of the state dict are the same, as those of Adam and AdamW are.
#[test]
fn the_state_of_another_optimizer_is_refused() {
    let params = [leaf(2)];
    type Make = fn(&[Tensor]) -> Box<dyn Optimizer>;
    let make: [(&str, Make); 6] = [
        ("SGD", |params| Box::new(SGD::new(params, 0.1).unwrap())),
        ("Adam", |params| Box::new(Adam::new(params, 0.1).unwrap())),
        ("AdamW", |params| Box::new(AdamW::new(params, 0.1).unwrap())),
        ("RMSprop", |params| Box::new(RMSprop::new(params, 0.1).unwrap())),
        ("Adagrad", |params| Box::new(Adagrad::new(params, 0.1).unwrap())),
        ("Adadelta", |params| Box::new(Optim::<AdadeltaOptions>::new(params, 0.1).unwrap())),
    ];
    for (from, make_first) in make {
        let mut first = make_first(&params);
        set_grads(&params, 0);
        first.step().unwrap();
        let state = first.state_dict().unwrap();
        for (to, make_second) in make {
            let mut second = make_second(&params);
            let before = second.state_dict().unwrap().len();
            let result = second.load_state_dict(&state);
            if from == to {
                result.unwrap();
                continue;
            }
            let error = result.unwrap_err().to_string();
            let want = format!("{to}: load_state_dict: the state is that of {from}");
            assert!(error.starts_with(&want), "{from} to {to}: {error}");
            assert_eq!(second.state_dict().unwrap().len(), before);
        }
    }
}

#[test]
fn a_step_without_any_gradient_is_an_error() {
    let params = [leaf(2), leaf(2)];
    let mut sgd = SGD::new([("a", &params[0]), ("b", &params[1])], 0.1).unwrap();
    let error = sgd.step().unwrap_err().to_string();
    assert!(error.contains("none of the 2 parameters has a gradient"), "{error}");

    set_grads(&params[..1], 0);
    sgd.step().unwrap();
    assert_eq!(sgd.unused_parameters(), ["b"]);
    // A frozen parameter is not expected to have one.
    params[1].set_requires_grad(false).unwrap();
    sgd.step().unwrap();
    assert!(sgd.unused_parameters().is_empty());
    sgd.zero_grad();
    assert!(params[0].grad().is_none());
}

#[test]
fn parameters_are_checked_and_taken_once() {
    let (a, b) = (leaf(2), leaf(2));
    let sgd = SGD::new([&a, &b, &a], 0.1).unwrap();
    assert_eq!(sgd.param_groups()[0].parameters().count(), 2);
    let twice = SGD::with_groups([(vec![&a], SGDOptions::new(0.1)), (vec![&a], SGDOptions::new(0.2))]);
    assert!(twice.unwrap_err().to_string().contains("another group"));
    let none: [Tensor; 0] = [];
    assert!(SGD::new(none, 0.1).unwrap_err().to_string().contains("no parameters"));
    assert!(SGD::new([a.mul(2.0).unwrap()], 0.1).unwrap_err().to_string().contains("leaves"));
    assert!(SGD::new([("x", &a), ("x", &b)], 0.1).unwrap_err().to_string().contains("name x"));
    assert!(SGD::new([Tensor::zeros(2, kiln_tensor::DType::I64).unwrap()], 0.1).is_err());
    assert!(AdamW::new([&a], -1.0).is_err() && RMSprop::new([&a], f64::NAN).is_err());
}

#[test]
fn a_shared_parameter_takes_one_step() {
    let shared = leaf(1);
    let mut sgd = SGD::new([&shared, &shared.clone()], 0.5).unwrap();
    shared.set_grad(Some(Tensor::ones(1, Device::Cpu).unwrap())).unwrap();
    sgd.step().unwrap();
    assert_eq!(shared.to_vec::<f32>().unwrap(), [0.5]);
}

#[test]
fn options_can_change_between_steps() {
    let params = [leaf(2)];
    let mut sgd = SGD::new(&params, 0.1).unwrap();
    set_grads(&params, 0);
    sgd.step().unwrap();
    sgd.param_groups_mut()[0].options.momentum = 0.9;
    sgd.step().unwrap();
    assert!(sgd.state_dict().unwrap().contains_key("state.0.momentum_buffer"));
    sgd.param_groups_mut()[0].options.nesterov = true;
    sgd.param_groups_mut()[0].options.momentum = 0.0;
    assert!(sgd.step().unwrap_err().to_string().contains("nesterov"));
    assert!(sgd.set_lr(-0.1).is_err() && sgd.lr() == 0.1);
}

/// Filters in channels-last memory, with gradients and states in that order, change as row-major ones do; so they do when the
/// state is that of row-major ones.
#[test]
fn channels_last_filters_change_as_row_major_ones() -> Result<()> {
    let x = Tensor::randn([2, 3, 6, 5], Device::Cpu)?;
    let train = |last: bool, saved: Option<&StateDict>| -> Result<(Vec<f32>, StateDict)> {
        manual_seed(2);
        let conv = Conv2d::new(3, 4, 3)?;
        let conv = if last { conv.channels_last()? } else { conv };
        assert_eq!(conv.weight.is_channels_last(), last);
        let mut adam = Adam::new(conv.named_parameters(), 0.01)?;
        saved.map_or(Ok(()), |state| adam.load_state_dict(state))?;
        for _ in 0..3 {
            adam.zero_grad();
            conv.forward(&x)?.square()?.sum(())?.backward()?;
            assert_eq!(conv.weight.grad().unwrap().is_channels_last(), last);
            adam.step()?;
        }
        assert_eq!(conv.weight.is_channels_last(), last);
        Ok((conv.weight.contiguous()?.to_vec()?, adam.state_dict()?))
    };
    let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
    let (rows, saved) = train(false, None)?;
    let (last, _) = train(true, None)?;
    assert!(near(&rows, &last), "{rows:?} {last:?}");
    let (rows, _) = train(false, Some(&saved))?;
    let (last, of_last) = train(true, Some(&saved))?;
    assert!(near(&rows, &last), "{rows:?} {last:?}");
    assert!(of_last.values().filter(|state| state.rank() == 4).all(Tensor::is_channels_last));
    Ok(())
}

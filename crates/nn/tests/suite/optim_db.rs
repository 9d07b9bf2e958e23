//! Every optimizer against PyTorch, with every input of PyTorch's own tests (`optim_db`, by
//! `tests/golden/make_optim_db.py`): 20 steps, states that are loaded and continued, and hyperparameters that are
//! refused.

use std::thread;

use crate::common::{Golden, number, values};
use kiln_nn::optim::{
    ASGDOptions, AdadeltaOptions, AdafactorOptions, AdagradOptions, AdamOptions, AdamWOptions, AdamaxOptions, LBFGS,
    LBFGSOptions, LineSearch, LionOptions, MuonOptions, NAdamOptions, Optim, Optimizer, RAdamOptions, RMSpropOptions,
    RpropOptions, SGDOptions, UpdateRule, Value as Place,
};
use kiln_tensor::{DType, Device, ErrorKind, Result, StateDict, Tensor};
use serde_json::Value;

/// Options with what a case names; `None` if a choice is none that is known.
fn options<O: UpdateRule + Default>(args: &Value) -> Option<O> {
    let mut options = O::default();
    let mut left: Vec<&String> = args.as_object().unwrap().keys().collect();
    let mut known = true;
    let at = |name: &str, i: usize| args[name][i].as_f64().unwrap();
    options
        .each(&mut |name, place| {
            let value = &args[name];
            left.retain(|left| *left != name);
            if value.is_null() {
                return Ok(());
            }
            match place {
                Place::Number(place) => *place = number(args, name, *place),
                Place::Flag(place) => *place = value.as_bool().unwrap(),
                Place::Count(place) => *place = value.as_u64().unwrap() as usize,
                Place::Pair(place) => *place = (at(name, 0), at(name, 1)),
                Place::OptionalPair(place) => *place = (value[0].as_f64(), at(name, 1)),
                Place::Triple(place) => *place = (at(name, 0), at(name, 1), at(name, 2)),
                Place::Choice(place) => known = place.set(value.as_str().unwrap()),
            }
            Ok(())
        })
        .unwrap();
    assert!(left.is_empty(), "{} has no options {left:?}", O::NAME);
    known.then_some(options)
}

/// How far a run may be from PyTorch's. Muon's products are of bf16, in an order of their own.
fn tolerance(optimizer: &str, dtype: DType) -> f64 {
    match (optimizer, dtype) {
        ("Muon", _) => 6e-3,
        (_, DType::F64) => 1e-11,
        _ => 2e-5,
    }
}

struct Run<'a> {
    golden: &'a Golden,
    name: &'a str,
    optimizer: &'static str,
    dtype: DType,
    params: Vec<Tensor>,
}

impl<'a> Run<'a> {
    /// From a step on, whose parameters PyTorch has noted.
    fn new(golden: &'a Golden, name: &'a str, optimizer: &'static str, dtype: DType, after: usize) -> Result<Run<'a>> {
        let count = if optimizer == "Muon" { 1 } else { 3 };
        let params = (0..count).map(|i| {
            let start = match after {
                0 => golden.get("gradients", &format!("param{i}")),
                step => golden.get(name, &format!("step{step}/param{i}")),
            };
            start.to_dtype(dtype)?.copy()?.requires_grad_(true)
        });
        Ok(Run { golden, name, optimizer, dtype, params: params.collect::<Result<_>>()? })
    }

    fn steps(&self, optimizer: &mut dyn Optimizer, from: usize, to: usize) -> Result<()> {
        for step in from..=to {
            for (i, param) in self.params.iter().enumerate() {
                let grad = self.golden.get("gradients", &format!("step{step}/grad{i}"));
                param.set_grad(Some(grad.to_dtype(self.dtype)?))?;
            }
            optimizer.step()?;
            for (i, param) in self.params.iter().enumerate() {
                if let Some(want) = self.golden.find(self.name, &format!("step{step}/param{i}")) {
                    self.close(param, &want, &format!("step {step}, parameter {i}"));
                }
            }
        }
        Ok(())
    }

    fn close(&self, got: &Tensor, want: &Tensor, what: &str) {
        assert_eq!(got.shape(), want.shape(), "{}, {what}", self.name);
        let tolerance = tolerance(self.optimizer, self.dtype);
        for (g, w) in values(got).into_iter().zip(values(want)) {
            let same = (g - w).abs() <= tolerance * w.abs().max(1.0);
            assert!(same, "{} in {}, {what}: {g}, PyTorch has {w}", self.name, self.dtype);
        }
    }
}

fn run<O: UpdateRule + Default>(golden: &Golden, name: &str, args: &Value) -> Result<()> {
    let options: O = options(args).unwrap();
    for (dtype, fused) in [(DType::F64, true), (DType::F64, false), (DType::F32, true), (DType::F32, false)] {
        let run = Run::new(golden, name, O::NAME, dtype, 0)?;
        run.steps(&mut Optim::<O>::new(&run.params, options)?.fused(fused), 1, 20)?;
    }
    // PyTorch's state after ten steps is loaded, and the run goes on as PyTorch's.
    let run = Run::new(golden, name, O::NAME, DType::F64, 10)?;
    let mut optimizer = Optim::<O>::new(&run.params, options)?;
    let mut state: StateDict = optimizer.state_dict()?;
    for (i, param) in run.params.iter().enumerate() {
        state.insert(format!("state.{i}.step"), Tensor::new(10i64, Device::Cpu)?);
        for own in options.states_of(param.shape()) {
            let key = format!("state/{i}/{}", own.name);
            state.insert(format!("state.{i}.{}", own.name), golden.get(name, &key));
        }
    }
    optimizer.load_state_dict(&state)?;
    run.steps(&mut optimizer, 11, 20)?;
    // And Kiln's own: half of the steps, state and parameters through a state dict.
    let first = Run::new(golden, name, O::NAME, DType::F64, 0)?;
    let mut optimizer = Optim::<O>::new(&first.params, options)?;
    first.steps(&mut optimizer, 1, 10)?;
    for (i, param) in first.params.iter().enumerate() {
        for own in options.states_of(param.shape()) {
            let got = &optimizer.state_dict()?[&format!("state.{i}.{}", own.name)];
            let want = golden.get(name, &format!("state/{i}/{}", own.name));
            first.close(got, &want, &format!("state {} of parameter {i}", own.name));
        }
    }
    let copies = first.params.iter().map(|param| param.detach().copy()?.requires_grad_(true));
    let second = Run { params: copies.collect::<Result<_>>()?, ..Run::new(golden, name, O::NAME, DType::F64, 0)? };
    let mut resumed = Optim::<O>::new(&second.params, O::default())?;
    resumed.load_state_dict(&optimizer.state_dict()?)?;
    second.steps(&mut resumed, 11, 20)?;
    assert_eq!(resumed.param_groups()[0].options.states(), options.states(), "{name}");
    first.steps(&mut optimizer, 11, 20)?;
    for (a, b) in first.params.iter().zip(&second.params) {
        assert_eq!(values(a), values(b), "{name}: a resumed run is another");
    }
    // In half precision it runs, and stays near.
    for dtype in [DType::BF16, DType::F16] {
        let run = Run::new(golden, name, O::NAME, dtype, 0)?;
        let mut optimizer = Optim::<O>::new(&run.params, options)?;
        for (i, param) in run.params.iter().enumerate() {
            param.set_grad(Some(golden.get("gradients", &format!("step1/grad{i}")).to_dtype(dtype)?))?;
        }
        optimizer.step()?;
        for (i, param) in run.params.iter().enumerate() {
            let want = golden.get(name, &format!("step1/param{i}"));
            for (g, w) in values(param).into_iter().zip(values(&want)) {
                assert!((g - w).abs() <= 2e-2 * w.abs().max(1.0), "{name} in {dtype}, {i}: {g}, not {w}");
            }
        }
    }
    Ok(())
}

fn refuses<O: UpdateRule + Default>(name: &str, args: &Value) {
    // A choice that is not known cannot be said in Rust.
    let Some(options) = options::<O>(args) else { return };
    let param = Tensor::zeros([2, 2], Device::Cpu).unwrap().requires_grad_(true).unwrap();
    let error = Optim::<O>::new([&param], options).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Argument { op, .. } if *op == O::NAME), "{name}: {error}");
}

macro_rules! with_optimizer {
    ($name:expr, $call:ident, $($args:expr),*) => {
        match $name {
            "Adadelta" => $call::<AdadeltaOptions>($($args),*),
            "Adafactor" => $call::<AdafactorOptions>($($args),*),
            "Adagrad" => $call::<AdagradOptions>($($args),*),
            "Adam" => $call::<AdamOptions>($($args),*),
            "AdamW" => $call::<AdamWOptions>($($args),*),
            "Adamax" => $call::<AdamaxOptions>($($args),*),
            "ASGD" => $call::<ASGDOptions>($($args),*),
            "Muon" => $call::<MuonOptions>($($args),*),
            "NAdam" => $call::<NAdamOptions>($($args),*),
            "RAdam" => $call::<RAdamOptions>($($args),*),
            "RMSprop" => $call::<RMSpropOptions>($($args),*),
            "Rprop" => $call::<RpropOptions>($($args),*),
            "SGD" => $call::<SGDOptions>($($args),*),
            other => panic!("{other} is no optimizer"),
        }
    };
}

#[test]
fn every_input_of_optim_db_agrees() {
    let golden = Golden::open("optim_db.safetensors");
    let op = |case: &Value| case["op"].as_str().unwrap().to_owned();
    let cases: Vec<&Value> =
        golden.cases.iter().filter(|case| !op(case).ends_with(" error") && op(case) != "LBFGS").collect();
    assert_eq!(cases.len(), 90);
    let check = |case: &Value| {
        let (name, args) = (case["name"].as_str().unwrap(), &case["args"]);
        let result: Result<()> = with_optimizer!(&*op(case), run, &golden, name, args);
        result.unwrap_or_else(|e| panic!("{name}: {e}"));
    };
    // On several threads, because this takes longer than all other tests of this program.
    thread::scope(|scope| {
        for part in cases.chunks(cases.len().div_ceil(4)) {
            scope.spawn(|| part.iter().for_each(|case| check(case)));
        }
    });
}

#[test]
fn every_error_input_of_optim_db_is_refused() {
    let golden = Golden::open("optim_db.safetensors");
    let mut count = 0;
    for case in &golden.cases {
        let (name, op, args) = (case["name"].as_str().unwrap(), case["op"].as_str().unwrap(), &case["args"]);
        if let Some(optimizer) = op.strip_suffix(" error") {
            with_optimizer!(optimizer, refuses, name, args);
            count += 1;
        }
    }
    assert_eq!(count, 21);
}

/// How parameters are given, which `optim_db` has for every optimizer.
#[test]
fn parameters_that_cannot_be_optimized_are_refused() -> Result<()> {
    let matrix = || Tensor::zeros([2, 2], Device::Cpu)?.requires_grad_(true);
    let (a, b) = (matrix()?, matrix()?);
    fn check<O: UpdateRule + Default>(a: &Tensor, b: &Tensor) {
        let options = O::default();
        let refused = |result: Result<Optim<O>>, what: &str| {
            let error = result.expect_err(what);
            assert!(error.to_string().contains(O::NAME), "{}: {error}", O::NAME);
        };
        refused(Optim::with_groups([(vec![a, b], options), (vec![a], options)]), "a parameter in two groups");
        refused(Optim::new(Vec::<Tensor>::new(), options), "no parameters");
        refused(Optim::with_groups(Vec::<(Vec<Tensor>, O)>::new()), "no groups");
        refused(Optim::new([("x", a), ("x", b)], options), "two parameters of one name");
        refused(Optim::new([a.mul(b).unwrap()], options), "no leaf");
        // Given twice it is taken once.
        assert_eq!(Optim::<O>::new([a, a], options).unwrap().parameters().len(), 1);
    }
    check::<AdadeltaOptions>(&a, &b);
    check::<AdafactorOptions>(&a, &b);
    check::<AdagradOptions>(&a, &b);
    check::<AdamOptions>(&a, &b);
    check::<AdamWOptions>(&a, &b);
    check::<AdamaxOptions>(&a, &b);
    check::<ASGDOptions>(&a, &b);
    check::<LionOptions>(&a, &b);
    check::<MuonOptions>(&a, &b);
    check::<NAdamOptions>(&a, &b);
    check::<RAdamOptions>(&a, &b);
    check::<RMSpropOptions>(&a, &b);
    check::<RpropOptions>(&a, &b);
    check::<SGDOptions>(&a, &b);
    let vector = Tensor::zeros(3, Device::Cpu)?.requires_grad_(true)?;
    let message = Optim::<MuonOptions>::new([("bias", &vector)], 1e-3).unwrap_err().to_string();
    assert!(message.contains("bias") && message.contains("AdamW"), "{message}");
    Ok(())
}

/// Like `rosenbrock` of the script.
fn rosenbrock(x: &Tensor) -> Result<Tensor> {
    let (head, tail) = (x.narrow(0, 0, 3)?, x.narrow(0, 1, 3)?);
    let valley = tail.sub(&head.square()?)?.square()?.mul(100.0)?;
    valley.add(&head.neg()?.add(1.0)?.square()?)?.sum(())
}

fn lbfgs_options(args: &Value) -> LBFGSOptions {
    let mut options = LBFGSOptions::new(number(args, "lr", 1.0));
    options.tolerance_grad = number(args, "tolerance_grad", options.tolerance_grad);
    options.maximize = args["maximize"] == true;
    if args["line_search_fn"] == "strong_wolfe" {
        options.line_search_fn = LineSearch::StrongWolfe;
    }
    options
}

/// One step; the loss is negated if it is maximized.
fn lbfgs_step(optimizer: &mut LBFGS, x: &Tensor) -> Result<Tensor> {
    let sign = if optimizer.options.maximize { -1.0 } else { 1.0 };
    optimizer.step(&mut || {
        x.zero_grad();
        let loss = rosenbrock(x)?.mul(sign)?;
        loss.backward()?;
        Ok(loss)
    })
}

#[test]
fn lbfgs_agrees() -> Result<()> {
    let golden = Golden::open("optim_db.safetensors");
    let start = || Tensor::new([-1.2f64, 1.0, 0.5, -0.3], Device::Cpu)?.requires_grad_(true);
    let mut count = 0;
    for case in golden.cases.iter().filter(|case| case["op"] == "LBFGS") {
        let (name, options) = (case["name"].as_str().unwrap(), lbfgs_options(&case["args"]));
        let x = start()?;
        let mut optimizer = LBFGS::new([("x", &x)], options)?;
        // A second run is saved and loaded after every step.
        let (y, mut state) = (start()?, None::<StateDict>);
        for step in 1..=6 {
            let loss = lbfgs_step(&mut optimizer, &x)?;
            let want = golden.get(name, &format!("step{step}/param0"));
            for (g, w) in values(&x).into_iter().zip(values(&want)) {
                assert!((g - w).abs() <= 1e-8 * w.abs().max(1.0), "{name}, step {step}: {g}, PyTorch has {w}");
            }
            let (got, want) = (loss.item::<f64>()?, values(&golden.get(name, &format!("step{step}/loss")))[0]);
            assert!((got - want).abs() <= 1e-8 * want.abs().max(1.0), "{name}, step {step}: loss {got}, not {want}");
            let mut resumed = LBFGS::new([("x", &y)], 9.0)?;
            if let Some(state) = &state {
                resumed.load_state_dict(state)?;
            } else {
                resumed.options = options;
            }
            lbfgs_step(&mut resumed, &y)?;
            assert_eq!(values(&x), values(&y), "{name}, step {step}: a resumed run is another");
            state = Some(resumed.state_dict()?.iter().map(|(name, t)| (name.clone(), t.copy().unwrap())).collect());
        }
        count += 1;
    }
    assert_eq!(count, 7);
    Ok(())
}

#[test]
fn lbfgs_refuses_what_it_cannot_do() -> Result<()> {
    let x = Tensor::new([1.0f32, 2.0], Device::Cpu)?.requires_grad_(true)?;
    let wide = Tensor::new([1.0f64], Device::Cpu)?.requires_grad_(true)?;
    for options in [
        LBFGSOptions::new(-1.0),
        LBFGSOptions::new(1.0).max_iter(0),
        LBFGSOptions::new(1.0).history_size(0),
        LBFGSOptions::new(1.0).tolerance_grad(f64::NAN),
    ] {
        assert!(matches!(LBFGS::new([&x], options).unwrap_err().kind(), ErrorKind::Argument { .. }));
    }
    assert!(LBFGS::new([&x, &wide], 1.0).unwrap_err().to_string().contains("f64"));
    assert!(LBFGS::new(Vec::<Tensor>::new(), 1.0).is_err() && LBFGS::new([x.mul(2.0)?], 1.0).is_err());
    assert_eq!(LBFGS::new([&x, &x], 1.0)?.parameters().len(), 1);
    let mut optimizer = LBFGS::new([&x], 1.0)?;
    assert!(Optimizer::step(&mut optimizer).unwrap_err().to_string().contains("closure"));
    assert!(optimizer.step(&mut || x.square()?.sum(())).unwrap_err().to_string().contains("backward"));
    // What the closure fails with is handed on, and nothing has changed.
    let failing = optimizer.step(&mut || Err(kiln_tensor::Error::argument("loss", "none")));
    assert!(failing.unwrap_err().to_string().contains("none"));
    // Two parameters, one of which has no gradient; f32.
    let other = Tensor::ones([2, 2], Device::Cpu)?.requires_grad_(true)?;
    let mut optimizer = LBFGS::new([("x", &x), ("other", &other)], 0.5)?;
    for _ in 0..8 {
        optimizer.step(&mut || {
            x.zero_grad();
            let loss = x.sub(3.0)?.square()?.sum(())?;
            loss.backward()?;
            Ok(loss)
        })?;
    }
    assert!(values(&x).iter().all(|x| (x - 3.0).abs() < 1e-4) && values(&other) == [1.0; 4]);
    assert_eq!(optimizer.unused_parameters(), ["other"]);
    Ok(())
}

/// The paper's algorithm, number by number.
#[test]
fn lion_is_the_papers() -> Result<()> {
    let x = Tensor::new([1.0f64, -2.0, 0.5], Device::Cpu)?.requires_grad_(true)?;
    let options = LionOptions::new(0.1).betas((0.9, 0.7)).weight_decay(0.2);
    let mut optimizer = Optim::<LionOptions>::new([&x], options)?;
    let (mut want, mut momentum) = ([1.0, -2.0, 0.5], [0.0; 3]);
    for step in 0..5 {
        let grad: Vec<f64> = (0..3).map(|i| ((step * 3 + i) as f64 + 0.5).sin()).collect();
        x.set_grad(Some(Tensor::from_vec(grad.clone(), 3, Device::Cpu)?))?;
        optimizer.step()?;
        for i in 0..3 {
            let direction: f64 = 0.9 * momentum[i] + 0.1 * grad[i];
            want[i] -= 0.1 * (direction.signum() + 0.2 * want[i]);
            momentum[i] = 0.7 * momentum[i] + 0.3 * grad[i];
        }
        for (got, want) in values(&x).iter().zip(want) {
            assert!((got - want).abs() < 1e-12, "step {step}: {got}, not {want}");
        }
    }
    Ok(())
}

//! Hooks of modules, `apply`, modules by path, and norms, against PyTorch and by their rules.

#[path = "../common/mod.rs"]
mod common;

mod backward;
mod layers;
mod trees;

use std::{
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Instant,
};

use kiln_nn::{
    AvgPool2d, BatchNorm2d, Conv2d, Flatten, Hooks, Linear, Module, ModuleExt, ModuleTree, ReLU, Sequential,
    optim::{Optimizer, SGD},
    register_module_forward_hook, register_module_forward_pre_hook, register_module_full_backward_hook,
    register_module_full_backward_pre_hook, seq,
};
use kiln_tensor::{DType, Device, Result, Tensor};
use serde_json::{Value, json};

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

#[track_caller]
fn assert_near(got: &[f64], want: &[f64], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= 1e-9 * w.abs().max(1.0), "{what}[{i}]: {g:e}, PyTorch has {w:e}");
    }
}

/// The network of `make_hooks.py`, with its weights.
fn network(golden: &Value) -> Result<Sequential> {
    let features = seq![Conv2d::new(1, 2, 1)?, BatchNorm2d::new(2)?, ReLU::new()];
    let pooled = seq![AvgPool2d::new((1, 2)), Flatten::new()];
    let model = seq![Linear::new(3, 4)?, ReLU::new(), features, pooled, Linear::new(8, 2)?].to_dtype(DType::F64)?;
    let mut state = model.state_dict();
    for (name, tensor) in &mut state {
        if let Some(values) = golden["state"].get(name.as_str()) {
            *tensor = Tensor::from_vec(numbers(values), tensor.dims().to_vec(), Device::Cpu)?;
        }
    }
    model.load_state_dict(&state, true)?;
    Ok(model)
}

type Events = Arc<Mutex<Vec<Value>>>;

/// What a hook has seen, noted as `make_hooks.py` does.
#[derive(Clone)]
struct Note {
    events: Events,
    when: &'static str,
    path: String,
}

impl Note {
    fn add(&self, type_name: &str, tensor: Option<&Tensor>, total: f64) {
        let dims = tensor.map(Tensor::dims);
        self.events.lock().unwrap().push(json!([self.when, self.path, type_name, dims, total]));
    }

    fn tensor(&self, type_name: &str, tensor: &Tensor) -> Result<()> {
        self.add(type_name, Some(tensor), sum(tensor)?);
        Ok(())
    }

    fn gradients(&self, type_name: &str, input: Option<&Tensor>, output: &Tensor) -> Result<()> {
        let of_input = input.map_or(Ok(0.0), sum)?;
        self.add(type_name, input, of_input + 10.0 * sum(output)?);
        Ok(())
    }
}

fn sum(tensor: &Tensor) -> Result<f64> {
    tensor.detach().sum(())?.item::<f64>()
}

/// Hooks of all modules, and what counts calls, are the process's: tests with hooks of all modules run alone.
static ALONE: RwLock<()> = RwLock::new(());

fn beside_others() -> RwLockReadGuard<'static, ()> {
    ALONE.read().unwrap_or_else(PoisonError::into_inner)
}

fn alone() -> RwLockWriteGuard<'static, ()> {
    ALONE.write().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn hooks_are_pytorchs() -> Result<()> {
    let _alone = alone();
    let golden = common::json("hooks.json");
    let model = network(&golden)?;
    for (i, case) in golden["cases"].as_array().unwrap().iter().enumerate() {
        let events = Events::default();
        let mut handles = Vec::new();
        for change in case["changes"].as_array().unwrap() {
            let (path, when) = (change[0].as_str().unwrap(), change[1].as_str().unwrap());
            let by = change[2].as_f64().zip(change[3].as_f64());
            let changed = move |tensor: &Tensor| by.map(|(by, plus)| tensor.mul(by)?.add(plus)).transpose();
            let note = |when| Note { events: events.clone(), when, path: path.to_owned() };
            let module = model.get_submodule(if path == "*" { "" } else { path })?;
            handles.push(match when {
                "before" => {
                    let note = note("before");
                    let hook = move |module: &dyn ModuleTree, x: &Tensor| {
                        note.tensor(module.type_name(), x)?;
                        changed(x)
                    };
                    if path == "*" {
                        register_module_forward_pre_hook(hook)
                    } else {
                        module.register_forward_pre_hook(hook)?
                    }
                }
                "after" => {
                    let note = note("after");
                    let hook = move |module: &dyn ModuleTree, _: &Tensor, y: &Tensor| {
                        note.tensor(module.type_name(), y)?;
                        changed(y)
                    };
                    if path == "*" { register_module_forward_hook(hook) } else { module.register_forward_hook(hook)? }
                }
                "backward_pre" => {
                    let note = note("backward_pre");
                    let hook = move |name: &str, grad: &Tensor| {
                        note.tensor(name, grad)?;
                        changed(grad)
                    };
                    let name = module.type_name().to_owned();
                    if path == "*" {
                        register_module_full_backward_pre_hook(hook)
                    } else {
                        module.register_full_backward_pre_hook(move |grad| hook(&name, grad))?
                    }
                }
                "backward" => {
                    let note = note("backward");
                    let hook = move |name: &str, grad_input: Option<&Tensor>, grad_output: &Tensor| {
                        note.gradients(name, grad_input, grad_output)?;
                        changed(grad_input.unwrap())
                    };
                    let name = module.type_name().to_owned();
                    if path == "*" {
                        register_module_full_backward_hook(hook)
                    } else {
                        module.register_full_backward_hook(move |input, output| hook(&name, input, output))?
                    }
                }
                other => panic!("{other}"),
            });
        }
        model.zero_grad();
        let x = Tensor::from_vec(numbers(&golden["x"]), [2, 1, 2, 3], Device::Cpu)?.requires_grad_(true)?;
        let out = model.forward(&x)?;
        out.square()?.sum(())?.backward()?;
        handles.into_iter().for_each(kiln_nn::RemovableHandle::remove);

        let what = format!("case {i}");
        let (got, want) = (events.lock().unwrap().clone(), case["events"].as_array().unwrap().clone());
        let without_sums =
            |events: &[Value]| events.iter().map(|event| json!(event.as_array().unwrap()[..4])).collect::<Vec<_>>();
        let sums = |events: &[Value]| events.iter().map(|event| event[4].as_f64().unwrap()).collect::<Vec<_>>();
        assert_eq!(without_sums(&got), without_sums(&want), "{what}");
        assert_near(&sums(&got), &sums(&want), &what);
        assert_near(&out.detach().to_vec::<f64>()?, &numbers(&case["out"]), &what);
        assert_near(&x.grad().unwrap().to_vec::<f64>()?, &numbers(&case["x_grad"]), &what);
        for (name, parameter) in model.named_parameters() {
            let grad = parameter.grad().unwrap().to_vec::<f64>()?;
            assert_near(&grad, &numbers(&case["grads"][&name]), &format!("{what}, {name}"));
        }
    }
    Ok(())
}

/// A training step of the MLP without hooks, with one on another module, and with one on each layer, in turn; and what a layer
/// pays for looking: `cargo test --release -p kiln-nn --test hooks cost -- --ignored --nocapture`.
#[test]
#[ignore = "prints times"]
fn what_hooks_cost() -> Result<()> {
    let _alone = alone();
    let model = seq![Linear::new(784, 512)?, ReLU::new(), Linear::new(512, 512)?, ReLU::new(), Linear::new(512, 10)?];
    let mut optimizer = SGD::new(model.parameters(), 1e-3)?;
    let (x, other) = (Tensor::randn([64, 784], Device::Cpu)?, Linear::new(1, 1)?);
    let mut step = || -> Result<f64> {
        let start = Instant::now();
        let loss = model.forward(&x)?.square()?.mean(())?;
        optimizer.zero_grad();
        loss.backward()?;
        optimizer.step()?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    };
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let mut times = [vec![], vec![], vec![]];
    for turn in 0..303 {
        let way = turn % 3;
        let mut handles = Vec::new();
        match way {
            0 => {}
            1 => handles.push(other.register_forward_hook(|_, _, _| ())?),
            _ => {
                for (path, _) in model.named_modules() {
                    handles.push(model.get_submodule(&path)?.register_forward_hook(|_, _, _| ())?);
                }
            }
        }
        times[way].push(step()?.min(step()?));
        handles.into_iter().for_each(kiln_nn::RemovableHandle::remove);
    }
    let ratio = |a: usize| median(times[a].iter().zip(&times[0]).map(|(a, none)| a / none).collect());
    println!(
        "{:.3} ms without hooks; {:.4} times with a hook elsewhere, {:.4} times with one on each layer",
        median(times[0].clone()),
        ratio(1),
        ratio(2)
    );
    let hooks = Hooks::default();
    let small = Tensor::ones(1, Device::Cpu)?;
    let per_call = |f: &dyn Fn() -> Result<Tensor>| -> Result<f64> {
        let time = || -> Result<f64> {
            let start = Instant::now();
            for _ in 0..100_000 {
                std::hint::black_box(f()?);
            }
            Ok(start.elapsed().as_secs_f64() * 1e4)
        };
        Ok(median((0..21).map(|_| time()).collect::<Result<_>>()?))
    };
    let plain = per_call(&|| Ok(small.clone()))?;
    let looking = per_call(&|| hooks.run(&other, &small, |x| Ok(x.clone())))?;
    println!("a computation costs {plain:.1} ns, and {looking:.1} ns if it looks for hooks");
    Ok(())
}

//! Hooks of modules, `apply`, modules by path, and norms, against PyTorch and by their rules.

mod common;

use std::{
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use kiln_nn::{
    AvgPool2d, BatchNorm2d, Bilinear, Conv2d, Dropout, Embedding, Flatten, GRU, Hooks, LSTM, LSTMCell, LayerNorm,
    Linear, Module, ModuleExt, ModuleTree, MultiheadAttention, ReLU, Sequential, TransformerDecoderLayer,
    TransformerEncoder, TransformerOptions, init,
    optim::{Optimizer, SGD, get_total_norm},
    register_module_forward_hook, register_module_forward_pre_hook, register_module_full_backward_hook,
    register_module_full_backward_pre_hook, seq,
};
use kiln_tensor::{
    DType, Device, Error, Result, StateDict, Tensor,
    autograd::{BackwardOptions, grad, grad_with},
    no_grad,
};
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
    assert!(error.location().unwrap().file().ends_with("hooks.rs"));
    let error = model.get_parameter("1.0.bais").unwrap_err().to_string();
    assert!(error.contains("no parameter \"1.0.bais\" (\"1.0.bias\"?)"), "{error}");
    // A part alone is frozen.
    model.get_submodule("1")?.requires_grad_(false)?;
    assert_eq!(model.parameters().iter().map(Tensor::requires_grad).collect::<Vec<_>>(), [true, true, false, false]);
    Ok(())
}

/// Every kind of layer that has hooks calls them, in each way in which it can be called; a hook that doubles the output
/// doubles it.
#[test]
fn every_layer_with_hooks_runs_them() -> Result<()> {
    let _beside = beside_others();
    let doubles = |module: &dyn ModuleTree, run: &dyn Fn() -> Result<Tensor>| -> Result<()> {
        let plain = run()?;
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let handle = module.register_forward_hook(move |_, _, y| {
            counted.fetch_add(1, Ordering::Relaxed);
            y.mul(2)
        })?;
        let hooked = run()?;
        handle.remove();
        let name = module.type_name();
        assert_eq!(calls.load(Ordering::Relaxed), 1, "{name}");
        assert!(hooked.allclose(&plain.mul(2)?, 1e-5, 1e-6)?, "{name}");
        assert!(run()?.allclose(&plain, 1e-6, 1e-6)?, "{name}");
        Ok(())
    };
    let rows = Tensor::randn([2, 5, 4], Device::Cpu)?;
    let linear = Linear::new(4, 3)?;
    doubles(&linear, &|| linear.forward(&rows))?;
    doubles(&linear, &|| linear.forward_relu(&rows))?;
    let norm = LayerNorm::new(&[4])?;
    doubles(&norm, &|| norm.forward(&rows))?;
    let embedding = Embedding::new(9, 2)?;
    let ids = Tensor::new([[1i64, 2], [8, 0]], Device::Cpu)?;
    doubles(&embedding, &|| embedding.forward(&ids))?;
    let bilinear = Bilinear::new(4, 4, 2)?;
    doubles(&bilinear, &|| bilinear.forward(&rows, &rows))?;
    let dropout = Dropout::new(0.5)?;
    dropout.eval();
    doubles(&dropout, &|| dropout.forward(&rows))?;
    let gru = GRU::new(4, 3)?;
    doubles(&gru, &|| gru.forward(&rows))?;
    doubles(&gru, &|| Ok(gru.forward_with_state(&rows, None)?.0))?;
    let lstm = LSTM::new(4, 3)?;
    doubles(&lstm, &|| lstm.forward(&rows))?;
    doubles(&lstm, &|| Ok(lstm.forward_with_state(&rows, None)?.0))?;
    let (cell, row) = (LSTMCell::new(4, 3)?, rows.select(0, 0)?);
    doubles(&cell, &|| cell.forward(&row))?;
    doubles(&cell, &|| Ok(cell.forward_with_state(&row, None)?.0))?;

    let attention = MultiheadAttention::new(4, 2)?;
    doubles(&attention, &|| attention.forward(&rows))?;
    doubles(&attention, &|| Ok(attention.attend_with_weights(&rows, &rows, &rows, Default::default(), true)?.0))?;
    let options = TransformerOptions::default().dropout(0.0).dim_feedforward(8);
    let encoder = TransformerEncoder::new(4, 2, 2, false, options)?;
    doubles(&encoder, &|| encoder.forward(&rows))?;
    doubles(&encoder, &|| encoder.forward_masked(&rows, Default::default()))?;
    // The last layer, which the encoder runs; its attention and its feed-forward layers run theirs inside it.
    doubles(encoder.get_submodule("layers.1")?, &|| encoder.forward(&rows))?;
    for path in ["layers.1.self_attn", "layers.0.linear1", "layers.0.dropout", "layers.0.norm1"] {
        let called = Arc::new(AtomicUsize::new(0));
        let counted = called.clone();
        let handle = encoder.get_submodule(path)?.register_forward_pre_hook(move |_, _| {
            counted.fetch_add(1, Ordering::Relaxed);
        })?;
        encoder.forward(&rows)?;
        assert_eq!(called.load(Ordering::Relaxed), 1, "{path}");
        handle.remove();
    }
    let decoder = TransformerDecoderLayer::new(4, 2, options)?;
    doubles(&decoder, &|| decoder.forward_masked(&rows, &rows, Default::default(), Default::default()))?;
    Ok(())
}

/// Convolution, normalization and ReLU that run as one primitive otherwise, in both modes.
#[test]
fn fused_layers_run_one_by_one_if_one_has_a_hook() -> Result<()> {
    let _beside = beside_others();
    let (conv, norm) = (Conv2d::new(1, 2, 3)?, BatchNorm2d::new(2)?);
    let x = Tensor::randn([2, 1, 5, 5], Device::Cpu)?;
    let residual = Tensor::randn([2, 2, 3, 3], Device::Cpu)?;
    for training in [true, false] {
        norm.set_training(training);
        let run = || no_grad(|| conv.forward_norm(&x, &norm, Some(&residual), Some(&ReLU::new())));
        let fused = run()?;
        for module in [&conv as &dyn ModuleTree, &norm] {
            let calls = Arc::new(AtomicUsize::new(0));
            let counted = calls.clone();
            let handle = module.register_forward_hook(move |_, _, _| {
                counted.fetch_add(1, Ordering::Relaxed);
            })?;
            let parts = run()?;
            handle.remove();
            assert_eq!(calls.load(Ordering::Relaxed), 1, "{training}");
            assert!(parts.allclose(&fused, 1e-4, 1e-5)?, "{training}");
        }
    }
    Ok(())
}

#[test]
fn a_module_of_ones_own_has_hooks_by_a_field() -> Result<()> {
    let _beside = beside_others();
    #[derive(Module)]
    #[module(save)]
    struct Scaled {
        linear: Linear,
        hooks: Hooks,
    }
    impl Module for Scaled {
        fn forward(&self, x: &Tensor) -> Result<Tensor> {
            self.hooks.run(self, x, |x| self.linear.forward(x)?.mul(3))
        }
    }
    #[derive(Module)]
    struct Plain {
        relu: ReLU,
    }
    impl Module for Plain {
        fn forward(&self, x: &Tensor) -> Result<Tensor> {
            self.relu.forward(x)
        }
    }
    let model = Scaled { linear: Linear::new(2, 2)?, hooks: Hooks::default() };
    assert_eq!(model.named_parameters()[0].0, "linear.weight");
    assert_eq!(model.repr().lines().count(), 3, "{model}");
    let x = Tensor::ones([1, 2], Device::Cpu)?;
    let want = model.forward(&x)?.mul(2)?.add(1)?;
    model.register_forward_pre_hook(|_, _| Ok::<_, Error>(None))?;
    model.register_forward_hook(|_, _, y| y.mul(2))?;
    model.register_forward_hook(|module, _, y| {
        assert_eq!(module.type_name(), "Scaled");
        y.add(1)
    })?;
    assert_eq!(model.forward(&x)?.to_vec::<f32>()?, want.to_vec::<f32>()?);

    // A module without hooks says so, and has them inside a `Sequential`.
    let plain = Plain { relu: ReLU::new() };
    for error in [plain.register_forward_hook(|_, _, _| ()), plain.relu.register_forward_pre_hook(|_, _| ())] {
        let error = error.err().unwrap().to_string();
        assert!(error.contains("does not run hooks") && error.contains("Hooks"), "{error}");
    }
    let chain = seq![plain];
    chain.get_submodule("0")?.register_forward_hook(|_, _, y| y.add(5))?;
    assert_eq!(chain.forward(&x)?.to_vec::<f32>()?, [6.0, 6.0]);
    chain.get(0).unwrap().register_forward_hook(|_, _, y| y.add(1))?;
    assert_eq!(chain.forward(&x)?.to_vec::<f32>()?, [7.0, 7.0]);
    Ok(())
}

#[test]
fn errors_of_hooks_name_the_layer() -> Result<()> {
    let _beside = beside_others();
    let model = seq![Linear::new(2, 2)?, ReLU::new()];
    let x = Tensor::ones([1, 2], Device::Cpu)?;
    let handle = model.get_submodule("0")?.register_forward_pre_hook(|_, x| x.reshape([7]))?;
    let error = model.forward(&x).unwrap_err();
    assert!(error.to_string().contains("reshape"), "{error}");
    assert!(error.layer().unwrap().description.contains("Linear"), "{error}");
    handle.remove();
    assert!(model.forward(&x).is_ok());
    Ok(())
}

/// Hooks that add and remove hooks do so for the next computation; handles outlive their modules.
#[test]
fn hooks_may_change_hooks() -> Result<()> {
    let _beside = beside_others();
    let model = Arc::new(seq![Linear::new(2, 2)?]);
    let x = Tensor::ones([1, 2], Device::Cpu)?;
    let calls = Arc::new(AtomicUsize::new(0));
    let own = Arc::new(Mutex::new(None::<kiln_nn::RemovableHandle>));
    let (weak, counted, handle) = (Arc::downgrade(&model), calls.clone(), own.clone());
    let registered = model.register_forward_hook(move |_, _, _| {
        if let Some(handle) = handle.lock().unwrap().take() {
            handle.remove();
        }
        let counted = counted.clone();
        weak.upgrade().unwrap().register_forward_hook(move |_, _, _| {
            counted.fetch_add(1, Ordering::Relaxed);
        })?;
        Ok::<_, Error>(())
    })?;
    *own.lock().unwrap() = Some(registered);
    for want in [0, 1, 2] {
        model.forward(&x)?;
        assert_eq!(calls.load(Ordering::Relaxed), want);
    }
    let late = model.register_forward_hook(|_, _, _| ())?;
    drop(model);
    late.remove();
    Ok(())
}

/// What a replaced layer's place had goes with it.
#[test]
fn a_replaced_layer_leaves_without_hooks() -> Result<()> {
    let _beside = beside_others();
    let mut model = seq![ReLU::new(), Linear::new(2, 2)?];
    model.get_submodule("0")?.register_forward_hook(|_, _, y| y.add(1))?;
    let x = Tensor::zeros([1, 2], Device::Cpu)?;
    model.replace(1, ReLU::new())?;
    assert_eq!(model.forward(&x)?.to_vec::<f32>()?, [1.0; 2]);
    let old = model.replace(0, ReLU::new())?;
    assert_eq!(model.forward(&x)?.to_vec::<f32>()?, [0.0; 2]);
    assert_eq!(old.forward(&x)?.to_vec::<f32>()?, [0.0; 2]);
    let state: StateDict = model.state_dict();
    assert!(state.is_empty());
    Ok(())
}

/// Every kind of layer that has hooks passes gradients to them, in each way in which it can be called: doubled gradients of the
/// output double those of the input, and a hook of the input's gradient sees it.
#[test]
fn every_layer_with_hooks_runs_backward_hooks() -> Result<()> {
    let _beside = beside_others();
    let checks = |module: &dyn ModuleTree, run: &dyn Fn(&Tensor) -> Result<Tensor>| -> Result<()> {
        let (values, name) = (Tensor::randn([2, 5, 4], Device::Cpu)?, module.type_name());
        let grad = || -> Result<Tensor> {
            let x = values.detach().requires_grad_(true)?;
            // The input has another use, which is not the module's.
            (run(&x)?.square()?.sum(())? + x.sum(())?)?.backward()?;
            x.grad().unwrap().sub(1)
        };
        let plain = grad()?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = seen.clone();
        let handles = [
            module.register_full_backward_pre_hook(|grad| grad.mul(2))?,
            module.register_full_backward_hook(move |input, output| {
                kept.lock().unwrap().push((input.unwrap().copy()?, output.dims().to_vec()));
                Ok::<_, Error>(())
            })?,
        ];
        let hooked = grad()?;
        handles.into_iter().for_each(kiln_nn::RemovableHandle::remove);
        let seen = seen.lock().unwrap();
        assert_eq!(seen.len(), 1, "{name}");
        assert!(hooked.allclose(&plain.mul(2)?, 1e-4, 1e-5)?, "{name}");
        assert!(seen[0].0.allclose(&hooked, 1e-4, 1e-5)?, "{name}: without the other use");
        assert!(grad()?.allclose(&plain, 1e-5, 1e-6)?, "{name}");
        Ok(())
    };
    let linear = Linear::new(4, 3)?;
    checks(&linear, &|x| linear.forward(x))?;
    checks(&linear, &|x| linear.forward_relu(x))?;
    let norm = LayerNorm::new(&[4])?;
    checks(&norm, &|x| norm.forward(x))?;
    let (gru, lstm) = (GRU::new(4, 3)?, LSTM::new(4, 3)?);
    checks(&gru, &|x| Ok(gru.forward_with_state(x, None)?.0))?;
    checks(&lstm, &|x| lstm.forward(x))?;
    let attention = MultiheadAttention::new(4, 2)?;
    checks(&attention, &|x| attention.forward(x))?;
    let chain = seq![Linear::new(4, 4)?, ReLU::new(), seq![Linear::new(4, 2)?]];
    for path in ["", "2"] {
        let module = chain.get_submodule(path)?;
        if path.is_empty() {
            checks(module, &|x| chain.forward(x))?;
        }
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let handle = module.register_full_backward_hook(move |_, _| {
            counted.fetch_add(1, Ordering::Relaxed);
        })?;
        chain.forward(&Tensor::ones([1, 4], Device::Cpu)?)?.sum(())?.backward()?;
        assert_eq!(calls.load(Ordering::Relaxed), 1, "{path}");
        handle.remove();
    }
    Ok(())
}

#[test]
fn gradients_that_do_not_reach_the_input() -> Result<()> {
    let _beside = beside_others();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = seen.clone();
    let linear = Linear::new(2, 3)?;
    let handle = linear.register_full_backward_hook(move |input, output| {
        kept.lock().unwrap().push((input.is_some(), output.dims().to_vec()));
    })?;
    let x = Tensor::ones([4, 2], Device::Cpu)?;
    let taken = || std::mem::take(&mut *seen.lock().unwrap());
    // The input requires none: the hook is called when the output's is there, and cannot replace it.
    linear.forward(&x)?.sum(())?.backward()?;
    assert_eq!(taken(), [(false, vec![4, 3])]);
    let replacing = linear.register_full_backward_hook(|_, output| output.sum(()))?;
    let error = linear.forward(&x)?.sum(())?.backward().unwrap_err().to_string();
    assert!(error.contains("Linear") && error.contains("requires none"), "{error}");
    replacing.remove();
    taken();
    // Nothing is recorded, and nothing is called.
    assert!(!no_grad(|| linear.forward(&x))?.requires_grad());
    let y = linear.forward(&x.copy()?.requires_grad_(true)?)?;
    drop(y);
    assert!(taken().is_empty());
    // A hook that is removed after the computation belongs to it.
    let y = linear.forward(&x.copy()?.requires_grad_(true)?)?;
    handle.remove();
    y.sum(())?.backward()?;
    assert_eq!(taken(), [(true, vec![4, 3])]);
    // Errors of hooks, and gradients of another shape, are errors of the pass.
    linear.register_full_backward_pre_hook(|grad| grad.sum(()))?;
    assert!(linear.forward(&x)?.sum(())?.backward().unwrap_err().to_string().contains("hook"));
    Ok(())
}

/// Hooks that change nothing change no gradients of gradients, in which they are called again.
#[test]
fn second_derivatives_pass_backward_hooks() -> Result<()> {
    let _beside = beside_others();
    let model = seq![Linear::new(3, 3)?, kiln_nn::Tanh];
    let x = Tensor::randn([2, 3], Device::Cpu)?.requires_grad_(true)?;
    let second = || -> Result<Tensor> {
        let y = model.forward(&x)?.square()?.sum(())?;
        let grads = grad_with(&[(y, None)], &[&x], BackwardOptions::create_graph())?;
        let loss = grads[0].as_ref().unwrap().square()?.sum(())?;
        Ok(grad(&[&loss], &[&x])?.swap_remove(0))
    };
    let plain = second()?;
    let calls = Arc::new(AtomicUsize::new(0));
    let count = |calls: &AtomicUsize| {
        calls.fetch_add(1, Ordering::Relaxed);
    };
    for path in ["", "0", "1"] {
        let [in_grad, in_pre] = [calls.clone(), calls.clone()];
        let module = model.get_submodule(path)?;
        module.register_full_backward_hook(move |_, _| count(&in_grad))?;
        module.register_full_backward_pre_hook(move |_| count(&in_pre))?;
    }
    assert!(second()?.allclose(&plain, 1e-5, 1e-6)?);
    assert!(calls.load(Ordering::Relaxed) >= 6);
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

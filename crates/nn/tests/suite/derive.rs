//! The implementations that `#[derive(Module)]` generates for a user's structs.

use std::{collections::BTreeMap, marker::PhantomData};

use kiln_nn::optim::{Optimizer, SGD};
use kiln_nn::{
    Buffer, Dropout, Flatten, Linear, Module, ModuleTree, Parameter, ReLU, Sequential, StateDict, Tanh, Training, seq,
};
use kiln_tensor::{DType, Device, ErrorKind, Result, Tensor, no_grad};

fn ones(len: usize) -> Tensor {
    Tensor::ones(len, Device::Cpu).unwrap()
}

/// One of every kind of field.
#[derive(Module)]
struct Everything {
    first: Linear,
    scale: Parameter,
    missing: Option<Parameter>,
    mean: Buffer,
    scratch: Buffer,
    blocks: Vec<Linear>,
    any: Vec<Box<dyn Module>>,
    pair: [ReLU; 2],
    tuple: (Linear, Tanh),
    table: BTreeMap<String, Linear>,
    weights: Vec<Parameter>,
    boxed: Option<Box<dyn Module>>,
    #[module(name = "fc")]
    renamed: Linear,
    r#type: Linear,
    // Configuration
    hidden: usize,
    sizes: Vec<usize>,
    kernel: (usize, usize),
    label: String,
    rate: Option<f64>,
    #[module(skip)]
    #[allow(dead_code)]
    callback: fn(f64) -> f64,
    training: Training,
}

fn everything() -> Result<Everything> {
    let linear = || Linear::new(2, 2);
    Ok(Everything {
        first: linear()?,
        scale: Parameter::new(ones(2))?,
        missing: None,
        mean: Buffer::new(ones(3)),
        scratch: Buffer::non_persistent(ones(1)),
        blocks: vec![linear()?, linear()?],
        any: vec![Box::new(ReLU::new()), Box::new(linear()?)],
        pair: [ReLU::new(), ReLU::inplace()],
        tuple: (linear()?, Tanh::new()),
        table: BTreeMap::from([("b".to_string(), linear()?), ("a".to_string(), linear()?)]),
        weights: vec![Parameter::new(ones(1))?],
        boxed: Some(Box::new(linear()?)),
        renamed: linear()?,
        r#type: linear()?,
        hidden: 3,
        sizes: vec![1, 2],
        kernel: (3, 3),
        label: "x".into(),
        rate: None,
        callback: |x| x,
        training: Training::default(),
    })
}

#[test]
fn every_kind_of_field_is_found_under_pytorchs_name() -> Result<()> {
    let net = everything()?;
    let linear = |name: &str| [format!("{name}.weight"), format!("{name}.bias")];
    // A module's own parameters and buffers come before its children's, as in PyTorch.
    let mut want = vec!["scale".to_string(), "mean".to_string()];
    for name in ["first", "blocks.0", "blocks.1", "any.1", "tuple.0", "table.a", "table.b"] {
        want.extend(linear(name));
    }
    want.push("weights.0".into());
    for name in ["boxed", "fc", "type"] {
        want.extend(linear(name));
    }
    assert_eq!(net.state_dict().keys().cloned().collect::<Vec<_>>(), want);

    let names: Vec<String> = net.named_parameters().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, want.into_iter().filter(|name| name != "mean").collect::<Vec<_>>());
    let buffers: Vec<String> = net.named_buffers().into_iter().map(|(name, _)| name).collect();
    assert_eq!(buffers, ["mean", "scratch"]);
    assert_eq!(net.num_parameters(), 10 * 6 + 2 + 1);
    assert_eq!((net.hidden, net.sizes.len(), net.kernel.0, net.label.len(), net.rate), (3, 2, 3, 1, None));
    assert!(net.missing.is_none() && net.training.is_on());
    Ok(())
}

#[test]
fn prints_as_pytorch_would() -> Result<()> {
    let linear = "Linear(in_features=2, out_features=2, bias=True)";
    let want = format!(
        "Everything(
  (first): {linear}
  (blocks): ModuleList(
    (0-1): 2 x {linear}
  )
  (any): ModuleList(
    (0): ReLU()
    (1): {linear}
  )
  (pair): ModuleList(
    (0): ReLU()
    (1): ReLU(inplace=True)
  )
  (tuple): ModuleList(
    (0): {linear}
    (1): Tanh()
  )
  (table): ModuleDict(
    (a): {linear}
    (b): {linear}
  )
  (weights): ParameterList(
    (0): Parameter containing: [torch.float32 of size 1]
  )
  (boxed): {linear}
  (fc): {linear}
  (type): {linear}
)"
    );
    let net = everything()?;
    assert_eq!(net.to_string(), want);
    let boxed: Box<dyn ModuleTree> = Box::new(net);
    assert_eq!((format!("{boxed}"), format!("{boxed:?}")), (want.clone(), want));
    Ok(())
}

#[derive(Module)]
struct Residual<M> {
    inner: M,
}

impl<M: Module + kiln_nn::Field> Module for Residual<M> {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.inner.forward(x)?.add(x)
    }
}

#[derive(Module)]
struct Tagged<'a, M, T, const N: usize>
where
    T: Send + Sync,
{
    label: &'a str,
    many: [Option<M>; N],
    #[module(skip)]
    _tag: PhantomData<T>,
}

#[derive(Module)]
struct Pair(Linear, Residual<Linear>);

#[derive(Module)]
struct Unit;

#[derive(Module)]
#[module(no_display, name = "Other")]
struct Silent {
    layer: Unit,
}

impl std::fmt::Display for Silent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "mine, around {}", self.layer)
    }
}

/// Several inputs: no `Module`, but everything else.
#[derive(Module)]
#[module(extra_repr = "describe")]
struct Bilinear {
    weight: Parameter,
}

impl Bilinear {
    fn forward(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        a.mul(&*self.weight)?.mul(b)
    }

    fn describe(&self) -> String {
        format!("{}", self.weight.numel())
    }
}

#[test]
fn generic_tuple_unit_and_several_inputs() -> Result<()> {
    let nested = Residual { inner: Residual { inner: Linear::new(2, 2)? } };
    assert_eq!(nested.named_parameters()[0].0, "inner.inner.weight");
    let x = Tensor::rand([1, 2], Device::Cpu)?;
    assert_eq!(nested.forward(&x)?.dims(), [1, 2]);
    let model: Box<dyn Module> = Box::new(nested);
    assert_eq!(model.parameters().len(), 2);

    let label = String::from("l");
    let tagged = Tagged::<Linear, u8, 2> { label: &label, many: [None, Some(Linear::new(1, 1)?)], _tag: PhantomData };
    assert_eq!((tagged.named_parameters()[0].0.as_str(), tagged.label), ("many.1.weight", "l"));

    let pair = Pair(Linear::new(1, 1)?, Residual { inner: Linear::new(1, 1)? });
    assert_eq!(
        pair.state_dict().keys().cloned().collect::<Vec<_>>(),
        ["0.weight", "0.bias", "1.inner.weight", "1.inner.bias"]
    );

    assert_eq!(Unit.to_string(), "Unit()");
    assert_eq!(Silent { layer: Unit }.to_string(), "mine, around Unit()");
    assert_eq!(Silent { layer: Unit }.repr(), "Other(\n  (layer): Unit()\n)");

    let bilinear = Bilinear { weight: Parameter::new(ones(2))? };
    assert_eq!((bilinear.to_string(), bilinear.num_parameters()), ("Bilinear(2)".into(), 2));
    assert_eq!(bilinear.forward(&ones(2), &ones(2))?.dims(), [2]);
    Ok(())
}

#[test]
fn modes_reach_every_layer() -> Result<()> {
    let model = seq![Linear::new(4, 4)?, Dropout::new(0.5)?, seq![Dropout::new(1.0)?]];
    let x = Tensor::ones([2, 4], Device::Cpu)?;
    assert!(model.is_training());
    assert_eq!(model.forward(&x)?.to_vec::<f32>()?, [0.0; 8]);
    model.eval();
    assert!(!model.is_training());
    assert_eq!(model.forward(&x)?.to_vec::<f32>()?, model.get(0).unwrap().forward(&x)?.to_vec::<f32>()?);
    model.train();
    assert!(model.is_training());
    assert!(Dropout::new(1.5).is_err() && Dropout::new(f64::NAN).is_err());
    Ok(())
}

#[test]
fn shared_parameters_count_once_and_stay_shared() -> Result<()> {
    let mut net = Pair(Linear::new(2, 2)?, Residual { inner: Linear::new(2, 2)? });
    net.1.inner.weight = net.0.weight.clone();
    assert_eq!((net.parameters().len(), net.num_parameters(), net.state_dict().len()), (3, 8, 4));
    net.0.weight.set_grad(Some(net.0.weight.ones_like()?))?;
    let mut early = SGD::new(net.parameters(), 0.1)?;
    net.to_dtype_(DType::F64)?;
    assert!(net.0.weight.is_same(&net.1.inner.weight));
    assert_eq!((net.0.weight.dtype(), net.0.weight.requires_grad()), (DType::F64, true));
    assert_eq!(net.0.weight.grad().unwrap().to_vec::<f64>()?, [1.0; 4]);
    // The gradients moved along, so an optimizer of the old tensors says that it has none.
    assert!(early.step().unwrap_err().to_string().contains("before the model was moved"));
    assert!(net.to_dtype_(DType::I64).is_err());
    let net = net.to(Device::Cpu)?.to_dtype(DType::F32)?;
    assert_eq!(net.parameters()[0].dtype(), DType::F32);
    Ok(())
}

#[test]
fn frozen_parameters_and_zeroed_gradients() -> Result<()> {
    let model = seq![Linear::new(2, 3)?, ReLU::new(), Linear::new(3, 1)?];
    model.get(0).unwrap().requires_grad_(false)?;
    let x = Tensor::rand([4, 2], Device::Cpu)?;
    model.forward(&x)?.sum(())?.backward()?;
    let has_grad: Vec<bool> = model.parameters().iter().map(|p| p.grad().is_some()).collect();
    assert_eq!(has_grad, [false, false, true, true]);
    model.zero_grad();
    assert!(model.parameters().iter().all(|p| p.grad().is_none()));
    Ok(())
}

/// A `Linear` and a `ReLU` after it run as one primitive, with the same values and gradients.
#[test]
fn sequential_fuses_linear_and_relu() -> Result<()> {
    let model = seq![Linear::new(3, 4)?, ReLU::new(), Linear::new(4, 2)?, Tanh::new()];
    let x = Tensor::randn([5, 3], Device::Cpu)?;
    let run = |separately: bool| -> Result<(Vec<f32>, Vec<Vec<f32>>)> {
        model.zero_grad();
        let y = if separately {
            model.iter().try_fold(x.clone(), |x, layer| layer.forward(&x))?
        } else {
            model.forward(&x)?
        };
        y.square()?.sum(())?.backward()?;
        let grads = model.parameters().iter().map(|p| p.grad().unwrap().to_vec()).collect::<Result<_>>()?;
        Ok((y.to_vec()?, grads))
    };
    assert_eq!(run(false)?, run(true)?);

    // The hidden layer is one node: its ReLU saw no AddmmBackward0 of its own.
    let hidden = seq![Linear::new(3, 4)?, ReLU::new()].forward(&x)?;
    assert_eq!(hidden.grad_fn().unwrap().name(), "ReluBackward0");
    assert_eq!(hidden.grad_fn().unwrap().next_functions().len(), 3);
    Ok(())
}

#[test]
fn sequential_is_built_by_hand_too() -> Result<()> {
    let mut model = Sequential::new().add_named("flatten", Flatten::new())?.add(Linear::new(4, 2)?);
    assert_eq!(model.named_parameters()[0].0, "1.weight");
    for (name, what) in [("flatten", "already"), ("a.b", "dot"), ("", "empty")] {
        let error = Sequential::new().add_named("flatten", Flatten::new())?.add_named(name, ReLU::new()).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
    }
    let old = model.replace(1, Linear::new(4, 7)?)?;
    assert_eq!((old.num_parameters(), model.num_parameters(), model.len()), (10, 35, 2));
    assert!(model.replace(2, ReLU::new()).is_err() && model.get(2).is_none());
    // Without layers, the input.
    let x = ones(3);
    assert_eq!(Sequential::new().forward(&x)?.to_vec::<f32>()?, [1.0; 3]);
    let paths: Vec<String> = seq![seq![ReLU::new()], ReLU::new()].named_modules().into_iter().map(|(p, _)| p).collect();
    assert_eq!(paths, ["0", "0.0", "1"]);
    Ok(())
}

#[test]
fn a_state_dict_loads_into_another_model() -> Result<()> {
    let make = || -> Result<Sequential> { Ok(seq![Linear::new(3, 4)?, ReLU::new(), Linear::new(4, 2)?]) };
    let (a, b) = (make()?, make()?);
    let x = Tensor::rand([2, 3], Device::Cpu)?;
    assert_ne!(a.forward(&x)?.to_vec::<f32>()?, b.forward(&x)?.to_vec::<f32>()?);
    let state: StateDict =
        a.state_dict().into_iter().map(|(k, v)| Ok((k, v.to_dtype(DType::F64)?))).collect::<Result<_>>()?;
    let report = b.load_state_dict(&state, true)?;
    assert!(report.missing_keys.is_empty() && report.unexpected_keys.is_empty());
    assert_eq!(a.forward(&x)?.to_vec::<f32>()?, b.forward(&x)?.to_vec::<f32>()?);
    assert!(b.parameters().iter().all(|p| p.requires_grad() && p.is_leaf()));
    // Loading copies: the models stay apart.
    no_grad(|| a.parameters()[0].zero_())?;
    assert_ne!(b.parameters()[0].to_vec::<f32>()?, a.parameters()[0].to_vec::<f32>()?);
    Ok(())
}

#[test]
fn what_does_not_fit_is_listed_at_once() -> Result<()> {
    let model = seq![Linear::new(3, 4)?, Linear::new(4, 2)?];
    let before = model.parameters()[0].to_vec::<f32>()?;
    let mut state = seq![Linear::new(3, 4)?, Linear::new(4, 5)?].state_dict();
    let weight = state.shift_remove("0.weight").unwrap();
    state.insert("module.0.weight".into(), weight);
    let bias = state.shift_remove("0.bias").unwrap();
    state.insert("0.bais".into(), bias);

    let error = model.load_state_dict(&state, true).unwrap_err();
    let text = error.to_string();
    for part in [
        "does not fit Sequential",
        "missing: \"0.weight\" (\"module.0.weight\"?), \"0.bias\" (\"0.bais\"?)",
        "unexpected: \"module.0.weight\" (\"0.weight\"?), \"0.bais\" (\"0.bias\"?)",
        "\"1.weight\" has shape [5, 4] there and [2, 4] in the module",
        "\"1.bias\" has shape [5] there and [2] in the module",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let ErrorKind::StateDict { missing, unexpected, .. } = error.kind() else { panic!("{text}") };
    assert_eq!((missing.len(), unexpected.len()), (2, 2));

    // Shapes matter even when not strict.
    assert!(model.load_state_dict(&state, false).unwrap_err().to_string().contains("shape"));
    state.shift_remove("1.weight");
    state.shift_remove("1.bias");
    let report = model.load_state_dict(&state, false)?;
    assert_eq!(report.missing_keys, ["0.weight", "0.bias", "1.weight", "1.bias"]);
    assert_eq!(report.unexpected_keys, ["module.0.weight", "0.bais"]);
    assert_eq!(model.parameters()[0].to_vec::<f32>()?, before, "a refused state dict must change nothing");
    Ok(())
}

/// What a wrapper has prepended is told; other names get the nearest as a hint, if any is near.
#[test]
fn names_that_do_not_fit_get_hints() -> Result<()> {
    let model = seq![Linear::new(3, 4)?];
    let error = |names: &[&str]| {
        let state: StateDict = names.iter().map(|name| ((*name).to_owned(), ones(1))).collect();
        model.load_state_dict(&state, true).unwrap_err().to_string()
    };
    for (names, prefix) in [
        (&["module.0.weight", "module.0.bias"][..], "module."),
        (&["module.model.0.weight", "module.model.head"], "module.model."),
        (&["module.0.weight", "0.scale"], ""),
        (&["module.1.weight"], ""),
        (&[], ""),
    ] {
        let text = error(names);
        let told = text.contains(&format!("`LoadOptions::strip_prefix(\"{prefix}\")`"));
        assert!(if prefix.is_empty() { !text.contains("strip_prefix") } else { told }, "{names:?}:\n{text}");
    }
    // A name with another prefix comes before one that takes few edits; what takes more than a third of the letters is far.
    for (name, hint) in
        [("net.0.bias", "0.bias"), ("0.weihgt", "0.weight"), ("bias", "0.bias"), ("running_mean", ""), ("x", "")]
    {
        let (text, want) = (error(&[name]), format!("\"{name}\" (\"{hint}\"?)"));
        assert!(
            if hint.is_empty() { !text.contains(&format!("\"{name}\" (")) } else { text.contains(&want) },
            "{text}"
        );
    }
    Ok(())
}

#[test]
fn parameters_are_leaves() -> Result<()> {
    let w = ones(2).requires_grad_(true)?;
    let parameter = Parameter::new(w.mul(2.0)?)?;
    assert!(parameter.is_leaf() && parameter.requires_grad() && parameter.grad_fn().is_none());
    assert!(Parameter::new(Tensor::zeros(2, DType::I64)?).is_err());
    Ok(())
}

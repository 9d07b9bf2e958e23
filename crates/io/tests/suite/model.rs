//! Whole models are restored exactly, and files that name unknown types are refused.

use std::{collections::BTreeMap, fs, path::Path};

use kiln_io::{Metadata, load, load_model, load_model_with, registry, save_model, save_with_metadata};
use kiln_models::{LeNet, Mlp, VggOptions, vgg11_bn};
use kiln_nn::{
    AdaptiveAvgPool2d, AdaptiveMaxPool2d, AvgPool2d, BatchNorm1d, BatchNorm2d, BatchNormOptions, Buffer, Conv2d,
    Conv2dOptions, ConvTranspose2d, Dropout, Dropout2d, Embedding, Flatten, GELU, GroupNorm, Identity, LayerNorm,
    Linear, LinearOptions, LogSoftmax, MaxPool2d, Module, ModuleTree, Padding, PaddingMode, Parameter, ReLU,
    Sequential, Sigmoid, Softmax, Tanh, Training, saved_choice, seq,
};
use kiln_tensor::{DType, Device, Result, StateDict, Tensor, no_grad};
use tempfile::tempdir;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Sum,
    Product,
}
saved_choice!(Mode { Sum "sum", Product "product" });

/// One of every kind of field.
#[derive(Module)]
#[module(save = "tests::Everything")]
struct Everything {
    first: Linear,
    /// The same tensor as `first.weight`.
    tied: Parameter,
    missing: Option<Parameter>,
    frozen: Option<Parameter>,
    mean: Buffer,
    scratch: Buffer,
    blocks: Vec<Linear>,
    any: Vec<Box<dyn Module>>,
    pair: [ReLU; 2],
    tuple: (Linear, Tanh),
    table: BTreeMap<String, Linear>,
    boxed: Option<Box<dyn Module>>,
    known: Box<Linear>,
    #[module(name = "fc")]
    renamed: Linear,
    r#type: Sequential,
    hidden: usize,
    sizes: (usize, i64),
    label: String,
    rates: Vec<f64>,
    dtype: DType,
    mode: Mode,
    /// Made by `Default` again.
    #[module(skip)]
    callback: Option<fn(f64) -> f64>,
    training: Training,
}

impl Module for Everything {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.r#type.forward(&self.renamed.forward(&self.tuple.0.forward(&self.first.forward(x)?)?)?)?;
        let x = if self.mode == Mode::Sum { x.add(&*self.mean)? } else { x.mul(&*self.mean)? };
        let x = x.matmul(&self.tied)?;
        self.callback.map_or(Ok(x.clone()), |f| x.mul(f(1.0)))
    }
}

fn everything() -> Result<Everything> {
    let linear = || Linear::new(2, 2);
    let first = linear()?;
    let frozen = Parameter::new(Tensor::ones(1, Device::Cpu)?)?;
    frozen.set_requires_grad(false)?;
    Ok(Everything {
        tied: first.weight.clone(),
        first,
        missing: None,
        frozen: Some(frozen),
        mean: Buffer::new(Tensor::rand(2, Device::Cpu)?),
        scratch: Buffer::non_persistent(Tensor::arange(0, 3, Device::Cpu)?),
        blocks: vec![linear()?, linear()?],
        any: vec![Box::new(ReLU::new()), Box::new(linear()?)],
        pair: [ReLU::new(), ReLU::inplace()],
        tuple: (linear()?, Tanh::new()),
        table: BTreeMap::from([("b".to_string(), linear()?), ("a".to_string(), linear()?)]),
        boxed: Some(Box::new(linear()?)),
        known: Box::new(linear()?),
        renamed: linear()?,
        r#type: Sequential::new().add_named("head", linear()?)?.add(Dropout::new(0.25)?),
        hidden: usize::MAX,
        sizes: (3, -1),
        label: "caf\u{e9}".into(),
        rates: vec![0.1, f64::INFINITY, f64::NEG_INFINITY],
        dtype: DType::BF16,
        mode: Mode::Product,
        callback: Some(f64::sqrt),
        training: Training::default(),
    })
}

fn bits(x: &Tensor) -> Vec<u8> {
    x.to_dtype(DType::F64).unwrap().to_vec::<f64>().unwrap().iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn same_state(a: &dyn Module, b: &dyn Module) {
    let (a, b) = (a.state_dict(), b.state_dict());
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    assert!(a.iter().zip(&b).all(|((_, x), (_, y))| x.dtype() == y.dtype() && bits(x) == bits(y)));
}

#[test]
fn every_kind_of_field_comes_back() -> Result<()> {
    let folder = tempdir().unwrap();
    let path = folder.path().join("model.kiln");
    let model = everything()?;
    model.first.eval();
    save_model(&path, &model)?;
    let back = load_model_with(&path, Device::Cpu, &registry().with::<Everything>())?;
    assert_eq!(back.to_string(), model.to_string());
    same_state(&model, &*back);
    let x = Tensor::rand([3, 2], Device::Cpu)?;
    back.eval();
    model.eval();
    assert_eq!(bits(&model.forward(&x)?), bits(&back.forward(&x)?));
    assert_eq!(model.named_parameters().len(), back.named_parameters().len(), "the tied one counts once");
    let frozen = |m: &dyn ModuleTree| m.parameters().iter().filter(|p| !p.requires_grad()).count();
    assert_eq!((frozen(&model), frozen(&*back)), (1, 1));
    assert_eq!(back.named_buffers().len(), 2);
    // It is a file of weights, too; the tensors that are not in the state dict are there besides.
    let state = load(&path, Device::Cpu)?;
    assert!(state.contains_key("type.head.weight") && state.contains_key("fc.bias") && state.contains_key("scratch"));
    assert!(!state.contains_key("tied"), "it is written once");
    Ok(())
}

#[test]
fn modes_are_kept_and_layers_keep_their_settings() -> Result<()> {
    let folder = tempdir().unwrap();
    let path = folder.path().join("model.kiln");
    let no_bias = Linear::with_options(6, 4, LinearOptions::default().bias(false))?;
    let model = seq![
        Flatten::dims(1, 2),
        no_bias,
        GELU::tanh(),
        GELU::new(),
        ReLU::inplace(),
        Sigmoid::new(),
        Tanh::new(),
        Identity::new(),
        Dropout::new(0.3)?.inplace(),
        seq![Softmax::new(-1), LogSoftmax::new(1)],
    ];
    model.get(8).unwrap().eval();
    save_model(&path, &model)?;
    let back = load_model(&path, Device::Cpu)?;
    assert_eq!(back.to_string(), model.to_string());
    let modes = |m: &dyn ModuleTree| m.named_modules().iter().map(|(_, m)| m.is_training()).collect::<Vec<_>>();
    assert_eq!(modes(&model), modes(&*back));
    assert!(!modes(&*back)[8] && modes(&*back)[1]);

    // A model of the library, and one in a box, which is saved again.
    let mlp = Mlp::new(&[12, 5, 3])?;
    save_model(&path, &mlp)?;
    let boxed = load_model(&path, Device::Cpu)?;
    same_state(&mlp, &*boxed);
    save_model(&path, &boxed)?;
    same_state(&mlp, &*load_model(&path, Device::Cpu)?);
    let halves = load_model(&path, kiln_io::LoadOptions::new(Device::Cpu).dtype(DType::BF16))?;
    assert!(halves.parameters().iter().all(|p| p.dtype() == DType::BF16 && p.requires_grad()));
    Ok(())
}

#[test]
fn layers_for_images_and_models_come_back() -> Result<()> {
    let folder = tempdir().unwrap();
    let path = folder.path().join("model.kiln");
    let options = Conv2dOptions::default;
    let odd = options().padding([0, 1, 2, 3]).padding_mode(PaddingMode::Replicate).bias(false);
    let up = options().stride(2).padding((1, 0)).output_padding(1).groups(2).dilation((1, 2));
    let model = seq![
        Conv2d::with_options(3, 4, (3, 2), odd)?,
        BatchNorm2d::new(4)?,
        Conv2d::with_options(4, 4, 3, options().padding(Padding::Same).groups(4))?,
        ConvTranspose2d::with_options(4, 4, 3, up)?,
        MaxPool2d::new((2, 1)).stride(2).padding((1, 0)).dilation(1).ceil_mode(true),
        AvgPool2d::new(2).stride(1).count_include_pad(false),
        AvgPool2d::new(2).divisor_override(3)?,
        GroupNorm::new(2, 4)?,
        Dropout2d::new(0.1)?,
        AdaptiveMaxPool2d::new((4, 3)),
        AdaptiveMaxPool2d::new((None, Some(3))),
        AdaptiveAvgPool2d::new(2),
        Flatten::new(),
        BatchNorm1d::with_options(16, BatchNormOptions::default().affine(false).momentum(None))?,
        LayerNorm::new(&[16])?,
        Linear::new(16, 2)?,
    ];
    let x = Tensor::rand([2, 3, 13, 11], Device::Cpu)?;
    no_grad(|| model.forward(&x))?; // moves the running statistics
    model.eval();
    save_model(&path, &model)?;
    let back = load_model(&path, Device::Cpu)?;
    assert_eq!(back.to_string(), model.to_string());
    same_state(&model, &*back);
    assert_eq!(bits(&model.forward(&x)?), bits(&back.forward(&x)?));

    let words = Embedding::new(5, 3)?;
    save_model(&path, &words)?;
    same_state(&words, &*load_model(&path, Device::Cpu)?);
    let lenet = LeNet::new(10)?;
    save_model(&path, &lenet)?;
    assert_eq!(load_model(&path, Device::Cpu)?.to_string(), lenet.to_string());
    let vgg = vgg11_bn(VggOptions::default().width(0.03125).num_classes(3))?;
    save_model(&path, &vgg)?;
    let back = load_model(&path, Device::Cpu)?;
    assert_eq!(back.to_string(), vgg.to_string());
    same_state(&vgg, &*back);
    Ok(())
}

/// A layer that says nothing of files.
#[derive(Module)]
struct Private {
    fc: Linear,
}

impl Module for Private {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.fc.forward(x)
    }
}

#[test]
fn what_cannot_be_saved_or_is_not_known_is_named() -> Result<()> {
    let folder = tempdir().unwrap();
    let path = folder.path().join("model.kiln");
    let model = seq![ReLU::new(), seq![Private { fc: Linear::new(1, 1)? }]];
    let message = save_model(&path, &model).unwrap_err().to_string();
    assert!(message.contains("1.0: ") && message.contains("Private") && !path.exists(), "{message}");

    save_model(&path, &everything()?)?;
    let message = load_model(&path, Device::Cpu).unwrap_err().to_string();
    assert!(message.contains("tests::Everything") && message.contains("model.kiln"), "{message}");
    Ok(())
}

fn write(path: &Path, architecture: &str, tensors: &[&str]) {
    let tensor = |name: &&str| ((*name).to_owned(), Tensor::ones([2, 2], Device::Cpu).unwrap());
    let state: StateDict = tensors.iter().map(tensor).collect();
    let text = format!(r#"{{"version":1,"architecture":{architecture}}}"#);
    save_with_metadata(path, &state, &Metadata::from([("kiln.model".into(), text)])).unwrap();
}

#[test]
fn architectures_that_lie_are_refused() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("model.kiln");
    let refused = |architecture: &str, tensors: &[&str], want: &str| {
        write(&path, architecture, tensors);
        let message = load_model(&path, Device::Cpu).unwrap_err().to_string();
        assert!(message.contains(want) && message.contains("model.kiln"), "{architecture}: {message}");
    };
    let linear = r#"{"Linear":{"weight":{"requires_grad":true},"bias":null,"training":true}}"#;
    write(&path, linear, &["weight"]);
    assert!(load_model(&path, Device::Cpu).is_ok());
    refused(linear, &[], "weight: its tensor is missing");
    refused(linear, &["weight", "extra"], "\"extra\"");
    refused("null", &[], "expected a module");
    refused(r#"{"Linear":{},"ReLU":{}}"#, &[], "expected a module");
    refused(r#"{"Conv9d":{}}"#, &[], "\"Conv9d\" is not known");
    refused(r#"{"Linear":[]}"#, &[], "are not an object");
    refused(r#"{"Linear":{"weight":{"requires_grad":true}}}"#, &["weight"], "no field \"bias\"");
    refused(r#"{"Flatten":{"start_dim":1,"end_dim":-1,"more":2}}"#, &[], "\"more\"");
    refused(r#"{"Flatten":{"start_dim":1e99,"end_dim":-1}}"#, &[], "start_dim");
    refused(r#"{"Flatten":{"start_dim":"x","end_dim":-1}}"#, &[], "start_dim");
    refused(r#"{"Sequential":{"training":true,"layers":[["a.b",{"Tanh":{}}]]}}"#, &[], "not a valid layer name");
    refused(r#"{"Sequential":{"training":true,"layers":[["a",{"Tanh":{}}],["a",{"Tanh":{}}]]}}"#, &[], "occurs twice");
    refused(r#"{"Sequential":{"training":true,"layers":[{"Tanh":{}}]}}"#, &[], "has no name");
    let tied = r#"{"Linear":{"weight":{"same":"bias"},"bias":null,"training":true}}"#;
    refused(tied, &[], "has not been restored yet");
    refused(&format!("{}{}{}", r#"{"A":"#.repeat(200), "1", "}".repeat(200)), &[], "not JSON");

    // Values are checked where they are used.
    write(&path, r#"{"Dropout":{"p":"nan","inplace":false,"training":true}}"#, &[]);
    let x = Tensor::ones(2, Device::Cpu).unwrap();
    assert!(load_model(&path, Device::Cpu).unwrap().forward(&x).is_err());

    for (text, want) in [
        ("{", "not JSON"),
        ("[]", "no version"),
        (r#"{"version":7}"#, "version 7"),
        (r#"{"version":1}"#, "no architecture"),
    ] {
        save_with_metadata(&path, &StateDict::new(), &Metadata::from([("kiln.model".into(), text.into())])).unwrap();
        let message = load_model(&path, Device::Cpu).unwrap_err().to_string();
        assert!(message.contains(want), "{message}");
    }
    kiln_io::save(&path, &StateDict::new()).unwrap();
    assert!(load_model(&path, Device::Cpu).unwrap_err().to_string().contains("no architecture"));
    fs::remove_file(&path).unwrap();
}

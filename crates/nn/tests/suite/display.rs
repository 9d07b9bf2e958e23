//! Printed modules against PyTorch.

use crate::common;
use kiln_nn::{
    AdaptiveAvgPool2d, AvgPool2d, BCEWithLogitsLoss, BatchNorm1d, BatchNorm2d, BatchNormOptions, Conv2d, Conv2dOptions,
    CrossEntropyLoss, Dropout, Embedding, EmbeddingOptions, Flatten, GELU, Identity, L1Loss, LayerNorm, Linear,
    LinearOptions, LogSoftmax, MSELoss, MaxPool2d, Module, ModuleTree, NLLLoss, ReLU, Sequential, Sigmoid, Softmax,
    Tanh, seq,
};
use kiln_tensor::{Device, Reduction, Result, Tensor};

#[derive(Module)]
struct NeuralNetwork {
    flatten: Flatten,
    linear_relu_stack: Sequential,
}

impl NeuralNetwork {
    fn new() -> Result<NeuralNetwork> {
        let linear_relu_stack =
            seq![Linear::new(784, 512)?, ReLU::new(), Linear::new(512, 512)?, ReLU::new(), Linear::new(512, 10)?,];
        Ok(NeuralNetwork { flatten: Flatten::new(), linear_relu_stack })
    }
}

impl Module for NeuralNetwork {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.linear_relu_stack.forward(&self.flatten.forward(x)?)
    }
}

#[derive(Module)]
struct Nested {
    layers: Vec<Box<dyn Module>>,
    head: Identity,
}

#[derive(Module)]
struct Empty {}

type Boxes = Vec<Box<dyn Module>>;

/// The module that an expression of the golden file makes; `None` for layers that Kiln does not have (yet).
fn build(expr: &str) -> Result<Option<Box<dyn ModuleTree>>> {
    let ones = || Tensor::ones(3, Device::Cpu);
    macro_rules! table {
        ($($text:literal => $module:expr,)*) => {
            match expr {
                $($text => Box::new($module) as Box<dyn ModuleTree>,)*
                _ => return Ok(None),
            }
        };
    }
    Ok(Some(table! {
        "nn.Linear(4, 3)" => Linear::new(4, 3)?,
        "nn.Linear(4, 3, bias=False)" => Linear::with_options(4, 3, LinearOptions::default().bias(false))?,
        "nn.ReLU()" => ReLU::new(),
        "nn.ReLU(inplace=True)" => ReLU::inplace(),
        "nn.Sigmoid()" => Sigmoid::new(),
        "nn.Tanh()" => Tanh::new(),
        "nn.GELU()" => GELU::new(),
        "nn.GELU(approximate='tanh')" => GELU::tanh(),
        "nn.Softmax(dim=1)" => Softmax::new(1),
        "nn.Softmax(dim=-1)" => Softmax::new(-1),
        "nn.LogSoftmax(dim=1)" => LogSoftmax::new(1),
        "nn.Dropout()" => Dropout::new(0.5)?,
        "nn.Dropout(0.25)" => Dropout::new(0.25)?,
        "nn.Dropout(0.2, inplace=True)" => Dropout::new(0.2)?.inplace(),
        "nn.Flatten()" => Flatten::new(),
        "nn.Flatten(0, 2)" => Flatten::dims(0, 2),
        "nn.Identity()" => Identity::new(),
        "nn.Sequential()" => seq![],
        "nn.Sequential(nn.Linear(4, 3), nn.ReLU())" => seq![Linear::new(4, 3)?, ReLU::new()],
        "nn.Sequential(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), nn.Linear(3, 2))" =>
            seq![seq![Linear::new(4, 3)?, ReLU::new()], Linear::new(3, 2)?],
        "nn.Sequential(*[nn.ReLU() for _ in range(11)])" =>
            (0..11).fold(Sequential::new(), |all, _| all.add(ReLU::new())),
        "nn.ModuleList([])" => Boxes::new(),
        "nn.ModuleList([nn.Linear(4, 4) for _ in range(3)] + [nn.ReLU()])" => vec![
            Box::new(Linear::new(4, 4)?) as Box<dyn Module>,
            Box::new(Linear::new(4, 4)?),
            Box::new(Linear::new(4, 4)?),
            Box::new(ReLU::new()),
        ],
        "nn.ModuleList([nn.ReLU(), nn.ReLU(), nn.Tanh(), nn.Tanh(), nn.ReLU()])" =>
            vec![
                Box::new(ReLU::new()) as Box<dyn Module>,
                Box::new(ReLU::new()),
                Box::new(Tanh::new()),
                Box::new(Tanh::new()),
                Box::new(ReLU::new()),
            ],
        "nn.ModuleDict({'a': nn.Linear(2, 3), 'b': nn.ReLU()})" => std::collections::BTreeMap::from([
            ("a".to_string(), Box::new(Linear::new(2, 3)?) as Box<dyn Module>),
            ("b".to_string(), Box::new(ReLU::new())),
        ]),
        "nn.Conv2d(1, 8, 3)" => Conv2d::new(1, 8, 3)?,
        "nn.Conv2d(1, 8, 3, stride=2, padding=1)" =>
            Conv2d::with_options(1, 8, 3, Conv2dOptions::default().stride(2).padding(1))?,
        "nn.Conv2d(4, 8, (3, 5), groups=2, bias=False)" =>
            Conv2d::with_options(4, 8, (3, 5), Conv2dOptions::default().groups(2).bias(false))?,
        "nn.MaxPool2d(2)" => MaxPool2d::new(2),
        "nn.MaxPool2d(3, stride=2, padding=1)" => MaxPool2d::new(3).stride(2).padding(1),
        "nn.AvgPool2d(2)" => AvgPool2d::new(2),
        "nn.BatchNorm1d(8)" => BatchNorm1d::new(8)?,
        "nn.BatchNorm2d(8, momentum=0.2)" =>
            BatchNorm2d::with_options(8, BatchNormOptions::default().momentum(Some(0.2)))?,
        "nn.LayerNorm(8)" => LayerNorm::new(&[8])?,
        "nn.LayerNorm([2, 3], eps=1e-6, elementwise_affine=False)" =>
            LayerNorm::with_options(&[2, 3], 1e-6, false, true, Device::Cpu)?,
        "nn.Embedding(10, 4)" => Embedding::new(10, 4)?,
        "nn.Embedding(10, 4, padding_idx=0)" => Embedding::with_options(10, 4, EmbeddingOptions::default().padding_idx(0), Device::Cpu)?,
        "nn.MSELoss()" => MSELoss::new(),
        "nn.MSELoss(reduction='sum')" => MSELoss::new().reduction(Reduction::Sum),
        "nn.L1Loss()" => L1Loss::new(),
        "nn.NLLLoss()" => NLLLoss::new(),
        "nn.CrossEntropyLoss()" => CrossEntropyLoss::new(),
        "nn.CrossEntropyLoss(label_smoothing=0.1)" => CrossEntropyLoss::new().label_smoothing(0.1),
        "nn.CrossEntropyLoss(weight=torch.ones(3))" => CrossEntropyLoss::new().weight(ones()?),
        "nn.BCEWithLogitsLoss()" => BCEWithLogitsLoss::new(),
        "nn.BCEWithLogitsLoss(pos_weight=torch.ones(3))" => BCEWithLogitsLoss::new().pos_weight(ones()?),
        "NeuralNetwork()" => NeuralNetwork::new()?,
        "Nested()" => Nested {
            layers: vec![Box::new(Linear::new(2, 3)?), Box::new(ReLU::new()), Box::new(NeuralNetwork::new()?)],
            head: Identity,
        },
        "Empty()" => Empty {},
    }))
}

#[test]
fn modules_print_as_in_pytorch() {
    let golden = common::json("display.json");
    let mut count = 0;
    for case in golden["modules"].as_array().unwrap() {
        let expr = case["expr"].as_str().unwrap();
        if let Some(module) = build(expr).unwrap() {
            assert_eq!(module.repr(), case["repr"].as_str().unwrap(), "{expr}");
            assert_eq!(module.to_string(), module.repr());
            count += 1;
        }
    }
    assert_eq!(count, 49);
}

/// Eps is a float of Python's; sizes may be left open.
#[test]
fn numbers_print_as_in_python() -> Result<()> {
    for (eps, text) in [(1e-5, "1e-05"), (0.1, "0.1"), (1.0, "1.0"), (1.5e-12, "1.5e-12"), (1e16, "1e+16")] {
        let norm = BatchNorm2d::with_options(2, BatchNormOptions::default().eps(eps))?.to_string();
        assert!(norm.starts_with(&format!("BatchNorm2d(2, eps={text}, ")), "{norm}");
    }
    let pool = AdaptiveAvgPool2d::new((None, Some(3)));
    let images = Tensor::ones([1, 2, 5, 6], Device::Cpu)?;
    assert_eq!((pool.forward(&images)?.dims(), pool.output_size()), (&[1, 2, 5, 3][..], [None, Some(3)]));
    assert_eq!(pool.to_string(), "AdaptiveAvgPool2d(output_size=(None, 3))");
    assert_eq!(AdaptiveAvgPool2d::new(7).to_string(), "AdaptiveAvgPool2d(output_size=7)");
    Ok(())
}

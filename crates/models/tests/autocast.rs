//! Training under autocast: losses as PyTorch's on its CPU, from the same parameters and batches
//! (`tests/golden/make_autocast_curves.py` has the formulas), and steps of larger networks in both low dtypes.

use kiln_models::{LeNet, ResNetOptions, resnet18};
use kiln_nn::{
    AttentionMasks, BatchNorm2d, Conv2d, Conv2dOptions, CrossEntropyLoss, Embedding, GRU, LSTM, LSTMCell, LayerNorm,
    Linear, Module, ModuleTree, RNN, RNNNonlinearity, RNNOptions, StateDict, TransformerActivation,
    TransformerEncoderLayer, TransformerOptions,
    optim::{Adam, Optimizer, SGD, SGDOptions},
};
use kiln_tensor::{DType, Device, Result, Tensor, autocast, manual_seed};
use serde_json::Value;

const STEPS: usize = 200;
const BATCH: usize = 4;
const CLASSES: usize = 10;
const WIDTH: usize = 16;
const LENGTH: usize = 8;
const VOCABULARY: usize = 16;

/// Numbers below 1, as in the script.
fn stream(j: u64, n: usize) -> impl Iterator<Item = f64> {
    (1..=n as u64).map(move |i| {
        let mut h = (i * 2_654_435_761 + j * 40_503) % (1 << 32);
        h ^= h >> 16;
        h = h * 73_244_475 % (1 << 32);
        h ^= h >> 16;
        h as f64 / 4_294_967_296.0
    })
}

fn images(step: usize) -> Result<(Tensor, Tensor)> {
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for n in step * BATCH..(step + 1) * BATCH {
        let label = (stream(500, n + 1).last().unwrap() * CLASSES as f64) as u64;
        let (pattern, noise) = (stream(600 + label, 32 * 32), stream(1000 + n as u64, 32 * 32));
        pixels.extend(pattern.zip(noise).map(|(pattern, noise)| (3.0 * pattern + noise - 2.0) as f32));
        labels.push(label as i64);
    }
    Ok((Tensor::from_vec(pixels, [BATCH, 1, 32, 32], Device::Cpu)?, Tensor::new(&labels, Device::Cpu)?))
}

fn sentences(step: usize) -> Result<(Tensor, Tensor)> {
    let any = |draw: f64| (draw * VOCABULARY as f64) as i64;
    let mut tokens = Vec::new();
    for n in (step * BATCH) as u64..((step + 1) * BATCH) as u64 {
        let mut last = None;
        for (draw, chance) in stream(2000 + n, LENGTH + 1).zip(stream(5000 + n, LENGTH + 1)) {
            let token = match last {
                Some(last) if chance >= 0.1 => (3 * last + 1) % VOCABULARY as i64,
                _ => any(draw),
            };
            tokens.push(token);
            last = Some(token);
        }
    }
    let tokens = Tensor::from_vec(tokens, [BATCH, LENGTH + 1], Device::Cpu)?;
    Ok((tokens.narrow(1, 0, LENGTH)?, tokens.narrow(1, 1, LENGTH)?))
}

/// A decoder of tokens, as GPT is: layers that see the tokens before, normalized first.
#[derive(Debug, Module)]
struct Transformer {
    tokens: Embedding,
    places: Embedding,
    layer1: TransformerEncoderLayer,
    layer2: TransformerEncoderLayer,
    norm: LayerNorm,
    head: Linear,
}

impl Transformer {
    fn new() -> Result<Transformer> {
        let options = TransformerOptions::default().dim_feedforward(2 * WIDTH).dropout(0.0).batch_first(true);
        let options = options.activation(TransformerActivation::GELU).norm_first(true);
        Ok(Transformer {
            tokens: Embedding::new(VOCABULARY, WIDTH)?,
            places: Embedding::new(LENGTH, WIDTH)?,
            layer1: TransformerEncoderLayer::new(WIDTH, 2, options)?,
            layer2: TransformerEncoderLayer::new(WIDTH, 2, options)?,
            norm: LayerNorm::new(&[WIDTH])?,
            head: Linear::new(WIDTH, VOCABULARY)?,
        })
    }
}

impl Module for Transformer {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let places = self.places.forward(&Tensor::arange(0, x.size(1)?, (DType::I64, x.device()))?)?;
        let mut x = self.tokens.forward(x)?.add(&places)?;
        for layer in [&self.layer1, &self.layer2] {
            x = layer.forward_masked(&x, AttentionMasks::none().is_causal(true))?;
        }
        self.head.forward(&self.norm.forward(&x)?)
    }
}

fn initialize(model: &dyn ModuleTree) -> Result<()> {
    let (mut state, mut fan_in) = (StateDict::new(), 1);
    for (j, (name, parameter)) in model.named_parameters().into_iter().enumerate() {
        if parameter.rank() > 1 {
            fan_in = parameter.numel() / parameter.size(0)?;
        }
        let values = stream(j as u64, parameter.numel()).map(|u| ((2.0 * u - 1.0) / (fan_in as f64).sqrt()) as f32);
        let value = Tensor::from_vec(values.collect(), parameter.shape(), Device::Cpu)?;
        state.insert(name.clone(), if name.contains("norm") { parameter.detach() } else { value });
    }
    model.load_state_dict(&state, true).map(drop)
}

/// A step; the loss is that before it.
fn step(
    model: &dyn Module,
    optimizer: &mut dyn Optimizer,
    low: Option<DType>,
    (x, y): (Tensor, Tensor),
) -> Result<Tensor> {
    let forward = || {
        let out = model.forward(&x)?;
        assert_eq!(out.dtype(), low.unwrap_or(DType::F32));
        CrossEntropyLoss::new().forward(&out.flatten(0, -2)?, &y.flatten_all()?)
    };
    let loss = match low {
        Some(low) => autocast(low, forward)?,
        None => forward()?,
    };
    assert_eq!(loss.dtype(), DType::F32);
    optimizer.zero_grad();
    loss.backward()?;
    optimizer.step()?;
    Ok(loss)
}

/// Losses against PyTorch's: they differ no more than correct runs of PyTorch do whose sums are rounded otherwise, or than
/// its losses in `bf16` and `f32`, each within 20 steps, times 2.
fn compare(
    name: &str,
    model: &dyn Module,
    optimizer: &mut dyn Optimizer,
    batch: fn(usize) -> Result<(Tensor, Tensor)>,
) -> Result<()> {
    let golden: Value = serde_json::from_str(include_str!("../../../tests/golden/autocast_curves.json")).unwrap();
    let numbers = |of: &str| -> Vec<f64> {
        golden[name][of].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
    };
    let (want, wide, spread) = (numbers("bf16"), numbers("f32"), numbers("spread"));
    let gap = |at: usize| {
        let window = (at / 20 * 20)..(at / 20 * 20 + 20);
        window.map(|i| (want[i] - wide[i]).abs()).fold(spread[at / 20], f64::max)
    };
    assert_eq!(want.len(), STEPS);
    let mut most = 0f64;
    for (at, &want) in want.iter().enumerate() {
        let loss = step(model, optimizer, Some(DType::BF16), batch(at)?)?.item::<f64>()?;
        let bound = 2.0 * gap(at);
        let difference = (loss - want).abs();
        most = most.max(difference / bound);
        assert!(difference <= bound, "{name}, step {at}: {loss}, PyTorch's {want} ± {bound}");
    }
    println!("{name}: {most:.2} of the bound");
    Ok(())
}

#[test]
fn lenet_follows_pytorch() -> Result<()> {
    let model = LeNet::new(CLASSES)?;
    initialize(&model)?;
    let mut optimizer = SGD::new(model.named_parameters(), SGDOptions::new(0.005).momentum(0.9))?;
    compare("lenet", &model, &mut optimizer, images)
}

#[test]
fn a_transformer_follows_pytorch() -> Result<()> {
    let model = Transformer::new()?;
    initialize(&model)?;
    let mut optimizer = Adam::new(model.named_parameters(), 0.005)?;
    compare("transformer", &model, &mut optimizer, sentences)
}

/// Steps on one batch: losses and gradients are finite, gradients in `f32`, and the loss begins
/// where it does in `f32` and falls.
fn learns<M: Module + ModuleTree>(
    make: impl Fn() -> Result<M>,
    (x, y): (Tensor, Tensor),
    rate: f64,
    steps: usize,
) -> Result<()> {
    // Tests beside this one draw numbers from the same generator, so parameters are drawn once.
    manual_seed(0);
    let start = make()?.state_dict();
    let train = |low: Option<DType>| -> Result<Vec<f64>> {
        let model = make()?;
        model.load_state_dict(&start, true)?;
        let mut optimizer = SGD::new(model.named_parameters(), SGDOptions::new(rate).momentum(0.9))?;
        let losses: Result<Vec<f64>> =
            (0..steps).map(|_| step(&model, &mut optimizer, low, (x.clone(), y.clone()))?.item::<f64>()).collect();
        for (name, parameter) in model.named_parameters() {
            let grad = parameter.grad().unwrap();
            assert_eq!((parameter.dtype(), grad.dtype()), (DType::F32, DType::F32), "{name}");
            assert!(grad.isfinite()?.all(())?.item::<bool>()?, "{name}");
        }
        losses
    };
    let wide = train(None)?;
    assert!(wide[steps - 1] < 0.9 * wide[0], "{wide:?}");
    for low in [DType::BF16, DType::F16] {
        let losses = train(Some(low))?;
        // Later losses of large networks differ more, as rounding is amplified by batches of four.
        assert!((losses[0] - wide[0]).abs() < 0.02 * wide[0], "{low}: {losses:?}, {wide:?} in f32");
        assert!(losses[steps - 1] < 0.9 * losses[0] && losses.iter().all(|loss| loss.is_finite()), "{low}: {losses:?}");
    }
    Ok(())
}

/// Four pictures of a size, and their classes.
fn pictures(size: usize) -> Result<(Tensor, Tensor)> {
    let pixels = stream(7, 4 * 3 * size * size).map(|u| u as f32).collect();
    Ok((Tensor::from_vec(pixels, [4, 3, size, size], Device::Cpu)?, Tensor::new(&[1i64, 7, 3, 0], Device::Cpu)?))
}

#[test]
#[ignore = "takes most of a minute"]
fn resnet18_learns() -> Result<()> {
    learns(|| resnet18(ResNetOptions::default().num_classes(10)), pictures(32)?, 0.01, 4)
}

/// A residual block, as those of ResNet-18 are, between a convolution and a linear layer.
#[derive(Debug, Module)]
struct Residual {
    stem: Conv2d,
    norm: BatchNorm2d,
    conv1: Conv2d,
    norm1: BatchNorm2d,
    conv2: Conv2d,
    norm2: BatchNorm2d,
    head: Linear,
}

impl Residual {
    fn new() -> Result<Residual> {
        let conv = |channels| Conv2d::with_options(channels, 8, 3, Conv2dOptions::default().padding(1).bias(false));
        let norm = || BatchNorm2d::new(8);
        Ok(Residual {
            stem: conv(3)?,
            norm: norm()?,
            conv1: conv(8)?,
            norm1: norm()?,
            conv2: conv(8)?,
            norm2: norm()?,
            head: Linear::new(8, 10)?,
        })
    }
}

impl Module for Residual {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.norm.forward(&self.stem.forward(x)?)?.relu()?;
        let y = self.norm1.forward(&self.conv1.forward(&x)?)?.relu()?;
        let x = self.norm2.forward(&self.conv2.forward(&y)?)?.add(&x)?.relu()?;
        self.head.forward(&x.mean([2, 3])?)
    }
}

#[test]
fn a_residual_network_learns() -> Result<()> {
    learns(Residual::new, pictures(8)?, 0.05, 6)
}

#[test]
fn gpt_learns() -> Result<()> {
    learns(Transformer::new, sentences(0)?, 0.1, 10)
}

/// What a recurrent layer gives under autocast is what a copy of it in `bf16` gives, states included.
fn recurs<M: ModuleTree>(module: M, outputs: impl Fn(&M, DType) -> Result<Vec<Tensor>>) -> Result<()> {
    let got = autocast(DType::BF16, || outputs(&module, DType::F32))?;
    got[0].to_dtype(DType::F32)?.sum(())?.backward()?;
    assert!(module.parameters().iter().all(|p| p.grad().is_none_or(|grad| grad.dtype() == DType::F32)));
    assert!(module.parameters().iter().any(|p| p.grad().is_some()));
    let want = outputs(&module.to_dtype(DType::BF16)?, DType::BF16)?;
    for (got, want) in got.iter().zip(&want) {
        assert_eq!((got.dtype(), got.shape()), (DType::BF16, want.shape()));
        assert_eq!(got.to_dtype(DType::F32)?.to_vec::<f32>()?, want.to_dtype(DType::F32)?.to_vec::<f32>()?);
    }
    Ok(())
}

#[test]
fn recurrent_layers_are_low() -> Result<()> {
    manual_seed(8);
    let (steps, batch, inputs, hidden) = (5, 3, 4, 6);
    let x = Tensor::randn([steps, batch, inputs], Device::Cpu)?;
    let h = Tensor::randn([2, batch, hidden], Device::Cpu)?;
    let two = RNNOptions::default().num_layers(2);
    let of = |module: &RNN, dtype: DType| {
        let (y, h) = module.forward_with_state(&x.to_dtype(dtype)?, Some(&h.to_dtype(dtype)?))?;
        Ok(vec![y, h])
    };
    recurs(RNN::with_options(inputs, hidden, two)?, of)?;
    recurs(RNN::with_options(inputs, hidden, two.nonlinearity(RNNNonlinearity::ReLU))?, of)?;
    recurs(GRU::with_options(inputs, hidden, two)?, |module, dtype| {
        let (y, h) = module.forward_with_state(&x.to_dtype(dtype)?, Some(&h.to_dtype(dtype)?))?;
        Ok(vec![y, h])
    })?;
    recurs(
        LSTM::with_options(inputs, hidden, RNNOptions::default().bidirectional(true).proj_size(2))?,
        |module, dtype| {
            let (y, (h, c)) = module.forward_with_state(&x.to_dtype(dtype)?, None)?;
            Ok(vec![y, h, c])
        },
    )?;
    recurs(LSTMCell::new(inputs, hidden)?, |module, dtype| {
        let (state, x) = (h.to_dtype(dtype)?, x.to_dtype(dtype)?);
        let (h, c) = module.forward_with_state(&x.select(0, 0)?, Some((&state.select(0, 0)?, &state.select(0, 1)?)))?;
        Ok(vec![h, c])
    })
}

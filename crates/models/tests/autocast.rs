//! Training under autocast, in both low dtypes: losses as PyTorch's on its CPU, from the same parameters and batches
//! (`tests/golden/make_autocast_curves.py` has the formulas).

use kiln_models::{LeNet, ResNet, ResNetOptions, resnet18};
use kiln_nn::{
    AttentionMasks, CrossEntropyLoss, Embedding, GRU, LSTM, LSTMCell, LayerNorm, Linear, Module, ModuleTree, RNN,
    RNNNonlinearity, RNNOptions, StateDict, TransformerActivation, TransformerEncoderLayer, TransformerOptions,
    optim::{Adam, GradScaler, Optimizer, SGD, SGDOptions},
};
use kiln_tensor::{DType, Device, Result, Tensor, autocast, manual_seed};
use serde_json::Value;

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

fn images(step: usize, batch: usize) -> Result<(Tensor, Tensor)> {
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for n in step * batch..(step + 1) * batch {
        let label = (stream(500, n + 1).last().unwrap() * CLASSES as f64) as u64;
        let (pattern, noise) = (stream(600 + label, 32 * 32), stream(1000 + n as u64, 32 * 32));
        pixels.extend(pattern.zip(noise).map(|(pattern, noise)| (3.0 * pattern + noise - 2.0) as f32));
        labels.push(label as i64);
    }
    Ok((Tensor::from_vec(pixels, [batch, 1, 32, 32], Device::Cpu)?, Tensor::new(&labels, Device::Cpu)?))
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
        let is_norm = ["norm", "bn", "downsample.1"].iter().any(|norm| name.contains(norm));
        state.insert(name.clone(), if is_norm { parameter.detach() } else { value });
    }
    // Averages stay as they are.
    model.load_state_dict(&state, false).map(drop)
}

/// Losses against PyTorch's: they differ no more than correct runs of PyTorch do whose sums are rounded otherwise, or than
/// its losses in the low dtype and in `f32`, each within 20 steps, times 2. So many steps are taken in `bf16` and in `f16`.
fn compare<M: Module + ModuleTree, O: Optimizer>(
    name: &str,
    steps: [usize; 2],
    make: impl Fn() -> Result<M>,
    optimizer: impl Fn(&M) -> Result<O>,
    batch: impl Fn(usize) -> Result<(Tensor, Tensor)>,
) -> Result<()> {
    let golden: Value = serde_json::from_str(include_str!("../../../tests/golden/autocast_curves.json")).unwrap();
    let golden = &golden[name];
    let numbers =
        |of: &str| -> Vec<f64> { golden[of].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect() };
    let wide = numbers("f32");
    for ((low, key), steps) in [(DType::BF16, "bf16"), (DType::F16, "f16")].into_iter().zip(steps) {
        let (want, spread) = (numbers(key), numbers(&format!("{key} spread")));
        let gap = |at: usize| {
            let window = (at / 20 * 20)..(at / 20 * 20 + 20);
            window.map(|i| (want[i] - wide[i]).abs()).fold(spread[at / 20], f64::max)
        };
        assert_eq!(want.len(), 20 * spread.len());
        let model = make()?;
        initialize(&model)?;
        let mut optimizer = optimizer(&model)?;
        let mut scaler = GradScaler::new().init_scale(256.0).growth_interval(80).enabled(low == DType::F16);
        let mut most = 0f64;
        for (at, &want) in want.iter().enumerate().take(steps) {
            let (x, y) = batch(at)?;
            let loss = autocast(low, || {
                let out = model.forward(&x)?;
                assert_eq!(out.dtype(), low);
                CrossEntropyLoss::new().forward(&out.flatten(0, -2)?, &y.flatten_all()?)
            })?;
            assert_eq!(loss.dtype(), DType::F32);
            optimizer.zero_grad();
            scaler.scale(&loss)?.backward()?;
            scaler.step(&mut optimizer)?;
            scaler.update()?;
            let (loss, bound) = (loss.item::<f64>()?, 2.0 * gap(at));
            let difference = (loss - want).abs();
            most = most.max(difference / bound);
            assert!(difference <= bound, "{name} in {low}, step {at}: {loss}, PyTorch's {want} ± {bound}");
        }
        println!("{name} in {low}: {most:.2} of the bound");
        if low == DType::F16 && steps >= want.len() {
            assert_eq!(Some(scaler.get_scale()?), golden["scale"].as_f64(), "{name}");
        }
        for (name, parameter) in model.named_parameters() {
            let grad = parameter.grad().unwrap();
            assert_eq!((parameter.dtype(), grad.dtype()), (DType::F32, DType::F32), "{name}");
        }
    }
    Ok(())
}

fn lenet(steps: [usize; 2]) -> Result<()> {
    let sgd = |model: &LeNet| SGD::new(model.named_parameters(), SGDOptions::new(0.005).momentum(0.9));
    compare("lenet", steps, || LeNet::new(CLASSES), sgd, |step| images(step, BATCH))
}

fn resnet(steps: [usize; 2]) -> Result<()> {
    let options = ResNetOptions::default().num_classes(CLASSES).in_channels(1).width(1.0 / 8.0);
    let sgd = |model: &ResNet| SGD::new(model.named_parameters(), 0.002);
    compare("resnet", steps, || resnet18(options), sgd, |step| images(step, 4 * BATCH))
}

fn gpt(steps: [usize; 2]) -> Result<()> {
    let adam = |model: &Transformer| Adam::new(model.named_parameters(), 0.005);
    compare("transformer", steps, Transformer::new, adam, sentences)
}

#[test]
fn lenet_follows_pytorch() -> Result<()> {
    lenet([200, 20])
}

#[test]
fn resnet18_follows_pytorch() -> Result<()> {
    resnet([20, 10])
}

#[test]
fn gpt_follows_pytorch() -> Result<()> {
    gpt([200, 20])
}

#[test]
#[ignore = "takes minutes"]
fn all_steps_follow_pytorch() -> Result<()> {
    lenet([usize::MAX; 2])?;
    resnet([usize::MAX; 2])?;
    gpt([usize::MAX; 2])
}

/// What a recurrent layer gives under autocast is what a copy of it in `bf16` gives, states included; but for `rounding`, if
/// the sum of the biases of inputs and state is rounded once instead of the biases.
fn recurs<M: ModuleTree>(module: M, rounding: f32, outputs: impl Fn(&M, DType) -> Result<Vec<Tensor>>) -> Result<()> {
    let got = autocast(DType::BF16, || outputs(&module, DType::F32))?;
    got[0].to_dtype(DType::F32)?.sum(())?.backward()?;
    assert!(module.parameters().iter().all(|p| p.grad().is_none_or(|grad| grad.dtype() == DType::F32)));
    assert!(module.parameters().iter().any(|p| p.grad().is_some()));
    let want = outputs(&module.to_dtype(DType::BF16)?, DType::BF16)?;
    for (got, want) in got.iter().zip(&want) {
        assert_eq!((got.dtype(), got.shape()), (DType::BF16, want.shape()));
        let (got, want) = (got.to_dtype(DType::F32)?.to_vec::<f32>()?, want.to_dtype(DType::F32)?.to_vec::<f32>()?);
        assert!(got.iter().zip(&want).all(|(got, want)| (got - want).abs() <= rounding), "{got:?}\n{want:?}");
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
    let of_lstm = |module: &LSTM, dtype: DType| {
        let (y, (h, c)) = module.forward_with_state(&x.to_dtype(dtype)?, None)?;
        Ok(vec![y, h, c])
    };
    for (options, rounding) in [(two.bias(false), 0.0), (two, 0.02)] {
        recurs(RNN::with_options(inputs, hidden, options)?, rounding, of)?;
        recurs(RNN::with_options(inputs, hidden, options.nonlinearity(RNNNonlinearity::ReLU))?, rounding, of)?;
        recurs(LSTM::with_options(inputs, hidden, options.bidirectional(true))?, rounding, of_lstm)?;
    }
    recurs(GRU::with_options(inputs, hidden, two)?, 0.0, |module, dtype| {
        let (y, h) = module.forward_with_state(&x.to_dtype(dtype)?, Some(&h.to_dtype(dtype)?))?;
        Ok(vec![y, h])
    })?;
    let projected = RNNOptions::default().bidirectional(true).proj_size(2);
    recurs(LSTM::with_options(inputs, hidden, projected)?, 0.0, of_lstm)?;
    recurs(LSTMCell::new(inputs, hidden)?, 0.0, |module, dtype| {
        let (state, x) = (h.to_dtype(dtype)?, x.to_dtype(dtype)?);
        let (h, c) = module.forward_with_state(&x.select(0, 0)?, Some((&state.select(0, 0)?, &state.select(0, 1)?)))?;
        Ok(vec![h, c])
    })
}

//! Training steps and inference of the MLP, LeNet, VGG16 and ResNet-18, and training steps of an LSTM, a GPT and attention
//! over long sequences, on the CPU and, with the feature `cuda`, on a GPU: in `f32`, with TensorFloat-32, in `bf16` with
//! channels-last images, and with cuDNN's benchmark mode on and off (`settings/mod.rs`).
//!
//! `cargo bench --bench models`, with words such as `mlp` or `vgg16-train` to select some. It ends with a table of
//! times, rates and peak memory; with `KILN_BENCH_MEMORY=1` it only measures memory, with a few steps each.
//! `benches/peers/compare.py` compares it with other frameworks. For that it starts this program with
//! `KILN_BENCH_TURNS=cpu` (or `cuda`), which then times the workloads requested on standard input.

mod devices;
mod sequences;
mod settings;
mod turns;

use std::{env, hint::black_box, time::Duration};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use kiln::{
    CapturedStep, ErrorKind, autocast,
    models::{LeNet, Mlp, ResNetOptions, VggOptions, resnet18, vgg16},
    nn::functional,
    optim::{AdamW, Optimizer, SGD},
    prelude::*,
};
use sequences::{Attention, Gpt, GptSizes, LstmClassifier};
use settings::{Precision, Settings};
use turns::Workload;

/// The workloads: a name, which `compare.py` knows as well, the batches, and those that only a GPU is given.
const WORKLOADS: [(&str, &[usize], &[usize]); 15] = [
    ("mlp-train", &[64, 512], &[256]),
    // Steps that are captured as a graph, which only a GPU does.
    ("mlp-graph", &[], &[64, 256, 512]),
    ("mlp-infer", &[64, 512], &[256]),
    ("lenet-train", &[64], &[256]),
    ("lenet-graph", &[], &[64, 256]),
    ("lenet-infer", &[64], &[256]),
    ("vgg16-train", &[8], &[64, 256]),
    ("vgg16-graph", &[], &[8, 64, 256]),
    ("vgg16-infer", &[1, 8], &[64, 256]),
    ("resnet18-train", &[8], &[64, 256]),
    ("resnet18-graph", &[], &[8, 64, 256]),
    ("resnet18-infer", &[1, 8], &[64, 256]),
    ("lstm-train", &[32], &[256]),
    ("gpt-train", &[16], &[64]),
    ("attention-train", &[1], &[8]),
];

/// Whether a workload has convolutions, so that there is something to search for.
fn has_convolutions(name: &str) -> bool {
    ["lenet", "vgg16", "resnet18"].iter().any(|network| name.starts_with(network))
}

/// One workload with one batch on one device.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    batch: usize,
    device: Device,
    settings: Settings,
}

impl Case {
    /// All that are asked for.
    fn all() -> anyhow::Result<Vec<Case>> {
        let mut cases = Vec::new();
        for (name, batches, large) in WORKLOADS {
            for device in devices::all() {
                for settings in Settings::asked(device)? {
                    if settings.benchmark && !has_convolutions(name) {
                        continue;
                    }
                    let large = if device.is_cuda() { large } else { &[] };
                    cases.extend(batches.iter().chain(large).map(|&batch| Case { name, batch, device, settings }));
                }
            }
        }
        Ok(cases)
    }

    /// As criterion calls it, within the group of its workload.
    fn id(&self) -> String {
        format!("{} ({})/{}", devices::name(self.device), self.settings, self.batch)
    }

    /// Whether the words of the command line ask for it, as far as they are known here: options of criterion with a value
    /// of their own are not.
    fn is_asked_for(&self) -> bool {
        let mut words = env::args().skip(1).filter(|word| !word.starts_with('-')).peekable();
        words.peek().is_none() || words.any(|word| format!("{}/{}", self.name, self.id()).contains(&word))
    }

    /// A workload that has made what is made once; `None` if the device has no room for it.
    fn start(self) -> Option<Step> {
        match Step::warmed_up(self.name, self.batch, self.device, self.settings) {
            Ok(step) => Some(step),
            Err(error) if matches!(error.kind(), ErrorKind::OutOfMemory { .. }) => {
                println!("{} {}: {}", self.name, self.id(), error.to_string().lines().next().unwrap_or_default());
                None
            }
            Err(error) => panic!("{} {}: {error}", self.name, self.id()),
        }
    }
}

/// A line of the closing table.
struct Row {
    case: Case,
    /// `None` where only memory is asked for.
    seconds: Option<f64>,
    peak: usize,
    reserved: usize,
}

impl Row {
    fn new(case: Case, seconds: Option<f64>) -> kiln::Result<Row> {
        let stats = case.device.memory_stats()?;
        Ok(Row { case, seconds, peak: stats.peak_allocated, reserved: stats.reserved })
    }

    fn print(&self) {
        let Row { case: Case { name, batch, device, settings }, .. } = self;
        let [peak, reserved] = [self.peak, self.reserved].map(|bytes| bytes as f64 / f64::from(1 << 20));
        let (ms, rate) = self.seconds.map_or_else(Default::default, |seconds| {
            (format!("{:.3}", seconds * 1e3), format!("{:.1}", *batch as f64 / seconds))
        });
        let device = devices::name(*device);
        println!("| {name} | {batch} | {device} | {settings} | {ms} | {rate} | {peak:.1} | {reserved:.1} |");
    }
}

fn table(rows: &[Row]) {
    println!("\n| workload | batch | device | settings | ms | samples/s | peak of tensors, MiB | held, MiB |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    rows.iter().for_each(Row::print);
}

/// Drops what the case before has left, so that memory is this one's.
fn begin(case: Case) -> kiln::Result<()> {
    case.device.synchronize()?;
    case.device.empty_cache()
}

/// Times everything.
fn steps() -> anyhow::Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    let mut rows = Vec::new();
    let cases = Case::all()?;
    for (name, ..) in WORKLOADS {
        let mut group = criterion.benchmark_group(name);
        group.sample_size(10).sampling_mode(SamplingMode::Flat); // steps of seconds, too
        for &case in cases.iter().filter(|case| case.name == name) {
            // A GPU's clock is steadier.
            let (warm_up, measured) = if case.device.is_cuda() { (300, 1500) } else { (1000, 5000) };
            group.warm_up_time(Duration::from_millis(warm_up)).measurement_time(Duration::from_millis(measured));
            group.throughput(Throughput::Elements(case.batch as u64)); // samples
            begin(case)?;
            let mut step = None;
            if case.is_asked_for() {
                step = case.start();
                if step.is_none() {
                    continue;
                }
            }
            let mut seconds = None;
            let id = case.id();
            let (function, batch) = id.rsplit_once('/').unwrap_or((&id, ""));
            group.bench_function(BenchmarkId::new(function, batch), |bencher| {
                let step = step.get_or_insert_with(|| case.start().expect("the device has room"));
                let step = || Ok(black_box(step.run())?);
                seconds = Some(devices::time(bencher, case.device, step));
            });
            if seconds.is_some() {
                rows.push(Row::new(case, seconds)?);
            }
        }
        group.finish();
    }
    criterion.final_summary();
    table(&rows);
    Ok(())
}

/// What each workload needs, after three steps.
fn memory() -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for case in Case::all()?.into_iter().filter(Case::is_asked_for) {
        begin(case)?;
        let Some(mut step) = case.start() else { continue };
        step.run()?;
        step.run()?;
        step.wait()?;
        rows.push(Row::new(case, None)?);
    }
    table(&rows);
    Ok(())
}

struct Step {
    network: Box<Network>,
    batch: (Tensor, Tensor),
    /// The step as a graph, if it is to be one.
    graph: Option<Captured>,
}

struct Network {
    model: Box<dyn Module>,
    loss_fn: fn(&Tensor, &Tensor) -> kiln::Result<Tensor>,
    /// `None` if it is not trained.
    optimizer: Option<Box<dyn Optimizer>>,
    /// Whether the forward pass is in a region of autocast.
    autocast: bool,
}

type TrainingStep = fn(&mut Network, &(Tensor, Tensor)) -> kiln::Result<Tensor>;
type Captured = CapturedStep<Network, (Tensor, Tensor), Tensor, TrainingStep>;

/// Runs a forward pass in a region of autocast to `bf16`, or as it is.
fn in_region(on: bool, forward: impl FnOnce() -> kiln::Result<Tensor>) -> kiln::Result<Tensor> {
    if on { autocast(DType::BF16, forward) } else { forward() }
}

impl Network {
    fn step(&mut self, (x, y): &(Tensor, Tensor)) -> kiln::Result<Tensor> {
        let Some(optimizer) = &mut self.optimizer else {
            return no_grad(|| in_region(self.autocast, || self.model.forward(x)));
        };
        // In half precision the network, not the loss.
        let logits = in_region(self.autocast, || self.model.forward(x))?.to_dtype(DType::F32)?;
        let loss = (self.loss_fn)(&logits, y)?;
        optimizer.zero_grad();
        loss.backward()?;
        optimizer.step()?;
        Ok(loss)
    }
}

impl Step {
    fn new(name: &str, batch: usize, device: Device, settings: Settings) -> kiln::Result<Step> {
        settings.apply();
        manual_seed(0);
        // Where it is only seen whether everything runs, sequences are short, too.
        let length = |length: usize| if devices::only_tested() { length / 16 } else { length };
        let images = |dims: [usize; 3]| settings.images(&Tensor::rand([batch, dims[0], dims[1], dims[2]], device)?);
        let labels = |n: usize, classes: i64| Tensor::randint(0, classes, n, device);
        let mut loss_fn: fn(&Tensor, &Tensor) -> kiln::Result<Tensor> = functional::cross_entropy;
        let (mut model, x, y): (Box<dyn Module>, Tensor, Tensor) = match name.split('-').next() {
            Some("mlp") => (Box::new(Mlp::new(&[784, 512, 512, 10])?), images([1, 28, 28])?, labels(batch, 10)?),
            Some("lenet") => (Box::new(LeNet::new(10)?), images([1, 32, 32])?, labels(batch, 10)?),
            Some("resnet18") => {
                (Box::new(resnet18(ResNetOptions::default())?), images([3, 224, 224])?, labels(batch, 10)?)
            }
            Some("lstm") => {
                let x = Tensor::rand([length(64), batch, 256], device)?.to_dtype(settings.dtype())?;
                (Box::new(LstmClassifier::new(256, 2, 10)?), x, labels(batch, 10)?)
            }
            Some("gpt") => {
                let tokens = length(128);
                let x = labels(batch * tokens, 256)?.reshape([batch, tokens])?;
                let model = Gpt::new(GptSizes { symbols: 256, context: tokens, layers: 4, heads: 4, width: 256 })?;
                (Box::new(model), x, labels(batch * tokens, 256)?)
            }
            Some("attention") => {
                loss_fn = functional::mse_loss;
                let dims = [batch, 8, length(4096), 64];
                (Box::new(Attention::new(dims)?), Tensor::zeros((), device)?, Tensor::rand(dims, device)?)
            }
            _ => {
                let options = VggOptions::default().width(if devices::only_tested() { 0.125 } else { 1.0 });
                (Box::new(vgg16(options)?), images([3, 224, 224])?, labels(batch, 10)?)
            }
        };
        model.to_device_(device)?;
        // The memory format of the images, as in PyTorch's program.
        if settings.precision == Precision::Bf16 {
            model.channels_last_()?;
        }
        let graph = name.ends_with("graph");
        let training = graph || name.ends_with("train");
        let mut optimizer: Option<Box<dyn Optimizer>> = None;
        if training {
            let parameters = model.named_parameters();
            optimizer = Some(if name.starts_with("gpt") {
                Box::new(AdamW::new(parameters, 1e-3)?)
            } else {
                Box::new(SGD::new(parameters, 1e-3)?)
            });
        } else {
            model.eval();
        }
        let autocast = settings.precision == Precision::Bf16;
        let network = Box::new(Network { model, loss_fn, optimizer, autocast });
        let graph = graph.then(|| CapturedStep::new(device, Network::step as TrainingStep));
        Ok(Step { network, batch: (x, y), graph })
    }

    /// A workload that has made what is made once, of which memory no longer counts.
    fn warmed_up(name: &str, batch: usize, device: Device, settings: Settings) -> kiln::Result<Step> {
        let mut step = Step::new(name, batch, device, settings)?;
        step.run()?;
        device.synchronize()?;
        device.reset_peak_memory()?;
        Ok(step)
    }

    fn run(&mut self) -> kiln::Result<()> {
        let Step { network, batch, graph } = self;
        match graph {
            Some(graph) => graph.run(&mut **network, batch),
            None => network.step(batch),
        }
        .map(drop)
    }
}

impl Workload for Step {
    fn step(&mut self) -> anyhow::Result<()> {
        Ok(self.run()?)
    }

    fn wait(&self) -> anyhow::Result<()> {
        Ok(self.batch.0.device().synchronize()?)
    }

    fn time(&mut self, steps: u32) -> anyhow::Result<f64> {
        let time = devices::elapsed(self.batch.0.device(), u64::from(steps), || self.step())?;
        Ok(time.as_secs_f64() * 1e3 / f64::from(steps))
    }

    fn peak_memory(&self) -> anyhow::Result<Option<usize>> {
        Ok(Some(self.batch.0.device().memory_stats()?.peak_allocated))
    }
}

fn main() -> anyhow::Result<()> {
    if let Some(device) = env::var_os("KILN_BENCH_TURNS") {
        let device = if device == "cuda" { Device::cuda(0)? } else { Device::Cpu };
        let asked = Settings::asked(device)?;
        // Where several are asked for, the first.
        let settings = *asked.first().ok_or_else(|| anyhow::anyhow!("no settings are asked for"))?;
        eprintln!("Kiln on {}: {settings}", devices::name(device));
        return turns::serve(|name, batch| Ok(Step::warmed_up(name, batch, device, settings)?));
    }
    if env::var("KILN_BENCH_MEMORY").is_ok_and(|value| value == "1") { memory() } else { steps() }
}

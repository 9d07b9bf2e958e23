//! Single operations on the CPU and, with the feature `cuda`, on a GPU: matrix products, VGG16's convolutions in all
//! three directions, pooling, losses, element-wise functions, optimizer steps. On a GPU products and convolutions are
//! measured in each of the settings of `settings/mod.rs`.
//!
//! `cargo bench --bench ops`, with a filter such as `-- conv2d`. It ends with a table of the rates, also as a share of
//! the peak rates measured in the same run: the fastest square matrix product in the same precision, and the bandwidth
//! of copying memory. Operands that fit into caches can exceed the latter. `KILN_BENCH_ONCE=1` runs each operation of
//! our own kernels once on a GPU, at full size and without measuring, for a profiler. `KILN_BENCH_ROWS` names a file for what
//! was measured on a GPU, with the work that `scripts/gpu/predicted.py` predicts times from.

mod devices;
mod settings;

use std::{cell::Cell, fmt::Write as _, hint::black_box, time::Duration};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use kiln::{
    Conv2d, Pooling,
    autograd::{BackwardOptions, grad_with},
    nn::CrossEntropyLoss,
    optim::{Adam, Optimizer, SGD, SGDOptions},
    prelude::*,
};
use settings::{Precision, Settings};

type Run = Box<dyn FnMut() -> kiln::Result<()>>;

/// The channels, the filters and the edge of the images of VGG16's distinct convolutions.
const CONVOLUTIONS: [(usize, usize, usize); 9] = [
    (3, 64, 224),
    (64, 64, 224),
    (64, 128, 112),
    (128, 128, 112),
    (128, 256, 56),
    (256, 256, 56),
    (256, 512, 28),
    (512, 512, 28),
    (512, 512, 14),
];
/// Rows, inputs and outputs of the linear layers of the MLP (batches of 64 and 512) and of VGG16's classifier (8).
const PRODUCTS: [(usize, usize, usize); 7] = [
    (64, 784, 512),
    (64, 512, 512),
    (512, 784, 512),
    (512, 512, 512),
    (8, 25088, 4096),
    (8, 4096, 4096),
    (2048, 2048, 2048),
];

/// What an operation does at least: operations on floats, and numbers and bytes of others read and written.
#[derive(Clone, Copy, Default)]
struct Work {
    flops: usize,
    numbers: usize,
    others: usize,
    kernel: Option<Kernel>,
}

/// The kernel that does the work, and for how many of its elements (`scripts/cost/hot.py` has both).
#[derive(Clone, Copy)]
struct Kernel {
    /// Its names without the dtype, for row-major operands and for channels-last images.
    names: [&'static str; 2],
    elements: usize,
}

impl Work {
    /// Of numbers that are read or written, and of nothing else worth counting.
    fn moves(numbers: usize) -> Work {
        Work { numbers, ..Work::default() }
    }

    /// The same by this kernel, for so many elements.
    fn by(self, name: &'static str, elements: usize) -> Work {
        self.by_either([name; 2], elements)
    }

    fn by_either(self, names: [&'static str; 2], elements: usize) -> Work {
        Work { kernel: Some(Kernel { names, elements }), ..self }
    }

    fn bytes(self, settings: Settings) -> usize {
        self.numbers * settings.dtype().size() + self.others
    }
}

/// What settings change of an operation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sensitivity {
    /// Nothing: it is measured in `f32`.
    None,
    /// What it computes in, and, of images, their memory format.
    Precision,
    /// The search for an algorithm as well.
    Algorithm,
}

impl Sensitivity {
    /// The settings to measure.
    fn settings(self, device: Device) -> anyhow::Result<Vec<Settings>> {
        let plain = Settings { precision: Precision::F32, benchmark: false };
        let mut settings = Settings::asked(device)?;
        match self {
            Sensitivity::None => settings = vec![plain],
            Sensitivity::Precision => {
                settings.iter_mut().for_each(|settings| settings.benchmark = false);
                settings.dedup();
            }
            Sensitivity::Algorithm => {}
        }
        Ok(settings)
    }
}

/// A line of the closing table.
struct Row {
    device: Device,
    settings: Settings,
    name: String,
    seconds: f64,
    work: Work,
}

struct Bench {
    criterion: Criterion,
    rows: Vec<Row>,
    /// What extents are divided by when all that counts is that everything runs.
    shrink: usize,
    /// Whether a profiler watches.
    once: bool,
}

impl Bench {
    /// One case of a group, on these devices and in every setting that changes it. `make` prepares the operands, and gives
    /// the operation.
    fn case(
        &mut self,
        devices: &[Device],
        group: &str,
        case: &str,
        sensitivity: Sensitivity,
        work: Work,
        make: impl Fn(Device, Settings) -> kiln::Result<Run>,
    ) -> anyhow::Result<()> {
        if self.once {
            // Products and convolutions are the libraries'.
            for &device in devices.iter().filter(|device| device.is_cuda() && sensitivity != Sensitivity::Algorithm) {
                for settings in sensitivity.settings(device)? {
                    make(device, settings)?()?;
                }
                device.synchronize()?;
            }
            return Ok(());
        }
        let mut benches = self.criterion.benchmark_group(group);
        benches.sample_size(10).sampling_mode(SamplingMode::Flat);
        for &device in devices {
            // A GPU's clock is steadier, and it has more to measure.
            let (warm_up, measured) = if device.is_cuda() { (100, 500) } else { (300, 2000) };
            benches.warm_up_time(Duration::from_millis(warm_up)).measurement_time(Duration::from_millis(measured));
            for settings in sensitivity.settings(device)? {
                settings.apply();
                benches.throughput(match work.flops {
                    0 => Throughput::Bytes(work.bytes(settings) as u64),
                    flops => Throughput::Elements(flops as u64), // operations on floats
                });
                let function = match sensitivity {
                    Sensitivity::None => devices::name(device).to_owned(),
                    _ => format!("{} ({settings})", devices::name(device)),
                };
                let seconds = Cell::new(None); // nothing if the case is not asked for
                benches.bench_function(BenchmarkId::new(function, case), |bencher| {
                    let mut run = make(device, settings).expect("the operands fit");
                    run().expect("the shapes fit"); // what is made once
                    let timed = || Ok(black_box(run())?);
                    seconds.set(Some(devices::time(bencher, device, timed)));
                });
                if let Some(seconds) = seconds.get() {
                    self.rows.push(Row { device, settings, name: format!("{group} {case}"), seconds, work });
                }
            }
        }
        benches.finish();
        Ok(())
    }

    fn products(&mut self) -> anyhow::Result<()> {
        for (rows, inputs, outputs) in PRODUCTS {
            let [rows, inputs, outputs] = [rows, inputs, outputs].map(|extent| (extent / self.shrink).max(1));
            let numbers = rows * inputs + inputs * outputs + rows * outputs;
            let work = Work { flops: 2 * rows * inputs * outputs, numbers, ..Work::default() };
            let case = format!("{rows}x{inputs}x{outputs}");
            self.case(&devices::all(), "linear", &case, Sensitivity::Precision, work, |device, settings| {
                let options = (settings.dtype(), device);
                let (x, w) = (Tensor::randn([rows, inputs], options)?, Tensor::randn([outputs, inputs], options)?);
                Ok(Box::new(move || x.linear(&w, None).map(drop)))
            })?;
        }
        Ok(())
    }

    /// Images that a device computes at once. A GPU is not filled by what fills a CPU.
    fn batch(&self, device: Device) -> usize {
        usize::div_ceil(if device.is_cuda() { 64 } else { 8 }, self.shrink)
    }

    fn convolutions(&mut self, device: Device) -> anyhow::Result<()> {
        let batch = self.batch(device);
        for (c, o, edge) in CONVOLUTIONS {
            let edge = edge / self.shrink.min(edge);
            let numbers = batch * (c + o) * edge * edge + o * c * 9;
            let work = Work { flops: 2 * batch * o * c * 9 * edge * edge, numbers, ..Work::default() };
            let rule = Conv2d { padding: [1, 1], ..Conv2d::default() };
            let operands = move |device, settings: Settings| -> kiln::Result<[Tensor; 2]> {
                let x = settings.images(&Tensor::randn([batch, c, edge, edge], device)?)?;
                Ok([x, settings.images(&Tensor::randn([o, c, 3, 3], device)?)?])
            };
            let case = format!("{batch}x {c}→{o} at {edge}²");
            self.case(&[device], "conv2d", &case, Sensitivity::Algorithm, work, |device, settings| {
                let [x, w] = operands(device, settings)?;
                Ok(Box::new(move || x.conv2d(&w, None, &rule).map(drop)))
            })?;
            for (input, group) in ["conv2d gradient of input", "conv2d gradient of weight"].into_iter().enumerate() {
                if (c, input) == (3, 0) {
                    continue; // nobody needs that of photographs
                }
                self.case(&[device], group, &case, Sensitivity::Algorithm, work, |device, settings| {
                    let operands = operands(device, settings)?;
                    operands[input].set_requires_grad(true)?;
                    gradient(operands[0].conv2d(&operands[1], None, &rule)?, operands[input].clone())
                })?;
            }
        }
        Ok(())
    }

    fn pooling(&mut self, device: Device) -> anyhow::Result<()> {
        let (batch, edge) = (self.batch(device), 224 / self.shrink);
        let numbers = batch * 64 * edge * edge;
        let windows = Pooling::new([2, 2]);
        let images =
            move |device, settings: Settings| settings.images(&Tensor::randn([batch, 64, edge, edge], device)?);
        let case = format!("{batch}x 64 at {edge}²");
        let work = Work::moves(numbers + numbers / 4)
            .by_either(["max_pool_packed_rows16_2", "max_pool_packed_pixels_2"], numbers / 4);
        self.case(&[device], "max_pool2d", &case, Sensitivity::Precision, work, |device, settings| {
            let x = images(device, settings)?;
            Ok(Box::new(move || x.max_pool2d(&windows).map(drop)))
        })?;
        // Also where each maximum was: a byte.
        let work = Work { others: numbers / 4, ..work }
            .by_either(["max_pool_packed_grad_rows16_2", "max_pool_packed_grad_pixels_2"], numbers);
        self.case(&[device], "max_pool2d gradient", &case, Sensitivity::Precision, work, |device, settings| {
            let x = images(device, settings)?.requires_grad_(true)?;
            gradient(x.max_pool2d(&windows)?, x)
        })?;
        let work = Work::moves(numbers).by_either(["mean_packed_grad_planes", "mean_packed_grad_pixels"], numbers);
        self.case(&[device], "global average gradient", &case, Sensitivity::Precision, work, |device, settings| {
            let x = images(device, settings)?.requires_grad_(true)?;
            gradient(x.adaptive_avg_pool2d([1, 1])?, x)
        })
    }

    fn losses(&mut self) -> anyhow::Result<()> {
        for (batch, classes) in [(64, 1000), (4096, 1000)] {
            let batch = batch / self.shrink;
            let case = format!("{batch}x{classes}");
            let numbers = batch * classes;
            let both = Work::moves(2 * numbers);
            let work = both.by("softmax_packed_plain", numbers);
            self.case(&devices::all(), "softmax", &case, Sensitivity::None, work, |device, _| {
                let x = Tensor::randn([batch, classes], device)?;
                Ok(Box::new(move || x.softmax(1).map(drop)))
            })?;
            let operands = move |device| -> kiln::Result<_> {
                Ok((Tensor::randn([batch, classes], device)?, Tensor::randint(0, classes as i64, batch, device)?))
            };
            self.case(
                &devices::all(),
                "cross-entropy",
                &case,
                Sensitivity::None,
                Work::moves(numbers).by("class_loss_packed_labels", numbers),
                |device, _| {
                    let ((x, y), loss_fn) = (operands(device)?, CrossEntropyLoss::new());
                    Ok(Box::new(move || loss_fn.forward(&x, &y).map(drop)))
                },
            )?;
            let work = both.by("class_loss_packed_grad_labels", numbers);
            self.case(&devices::all(), "cross-entropy gradient", &case, Sensitivity::None, work, |device, _| {
                let (x, y) = operands(device)?;
                let x = x.requires_grad_(true)?;
                gradient(CrossEntropyLoss::new().forward(&x, &y)?, x)
            })?;
        }
        Ok(())
    }

    /// On what VGG16's first layer gives for 8 photographs.
    fn element_wise(&mut self) -> anyhow::Result<()> {
        let numbers = 8 * 64 * 224 * 224 / self.shrink / self.shrink;
        let case = format!("{numbers}");
        let mut case = |group, moved, kernel: &'static str, make: fn(Tensor, Tensor) -> Run| {
            let work = Work::moves(moved);
            let work = if kernel.is_empty() { work } else { work.by(kernel, numbers) };
            self.case(&devices::all(), group, &case, Sensitivity::None, work, |device, _| {
                let rows = [numbers / 64, 64];
                Ok(make(Tensor::randn(rows, device)?, Tensor::randn(rows, device)?))
            })
        };
        // Without a kernel: those that are not on the list of hot ones, and paths for odd layouts.
        case("relu", 2 * numbers, "unary_relu", |x, _| Box::new(move || x.relu().map(drop)))?;
        case("exp", 2 * numbers, "", |x, _| Box::new(move || x.exp().map(drop)))?;
        case("add", 3 * numbers, "binary_add", |x, y| Box::new(move || x.add(&y).map(drop)))?;
        case("add in place", 3 * numbers, "binary_add", |x, y| Box::new(move || x.add_(&y)))?;
        case("add of a row", 2 * numbers, "", |x, y| Box::new(move || x.add(&y.select(0, 0)?).map(drop)))?;
        case("sum", numbers, "reduce_sum", |x, _| Box::new(move || x.sum(()).map(drop)))?;
        case("sum of columns", numbers, "reduce_sum", |x, _| Box::new(move || x.sum(0).map(drop)))?;
        case("copy of a transposed matrix", 2 * numbers, "", |x, _| Box::new(move || x.mt()?.contiguous().map(drop)))?;
        case("dropout", 2 * numbers, "dropout_apply", |x, _| Box::new(move || x.dropout(0.5, true).map(drop)))?;
        let half = |x: Tensor, _| -> Run { Box::new(move || x.to_dtype(DType::BF16).map(drop)) };
        case("cast to bf16", numbers + numbers / 2, "cast_f32_bf16", half)?;
        let rows = |x: Tensor, _| -> Run { Box::new(move || x.layer_norm(&[64], None, None, 1e-5).map(drop)) };
        case("layer_norm", 2 * numbers, "norm_packed_rows", rows)
    }

    /// On a matrix of VGG16's classifier.
    fn optimizers(&mut self) -> anyhow::Result<()> {
        let edge = 4096 / self.shrink;
        let parameter = move |device| -> kiln::Result<Tensor> {
            let parameter = Tensor::randn([edge, edge], device)?.requires_grad_(true)?;
            parameter.set_grad(Some(Tensor::randn([edge, edge], device)?))?;
            Ok(parameter)
        };
        let work = |moved| Work::moves(moved * edge * edge);
        let case = format!("{edge}x{edge}");
        let work = |moved, kernel| work(moved).by(kernel, edge * edge);
        self.case(&devices::all(), "SGD", &case, Sensitivity::None, work(3, "optim_sgd"), |device, _| {
            let mut sgd = SGD::new(vec![parameter(device)?], 1e-3)?;
            Ok(Box::new(move || sgd.step()))
        })?;
        let momentum = work(5, "optim_sgd");
        self.case(&devices::all(), "SGD with momentum", &case, Sensitivity::None, momentum, |device, _| {
            let mut sgd = SGD::new(vec![parameter(device)?], SGDOptions::new(1e-3).momentum(0.9))?;
            Ok(Box::new(move || sgd.step()))
        })?;
        self.case(&devices::all(), "Adam", &case, Sensitivity::None, work(7, "optim_adam"), |device, _| {
            let mut adam = Adam::new(vec![parameter(device)?], 1e-3)?;
            Ok(Box::new(move || adam.step()))
        })
    }

    /// Prints the rates, and their share of the least time that the two ceilings allow.
    fn table(&self) -> anyhow::Result<()> {
        println!("\n| device | settings | operation | ms | GFLOP/s | GB/s | share of the ceiling |");
        println!("| --- | --- | --- | --- | --- | --- | --- |");
        for device in devices::all() {
            let name = devices::name(device);
            let mut ceilings: Vec<(Settings, [f64; 2])> = Vec::new();
            for Row { settings, name: operation, seconds, work, .. } in
                self.rows.iter().filter(|row| row.device == device)
            {
                let alike = ceilings.iter().find(|(other, _)| other.precision == settings.precision);
                let [flops, bytes] = match alike {
                    Some((_, ceilings)) => *ceilings,
                    None => {
                        let [flops, bytes] = self.ceilings(device, *settings)?;
                        println!("| {name} | {settings} | ceiling: product of matrices | | {:.1} | | |", flops / 1e9);
                        println!("| {name} | {settings} | ceiling: copy of memory | | | {:.1} | |", bytes / 1e9);
                        ceilings.push((*settings, [flops, bytes]));
                        [flops, bytes]
                    }
                };
                let [done, moved] = [work.flops, work.bytes(*settings)].map(|count| count as f64);
                let share = (done / flops).max(moved / bytes) / seconds * 100.0;
                let rate = if done > 0.0 { format!("{:.1}", done / seconds / 1e9) } else { String::new() };
                let (ms, moved) = (seconds * 1e3, moved / seconds / 1e9);
                println!("| {name} | {settings} | {operation} | {ms:.3} | {rate} | {moved:.1} | {share:.0} % |");
            }
        }
        Ok(())
    }

    /// Writes what was measured on a GPU: tab-separated operation, settings, type of the factors, seconds, operations on floats,
    /// bytes, kernel and its elements.
    fn write_rows(&self, path: &str) -> anyhow::Result<()> {
        let mut text = String::new();
        for Row { settings, name, seconds, work, .. } in self.rows.iter().filter(|row| row.device.is_cuda()) {
            let dtype = settings.dtype().name();
            let is_last = settings.precision == Precision::Bf16;
            let (kernel, elements) = match work.kernel {
                // A cast's name has both dtypes.
                Some(Kernel { names, elements }) if names[0].starts_with("cast_") => (names[0].into(), elements),
                Some(Kernel { names, elements }) => (format!("{}_{dtype}", names[usize::from(is_last)]), elements),
                None => (String::from("-"), 0),
            };
            let factors = if settings.precision == Precision::Tf32 { "tf32" } else { dtype };
            let (flops, bytes) = (work.flops, work.bytes(*settings));
            writeln!(text, "{name}\t{settings}\t{factors}\t{seconds:e}\t{flops}\t{bytes}\t{kernel}\t{elements}")?;
        }
        Ok(std::fs::write(path, text)?)
    }

    /// Operations on floats and bytes, each in a second: the quickest square product of matrices, and the quickest copy of
    /// 256 MB, read and written.
    fn ceilings(&self, device: Device, settings: Settings) -> anyhow::Result<[f64; 2]> {
        settings.apply();
        let quickest = |run: &dyn Fn() -> kiln::Result<()>| -> anyhow::Result<f64> {
            let mut best = f64::INFINITY;
            for _ in 0..8 / self.shrink.min(8) + 2 {
                best = best.min(devices::elapsed(device, 1, || Ok(run()?))?.as_secs_f64());
            }
            Ok(best)
        };
        let edges: &[usize] = if device.is_cuda() { &[2048, 4096, 8192] } else { &[1024, 2048, 3072] };
        let mut flops = 0f64;
        for edge in edges.iter().map(|edge| edge / self.shrink.pow(2)) {
            let options = (settings.dtype(), device);
            let (a, b) = (Tensor::randn([edge, edge], options)?, Tensor::randn([edge, edge], options)?);
            flops = flops.max(2.0 * (edge as f64).powi(3) / quickest(&|| a.matmul(&b).map(drop))?);
        }
        let numbers = 32_000_000 / self.shrink;
        let (from, to) = (Tensor::ones(numbers, device)?, Tensor::zeros(numbers, device)?);
        Ok([flops, (2 * size_of::<f32>() * numbers) as f64 / quickest(&|| to.copy_(&from))?])
    }
}

/// The way back from `y` to `x` alone, again and again.
fn gradient(y: Tensor, x: Tensor) -> kiln::Result<Run> {
    let root = [(y.clone(), Some(Tensor::ones(y.dims(), (y.dtype(), y.device()))?))];
    Ok(Box::new(move || grad_with(&root, &[&x], BackwardOptions::retain_graph()).map(drop)))
}

fn main() -> anyhow::Result<()> {
    let shrink = if devices::only_tested() { 16 } else { 1 };
    let once = std::env::var("KILN_BENCH_ONCE").is_ok_and(|value| value == "1");
    let mut bench = Bench { criterion: Criterion::default().configure_from_args(), rows: Vec::new(), shrink, once };
    bench.products()?;
    for device in devices::all() {
        bench.convolutions(device)?;
        bench.pooling(device)?;
    }
    bench.losses()?;
    bench.element_wise()?;
    bench.optimizers()?;
    if !once {
        bench.criterion.final_summary();
        bench.table()?;
        if let Ok(path) = std::env::var("KILN_BENCH_ROWS") {
            bench.write_rows(&path)?;
        }
    }
    Ok(())
}

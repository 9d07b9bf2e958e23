//! Single operations on the CPU and, with the feature `cuda`, on a GPU: products of matrices, VGG16's convolutions in all
//! three directions, pooling, losses, element-wise functions, steps of optimizers.
//!
//! `cargo bench --bench ops`, with a filter such as `-- conv2d`. It ends with a table of the rates and of their share of what
//! the device reaches at best in the same run: its quickest square product of matrices and its copy of memory. Operands
//! that fit into caches can exceed the latter.

mod devices;

use std::{
    cell::Cell,
    hint::black_box,
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use kiln::{
    Conv2d, Pooling,
    autograd::{BackwardOptions, grad_with},
    nn::CrossEntropyLoss,
    optim::{Adam, Optimizer, SGD, SGDOptions},
    prelude::*,
};

type Run = Box<dyn FnMut() -> kiln::Result<()>>;
const F32: usize = size_of::<f32>();

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

/// What an operation does at least: operations on floats, and bytes read and written.
#[derive(Clone, Copy, Default)]
struct Work {
    flops: usize,
    bytes: usize,
}

/// A line of the closing table.
struct Row {
    device: Device,
    name: String,
    seconds: f64,
    work: Work,
}

struct Bench {
    criterion: Criterion,
    rows: Vec<Row>,
    /// What extents are divided by when all that counts is that everything runs.
    shrink: usize,
}

impl Bench {
    /// One case of a group, on every device. `make` prepares the operands, and gives the operation.
    fn case(&mut self, group: &str, case: &str, work: Work, make: impl Fn(Device) -> kiln::Result<Run>) {
        let mut benches = self.criterion.benchmark_group(group);
        benches.sample_size(10).sampling_mode(SamplingMode::Flat);
        benches.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
        benches.throughput(match work.flops {
            0 => Throughput::Bytes(work.bytes as u64),
            flops => Throughput::Elements(flops as u64), // operations on floats
        });
        for device in devices::all() {
            let seconds = Cell::new(None); // nothing if the case is not asked for
            benches.bench_function(BenchmarkId::new(devices::name(device), case), |bencher| {
                let mut run = make(device).expect("the operands fit");
                run().expect("the shapes fit"); // what is made once
                seconds.set(Some(devices::time(bencher, device, || black_box(run()).expect("the shapes fit"))));
            });
            if let Some(seconds) = seconds.get() {
                self.rows.push(Row { device, name: format!("{group} {case}"), seconds, work });
            }
        }
        benches.finish();
    }

    fn products(&mut self) {
        for (rows, inputs, outputs) in PRODUCTS {
            let [rows, inputs, outputs] = [rows, inputs, outputs].map(|extent| (extent / self.shrink).max(1));
            let numbers = rows * inputs + inputs * outputs + rows * outputs;
            let work = Work { flops: 2 * rows * inputs * outputs, bytes: F32 * numbers };
            self.case("linear", &format!("{rows}x{inputs}x{outputs}"), work, |device| {
                let (x, w) = (Tensor::randn([rows, inputs], device)?, Tensor::randn([outputs, inputs], device)?);
                Ok(Box::new(move || x.linear(&w, None).map(drop)))
            });
        }
    }

    fn convolutions(&mut self) {
        let batch = 8usize.div_ceil(self.shrink);
        for (c, o, edge) in CONVOLUTIONS {
            let edge = edge / self.shrink.min(edge);
            let numbers = batch * (c + o) * edge * edge + o * c * 9;
            let work = Work { flops: 2 * batch * o * c * 9 * edge * edge, bytes: F32 * numbers };
            let rule = Conv2d { padding: [1, 1], ..Conv2d::default() };
            let operands = move |device| -> kiln::Result<[Tensor; 2]> {
                Ok([Tensor::randn([batch, c, edge, edge], device)?, Tensor::randn([o, c, 3, 3], device)?])
            };
            let case = format!("{c}→{o} at {edge}²");
            self.case("conv2d", &case, work, |device| {
                let [x, w] = operands(device)?;
                Ok(Box::new(move || x.conv2d(&w, None, &rule).map(drop)))
            });
            for (input, group) in ["conv2d gradient of input", "conv2d gradient of weight"].into_iter().enumerate() {
                if (c, input) == (3, 0) {
                    continue; // nobody needs that of photographs
                }
                self.case(group, &case, work, |device| {
                    let operands = operands(device)?;
                    operands[input].set_requires_grad(true)?;
                    gradient(operands[0].conv2d(&operands[1], None, &rule)?, operands[input].clone())
                });
            }
        }
    }

    fn pooling(&mut self) {
        let (batch, edge) = (8usize.div_ceil(self.shrink), 224 / self.shrink);
        let numbers = batch * 64 * edge * edge;
        let windows = Pooling::new([2, 2]);
        let images = move |device| Tensor::randn([batch, 64, edge, edge], device);
        let case = format!("64 at {edge}²");
        let work = Work { bytes: F32 * (numbers + numbers / 4), ..Work::default() };
        self.case("max_pool2d", &case, work, |device| {
            let x = images(device)?;
            Ok(Box::new(move || x.max_pool2d(&windows).map(drop)))
        });
        // Also where each maximum was.
        let work = Work { bytes: work.bytes + size_of::<i64>() * numbers / 4, ..work };
        self.case("max_pool2d gradient", &case, work, |device| {
            let x = images(device)?.requires_grad_(true)?;
            gradient(x.max_pool2d(&windows)?, x)
        });
    }

    fn losses(&mut self) {
        for (batch, classes) in [(64, 1000), (4096, 1000)] {
            let batch = batch / self.shrink;
            let case = format!("{batch}x{classes}");
            let numbers = batch * classes;
            let both = Work { bytes: 2 * F32 * numbers, ..Work::default() };
            self.case("softmax", &case, both, |device| {
                let x = Tensor::randn([batch, classes], device)?;
                Ok(Box::new(move || x.softmax(1).map(drop)))
            });
            let operands = move |device| -> kiln::Result<_> {
                Ok((Tensor::randn([batch, classes], device)?, Tensor::randint(0, classes as i64, batch, device)?))
            };
            let work = Work { bytes: F32 * numbers, ..Work::default() };
            self.case("cross-entropy", &case, work, |device| {
                let ((x, y), loss_fn) = (operands(device)?, CrossEntropyLoss::new());
                Ok(Box::new(move || loss_fn.forward(&x, &y).map(drop)))
            });
            self.case("cross-entropy gradient", &case, both, |device| {
                let (x, y) = operands(device)?;
                let x = x.requires_grad_(true)?;
                gradient(CrossEntropyLoss::new().forward(&x, &y)?, x)
            });
        }
    }

    /// On what VGG16's first layer gives for 8 photographs.
    fn element_wise(&mut self) {
        let numbers = 8 * 64 * 224 * 224 / self.shrink / self.shrink;
        let case = format!("{numbers}");
        let mut case = |group, moved, make: fn(Tensor, Tensor) -> Run| {
            let work = Work { bytes: F32 * moved, ..Work::default() };
            self.case(group, &case, work, |device| {
                let rows = [numbers / 64, 64];
                Ok(make(Tensor::randn(rows, device)?, Tensor::randn(rows, device)?))
            });
        };
        case("relu", 2 * numbers, |x, _| Box::new(move || x.relu().map(drop)));
        case("exp", 2 * numbers, |x, _| Box::new(move || x.exp().map(drop)));
        case("add", 3 * numbers, |x, y| Box::new(move || x.add(&y).map(drop)));
        case("add in place", 3 * numbers, |x, y| Box::new(move || x.add_(&y)));
        case("add of a row", 2 * numbers, |x, y| Box::new(move || x.add(&y.select(0, 0)?).map(drop)));
        case("sum", numbers, |x, _| Box::new(move || x.sum(()).map(drop)));
        case("sum of columns", numbers, |x, _| Box::new(move || x.sum(0).map(drop)));
        case("copy of a transposed matrix", 2 * numbers, |x, _| Box::new(move || x.mt()?.contiguous().map(drop)));
    }

    /// On a matrix of VGG16's classifier.
    fn optimizers(&mut self) {
        let edge = 4096 / self.shrink;
        let parameter = move |device| -> kiln::Result<Tensor> {
            let parameter = Tensor::randn([edge, edge], device)?.requires_grad_(true)?;
            parameter.set_grad(Some(Tensor::randn([edge, edge], device)?))?;
            Ok(parameter)
        };
        let work = |moved| Work { bytes: F32 * moved * edge * edge, ..Work::default() };
        let case = format!("{edge}x{edge}");
        self.case("SGD", &case, work(3), |device| {
            let mut sgd = SGD::new(vec![parameter(device)?], 1e-3)?;
            Ok(Box::new(move || sgd.step()))
        });
        self.case("SGD with momentum", &case, work(5), |device| {
            let mut sgd = SGD::new(vec![parameter(device)?], SGDOptions::new(1e-3).momentum(0.9))?;
            Ok(Box::new(move || sgd.step()))
        });
        self.case("Adam", &case, work(7), |device| {
            let mut adam = Adam::new(vec![parameter(device)?], 1e-3)?;
            Ok(Box::new(move || adam.step()))
        });
    }

    /// Prints the rates, and their share of the least time that the two ceilings allow.
    fn table(&self) -> kiln::Result<()> {
        println!(
            "\n| device | operation | ms | GFLOP/s | GB/s | share of the ceiling |\n| --- | --- | --- | --- | --- | --- |"
        );
        for device in devices::all() {
            let name = devices::name(device);
            let [flops, bytes] = ceilings(device, self.shrink)?;
            println!("| {name} | ceiling: product of matrices | | {:.1} | | |", flops / 1e9);
            println!("| {name} | ceiling: copy of memory | | | {:.1} | |", bytes / 1e9);
            for Row { name: operation, seconds, work, .. } in self.rows.iter().filter(|row| row.device == device) {
                let [done, moved] = [work.flops, work.bytes].map(|count| count as f64);
                let share = (done / flops).max(moved / bytes) / seconds * 100.0;
                let rate = if done > 0.0 { format!("{:.1}", done / seconds / 1e9) } else { String::new() };
                let (ms, moved) = (seconds * 1e3, moved / seconds / 1e9);
                println!("| {name} | {operation} | {ms:.3} | {rate} | {moved:.1} | {share:.0} % |");
            }
        }
        Ok(())
    }
}

/// The way back from `y` to `x` alone, again and again.
fn gradient(y: Tensor, x: Tensor) -> kiln::Result<Run> {
    let root = [(y.clone(), Some(Tensor::ones(y.dims(), y.device())?))];
    Ok(Box::new(move || grad_with(&root, &[&x], BackwardOptions { retain_graph: true }).map(drop)))
}

/// Operations on floats and bytes, each in a second: the quickest square product of matrices, and the quickest copy of
/// 256 MB, read and written.
fn ceilings(device: Device, shrink: usize) -> kiln::Result<[f64; 2]> {
    let quickest = |run: &dyn Fn() -> kiln::Result<()>| -> kiln::Result<f64> {
        let mut best = f64::INFINITY;
        for _ in 0..8 / shrink.min(8) + 2 {
            let start = Instant::now();
            run()?;
            device.synchronize()?;
            best = best.min(start.elapsed().as_secs_f64());
        }
        Ok(best)
    };
    let mut flops = 0f64;
    for edge in [1024, 2048, 3072] {
        let edge = edge / shrink;
        let (a, b) = (Tensor::randn([edge, edge], device)?, Tensor::randn([edge, edge], device)?);
        flops = flops.max(2.0 * (edge as f64).powi(3) / quickest(&|| a.matmul(&b).map(drop))?);
    }
    let numbers = 32_000_000 / shrink;
    let (from, to) = (Tensor::ones(numbers, device)?, Tensor::zeros(numbers, device)?);
    Ok([flops, (2 * F32 * numbers) as f64 / quickest(&|| to.copy_(&from))?])
}

fn main() -> kiln::Result<()> {
    let shrink = if devices::only_tested() { 16 } else { 1 };
    let mut bench = Bench { criterion: Criterion::default().configure_from_args(), rows: Vec::new(), shrink };
    bench.products();
    bench.convolutions();
    bench.pooling();
    bench.losses();
    bench.element_wise();
    bench.optimizers();
    bench.criterion.final_summary();
    bench.table()
}

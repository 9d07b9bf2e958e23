//! The host cost of an operation before the driver is called: Kiln's checks, the allocator, the parameters. The driver,
//! cuBLASLt and cuDNN are stubs that do nothing, so no GPU is needed.
//!
//! `cargo bench --features cuda --bench launch`; `KILN_NULL_DRIVER` names the stub driver where no compiler is
//! available.

#[path = "../../tests/support/checkout.rs"]
mod checkout;

use std::{
    env,
    path::Path,
    process::{Command, ExitCode},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use criterion::{BenchmarkGroup, Criterion, measurement::WallTime};
use kiln_backend::*;

/// Set in the process that measures.
const INSIDE: &str = "KILN_BENCH_NULL_DRIVER";

fn main() -> ExitCode {
    if env::var_os(INSIDE).is_some() {
        measure();
        return ExitCode::SUCCESS;
    }
    let folder = tempfile::tempdir().expect("a folder for the driver that does nothing");
    let driver = folder.path().join("libcuda.so.1");
    match env::var_os("KILN_NULL_DRIVER") {
        Some(built) => {
            std::fs::copy(&built, &driver)
                .unwrap_or_else(|error| panic!("KILN_NULL_DRIVER={}: {error}", Path::new(&built).display()));
        }
        None => compile(&driver),
    }
    // One copy under each name: cuDNN and its parts are looked for before cuBLASLt.
    for name in ["libcublasLt.so.12", "libcublasLt.so.13", "libcudnn.so.9", "libcudnn_graph.so.9"] {
        std::fs::copy(&driver, folder.path().join(name)).expect("another copy");
    }
    let inside = Command::new(env::current_exe().expect("this program"))
        .args(env::args_os().skip(1))
        .env("KILN_CUDA_PATH", folder.path())
        // Plans that do nothing are for no other process.
        .env("KILN_PLAN_CACHE", "0")
        .env(INSIDE, "1")
        .status();
    if inside.is_ok_and(|status| status.success()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Compiles the driver that does nothing. A bundle for machines without a compiler brings it, and says so.
fn compile(driver: &Path) {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut compile = Command::new(rustc);
    compile.args(["--edition", "2024", "--crate-type", "cdylib", "-O", "-o"]).arg(driver);
    let status = compile.arg(checkout::path("benches/launch/null_driver.rs")).status();
    assert!(status.is_ok_and(|status| status.success()), "the driver that does nothing does not compile");
}

/// A tensor of `f32` on the device.
struct Tensor {
    buffer: Box<dyn Buffer>,
    layout: Layout,
}

impl Tensor {
    fn new(on: &dyn Backend, dtype: DType, dims: &[usize]) -> Tensor {
        let layout = Layout::contiguous(Shape::new(dims).expect("few dimensions"));
        Tensor { buffer: on.alloc(dtype, layout.numel()).expect("memory that is not real"), layout }
    }

    fn view(&self) -> View<'_> {
        View { buffer: &*self.buffer, layout: &self.layout }
    }

    fn view_mut(&mut self) -> ViewMut<'_> {
        ViewMut { buffer: &mut *self.buffer, layout: &self.layout }
    }
}

fn measure() {
    let on = kiln_cuda::backend(0).expect("a build with kernels, and the driver that does nothing");
    let tensor = |dims: &[usize]| Tensor::new(on, DType::F32, dims);
    let (x, mut out) = (tensor(&[64, 512]), tensor(&[64, 512]));
    let (w, bias, turned) = (tensor(&[512, 512]), tensor(&[512]), tensor(&[512, 64]));
    let (mut grad_w, mut grad_b, mut sum) = (tensor(&[512, 512]), tensor(&[512]), tensor(&[1, 512]));
    let rows = bias.layout.expand("bench", out.layout.shape()).expect("a row for each");
    let across = turned.layout.transpose(0, 1);
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("host cost of an operation");
    group.bench_function("allocate and free", |b| b.iter(|| on.alloc(DType::F32, 64 * 512)));
    group.bench_function("relu", |b| {
        b.iter(|| on.unary(UnaryArgs { op: UnaryOp::Relu, x: x.view(), out: out.view_mut() }.checked()?));
    });
    group.bench_function("add, a row to each", |b| {
        let row = View { buffer: &*bias.buffer, layout: &rows };
        b.iter(|| {
            on.binary(
                BinaryArgs {
                    op: BinaryOp::Add,
                    a: Operand::Tensor(x.view()),
                    b: Operand::Tensor(row),
                    out: out.view_mut(),
                }
                .checked()?,
            )
        });
    });
    group.bench_function("copy of a transposed matrix", |b| {
        let turned = View { buffer: &*turned.buffer, layout: &across };
        b.iter(|| on.copy(CopyArgs { x: turned, out: out.view_mut() }.checked()?));
    });
    group.bench_function("sum of rows", |b| {
        b.iter(|| on.reduce(ReduceArgs { op: ReduceOp::Sum, x: x.view(), out: sum.view_mut() }.checked()?));
    });
    group.bench_function("linear with bias and relu", |b| {
        b.iter(|| {
            let (bias, out) = (Some(bias.view()), out.view_mut());
            on.linear(LinearArgs { x: x.view(), w: w.view(), bias, activation: Activation::Relu, out }.checked()?)
        });
    });
    group.bench_function("linear's gradients", |b| {
        b.iter(|| {
            let (weight, bias) = (grad_w.view_mut(), grad_b.view_mut());
            on.linear_grad(LinearGradArgs { grad: x.view(), x: x.view(), weight, bias }.checked()?)
        });
    });
    group.bench_function("linear with bias, relu and its mask", |b| {
        b.iter(|| {
            let (bias, out) = (Some(bias.view()), out.view_mut());
            on.linear(
                LinearArgs { x: x.view(), w: w.view(), bias, activation: Activation::ReluWithMask, out }.checked()?,
            )
        });
    });
    let layer = LinearArgs {
        x: x.view(),
        w: w.view(),
        bias: Some(bias.view()),
        activation: Activation::ReluWithMask,
        out: out.view_mut(),
    };
    let mask = layer.checked().and_then(|layer| on.linear(layer)).expect("a product");
    group.bench_function("linear's gradient through the previous layer's relu", |b| {
        b.iter(|| {
            let (mask, out, bias) = (mask.as_ref(), out.view_mut(), Some(grad_b.view_mut()));
            on.linear_relu_grad(
                LinearReluGradArgs { grad: x.view(), w: w.view(), y: x.view(), mask, out, bias }.checked()?,
            )
        });
    });
    convolutions(on, &mut group);
    let labels = Tensor::new(on, DType::I64, &[64, 1]);
    let logits = tensor(&[64, 10, 1]);
    let (mut loss, mut lse, mut total) = (tensor(&[]), tensor(&[64, 1]), tensor(&[]));
    let rule = ClassLoss {
        input: ClassLossInput::Logits,
        reduction: Reduction::Mean,
        ignore_index: -100,
        label_smoothing: 0.0,
    };
    group.bench_function("cross-entropy", |b| {
        b.iter(|| {
            let (loss, lse, total) = (loss.view_mut(), lse.view_mut(), total.view_mut());
            let operands = ClassLossOperands { rule, x: logits.view(), target: labels.view(), weight: None };
            ClassLossArgs { operands, loss, lse, total, grad: None }.checked().and_then(|args| on.class_loss(args))
        });
    });
    group.finish();
    steps(&mut criterion);
    criterion.final_summary();
    beside_an_upload(on);
}

/// A convolution by a plan that is kept: Kiln's own time. The real cuDNN takes its own for the variant pack besides.
fn convolutions(on: &dyn Backend, group: &mut BenchmarkGroup<WallTime>) {
    let rule = Conv2d { padding: [1; 2], ..Conv2d::default() };
    let tensor = |dims: &[usize]| Tensor::new(on, DType::F32, dims);
    let (x, w, bias) = (tensor(&[8, 64, 28, 28]), tensor(&[64, 64, 3, 3]), tensor(&[64]));
    let (mut y, mut grad_w) = (tensor(&[8, 64, 28, 28]), tensor(&[64, 64, 3, 3]));
    for (name, relu) in [("conv2d", false), ("conv2d with bias and relu", true)] {
        let bias = relu.then(|| bias.view());
        group.bench_function(name, |b| {
            b.iter(|| {
                on.conv2d(
                    Conv2dArgs { rule, x: x.view(), w: w.view(), bias, residual: None, relu, out: y.view_mut() }
                        .checked()?,
                )
            });
        });
    }
    group.bench_function("conv2d's gradient of the input", |b| {
        b.iter(|| {
            let out = y.view_mut();
            on.conv2d_grad_input(Conv2dGradInputArgs { rule, grad: x.view(), w: w.view(), out }.checked()?)
        });
    });
    group.bench_function("conv2d's gradient of the weight", |b| {
        b.iter(|| {
            let out = grad_w.view_mut();
            on.conv2d_grad_weight(Conv2dGradWeightArgs { rule, grad: x.view(), x: x.view(), out }.checked()?)
        });
    });
}

/// What a step of the quickstart tutorial's network costs on the host, launch by launch and as a graph.
fn steps(criterion: &mut Criterion) {
    use kiln::{
        CapturedStep,
        models::Mlp,
        nn::CrossEntropyLoss,
        optim::{Adam, Optimizer},
        prelude::{Device, Module, ModuleTree, Tensor},
    };
    let step = |graphs: usize| -> Result<_> {
        let device = Device::cuda(0)?;
        let model = Mlp::new(&[784, 512, 512, 10])?.to(device)?;
        let mut optimizer = Adam::new(model.named_parameters(), 1e-3)?;
        let batch = (Tensor::zeros([64, 1, 28, 28], device)?, Tensor::zeros(64, (DType::I64, device))?);
        let loss_fn = CrossEntropyLoss::new();
        let mut step = CapturedStep::new(device, move |optimizer: &mut Adam, (x, y): &(Tensor, Tensor)| {
            optimizer.zero_grad();
            let loss = loss_fn.forward(&model.forward(x)?, y)?;
            loss.backward()?;
            optimizer.step()?;
            Ok(loss)
        })
        .max_graphs(graphs);
        for _ in 0..5 {
            step.run(&mut optimizer, &batch)?;
        }
        assert_eq!(step.graphs(), graphs);
        Ok(move || step.run(&mut optimizer, &batch))
    };
    let mut group = criterion.benchmark_group("host cost of a step, MLP with Adam");
    for (name, graphs) in [("launch by launch", 0), ("as a graph", 1)] {
        let mut run = step(graphs).expect("a driver that does nothing");
        group.bench_function(name, |b| b.iter(&mut run));
    }
    group.finish();
}

/// What the thread that computes does with batches while a worker uploads the next ones: it must not wait for the worker.
/// Not criterion's: the time is a microsecond or, if it waits, milliseconds, after a pause in which the worker begins.
fn beside_an_upload(on: &dyn Backend) {
    const TIMES: usize = 200;
    let (images, labels) = (vec![1u8; 32 << 20], vec![1u8; 64 << 10]);
    let layout = Layout::contiguous(Shape::new(&[labels.len()]).expect("few dimensions"));
    let mut out = Tensor::new(on, DType::U8, &[labels.len()]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                on.import(DType::U8, &images).expect("memory that is not real");
            }
        });
        let mut times = [const { Vec::new() }; 2];
        for _ in 0..TIMES {
            let batch = on.import(DType::U8, &labels).expect("memory that is not real");
            std::thread::sleep(Duration::from_millis(1));
            let start = Instant::now();
            let x = View { buffer: &*batch, layout: &layout };
            let copied = CopyArgs { x, out: out.view_mut() }.checked().and_then(|args| on.copy(args));
            copied.expect("a driver that does nothing");
            times[0].push(start.elapsed());
            std::thread::sleep(Duration::from_millis(1));
            let start = Instant::now();
            drop(batch);
            times[1].push(start.elapsed());
        }
        stop.store(true, Ordering::Relaxed);
        for (what, times) in ["use a batch for the first time", "drop a batch"].into_iter().zip(&mut times) {
            times.sort_unstable();
            println!(
                "{what} while a worker uploads 32 MiB: median {:?}, nine of ten below {:?}",
                times[TIMES / 2],
                times[TIMES * 9 / 10]
            );
        }
    });
}

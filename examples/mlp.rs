//! The classifier of PyTorch's quickstart tutorial
//! (<https://docs.pytorch.org/tutorials/beginner/basics/quickstart_tutorial.html>), trained on Fashion-MNIST.
//!
//! ```text
//! cargo run --release --example mlp                        # on the subset that comes with Kiln
//! cargo run --release --example mlp -- --optimizer sgd     # as in the tutorial
//! cargo run --release --example mlp -- --help
//! cargo build --release --features distributed --example mlp && mpiexec -n 2 target/release/examples/mlp --distributed
//! cargo run --release --features tensorboard --example mlp -- --resume run.ckpt --tensorboard runs/mlp
//! cargo run --release --features dashboard --example mlp -- --epochs 20 --dashboard
//! ```

#[path = "support/autocast.rs"]
mod autocast;
#[path = "support/dashboard.rs"]
mod dashboard;
#[path = "support/device.rs"]
mod device;
#[path = "support/distributed.rs"]
mod distributed;

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use autocast::{Low, ScaledOptimizer, in_region};
use clap::{Parser, ValueEnum};
use dashboard::Display;
use device::DeviceName;
#[cfg(feature = "tensorboard")]
use kiln::vis::SummaryWriter;
use kiln::{
    CapturedStep,
    data::{
        FashionMNIST, LoaderState,
        transforms::{ToImage, Transform},
    },
    io::{self, Checkpoint},
    nn::{CrossEntropyLoss, Flatten, Linear, ReLU, Sequential, StateDict, seq},
    optim::{Adagrad, Adam, AdamW, Optimizer, RMSprop, RMSpropOptions, SGD, SGDOptions},
    prelude::*,
    vis::{Curves, ImageGrid, Panel, running_mean},
};

/// Trains a classifier of clothes on Fashion-MNIST.
#[derive(Parser)]
struct Args {
    /// Number of passes over the training images
    #[arg(long, default_value_t = 5)]
    epochs: u64,
    #[arg(long, default_value_t = 64)]
    batch_size: usize,
    /// Learning rate
    #[arg(long, default_value_t = 1e-3)]
    lr: f64,
    #[arg(long, value_enum, default_value = "adam")]
    optimizer: OptimizerName,
    /// Momentum of sgd and rmsprop
    #[arg(long, default_value_t = 0.0)]
    momentum: f64,
    /// Device; auto is a GPU if there is one
    #[arg(long, value_enum, default_value = "auto")]
    device: DeviceName,
    /// The same seed gives the same run, bit for bit
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Threads that prepare batches
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// Folder with the four files of Fashion-MNIST, instead of the folders that are searched
    #[arg(long)]
    data: Option<PathBuf>,
    /// Compute products and convolutions in half precision, with parameters, sums and losses in `f32`
    #[arg(long, value_enum)]
    autocast: Option<Low>,
    /// On a GPU, capture a step as a CUDA graph and launch it as a whole
    #[arg(long)]
    graph: bool,
    /// Write the trained parameters to this file
    #[arg(long)]
    save: Option<PathBuf>,
    /// Start with the parameters in this file
    #[arg(long)]
    load: Option<PathBuf>,
    /// Keep a checkpoint in this file after every epoch, and continue from it if it exists
    #[arg(long)]
    resume: Option<PathBuf>,
    /// Write curves.png, curves.svg and predictions.png to this folder
    #[arg(long, num_args = 0..=1, default_missing_value = "out")]
    plot: Option<PathBuf>,
    /// Write the losses and the accuracy to event files in this folder, for `tensorboard --logdir`
    #[cfg(feature = "tensorboard")]
    #[arg(long)]
    tensorboard: Option<PathBuf>,
    #[command(flatten)]
    dashboard: dashboard::Options,
    #[command(flatten)]
    distributed: distributed::Options,
}

#[derive(Clone, Copy, ValueEnum)]
enum OptimizerName {
    Sgd,
    Adam,
    Adamw,
    Rmsprop,
    Adagrad,
}

#[derive(Module)]
struct NeuralNetwork {
    flatten: Flatten,
    linear_relu_stack: Sequential,
}

impl NeuralNetwork {
    fn new() -> kiln::Result<NeuralNetwork> {
        let linear_relu_stack =
            seq![Linear::new(28 * 28, 512)?, ReLU::new(), Linear::new(512, 512)?, ReLU::new(), Linear::new(512, 10)?,];
        Ok(NeuralNetwork { flatten: Flatten::new(), linear_relu_stack })
    }
}

impl Module for NeuralNetwork {
    fn forward(&self, x: &Tensor) -> kiln::Result<Tensor> {
        let x = self.flatten.forward(x)?;
        let logits = self.linear_relu_stack.forward(&x)?;
        Ok(logits)
    }
}

/// One step: computes the loss of a batch, and changes the parameters.
fn train_step(
    model: &NeuralNetwork,
    loss_fn: &CrossEntropyLoss,
    optimizer: &mut ScaledOptimizer,
    low: Option<Low>,
    (x, y): &(Tensor, Tensor),
) -> kiln::Result<Tensor> {
    // Compute prediction and loss
    let loss = in_region(low, || {
        let pred = model.forward(x)?;
        loss_fn.forward(&pred, y)
    })?;

    // Backpropagation
    optimizer.step(&loss)?;
    Ok(loss)
}

/// One pass over the training images by steps that return the loss, after `trained` batches of earlier ones. Returns the loss of
/// every batch.
fn train_loop(
    dataloader: &DataLoader,
    model: &NeuralNetwork,
    step: &mut dyn FnMut(&(Tensor, Tensor)) -> kiln::Result<Tensor>,
    display: &Display,
    trained: usize,
) -> Result<Vec<f32>> {
    let size = dataloader.dataset_len();
    let (start, mut losses, mut seen) = (Instant::now(), Vec::new(), 0);
    let mut batches = display.show(dataloader.progress());
    model.train();
    while let Some(data) = batches.next() {
        let data = data?;
        let loss = step(&data)?;
        if losses.len() % 100 == 0 {
            let loss = loss.item::<f32>()?;
            batches.println(format_args!("loss: {loss:>7.6} [{seen:>5}/{size:>5}]"));
        }
        if display.has_curves() && losses.len() % 10 == 0 {
            display.add_scalar("loss/train", loss.item::<f64>()?, trained + losses.len());
        }
        // Reading its value here would make the device wait.
        losses.push(loss);
        seen += data.1.numel();
    }
    let seconds = start.elapsed().as_secs_f64();
    let rate = seen as f64 / seconds.max(1e-9);
    display.println(format_args!("{seen} images in {seconds:.2} s, {rate:.0} images/s"));
    if losses.is_empty() {
        return Ok(Vec::new());
    }
    Ok(Tensor::stack(&losses, 0)?.to_vec::<f32>()?)
}

/// Loss and accuracy on the test images.
fn test_loop(
    dataloader: &DataLoader,
    model: &NeuralNetwork,
    loss_fn: &CrossEntropyLoss,
    display: &Display,
) -> Result<(f32, f32)> {
    let (size, num_batches) = (dataloader.dataset_len() as f32, dataloader.len() as f32);
    model.eval();
    let _guard = no_grad_guard();
    let (mut test_loss, mut correct) = (Vec::new(), Vec::new());
    for data in dataloader {
        let (x, y) = data?;
        let pred = model.forward(&x)?;
        test_loss.push(loss_fn.forward(&pred, &y)?);
        correct.push(pred.argmax(1)?.eq(&y)?.sum(())?);
    }
    // Summed on the device; only these two values are read.
    let test_loss = Tensor::stack(&test_loss, 0)?.sum(())?.item::<f32>()? / num_batches;
    let correct = Tensor::stack(&correct, 0)?.sum(())?.item::<f32>()? / size;
    let accuracy = 100.0 * correct;
    display.println(format_args!("Test Error: \n Accuracy: {accuracy:>0.1}%, Avg loss: {test_loss:>8.6} \n"));
    Ok((test_loss, correct))
}

/// The first `count` test images with the classes that the model predicts and the actual ones.
fn predict(
    data: &FashionMNIST,
    model: &NeuralNetwork,
    device: Device,
    count: usize,
) -> Result<Vec<(Tensor, String, String)>> {
    let name = |class: i64| data.classes().get(class as usize).copied().unwrap_or("?").to_owned();
    model.eval();
    no_grad(|| {
        (0..count.min(data.len()))
            .map(|i| {
                let (x, y) = data.get(i)?;
                let pred = model.forward(&x.unsqueeze(0)?.to_device(device)?)?;
                let predicted = pred.select(0, 0)?.argmax(0)?.item::<i64>()?;
                Ok((x, name(predicted), name(y)))
            })
            .collect()
    })
}

/// The history of a run.
#[derive(Default)]
struct History {
    /// The loss of every training batch.
    losses: Vec<f32>,
    /// After each epoch: the number of batches so far, the loss and the accuracy (0 to 1) on the test set.
    tests: Vec<(usize, f32, f32)>,
}

impl History {
    /// The history as tensors, for a checkpoint: JSON would not preserve losses that are not finite.
    fn state_dict(&self) -> kiln::Result<StateDict> {
        let tests: Vec<f64> =
            self.tests.iter().flat_map(|test| [test.0 as f64, test.1.into(), test.2.into()]).collect();
        Ok(StateDict::from([
            ("losses".to_owned(), Tensor::from_vec(self.losses.clone(), self.losses.len(), Device::Cpu)?),
            ("tests".to_owned(), Tensor::from_vec(tests, [self.tests.len(), 3], Device::Cpu)?),
        ]))
    }

    /// The history in a checkpoint; empty if it has none.
    fn from_state_dict(state: &StateDict) -> kiln::Result<History> {
        let (Some(losses), Some(tests)) = (state.get("losses"), state.get("tests")) else {
            return Ok(History::default());
        };
        let tests = tests.to_vec::<f64>()?;
        let tests = tests.chunks_exact(3).map(|test| (test[0] as usize, test[1] as f32, test[2] as f32)).collect();
        Ok(History { losses: losses.to_vec()?, tests })
    }
}

/// Event files for TensorBoard, whose steps are batches. A run that continues from a checkpoint repeats the batches
/// after it: those written by an earlier run are purged.
#[cfg(feature = "tensorboard")]
fn events(folder: &Path, history: &History) -> kiln::Result<SummaryWriter> {
    match history.losses.len() {
        0 => SummaryWriter::new(folder),
        done => SummaryWriter::with_purge_step(folder, done as i64),
    }
}

/// Writes the batches from `first` on and the latest test to an event file.
#[cfg(feature = "tensorboard")]
fn log(writer: &mut SummaryWriter, history: &History, first: usize) -> kiln::Result<()> {
    for (step, &loss) in history.losses.iter().enumerate().skip(first) {
        writer.add_scalar("loss/train", loss.into(), step as i64)?;
    }
    if let Some(&(batches, loss, accuracy)) = history.tests.last() {
        // The step is the last batch before the test.
        let step = batches.saturating_sub(1) as i64;
        writer.add_scalar("loss/test", loss.into(), step)?;
        writer.add_scalar("accuracy/test", accuracy.into(), step)?;
    }
    writer.flush()
}

/// Draws loss and accuracy over the batches.
fn plot(history: &History, folder: &Path) -> kiln::Result<()> {
    let losses: Vec<f64> = history.losses.iter().copied().map(f64::from).collect();
    let numbered = |values: &[f64]| values.iter().enumerate().map(|(i, &v)| (i as f64, v)).collect::<Vec<_>>();
    let tests =
        |of: fn(&(usize, f32, f32)) -> f32| history.tests.iter().map(move |test| (test.0 as f64, of(test).into()));
    let loss = Panel::new("Loss", "batches", "cross-entropy")
        .faint("training, each batch", numbered(&losses))
        .line("training, running mean", numbered(&running_mean(&losses, 0.95)))
        .marked("test", tests(|test| test.1));
    let accuracy =
        Panel::new("Accuracy", "batches", "% of the test images").marked("test", tests(|test| 100.0 * test.2));
    let curves = Curves::new([loss, accuracy]);
    curves.save(folder.join("curves.png"))?;
    curves.save(folder.join("curves.svg"))
}

fn main() -> Result<()> {
    let args = Args::parse();
    manual_seed(args.seed);
    let ranks = distributed::Ranks::join(&args.distributed)?;
    let device = args.device.open(|| ranks.device(Device::cuda_if_available()))?;
    println!("Using {device} device");

    let mut sources = [FashionMNIST::train(), FashionMNIST::test()];
    if let Some(folder) = &args.data {
        sources = sources.map(|source| source.root(folder));
    }
    let [training_data, test_data] = sources.map(|source| source.load());
    let (training_data, test_data) = (training_data?, std::sync::Arc::new(test_data?));
    println!("{} training and {} test images from {}", training_data.len(), test_data.len(), test_data.origin());

    let share = ranks.share(training_data.len())?;
    let train_dataloader = DataLoader::builder(training_data)
        .batch_size(args.batch_size)
        .sampler(share)
        .seed(args.seed)
        .num_workers(args.workers)
        .device(device)
        .build()?;
    let test_dataloader = DataLoader::builder(test_data.clone())
        .batch_size(args.batch_size)
        .num_workers(args.workers)
        .device(device)
        .build()?;

    let model = NeuralNetwork::new()?.to(device)?;
    println!("{model}");
    if let Some(path) = &args.load {
        model.load_state_dict(&io::load(path, device)?, true).with_context(|| format!("loading {}", path.display()))?;
    }

    let loss_fn = CrossEntropyLoss::new();
    let parameters = model.named_parameters();
    let optimizer: Box<dyn Optimizer> = match args.optimizer {
        OptimizerName::Sgd => Box::new(SGD::new(parameters, SGDOptions::new(args.lr).momentum(args.momentum))?),
        OptimizerName::Adam => Box::new(Adam::new(parameters, args.lr)?),
        OptimizerName::Adamw => Box::new(AdamW::new(parameters, args.lr)?),
        OptimizerName::Rmsprop => {
            Box::new(RMSprop::new(parameters, RMSpropOptions::new(args.lr).momentum(args.momentum))?)
        }
        OptimizerName::Adagrad => Box::new(Adagrad::new(parameters, args.lr)?),
    };
    let mut optimizer = ScaledOptimizer::new(optimizer, args.autocast);

    let (mut epochs_done, mut history) = (0, History::default());
    let optimizer_name = args.optimizer.to_possible_value().map(|value| value.get_name().to_owned());
    if let Some(path) = args.resume.as_ref().filter(|path| path.exists()) {
        let checkpoint = Checkpoint::load(path, device)?;
        let saved = checkpoint.get::<Option<String>>("optimizer").with_context(|| path.display().to_string())?;
        ensure!(
            saved == optimizer_name,
            "{} is the checkpoint of a run with --optimizer {}, and cannot continue with {}",
            path.display(),
            saved.unwrap_or_default(),
            optimizer_name.unwrap_or_default()
        );
        model.load_state_dict(&checkpoint.model, true)?;
        optimizer.optimizer.load_state_dict(&checkpoint.optimizer)?;
        optimizer.load_scaler_state(&checkpoint.extra)?;
        train_dataloader.set_state(checkpoint.get::<LoaderState>("loader")?)?;
        checkpoint.restore_random_state();
        epochs_done = checkpoint.epoch;
        history = History::from_state_dict(&checkpoint.extra)?;
        println!("Continuing after epoch {epochs_done} of {}", path.display());
    }

    let _averages = ranks.share_gradients(&model)?;
    #[cfg(feature = "tensorboard")]
    let mut writer = args.tensorboard.as_ref().map(|folder| events(folder, &history)).transpose()?;
    let step = CapturedStep::new(device, |optimizer: &mut ScaledOptimizer, batch: &(Tensor, Tensor)| {
        train_step(&model, &loss_fn, optimizer, args.autocast, batch)
    });
    let mut step = if args.graph { step.eager_fallback(true) } else { step.max_graphs(0) };
    let display = Display::start(&args.dashboard, "mlp on Fashion-MNIST", epochs_done..args.epochs, device);
    for epoch in epochs_done..args.epochs {
        display.println(format_args!("Epoch {}\n-------------------------------", epoch + 1));
        let first = history.losses.len();
        let mut step = |batch: &_| step.run(&mut optimizer, batch);
        history.losses.extend(train_loop(&train_dataloader, &model, &mut step, &display, first)?);
        let (loss, accuracy) = test_loop(&test_dataloader, &model, &loss_fn, &display)?;
        history.tests.push((history.losses.len(), loss, accuracy));
        display.add_scalar("loss/test", loss.into(), history.losses.len());
        display.add_scalar("accuracy/test", accuracy.into(), history.losses.len());
        #[cfg(feature = "tensorboard")]
        if let Some(writer) = &mut writer {
            log(writer, &history, first)?;
        }
        if let Some(path) = &args.resume {
            let mut extra = history.state_dict()?;
            extra.extend(optimizer.scaler_state()?);
            let (model, optimizer) = (model.state_dict(), optimizer.optimizer.state_dict()?);
            let mut checkpoint = Checkpoint { model, optimizer, extra, epoch: epoch + 1, ..Checkpoint::now() };
            checkpoint.put("loader", &train_dataloader.state())?;
            checkpoint.put("optimizer", &optimizer_name)?;
            ranks.on_main(|| checkpoint.save(path))?;
        }
    }
    display.finish();
    println!("Done!");

    if let Some(path) = &args.save {
        ranks.on_main(|| io::save(path, &model.state_dict()))?;
        println!("Saved the model to {}", path.display());
    }
    let predictions = predict(&test_data, &model, device, 18)?;
    for (_, predicted, actual) in predictions.iter().take(5) {
        println!("Predicted: \"{predicted}\", Actual: \"{actual}\"");
    }
    if let Some(folder) = &args.plot {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        plot(&history, folder)?;
        let mut grid = ImageGrid::new(6);
        for (image, predicted, actual) in predictions {
            grid.push_prediction(ToImage.apply(image)?, predicted, actual);
        }
        grid.save(folder.join("predictions.png"))?;
        println!("Drew curves.png, curves.svg and predictions.png in {}", folder.display());
    }
    Ok(())
}

//! VGG16: printed, trained, and used to classify images.
//!
//! ```text
//! cargo run --release --features images,pth --example vgg16 -- --print
//! cargo run --release --features images,pth --example vgg16 -- train --width 0.25    # Fashion-MNIST, resized to 32×32
//! cargo run --release --features images,pth --example vgg16 -- train --source cifar10 --data cifar --epochs 20 --resume run.ckpt
//! cargo run --release --features images,pth --example vgg16 -- train --source image-folder --data photographs --image-size 224
//! cargo run --release --features images,pth --example vgg16 -- predict photo.jpg --weights vgg16-397923af.pth
//! ```

#[path = "support/autocast.rs"]
mod autocast;
#[path = "support/distributed.rs"]
mod distributed;
#[path = "support/images.rs"]
mod images;
#[path = "support/training.rs"]
mod training;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use autocast::{Low, ScaledOptimizer};
use clap::{Parser, Subcommand, ValueEnum};
use images::Source;
#[cfg(feature = "tensorboard")]
use kiln::vis::SummaryWriter;
use kiln::{
    Float32Precision,
    data::{LoaderState, transforms::Image},
    io::{self, Checkpoint, LoadOptions, Metadata, TensorFile},
    models::{IMAGENET_CLASSES, Vgg, VggDepth, VggOptions},
    nn::{StateDict, summary},
    optim::{SGD, SGDOptions},
    prelude::*,
    set_convolution_benchmark, set_float32_matmul_precision,
};

/// VGG16: printed, trained, and used to classify images.
#[derive(Parser)]
#[command(arg_required_else_help = true)]
struct Args {
    /// Prints ImageNet's network as PyTorch does, and a table of its layers
    #[arg(long)]
    print: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Trains, and tests after every epoch
    Train(Train),
    /// Prints the likeliest classes of images
    Predict(Predict),
}

#[derive(Clone, Copy, ValueEnum)]
enum Precision {
    F32,
    /// `f32`; a GPU may round the factors of products and convolutions to 10 bits, a CPU does not
    Tf32,
}

#[derive(clap::Args)]
struct Train {
    #[command(flatten)]
    images: images::Options,
    #[arg(long, default_value_t = 1)]
    epochs: u64,
    /// Learning rate of SGD with momentum 0.9
    #[arg(long, default_value_t = 0.01)]
    lr: f64,
    /// A factor for the numbers of channels and of hidden features
    #[arg(long, default_value_t = 0.25)]
    width: f64,
    /// With batch normalization
    #[arg(long)]
    batch_norm: bool,
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    precision: Precision,
    /// Channels-last images, throughout the network
    #[arg(long)]
    channels_last: bool,
    /// At most so many batches per epoch
    #[arg(long)]
    batches: Option<usize>,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Compute products and convolutions in half precision, with parameters, sums and losses in `f32`
    #[arg(long, value_enum)]
    autocast: Option<Low>,
    /// On a GPU, time the algorithms for each convolution, and keep the fastest
    #[arg(long)]
    convolution_benchmark: bool,
    /// On a GPU, capture a step as a CUDA graph and launch it as a whole
    #[arg(long)]
    graph: bool,
    /// Keep a checkpoint in this file after every epoch, and continue from it if it exists
    #[arg(long)]
    resume: Option<PathBuf>,
    /// Write the trained parameters to this safetensors file, for `predict`
    #[arg(long)]
    save: Option<PathBuf>,
    /// Write loss, accuracy and speed of each epoch to event files in this folder, for `tensorboard --logdir`
    #[cfg(feature = "tensorboard")]
    #[arg(long)]
    tensorboard: Option<PathBuf>,
    #[command(flatten)]
    distributed: distributed::Options,
}

#[derive(clap::Args)]
struct Predict {
    /// Image files
    #[arg(required = true)]
    images: Vec<PathBuf>,
    /// Parameters with torchvision's names: a file of `torch.save`, or safetensors
    #[arg(long)]
    weights: PathBuf,
    /// A file with the name of a class in each line, instead of the classes that `train --save` wrote, or of ImageNet's
    #[arg(long)]
    classes: Option<PathBuf>,
    /// Height and width of the network's input; by default those of its training, or 224
    #[arg(long)]
    image_size: Option<usize>,
}

/// What a network was trained on, and how: saved with the parameters, as text under these keys.
struct Training {
    source: Source,
    image_size: usize,
    /// `None` if the number of channels determines it.
    width: Option<f64>,
    classes: Vec<String>,
}

impl Training {
    /// The training of torchvision's weights.
    fn on_imagenet() -> Training {
        let classes = IMAGENET_CLASSES.iter().map(|&name| name.to_owned()).collect();
        Training { source: Source::ImageFolder, image_size: 224, width: None, classes }
    }

    fn metadata(&self) -> Result<Metadata> {
        let source = self.source.to_possible_value().context("a source without a name")?;
        let mut metadata = Metadata::from([
            ("source".to_owned(), source.get_name().to_owned()),
            ("image_size".to_owned(), self.image_size.to_string()),
            ("classes".to_owned(), serde_json::to_string(&self.classes)?),
        ]);
        metadata.extend(self.width.map(|width| ("width".to_owned(), width.to_string())));
        Ok(metadata)
    }

    /// `None` if the file has no such text, e.g. a file of another program.
    fn of_file(path: &Path) -> Result<Option<Training>> {
        // Only safetensors files have this text; loading the file shows whether it can be read at all.
        let Ok(file) = TensorFile::open(path) else { return Ok(None) };
        let text = |key: &str| file.metadata().get(key).map(String::as_str);
        let (Some(source), Some(size), Some(classes)) = (text("source"), text("image_size"), text("classes")) else {
            return Ok(None);
        };
        Ok(Some(Training {
            source: Source::from_str(source, false).map_err(|e| anyhow!("its source {source:?}: {e}"))?,
            image_size: size.parse().with_context(|| format!("its image_size {size:?}"))?,
            width: text("width")
                .map(|width| width.parse().with_context(|| format!("its width {width:?}")))
                .transpose()?,
            classes: serde_json::from_str(classes).with_context(|| format!("its classes {classes:?}"))?,
        }))
    }
}

fn print() -> Result<()> {
    let model = Vgg::new(VggDepth::Vgg16, VggOptions::default())?;
    println!("{model}\n\n{}", summary(&model, [1, 3, 224, 224])?);
    Ok(())
}

fn train(args: &Train) -> Result<()> {
    manual_seed(args.seed);
    let ranks = distributed::Ranks::join(&args.distributed)?;
    let device = ranks.device(Device::cuda_if_available());
    if let Precision::Tf32 = args.precision {
        set_float32_matmul_precision(Float32Precision::High);
    }
    set_convolution_benchmark(args.convolution_benchmark);
    let data = args.images.load(args.seed, device, &ranks)?;
    let options = VggOptions::default().num_classes(data.classes.len()).in_channels(data.channels);
    let mut model = Vgg::new(VggDepth::Vgg16, options.width(args.width).batch_norm(args.batch_norm))?.to(device)?;
    println!("{}", summary(&model, [1, data.channels, args.images.image_size, args.images.image_size])?);
    if args.channels_last {
        model.channels_last_()?;
    }
    let options = SGDOptions::new(args.lr).momentum(0.9);
    let optimizer = Box::new(SGD::new(model.named_parameters(), options)?);
    let mut optimizer = ScaledOptimizer::new(optimizer, args.autocast);
    let mut done = 0;
    if let Some(path) = args.resume.as_ref().filter(|path| path.exists()) {
        let checkpoint = Checkpoint::load(path, device)?;
        model.load_state_dict(&checkpoint.model, true).with_context(|| path.display().to_string())?;
        optimizer.optimizer.load_state_dict(&checkpoint.optimizer).with_context(|| path.display().to_string())?;
        optimizer.load_scaler_state(&checkpoint.extra).with_context(|| path.display().to_string())?;
        data.training.set_state(checkpoint.get::<LoaderState>("loader")?)?;
        checkpoint.restore_random_state();
        done = checkpoint.epoch;
        println!("Continuing after epoch {done} of {}", path.display());
    }
    let _averages = ranks.share_gradients(&model)?;
    let prepare = |x: Tensor| if args.channels_last { x.channels_last() } else { Ok(x) };
    let most = args.batches.unwrap_or(usize::MAX);
    // Steps are epochs. A run that continues from a checkpoint repeats the epochs after it: those written by an earlier
    // run are purged.
    #[cfg(feature = "tensorboard")]
    let mut writer = match (&args.tensorboard, done) {
        (None, _) => None,
        (Some(folder), 0) => Some(SummaryWriter::new(folder)?),
        (Some(folder), done) => Some(SummaryWriter::with_purge_step(folder, done as i64)?),
    };
    let mut step = training::step(device, args.graph, args.autocast, &model, &prepare);
    for epoch in done..args.epochs {
        println!("Epoch {}\n-------------------------------", epoch + 1);
        device.reset_peak_memory()?;
        let pass = training::train(&data.training, &model, &mut |batch| step.run(&mut optimizer, batch), most)?;
        let peak = device.memory_stats()?.peak_allocated as f64 / f64::from(1 << 20);
        println!(
            "{:.1} images/s, {:.1} % of the time waiting for data, {peak:.0} MiB at most, mean loss {:.4}",
            pass.images_per_second(),
            pass.waited_share(),
            pass.loss
        );
        #[cfg_attr(not(feature = "tensorboard"), expect(unused_variables, reason = "used for TensorBoard only"))]
        let (loss, accuracy) = training::test(&data.testing, &model, &prepare, args.autocast, most)?;
        #[cfg(feature = "tensorboard")]
        if let Some(writer) = &mut writer {
            let values = [("loss/train", pass.loss.into()), ("loss/test", loss.into()), ("accuracy/test", accuracy)];
            for (tag, value) in values.into_iter().chain([("images per second", pass.images_per_second())]) {
                writer.add_scalar(tag, value, epoch as i64)?;
            }
            writer.flush()?;
        }
        if let Some(path) = &args.resume {
            let extra = optimizer.scaler_state()?;
            let (model, optimizer) = (model.state_dict(), optimizer.optimizer.state_dict()?);
            let mut checkpoint = Checkpoint { model, optimizer, extra, epoch: epoch + 1, ..Checkpoint::now() };
            checkpoint.put("loader", &data.training.state())?;
            ranks.on_main(|| checkpoint.save(path))?;
        }
    }
    if let Some(path) = &args.save {
        let training = Training {
            source: args.images.source,
            image_size: args.images.image_size,
            width: Some(args.width),
            classes: data.classes,
        };
        let metadata = training.metadata()?;
        ranks.on_main(|| io::save_with_metadata(path, &model.state_dict(), &metadata))?;
        println!("Saved the model to {}", path.display());
    }
    Ok(())
}

/// Creates the VGG16 that these parameters belong to: their shapes and names determine its classes, channels,
/// normalization and, if it is not given, its width.
fn network_of(weights: &StateDict, width: Option<f64>) -> Result<Vgg> {
    let shape = |name: &str| weights.get(name).with_context(|| format!("not a VGG16: there is no {name}"));
    let (o, c, _, _) = shape("features.0.weight")?.dims4()?;
    let (classes, _) = shape("classifier.6.weight")?.dims2()?;
    let batch_norm = weights.contains_key("features.1.running_mean");
    let options = VggOptions::default().width(width.unwrap_or(o as f64 / 64.0)).in_channels(c).num_classes(classes);
    let model = Vgg::new(VggDepth::Vgg16, options.batch_norm(batch_norm))?;
    model.load_state_dict(weights, true)?;
    model.eval();
    Ok(model)
}

fn predict(args: &Predict) -> Result<()> {
    let device = Device::cuda_if_available();
    let name = || args.weights.display().to_string();
    let weights = io::load(&args.weights, LoadOptions::new(Device::Cpu).dtype(DType::F32))?;
    let training = Training::of_file(&args.weights).with_context(name)?;
    let model = network_of(&weights, training.as_ref().and_then(|training| training.width)).with_context(name)?;
    let (model, channels) = (model.to(device)?, weights["features.0.weight"].size(1)?);
    drop(weights);
    let training = training.unwrap_or_else(Training::on_imagenet);
    let size = args.image_size.unwrap_or(training.image_size);
    ensure!(size > 0, "images must have at least one pixel");
    let mut classes = training.classes;
    if let Some(path) = &args.classes {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        classes = text.lines().map(str::to_owned).collect();
    }
    let _guard = no_grad_guard();
    for path in &args.images {
        let image = training.source.prepare(Image::open(path)?, size)?;
        ensure!(
            image.size(0)? == channels,
            "{} is for images of {channels} channels; photographs have 3, and `train --save` stores what it was trained on",
            name()
        );
        let logits = model.forward(&image.unsqueeze(0)?.to_device(device)?)?;
        let count = logits.dims()[1];
        ensure!(
            classes.len() == count,
            "{} class names for a network with {count} classes; pass a file with --classes",
            classes.len()
        );
        let (shares, likeliest) = logits.softmax(1)?.select(0, 0)?.topk(5.min(count), 0, true)?;
        println!("{}", path.display());
        for (share, class) in shares.to_vec::<f32>()?.into_iter().zip(likeliest.to_vec::<i64>()?) {
            println!("  {:6.2} %  {class:3} {}", 100.0 * share, classes[class as usize]);
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    let args = Args::parse();
    if args.print {
        print()?;
    }
    match args.command {
        Some(Command::Train(args)) => train(&args),
        Some(Command::Predict(args)) => predict(&args),
        None => Ok(()),
    }
}

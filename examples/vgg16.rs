//! VGG16: printed, trained, and used to classify images.
//!
//! ```text
//! cargo run --release --features images,pth --example vgg16 -- --print
//! cargo run --release --features images,pth --example vgg16 -- train --width 0.25    # Fashion-MNIST, resized to 32×32
//! cargo run --release --features images,pth --example vgg16 -- train --source cifar10 --data cifar --epochs 20 --resume run.ckpt
//! cargo run --release --features images,pth --example vgg16 -- train --source image-folder --data photographs --image-size 224
//! cargo run --release --features images,pth --example vgg16 -- predict photo.jpg --weights vgg16-397923af.pth
//! ```

#[path = "support/images.rs"]
mod images;
#[path = "support/training.rs"]
mod training;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use kiln::{
    Float32Precision,
    data::{
        LoaderState,
        transforms::{Compose, Image, ToTensor, Transform},
    },
    io::{self, Checkpoint, LoadOptions},
    models::{IMAGENET_CLASSES, Vgg, VggDepth, VggOptions},
    nn::{StateDict, summary},
    optim::{MixedPrecision, Optimizer, SGD, SGDOptions},
    prelude::*,
    set_float32_matmul_precision,
};

/// VGG16: printed, trained, and used to classify images.
#[derive(Parser)]
#[command(arg_required_else_help = true)]
struct Args {
    /// Prints the network of ImageNet as PyTorch does, and a table of its layers
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
    /// `f32`, whose products and convolutions a GPU may round to 10 bits; a CPU does not
    Tf32,
    /// Computed in `bf16`, with parameters kept in `f32`
    Bf16,
    /// Computed in `f16`, with parameters kept in `f32` and the loss scaled
    F16,
}

impl Precision {
    fn dtype(self) -> DType {
        match self {
            Precision::F32 | Precision::Tf32 => DType::F32,
            Precision::Bf16 => DType::BF16,
            Precision::F16 => DType::F16,
        }
    }
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
    /// With batch normalisation
    #[arg(long)]
    batch_norm: bool,
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    precision: Precision,
    /// Images in channels-last memory, throughout the network
    #[arg(long)]
    channels_last: bool,
    /// At most so many batches an epoch
    #[arg(long)]
    batches: Option<usize>,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Keep a checkpoint in this file after every epoch, and go on from it if it is there
    #[arg(long)]
    resume: Option<PathBuf>,
    /// Write the trained parameters to this safetensors file, for `predict`
    #[arg(long)]
    save: Option<PathBuf>,
}

#[derive(clap::Args)]
struct Predict {
    /// Image files
    #[arg(required = true)]
    images: Vec<PathBuf>,
    /// Parameters with torchvision's names: a file of `torch.save`, or safetensors
    #[arg(long)]
    weights: PathBuf,
    /// A file with the name of a class in each line; for 1000 classes they are ImageNet's
    #[arg(long)]
    classes: Option<PathBuf>,
    /// Height and width of what the network gets to see
    #[arg(long, default_value_t = 224)]
    image_size: usize,
}

fn print() -> Result<()> {
    let model = Vgg::new(VggDepth::Vgg16, VggOptions::default())?;
    println!("{model}\n\n{}", summary(&model, [1, 3, 224, 224])?);
    Ok(())
}

fn train(args: &Train) -> Result<()> {
    manual_seed(args.seed);
    let device = Device::cuda_if_available();
    if let Precision::Tf32 = args.precision {
        set_float32_matmul_precision(Float32Precision::High);
    }
    let data = args.images.load(args.seed, device)?;
    let options = VggOptions::default().num_classes(data.classes.len()).in_channels(data.channels);
    let model = Vgg::new(VggDepth::Vgg16, options.width(args.width).batch_norm(args.batch_norm))?.to(device)?;
    println!("{}", summary(&model, [1, data.channels, args.images.image_size, args.images.image_size])?);
    let dtype = args.precision.dtype();
    let model = model.to_dtype(dtype)?;
    let options = SGDOptions::new(args.lr).momentum(0.9);
    let mut optimizer: Box<dyn Optimizer> = match dtype {
        DType::F32 => Box::new(SGD::new(model.named_parameters(), options)?),
        _ => Box::new(MixedPrecision::new(model.named_parameters(), |wide| SGD::new(wide, options))?),
    };
    let mut done = 0;
    if let Some(path) = args.resume.as_ref().filter(|path| path.exists()) {
        let checkpoint = Checkpoint::load(path, device)?;
        model.load_state_dict(&checkpoint.model, true).with_context(|| path.display().to_string())?;
        optimizer.load_state_dict(&checkpoint.optimizer).with_context(|| path.display().to_string())?;
        data.training.set_state(checkpoint.get::<LoaderState>("loader")?)?;
        checkpoint.restore_random_state();
        done = checkpoint.epoch;
        println!("Going on after epoch {done} of {}", path.display());
    }
    let prepare = |x: Tensor| {
        let x = x.to_dtype(dtype)?;
        if args.channels_last { x.channels_last() } else { Ok(x) }
    };
    let most = args.batches.unwrap_or(usize::MAX);
    for epoch in done..args.epochs {
        println!("Epoch {}\n-------------------------------", epoch + 1);
        device.reset_peak_memory()?;
        let pass = training::train(&data.training, &model, optimizer.as_mut(), &prepare, most)?;
        let peak = device.memory_stats()?.peak_allocated as f64 / f64::from(1 << 20);
        println!(
            "{:.1} images/s, {:.1} % of the time waiting for data, {peak:.0} MiB at most, mean loss {:.4}",
            pass.images_per_second(),
            pass.waited_share(),
            pass.loss
        );
        training::test(&data.testing, &model, &prepare, most)?;
        if let Some(path) = &args.resume {
            let (model, optimizer) = (model.state_dict(), optimizer.state_dict()?);
            let mut checkpoint = Checkpoint { model, optimizer, epoch: epoch + 1, ..Checkpoint::now() };
            checkpoint.put("loader", &data.training.state())?;
            checkpoint.save(path)?;
        }
    }
    if let Some(path) = &args.save {
        io::save(path, &model.state_dict())?;
        println!("Saved the model to {}", path.display());
    }
    Ok(())
}

/// The VGG16 that these parameters are of: its width, classes, channels and normalisation show in their shapes and names.
fn network_of(weights: &StateDict) -> Result<Vgg> {
    let shape = |name: &str| weights.get(name).with_context(|| format!("no VGG16: there is no {name}"));
    let (o, c, _, _) = shape("features.0.weight")?.dims4()?;
    let (classes, _) = shape("classifier.6.weight")?.dims2()?;
    let batch_norm = weights.contains_key("features.1.running_mean");
    let options = VggOptions::default().width(o as f64 / 64.0).in_channels(c).num_classes(classes);
    let model = Vgg::new(VggDepth::Vgg16, options.batch_norm(batch_norm))?;
    model.load_state_dict(weights, true)?;
    model.eval();
    Ok(model)
}

fn predict(args: &Predict) -> Result<()> {
    ensure!(args.image_size > 0, "images have at least one pixel");
    let device = Device::cuda_if_available();
    let weights = io::load(&args.weights, LoadOptions::new(Device::Cpu).dtype(DType::F32))?;
    let model = network_of(&weights).with_context(|| args.weights.display().to_string())?.to(device)?;
    drop(weights);
    let text = match &args.classes {
        Some(path) => std::fs::read_to_string(path).with_context(|| path.display().to_string())?,
        None => String::new(),
    };
    let names: Vec<&str> = if args.classes.is_some() { text.lines().collect() } else { IMAGENET_CLASSES.to_vec() };
    let (shorter, center) = images::middle(args.image_size);
    let prepare = Compose((shorter, center, ToTensor, images::imagenet()?));
    let _guard = no_grad_guard();
    for path in &args.images {
        let image = prepare.apply(Image::open(path)?.to_rgb())?;
        let logits = model.forward(&image.unsqueeze(0)?.to_device(device)?)?;
        let classes = logits.dims()[1];
        let (shares, likeliest) = logits.softmax(1)?.select(0, 0)?.topk(5.min(classes), 0, true)?;
        println!("{}", path.display());
        for (share, class) in shares.to_vec::<f32>()?.into_iter().zip(likeliest.to_vec::<i64>()?) {
            let name = names.get(class as usize).filter(|_| names.len() == classes).copied().unwrap_or("");
            println!("  {:6.2} %  {class:3} {name}", 100.0 * share);
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

//! VGG16: printed, trained on Fashion-MNIST, and used to classify images.
//!
//! ```text
//! cargo run --release --example vgg16 -- print
//! cargo run --release --example vgg16 -- train --width 0.25 --image-size 32
//! cargo run --release --example vgg16 -- predict photo.jpg --weights vgg16.safetensors
//! ```

#[path = "support/training.rs"]
mod training;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use kiln::{
    data::{
        DatasetExt, FashionMNIST, LoaderState,
        transforms::{CenterCrop, Compose, Image, Normalize, Resize, ToImage, ToTensor, Transform},
    },
    io::{self, Checkpoint},
    models::{Vgg, VggOptions, vgg16, vgg16_bn},
    nn::summary,
    optim::{Optimizer, SGD, SGDOptions},
    prelude::*,
};

/// VGG16: printed, trained, and used to classify images.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Prints the network as PyTorch does, and a table of its layers
    Print {
        /// With batch normalisation
        #[arg(long)]
        batch_norm: bool,
    },
    /// Trains on Fashion-MNIST, resized
    Train(Train),
    /// Prints the likeliest classes of images
    Predict(Predict),
}

#[derive(clap::Args)]
struct Train {
    #[arg(long, default_value_t = 1)]
    epochs: u64,
    #[arg(long, default_value_t = 32)]
    batch_size: usize,
    /// Learning rate of SGD with momentum 0.9
    #[arg(long, default_value_t = 0.01)]
    lr: f64,
    /// A factor for the numbers of channels
    #[arg(long, default_value_t = 0.25)]
    width: f64,
    #[arg(long, default_value_t = 32)]
    image_size: usize,
    /// With batch normalisation
    #[arg(long)]
    batch_norm: bool,
    /// Images in channels-last memory, throughout the network
    #[arg(long)]
    channels_last: bool,
    /// At most so many batches an epoch
    #[arg(long)]
    batches: Option<usize>,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Folder with the four files of Fashion-MNIST
    #[arg(long)]
    data: Option<PathBuf>,
    /// Keep a checkpoint in this file after every epoch, and go on from it if it is there
    #[arg(long)]
    resume: Option<PathBuf>,
}

#[derive(clap::Args)]
struct Predict {
    /// PNG or JPEG files
    #[arg(required = true)]
    images: Vec<PathBuf>,
    /// Parameters with torchvision's names, as safetensors
    #[arg(long)]
    weights: PathBuf,
    /// A file with the name of a class in each line
    #[arg(long)]
    classes: Option<PathBuf>,
    #[arg(long)]
    batch_norm: bool,
}

fn network(options: VggOptions, batch_norm: bool) -> kiln::Result<Vgg> {
    if batch_norm { vgg16_bn(options) } else { vgg16(options) }
}

fn train(args: &Train) -> Result<()> {
    manual_seed(args.seed);
    let device = Device::cuda_if_available();
    let resize = || Compose((ToImage, Resize::new(args.image_size, args.image_size), ToTensor));
    let load = |source: kiln::data::MnistBuilder<kiln::data::Fashion>| match &args.data {
        Some(folder) => source.root(folder).load(),
        None => source.load(),
    };
    let build = |data: FashionMNIST, shuffle: bool| {
        let data = data.transform(resize());
        DataLoader::builder(data)
            .batch_size(args.batch_size)
            .shuffle(shuffle)
            .seed(args.seed)
            .num_workers(1)
            .device(device)
            .build()
    };
    let (training, testing) = (build(load(FashionMNIST::train())?, true)?, build(load(FashionMNIST::test())?, false)?);
    let options = VggOptions::default().num_classes(10).in_channels(1).width(args.width);
    let model = network(options, args.batch_norm)?.to(device)?;
    println!("{}", summary(&model, [1, 1, args.image_size, args.image_size])?);
    let mut optimizer = SGD::new(model.named_parameters(), SGDOptions::new(args.lr).momentum(0.9))?;
    let mut done = 0;
    if let Some(path) = args.resume.as_ref().filter(|path| path.exists()) {
        let checkpoint = Checkpoint::load(path, device)?;
        model.load_state_dict(&checkpoint.model, true)?;
        optimizer.load_state_dict(&checkpoint.optimizer)?;
        training.set_state(checkpoint.get::<LoaderState>("loader")?)?;
        checkpoint.restore_random_state();
        done = checkpoint.epoch;
        println!("Going on after epoch {done} of {}", path.display());
    }
    let prepare = |x: Tensor| if args.channels_last { x.channels_last() } else { Ok(x) };
    let most = args.batches.unwrap_or(usize::MAX);
    for epoch in done..args.epochs {
        println!("Epoch {}\n-------------------------------", epoch + 1);
        device.reset_peak_memory()?;
        let pass = training::train(&training, &model, &mut optimizer, &prepare, most)?;
        let peak = device.memory_stats()?.peak_allocated as f64 / f64::from(1 << 20);
        println!(
            "{:.1} images/s, {:.1} % of the time waiting for data, {peak:.0} MiB at most, mean loss {:.4}",
            pass.images_per_second(),
            pass.waited_share(),
            pass.loss
        );
        training::test(&testing, &model, &prepare, most)?;
        if let Some(path) = &args.resume {
            let (model, optimizer) = (model.state_dict(), optimizer.state_dict()?);
            let mut checkpoint = Checkpoint { model, optimizer, epoch: epoch + 1, ..Checkpoint::now() };
            checkpoint.put("loader", &training.state())?;
            checkpoint.save(path)?;
        }
    }
    Ok(())
}

fn predict(args: &Predict) -> Result<()> {
    let device = Device::cuda_if_available();
    let weights = io::load(&args.weights, device)?;
    let last = weights.get("classifier.6.bias").context("the file has no classifier.6.bias: not a VGG16's")?;
    let model = network(VggOptions::default().num_classes(last.numel()), args.batch_norm)?.to(device)?;
    model.load_state_dict(&weights, true)?;
    model.eval();
    let names = match &args.classes {
        Some(path) => std::fs::read_to_string(path).with_context(|| path.display().to_string())?,
        None => String::new(),
    };
    let names: Vec<&str> = names.lines().collect();
    let prepare = Compose((
        Resize::shorter(256),
        CenterCrop::square(224),
        ToTensor,
        Normalize::new([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])?,
    ));
    let _guard = no_grad_guard();
    for path in &args.images {
        let image = prepare.apply(Image::open(path)?.to_rgb())?;
        let logits = model.forward(&image.unsqueeze(0)?.to_device(device)?)?;
        let (shares, classes) = logits.softmax(1)?.select(0, 0)?.topk(5.min(last.numel()), 0, true)?;
        println!("{}", path.display());
        for (share, class) in shares.to_vec::<f32>()?.into_iter().zip(classes.to_vec::<i64>()?) {
            let name = names.get(class as usize).copied().unwrap_or("");
            println!("  {:5.1} %  class {class} {name}", 100.0 * share);
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    match Args::parse().command {
        Command::Print { batch_norm } => {
            let model = network(VggOptions::default(), batch_norm)?;
            println!("{model}\n\n{}", summary(&model, [1, 3, 224, 224])?);
            Ok(())
        }
        Command::Train(args) => train(&args),
        Command::Predict(args) => predict(&args),
    }
}

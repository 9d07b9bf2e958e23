//! LeNet on Fashion-MNIST or MNIST.
//!
//! ```text
//! cargo run --release --example lenet                       # Fashion-MNIST, or the subset that comes with Kiln
//! cargo run --release --example lenet -- --digits           # MNIST
//! cargo build --release --features distributed --example lenet && mpiexec -n 2 target/release/examples/lenet --distributed
//! cargo run --release --example lenet -- --help
//! ```

#[path = "support/autocast.rs"]
mod autocast;
#[path = "support/distributed.rs"]
mod distributed;
#[path = "support/training.rs"]
mod training;

use std::path::PathBuf;

use anyhow::Result;
use autocast::{Low, ScaledOptimizer};
use clap::Parser;
use kiln::{
    PadMode,
    data::{FashionMNIST, MNIST, MnistBuilder, MnistKind},
    io,
    models::LeNet,
    nn::summary,
    optim::Adam,
    prelude::*,
    set_convolution_benchmark,
};

/// Trains LeNet, and tests it after every epoch.
#[derive(Parser)]
struct Args {
    #[arg(long, default_value_t = 5)]
    epochs: u64,
    #[arg(long, default_value_t = 64)]
    batch_size: usize,
    /// Learning rate of Adam
    #[arg(long, default_value_t = 1e-3)]
    lr: f64,
    /// MNIST instead of Fashion-MNIST
    #[arg(long)]
    digits: bool,
    /// The same seed gives the same run, bit for bit
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Folder with the four files, instead of the folders that are searched
    #[arg(long)]
    data: Option<PathBuf>,
    /// Compute products and convolutions in half precision, with parameters, sums and losses in `f32`
    #[arg(long, value_enum)]
    autocast: Option<Low>,
    /// On a GPU, time the algorithms for each convolution, and keep the fastest
    #[arg(long)]
    convolution_benchmark: bool,
    /// On a GPU, capture a step as a CUDA graph and launch it as a whole
    #[arg(long)]
    graph: bool,
    /// Write the trained parameters to this file
    #[arg(long)]
    save: Option<PathBuf>,
    #[command(flatten)]
    distributed: distributed::Options,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if args.digits {
        run(&args, MNIST::train(), MNIST::test())
    } else {
        run(&args, FashionMNIST::train(), FashionMNIST::test())
    }
}

fn run<K: MnistKind + 'static>(args: &Args, train: MnistBuilder<K>, test: MnistBuilder<K>) -> Result<()> {
    manual_seed(args.seed);
    let ranks = distributed::Ranks::join(&args.distributed)?;
    let device = ranks.device(Device::cuda_if_available());
    println!("Using {device} device");
    set_convolution_benchmark(args.convolution_benchmark);
    let load = |source: MnistBuilder<K>| match &args.data {
        Some(folder) => source.root(folder).load(),
        None => source.load(),
    };
    let (train, test) = (load(train)?, load(test)?);
    println!("{} training and {} test images from {}", train.len(), test.len(), test.origin());
    let share = ranks.share(train.len())?;
    let train = DataLoader::builder(train).sampler(share).seed(args.seed);
    let train = train.batch_size(args.batch_size).device(device).build()?;
    let test = DataLoader::builder(test).batch_size(args.batch_size).device(device).build()?;

    let model = LeNet::new(10)?.to(device)?;
    println!("{model}\n{}", summary(&model, [1, 1, 32, 32])?);
    let optimizer = Box::new(Adam::new(model.named_parameters(), args.lr)?);
    let mut optimizer = ScaledOptimizer::new(optimizer, args.autocast);
    let _averages = ranks.share_gradients(&model)?;
    // The network takes 32×32 pixels, the images have 28×28.
    let prepare = |x: Tensor| x.pad(&[2, 2, 2, 2], PadMode::Constant(0.0));
    let mut step = training::step(device, args.graph, args.autocast, &model, &prepare);
    for epoch in 1..=args.epochs {
        println!("Epoch {epoch}\n-------------------------------");
        let pass = training::train(&train, &model, &mut |batch| step.run(&mut optimizer, batch), usize::MAX)?;
        let (rate, waited) = (pass.images_per_second(), pass.waited_share());
        println!("{rate:.0} images/s, {waited:.1} % of the time waiting for data, mean loss {:.4}", pass.loss);
        training::test(&test, &model, &prepare, args.autocast, usize::MAX)?;
    }
    println!("Done!");
    if let Some(path) = &args.save {
        ranks.on_main(|| io::save(path, &model.state_dict()))?;
        println!("Saved the model to {}", path.display());
    }
    Ok(())
}

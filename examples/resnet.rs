//! The residual networks for CIFAR-10 of He, Zhang, Ren & Sun (2015, section 4.2): ResNet-20, -32, -44, -56 and -110,
//! written as a model of one's own.
//!
//! ```text
//! cargo run --release --features images --example resnet                      # Fashion-MNIST, resized to 32×32
//! cargo run --release --features images --example resnet -- --source cifar10 --data cifar --batch-size 128 --epochs 180
//! cargo run --release --features images --example resnet -- --help
//! ```

#[path = "support/autocast.rs"]
mod autocast;
#[path = "support/device.rs"]
mod device;
#[path = "support/distributed.rs"]
mod distributed;
#[path = "support/images.rs"]
mod images;
#[path = "support/training.rs"]
mod training;

use std::path::PathBuf;

use anyhow::Result;
use autocast::{Low, ScaledOptimizer};
use clap::Parser;
use device::DeviceName;
use kiln::{
    io,
    nn::{
        BatchNorm2d, Conv2d, Conv2dOptions, Linear, ReLU, Sequential,
        init::{FanMode, Nonlinearity, kaiming_normal_},
        summary,
    },
    optim::{
        SGD, SGDOptions,
        lr_scheduler::{LrScheduler, MultiStepLR},
    },
    prelude::*,
    set_convolution_benchmark,
};

/// Trains a residual network on images of CIFAR's size, and tests it after every epoch.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    images: images::Options,
    /// The number of layers with parameters: 6n + 2, as 20, 32, 44, 56 and 110 in the paper
    #[arg(long, default_value_t = 20)]
    depth: usize,
    /// Channels of the first of three stages; the next ones have twice and four times as many
    #[arg(long, default_value_t = 16)]
    width: usize,
    #[arg(long, default_value_t = 3)]
    epochs: u64,
    /// Learning rate of SGD with momentum 0.9, divided by 10 after half and after three quarters of the epochs
    #[arg(long, default_value_t = 0.05)]
    lr: f64,
    #[arg(long, default_value_t = 1e-4)]
    weight_decay: f64,
    /// At most so many batches per epoch
    #[arg(long)]
    batches: Option<usize>,
    /// Device; auto is a GPU if there is one
    #[arg(long, value_enum, default_value = "auto")]
    device: DeviceName,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Channels-last images and filters
    #[arg(long)]
    channels_last: bool,
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

/// A convolution without bias that preserves the size, except for its stride.
fn convolution(inputs: usize, outputs: usize, kernel: usize, stride: usize) -> kiln::Result<Conv2d> {
    let options = Conv2dOptions::default().stride(stride).padding(kernel / 2).bias(false);
    let conv = Conv2d::with_options(inputs, outputs, kernel, options)?;
    kaiming_normal_(&conv.weight, FanMode::FanOut, Nonlinearity::ReLU)?;
    Ok(conv)
}

/// Two 3×3 convolutions, and the input added to their result: by a 1×1 convolution if the shape changes.
#[derive(Module)]
struct Block {
    conv1: Conv2d,
    bn1: BatchNorm2d,
    conv2: Conv2d,
    bn2: BatchNorm2d,
    relu: ReLU,
    shortcut: Option<Sequential>,
}

impl Block {
    fn new(inputs: usize, outputs: usize, stride: usize) -> kiln::Result<Block> {
        let shortcut = if stride == 1 && inputs == outputs {
            None
        } else {
            Some(Sequential::new().add(convolution(inputs, outputs, 1, stride)?).add(BatchNorm2d::new(outputs)?))
        };
        Ok(Block {
            conv1: convolution(inputs, outputs, 3, stride)?,
            bn1: BatchNorm2d::new(outputs)?,
            conv2: convolution(outputs, outputs, 3, 1)?,
            bn2: BatchNorm2d::new(outputs)?,
            relu: ReLU::new(),
            shortcut,
        })
    }
}

impl Module for Block {
    fn forward(&self, x: &Tensor) -> kiln::Result<Tensor> {
        // `forward_norm` is `relu(bn(conv(x)) + residual)` in as few passes over the images as the device allows.
        let y = self.conv1.forward_norm(x, &self.bn1, None, Some(&self.relu))?;
        let residual = match &self.shortcut {
            Some(shortcut) => shortcut.forward(x)?,
            None => x.clone(),
        };
        self.conv2.forward_norm(&y, &self.bn2, Some(&residual), Some(&self.relu))
    }
}

/// A convolution, three stages of blocks at a half of the resolution of the one before, and a linear classifier of the
/// mean over all pixels.
#[derive(Module)]
struct CifarResNet {
    conv1: Conv2d,
    bn1: BatchNorm2d,
    relu: ReLU,
    layer1: Sequential,
    layer2: Sequential,
    layer3: Sequential,
    fc: Linear,
}

impl CifarResNet {
    fn new(channels: usize, width: usize, depth: usize, classes: usize) -> Result<CifarResNet> {
        anyhow::ensure!(depth >= 8 && depth % 6 == 2, "a depth of {depth} is not 6n + 2, as 20, 32, 44, 56 or 110");
        let stage = |inputs: usize, outputs: usize, stride: usize| -> kiln::Result<Sequential> {
            let mut stage = Sequential::new().add(Block::new(inputs, outputs, stride)?);
            for _ in 1..(depth - 2) / 6 {
                stage.push(Block::new(outputs, outputs, 1)?);
            }
            Ok(stage)
        };
        Ok(CifarResNet {
            conv1: convolution(channels, width, 3, 1)?,
            bn1: BatchNorm2d::new(width)?,
            relu: ReLU::new(),
            layer1: stage(width, width, 1)?,
            layer2: stage(width, 2 * width, 2)?,
            layer3: stage(2 * width, 4 * width, 2)?,
            fc: Linear::new(4 * width, classes)?,
        })
    }
}

impl Module for CifarResNet {
    fn forward(&self, x: &Tensor) -> kiln::Result<Tensor> {
        let x = self.conv1.forward_norm(x, &self.bn1, None, Some(&self.relu))?;
        let x = self.layer3.forward(&self.layer2.forward(&self.layer1.forward(&x)?)?)?;
        self.fc.forward(&x.mean([2, 3])?)
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    manual_seed(args.seed);
    let ranks = distributed::Ranks::join(&args.distributed)?;
    let device = args.device.open(|| ranks.device(Device::cuda_if_available()))?;
    println!("Using {device} device");
    set_convolution_benchmark(args.convolution_benchmark);
    let data = args.images.load(args.seed, device, &ranks)?;
    let mut model = CifarResNet::new(data.channels, args.width, args.depth, data.classes.len())?.to(device)?;
    println!("{}", summary(&model, [1, data.channels, args.images.image_size, args.images.image_size])?);
    if args.channels_last {
        model.channels_last_()?;
    }
    let options = SGDOptions::new(args.lr).momentum(0.9).weight_decay(args.weight_decay);
    let optimizer = Box::new(SGD::new(model.named_parameters(), options)?);
    let mut optimizer = ScaledOptimizer::new(optimizer, args.autocast);
    let milestones = [args.epochs.div_ceil(2), (3 * args.epochs).div_ceil(4)];
    let mut scheduler = LrScheduler::new(optimizer.optimizer.as_mut(), MultiStepLR::new(milestones))?;
    let _averages = ranks.share_gradients(&model)?;

    let prepare = |x: Tensor| if args.channels_last { x.channels_last() } else { Ok(x) };
    let most = args.batches.unwrap_or(usize::MAX);
    let mut step = training::step(device, args.graph, args.autocast, &model, &prepare);
    for epoch in 1..=args.epochs {
        println!("Epoch {epoch}, learning rate {}\n-------------------------------", scheduler.last_lr()[0]);
        let pass = training::train(&data.training, &model, &mut |batch| step.run(&mut optimizer, batch), most)?;
        let (rate, waited) = (pass.images_per_second(), pass.waited_share());
        println!("{rate:.0} images/s, {waited:.1} % of the time waiting for data, mean loss {:.4}", pass.loss);
        training::test(&data.testing, &model, &prepare, args.autocast, most)?;
        scheduler.step(optimizer.optimizer.as_mut())?;
    }
    if let Some(path) = &args.save {
        ranks.on_main(|| io::save(path, &model.state_dict()))?;
        println!("Saved the model to {}", path.display());
    }
    Ok(())
}

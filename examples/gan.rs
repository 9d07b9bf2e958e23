//! A Wasserstein GAN with gradient penalty (Gulrajani et al., 2017) that draws clothes. The penalty is a function of the
//! critic's gradient, so training it takes second derivatives (`create_graph`).
//!
//! ```text
//! cargo run --release --example gan                      # Fashion-MNIST, or the subset that comes with Kiln
//! cargo run --release --example gan -- --plot out        # writes what the generator draws after each epoch
//! cargo run --release --example gan -- --help
//! ```

#[path = "support/device.rs"]
mod device;

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Result, ensure};
use clap::Parser;
use device::DeviceName;
use kiln::{
    autograd::{BackwardOptions, grad_with},
    data::FashionMNIST,
    io,
    nn::{
        BatchNorm1d, BatchNorm2d, Conv2d, Conv2dOptions, ConvTranspose2d, Flatten, LeakyReLU, Linear, ReLU, Sequential,
        Sigmoid, seq,
    },
    optim::{Adam, AdamOptions, Optimizer},
    prelude::*,
    vis::save_image_grid,
};

/// Trains a generator of images against a critic.
#[derive(Parser)]
struct Args {
    #[arg(long, default_value_t = 10)]
    epochs: u64,
    #[arg(long, default_value_t = 64)]
    batch_size: usize,
    /// At most so many batches per epoch
    #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
    batches: usize,
    /// Learning rate of Adam, for both networks
    #[arg(long, default_value_t = 2e-4)]
    lr: f64,
    /// Steps of the critic for each step of the generator
    #[arg(long, default_value_t = 5)]
    critic_steps: u64,
    /// Factor of the gradient penalty
    #[arg(long, default_value_t = 10.0)]
    penalty: f64,
    /// The numbers that an image is made of
    #[arg(long, default_value_t = 64)]
    latent: usize,
    /// Channels of the first layer of the critic and of the last but one of the generator
    #[arg(long, default_value_t = 32)]
    width: usize,
    /// Device; auto is a GPU if there is one
    #[arg(long, value_enum, default_value = "auto")]
    device: DeviceName,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Folder with the four files of Fashion-MNIST, instead of the folders that are searched
    #[arg(long)]
    data: Option<PathBuf>,
    /// Write a grid of generated images to this folder after every epoch
    #[arg(long, num_args = 0..=1, default_missing_value = "out")]
    plot: Option<PathBuf>,
    /// Write the generator's parameters to this file
    #[arg(long)]
    save: Option<PathBuf>,
}

/// Maps `[N, latent]` to images `[N, 1, 28, 28]` with values in 0 to 1.
#[derive(Module)]
struct Generator {
    project: Sequential,
    draw: Sequential,
    width: usize,
}

impl Generator {
    fn new(latent: usize, width: usize) -> kiln::Result<Generator> {
        let wide = 2 * width * 7 * 7;
        let double = Conv2dOptions::default().stride(2).padding(1);
        Ok(Generator {
            project: seq![Linear::new(latent, wide)?, BatchNorm1d::new(wide)?, ReLU::new()],
            draw: seq![
                ConvTranspose2d::with_options(2 * width, width, 4, double)?,
                BatchNorm2d::new(width)?,
                ReLU::new(),
                ConvTranspose2d::with_options(width, 1, 4, double)?,
                Sigmoid::new(),
            ],
            width,
        })
    }
}

impl Module for Generator {
    fn forward(&self, z: &Tensor) -> kiln::Result<Tensor> {
        let x = self.project.forward(z)?;
        self.draw.forward(&x.reshape([z.size(0)?, 2 * self.width, 7, 7])?)
    }
}

/// Maps images to numbers `[N, 1]` that are larger for real ones. It has no batch normalization: the penalty is on the
/// gradient of each image by itself.
fn critic(width: usize) -> kiln::Result<Sequential> {
    let half = Conv2dOptions::default().stride(2).padding(1);
    Ok(seq![
        Conv2d::with_options(1, width, 4, half)?,
        LeakyReLU::new(0.2),
        Conv2d::with_options(width, 2 * width, 4, half)?,
        LeakyReLU::new(0.2),
        Flatten::new(),
        Linear::new(2 * width * 7 * 7, 1)?,
    ])
}

/// `mean((‖gradient‖ - 1)²)` at random points between real and generated images, as a tensor that can be differentiated.
fn gradient_penalty(critic: &Sequential, real: &Tensor, fake: &Tensor) -> kiln::Result<Tensor> {
    let share = Tensor::rand([real.size(0)?, 1, 1, 1], real.device())?;
    let between = calc!(real * share + fake * (1.0 - share))?.detach().requires_grad_(true)?;
    let scores = critic.forward(&between)?.sum(())?;
    let slopes = grad_with(&[(scores, None)], &[&between], BackwardOptions::create_graph())?;
    let slope = slopes.into_iter().next().flatten().expect("a critic's score depends on its image");
    slope.flatten(1, -1)?.norm(2, 1)?.sub(1.0)?.square()?.mean(())
}

/// Both networks, and their optimizers.
struct Gan {
    generator: Generator,
    critic: Sequential,
    generator_optimizer: Adam,
    critic_optimizer: Adam,
    latent: usize,
    penalty: f64,
}

impl Gan {
    fn new(args: &Args, device: Device) -> kiln::Result<Gan> {
        let (generator, critic) =
            (Generator::new(args.latent, args.width)?.to(device)?, critic(args.width)?.to(device)?);
        let options = AdamOptions::new(args.lr).betas((0.5, 0.9));
        Ok(Gan {
            generator_optimizer: Adam::new(generator.named_parameters(), options)?,
            critic_optimizer: Adam::new(critic.named_parameters(), options)?,
            generator,
            critic,
            latent: args.latent,
            penalty: args.penalty,
        })
    }

    fn noise(&self, count: usize, device: Device) -> kiln::Result<Tensor> {
        Tensor::randn([count, self.latent], device)
    }

    /// A step of the critic. Returns how much better it rates real images than generated ones, an estimate of the
    /// distance between the two distributions, and the penalty.
    fn critic_step(&mut self, real: &Tensor) -> kiln::Result<(Tensor, Tensor)> {
        let noise = self.noise(real.size(0)?, real.device())?;
        let fake = no_grad(|| self.generator.forward(&noise))?;
        let distance = calc!(self.critic.forward(real)?.mean(()) - self.critic.forward(&fake)?.mean(()))?;
        let penalty = gradient_penalty(&self.critic, real, &fake)?;
        self.critic_optimizer.zero_grad();
        (&penalty * self.penalty - &distance)?.backward()?;
        self.critic_optimizer.step()?;
        Ok((distance.detach(), penalty.detach()))
    }

    fn generator_step(&mut self, count: usize, device: Device) -> kiln::Result<()> {
        let fake = self.generator.forward(&self.noise(count, device)?)?;
        self.generator_optimizer.zero_grad();
        self.critic.forward(&fake)?.mean(())?.neg()?.backward()?;
        self.generator_optimizer.step()
    }
}

/// Draws what the generator makes of these numbers.
fn draw(generator: &Generator, noise: &Tensor, path: &Path) -> kiln::Result<()> {
    generator.eval();
    let images = no_grad(|| generator.forward(noise))?.to_device(Device::Cpu)?;
    generator.train();
    save_image_grid(&images, &[""; 0], 8, path)
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.critic_steps > 0 && args.latent > 0 && args.width > 0, "steps, latent and width are at least 1");
    manual_seed(args.seed);
    let device = args.device.open(Device::cuda_if_available)?;
    println!("Using {device} device");
    let source = FashionMNIST::train();
    let data = match &args.data {
        Some(folder) => source.root(folder).load()?,
        None => source.load()?,
    };
    println!("{} images from {}", data.len(), data.origin());
    let loader = DataLoader::builder(data).batch_size(args.batch_size).shuffle(true).drop_last(true).seed(args.seed);
    let loader = loader.num_workers(1).device(device).build()?;

    let mut gan = Gan::new(&args, device)?;
    println!("{}\n{}", gan.generator, gan.critic);
    // The same numbers after every epoch, so that the pictures can be compared.
    let shown = gan.noise(64, device)?;
    let (start, mut steps) = (Instant::now(), 0);
    for epoch in 1..=args.epochs {
        let (mut distances, mut penalties) = (Vec::new(), Vec::new());
        for batch in loader.iter().take(args.batches) {
            let (real, _) = batch?;
            let (distance, penalty) = gan.critic_step(&real)?;
            distances.push(distance);
            penalties.push(penalty);
            steps += 1;
            if steps % args.critic_steps == 0 {
                gan.generator_step(real.size(0)?, device)?;
            }
        }
        ensure!(!distances.is_empty(), "there are fewer images than a batch has");
        // Read once in an epoch, so that a GPU is not waited for in every step.
        let mean = |values: &[Tensor]| Tensor::stack(values, 0)?.mean(())?.item::<f32>();
        let (distance, penalty) = (mean(&distances)?, mean(&penalties)?);
        let seconds = start.elapsed().as_secs_f64();
        println!("epoch {epoch}: distance {distance:.4}, gradient penalty {penalty:.4}, {seconds:.0} s");
        if let Some(folder) = &args.plot {
            std::fs::create_dir_all(folder)?;
            draw(&gan.generator, &shown, &folder.join(format!("generated_{epoch:03}.png")))?;
        }
    }
    if let Some(path) = &args.save {
        io::save(path, &gan.generator.state_dict())?;
        println!("Saved the generator to {}", path.display());
    }
    Ok(())
}

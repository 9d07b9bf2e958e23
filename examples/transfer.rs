//! PyTorch's tutorial of transfer learning
//! (<https://docs.pytorch.org/tutorials/beginner/transfer_learning_tutorial.html>): a ResNet-18 that was trained on many
//! images learns other classes from a few, fine-tuned as a whole or with all of it frozen but a new last layer.
//!
//! ```text
//! cargo run --release --features images,pth --example transfer    # trained on clothes, then learns shoes
//! cargo run --release --features images,pth,download --example transfer -- --data hymenoptera_data
//! cargo run --release --features images,pth --example transfer -- --data hymenoptera_data --weights resnet18-f37072fd.pth
//! ```

#[path = "support/device.rs"]
mod device;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use device::DeviceName;
use kiln::{
    PadMode,
    data::{
        DatasetExt, Fashion, FashionMNIST, ImageFolder, MnistBuilder, Subset,
        transforms::{CenterCrop, Compose, Normalize, RandomHorizontalFlip, RandomResizedCrop, Resize, ToTensor},
    },
    hub::{self, Weights},
    io::{self, LoadOptions},
    models::{ResNet, ResNetOptions, resnet18},
    nn::{CrossEntropyLoss, Linear, StateDict},
    optim::{
        Optimizer, SGD, SGDOptions,
        lr_scheduler::{LrScheduler, StepLR},
    },
    prelude::*,
};

/// Fine-tunes a ResNet-18, and compares it with one of which only the last layer is trained, and one trained from scratch.
#[derive(Parser)]
struct Args {
    /// Folder with `train` and `val`, each with a folder for each class, as the tutorial's ants and bees. Without it,
    /// Fashion-MNIST: seven classes of clothes to begin with, then three of shoes, of which there are few images
    #[arg(long)]
    data: Option<PathBuf>,
    /// torchvision's weights, instead of the file in the hub's folders; with --data
    #[arg(long, requires = "data")]
    weights: Option<PathBuf>,
    #[arg(long, default_value_t = 12)]
    epochs: u64,
    /// Passes over the clothes, by which the weights come about without --data
    #[arg(long, default_value_t = 2)]
    source_epochs: u64,
    /// At most so many batches of clothes per pass
    #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
    source_batches: usize,
    /// At most so many test images of each class of Fashion-MNIST
    #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
    test_images: usize,
    /// Images of each kind of shoe to learn from
    #[arg(long, default_value_t = 20)]
    shots: usize,
    #[arg(long, default_value_t = 4)]
    batch_size: usize,
    /// Learning rate of SGD with momentum 0.9, divided by 10 every 7 epochs
    #[arg(long, default_value_t = 1e-3)]
    lr: f64,
    /// Factor for the learning rate of the new layer
    #[arg(long, default_value_t = 10.0)]
    head: f64,
    /// Device; auto is a GPU if there is one
    #[arg(long, value_enum, default_value = "auto")]
    device: DeviceName,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Write the parameters of the fine-tuned network, as they were when it was best, to this file
    #[arg(long)]
    save: Option<PathBuf>,
}

/// Loaders of a task, and what a network has learned before it.
struct Task {
    training: DataLoader,
    testing: DataLoader,
    classes: usize,
    options: ResNetOptions,
    learned: StateDict,
}

impl Args {
    fn loader<D>(&self, data: D, shuffle: bool, device: Device) -> kiln::Result<DataLoader>
    where
        D: Dataset<Item = (Tensor, i64)> + 'static,
    {
        let loader = DataLoader::builder(data).batch_size(self.batch_size).shuffle(shuffle).seed(self.seed);
        loader.num_workers(1).device(device).build()
    }

    /// The tutorial's task: photographs, and ImageNet's weights.
    fn photographs(&self, folder: &Path, device: Device) -> Result<Task> {
        let (training, testing) = (ImageFolder::new(folder.join("train"))?, ImageFolder::new(folder.join("val"))?);
        let classes = training.classes().to_vec();
        ensure!(classes == testing.classes(), "`val` in {} has other classes than `train`", folder.display());
        println!("{} training and {} test images of {}", training.len(), testing.len(), classes.join(", "));
        let normalize = || Normalize::new([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
        let crop = (RandomResizedCrop::square(224), RandomHorizontalFlip::default());
        let training = training.transform(Compose((crop.0, crop.1, ToTensor, normalize()?)));
        let middle = (Resize::shorter(256), CenterCrop::square(224));
        let testing = testing.transform(Compose((middle.0, middle.1, ToTensor, normalize()?)));
        let learned = match &self.weights {
            Some(path) => io::load(path, LoadOptions::new(Device::Cpu).dtype(DType::F32))?,
            None => hub::resnet18(Weights::ImageNet1k)?.state_dict(),
        };
        Ok(Task {
            training: self.loader(training, true, device)?,
            testing: self.loader(testing, false, device)?,
            classes: classes.len(),
            options: ResNetOptions::default(),
            learned,
        })
    }

    /// Shoes of Fashion-MNIST, and the weights of a network that was trained on its other classes, here and now.
    fn shoes(&self, device: Device) -> Result<Task> {
        let clothes =
            (of(FashionMNIST::train(), CLOTHES, usize::MAX)?, of(FashionMNIST::test(), CLOTHES, self.test_images)?);
        let shoes = (of(FashionMNIST::train(), SHOES, self.shots)?, of(FashionMNIST::test(), SHOES, self.test_images)?);
        ensure!(!shoes.0.is_empty() && !clothes.0.is_empty(), "there are no images to learn from");
        println!("First {} images of clothes, then {} of shoes", clothes.0.len(), shoes.0.len());
        let loader = |data, shuffle| DataLoader::builder(data).batch_size(64).shuffle(shuffle).num_workers(1);
        let loader = |data, shuffle| loader(data, shuffle).seed(self.seed).device(device).build();
        let options = ResNetOptions::default().in_channels(1);
        let model = resnet18(options.num_classes(CLOTHES.len()))?.to(device)?;
        let mut optimizer = SGD::new(model.named_parameters(), SGDOptions::new(0.05).momentum(0.9))?;
        let (training, testing) = (loader(clothes.0, true)?, loader(clothes.1, false)?);
        for epoch in 1..=self.source_epochs {
            let loss = train(&training, &model, &mut optimizer, self.source_batches)?;
            println!("clothes, epoch {epoch}: loss {loss:.4}, accuracy {:.1}%", 100.0 * test(&testing, &model)?);
        }
        Ok(Task {
            training: self.loader(shoes.0, true, device)?,
            testing: loader(shoes.1, false)?,
            classes: SHOES.len(),
            options,
            learned: model.state_dict(),
        })
    }
}

/// Sandals, sneakers and ankle boots; and what else there is in Fashion-MNIST.
const SHOES: &[u8] = &[5, 7, 9];
const CLOTHES: &[u8] = &[0, 1, 2, 3, 4, 6, 8];

/// At most `most` images of each of these classes, numbered in this order, with a margin: the network takes 32×32 pixels.
fn of(
    source: MnistBuilder<Fashion>,
    classes: &'static [u8],
    most: usize,
) -> Result<impl Dataset<Item = (Tensor, i64)> + 'static> {
    let data = source.load()?;
    let mut chosen = Vec::new();
    for class in classes {
        let alike = data.labels().iter().enumerate().filter(|(_, label)| *label == class);
        chosen.extend(alike.map(|(index, _)| index).take(most));
    }
    let number = move |label: i64| classes.iter().position(|&class| i64::from(class) == label).map(|n| n as i64);
    Ok(Subset::new(data, chosen)?.map(move |(image, label): (Tensor, i64)| {
        let label = number(label).expect("the subset has images of these classes only");
        Ok((image.pad(&[2; 4], PadMode::Constant(0.0))?, label))
    }))
}

/// One pass over the training images. Returns the mean loss.
fn train(loader: &DataLoader, model: &ResNet, optimizer: &mut SGD, most: usize) -> Result<f32> {
    let loss_fn = CrossEntropyLoss::new();
    model.train();
    let mut losses = Vec::new();
    for batch in loader.iter().take(most) {
        let (x, y) = batch?;
        let loss = loss_fn.forward(&model.forward(&x)?, &y)?;
        optimizer.zero_grad();
        loss.backward()?;
        optimizer.step()?;
        losses.push(loss.detach());
    }
    ensure!(!losses.is_empty(), "there are no batches to learn from");
    Ok(Tensor::stack(&losses, 0)?.mean(())?.item()?)
}

/// The share of the test images that the model classifies correctly.
fn test(loader: &DataLoader, model: &ResNet) -> Result<f64> {
    model.eval();
    let _guard = no_grad_guard();
    let (mut correct, mut images) = (Vec::new(), 0);
    for batch in loader {
        let (x, y) = batch?;
        correct.push(model.forward(&x)?.argmax(1)?.eq(&y)?.sum(())?);
        images += y.numel();
    }
    ensure!(images > 0, "there are no test images");
    Ok(Tensor::stack(&correct, 0)?.sum(())?.item::<i64>()? as f64 / images as f64)
}

/// Trains, and returns the best accuracy on the test images; the model has the parameters that it had then.
fn fit(what: &str, task: &Task, model: &ResNet, mut optimizer: SGD, epochs: u64) -> Result<f64> {
    let mut scheduler = LrScheduler::new(&mut optimizer, StepLR::new(7))?;
    let (mut best, mut parameters) = (f64::NEG_INFINITY, StateDict::new());
    for epoch in 1..=epochs {
        let loss = train(&task.training, model, &mut optimizer, usize::MAX)?;
        scheduler.step(&mut optimizer)?;
        let accuracy = test(&task.testing, model)?;
        println!("{what}, epoch {epoch}: loss {loss:.4}, accuracy {:.1}%", 100.0 * accuracy);
        if accuracy > best {
            best = accuracy;
            // A state dict shares memory with the model.
            let copies = model.state_dict().into_iter().map(|(name, tensor)| Ok((name, tensor.copy()?)));
            parameters = copies.collect::<kiln::Result<_>>()?;
        }
    }
    model.load_state_dict(&parameters, true)?;
    Ok(best)
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.epochs > 0, "--epochs must be at least 1");
    manual_seed(args.seed);
    let device = args.device.open(Device::cuda_if_available)?;
    println!("Using {device} device");
    let task = match &args.data {
        Some(folder) => args.photographs(folder, device).with_context(|| folder.display().to_string())?,
        None => args.shoes(device)?,
    };
    // The last layer is of another task: all of the network but it has the learned parameters.
    let learned = || -> Result<ResNet> {
        let classes = task.learned["fc.bias"].numel();
        let mut model = resnet18(task.options.num_classes(classes))?;
        model.load_state_dict(&task.learned, true)?;
        model.fc = Linear::new(512, task.classes)?;
        Ok(model.to(device)?)
    };
    let options = SGDOptions::new(args.lr).momentum(0.9);
    let head_options = SGDOptions::new(args.lr * args.head).momentum(0.9);

    // All parameters are trained, the new ones faster: two groups.
    let model = learned()?;
    let (head, rest): (Vec<_>, Vec<_>) =
        model.named_parameters().into_iter().partition(|(name, _)| name.starts_with("fc."));
    let optimizer = SGD::with_groups([(rest, options), (head, head_options)])?;
    let tuned = fit("fine-tuned", &task, &model, optimizer, args.epochs)?;
    if let Some(path) = &args.save {
        io::save(path, &model.state_dict())?;
        println!("Saved the model to {}", path.display());
    }

    // All but the last layer is frozen: no gradients are computed for it. Its normalizations still follow the new images'
    // statistics, as in the tutorial.
    let model = learned()?;
    model.requires_grad_(false)?;
    model.fc.requires_grad_(true)?;
    let optimizer = SGD::new(model.fc.named_parameters(), head_options)?;
    let frozen = fit("frozen", &task, &model, optimizer, args.epochs)?;

    let model = resnet18(task.options.num_classes(task.classes))?.to(device)?;
    let optimizer = SGD::new(model.named_parameters(), head_options)?;
    let scratch = fit("from scratch", &task, &model, optimizer, args.epochs)?;

    for (what, accuracy) in
        [("fine-tuned", tuned), ("frozen but for the last layer", frozen), ("from scratch", scratch)]
    {
        println!("Best accuracy, {what}: {:.1}%", 100.0 * accuracy);
    }
    Ok(())
}

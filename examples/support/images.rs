//! Images to train on: folders of photographs, CIFAR-10, or Fashion-MNIST.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use kiln::{
    data::{
        CIFAR10, DatasetExt, FashionMNIST, ImageFolder,
        transforms::{
            CenterCrop, Compose, Grayscale, Image, Normalize, Pad, RandomCrop, RandomHorizontalFlip, RandomResizedCrop,
            Resize, ToImage, ToTensor, Transform,
        },
    },
    prelude::*,
};

use crate::distributed::Ranks;

/// Mean and standard deviation of ImageNet's channels, by which torchvision's networks expect images to be normalized.
fn imagenet() -> kiln::Result<Normalize> {
    Normalize::new([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
}

/// Mean and standard deviation of CIFAR-10's channels.
fn cifar() -> kiln::Result<Normalize> {
    Normalize::new([0.4914, 0.4822, 0.4465], [0.247, 0.2435, 0.2616])
}

/// The transforms with which torchvision's networks were tested: resizing, then the center of the image.
fn middle(size: usize) -> (Resize, CenterCrop) {
    (Resize::shorter(size * 256 / 224), CenterCrop::square(size))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Source {
    /// Folders `train` and `val` (or `test`), each with a folder for each class
    ImageFolder,
    /// The binary or the Python batches of CIFAR-10
    Cifar10,
    /// The four files of Fashion-MNIST; if they are not found, a subset that comes with Kiln
    FashionMnist,
}

impl Source {
    /// Prepares an image for a network that was trained on this source, as in its tests.
    #[allow(dead_code, reason = "not every example classifies photographs")]
    pub fn prepare(self, image: Image, size: usize) -> kiln::Result<Tensor> {
        let resize = Resize::new(size, size);
        match self {
            Source::ImageFolder => {
                let (shorter, center) = middle(size);
                Compose((shorter, center, ToTensor, imagenet()?)).apply(image.to_rgb())
            }
            Source::Cifar10 => Compose((resize, ToTensor, cifar()?)).apply(image.to_rgb()),
            Source::FashionMnist => Compose((Grayscale::new(1)?, resize, ToTensor)).apply(image),
        }
    }
}

/// Which images are loaded, and how.
#[derive(clap::Args)]
pub struct Options {
    /// What to train on
    #[arg(long, value_enum, default_value_t = Source::FashionMnist)]
    pub source: Source,
    /// Its folder; by default, the usual folders are searched for CIFAR-10 and Fashion-MNIST
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Height and width that images are resized to
    #[arg(long, default_value_t = 32)]
    pub image_size: usize,
    #[arg(long, default_value_t = 32)]
    pub batch_size: usize,
    /// Threads that load images
    #[arg(long, default_value_t = 2)]
    pub workers: usize,
}

/// Loaders of the training and of the test images.
pub struct Images {
    pub training: DataLoader,
    pub testing: DataLoader,
    pub channels: usize,
    pub classes: Vec<String>,
}

impl Options {
    pub fn load(&self, seed: u64, device: Device, ranks: &Ranks) -> Result<Images> {
        ensure!(self.image_size > 0, "images must have at least one pixel");
        match self.source {
            Source::ImageFolder => self.folders(seed, device, ranks),
            Source::Cifar10 => self.cifar10(seed, device, ranks),
            Source::FashionMnist => self.fashion(seed, device, ranks),
        }
    }

    fn folders(&self, seed: u64, device: Device, ranks: &Ranks) -> Result<Images> {
        let root = self.data.as_deref().context("--data must name the folder with `train` and `val`")?;
        let test = ["val", "test"].map(|name| root.join(name)).into_iter().find(|path| path.is_dir());
        let test = test.with_context(|| format!("there is no folder `val` or `test` in {}", root.display()))?;
        let (training, testing) = (ImageFolder::new(root.join("train"))?, ImageFolder::new(&test)?);
        let classes = training.classes().to_vec();
        ensure!(classes == testing.classes(), "{} has other classes than the training images", test.display());
        let (size, crop) = (self.image_size, RandomResizedCrop::square(self.image_size));
        let (shorter, center) = middle(size);
        let training = training.transform(Compose((crop, RandomHorizontalFlip::default(), ToTensor, imagenet()?)));
        let testing = testing.transform(Compose((shorter, center, ToTensor, imagenet()?)));
        self.images(training, testing, 3, classes, (seed, device, ranks))
    }

    fn cifar10(&self, seed: u64, device: Device, ranks: &Ranks) -> Result<Images> {
        let at = |root: Option<&Path>, data: kiln::data::CifarBuilder<_>| match root {
            Some(root) => data.root(root).load(),
            None => data.load(),
        };
        let (training, testing) =
            (at(self.data.as_deref(), CIFAR10::train())?, at(self.data.as_deref(), CIFAR10::test())?);
        let classes = training.classes().iter().map(|&name| name.to_owned()).collect();
        let resize = || Resize::new(self.image_size, self.image_size);
        let crop = RandomCrop::new(32, 32).padding(Pad::new([4; 4]));
        let training =
            training.transform(Compose((crop, RandomHorizontalFlip::default(), resize(), ToTensor, cifar()?)));
        let testing = testing.transform(Compose((resize(), ToTensor, cifar()?)));
        self.images(training, testing, 3, classes, (seed, device, ranks))
    }

    fn fashion(&self, seed: u64, device: Device, ranks: &Ranks) -> Result<Images> {
        let at = |data: kiln::data::MnistBuilder<_>| match &self.data {
            Some(root) => data.root(root).load(),
            None => data.load(),
        };
        let (training, testing) = (at(FashionMNIST::train())?, at(FashionMNIST::test())?);
        let classes = training.classes().iter().map(|&name| name.to_owned()).collect();
        let resize = || Compose((ToImage, Resize::new(self.image_size, self.image_size), ToTensor));
        self.images(training.transform(resize()), testing.transform(resize()), 1, classes, (seed, device, ranks))
    }

    fn images<A, B>(
        &self,
        training: A,
        testing: B,
        channels: usize,
        classes: Vec<String>,
        (seed, device, ranks): (u64, Device, &Ranks),
    ) -> Result<Images>
    where
        A: Dataset<Item = (Tensor, i64)> + 'static,
        B: Dataset<Item = (Tensor, i64)> + 'static,
    {
        println!("{} training and {} test images in {} classes", training.len(), testing.len(), classes.len());
        let share = ranks.share(training.len())?;
        let training = DataLoader::builder(training).sampler(share).seed(seed);
        let training = training.batch_size(self.batch_size).num_workers(self.workers).device(device).build()?;
        let testing = DataLoader::builder(testing);
        let testing = testing.batch_size(self.batch_size).num_workers(self.workers).device(device).build()?;
        Ok(Images { training, testing, channels, classes })
    }
}

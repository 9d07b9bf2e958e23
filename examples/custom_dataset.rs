//! The custom dataset of PyTorch's data tutorial
//! (<https://docs.pytorch.org/tutorials/beginner/basics/data_tutorial.html>): a CSV file of names and labels, and a folder
//! of images. `cargo run --features images --example custom_dataset` loads such a folder, which `support/pictures.rs` writes.

#[path = "support/pictures.rs"]
mod pictures;

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Parser;
use kiln::{data::DatasetExt, data::transforms::Image, data::transforms::ToTensor, prelude::*, vis::save_image_grid};

/// Loads a folder of images with a CSV file of their labels in batches, and draws nine of them.
#[derive(Parser)]
struct Args {
    /// Folder with `labels.csv` (a header, then `file_name,label` in each line) and the images; by default one is
    /// created from images of Fashion-MNIST
    #[arg(long)]
    data: Option<PathBuf>,
    /// Images per batch
    #[arg(long, default_value_t = 64)]
    batch_size: usize,
    /// The figure to write
    #[arg(long, default_value_os_t = std::env::temp_dir().join("custom_dataset.png"))]
    output: PathBuf,
}

struct CustomImageDataset {
    img_labels: Vec<(String, i64)>,
    img_dir: PathBuf,
}

impl CustomImageDataset {
    fn new(annotations_file: &Path, img_dir: &Path) -> csv::Result<CustomImageDataset> {
        let img_labels = csv::Reader::from_path(annotations_file)?.into_deserialize().collect::<Result<_, _>>()?;
        Ok(CustomImageDataset { img_labels, img_dir: img_dir.to_owned() })
    }
}

impl Dataset for CustomImageDataset {
    type Item = (Image, i64);

    fn len(&self) -> usize {
        self.img_labels.len()
    }

    fn get(&self, index: usize) -> kiln::Result<(Image, i64)> {
        self.check(index)?;
        let (name, label) = &self.img_labels[index];
        Ok((Image::open(self.img_dir.join(name))?, *label))
    }
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let made = tempfile::tempdir()?;
    let folder = match &args.data {
        Some(folder) => folder,
        None => {
            pictures::write(made.path())?;
            made.path()
        }
    };
    let annotations_file = folder.join("labels.csv");
    let training_data = CustomImageDataset::new(&annotations_file, folder)
        .with_context(|| annotations_file.display().to_string())?
        .transform(ToTensor);
    let train_dataloader =
        DataLoader::builder(training_data).batch_size(args.batch_size).shuffle(true).num_workers(2).build()?;
    for batch in &train_dataloader {
        let (features, labels) = batch?;
        println!("Feature batch shape: {}, labels batch shape: {}", features.shape(), labels.shape());
    }
    let (features, labels) = train_dataloader.iter().next().context("no images")??;
    let names: Vec<String> = labels.to_vec::<i64>()?.iter().map(|label| format!("Label: {label}")).collect();
    let shown = features.narrow(0, 0, 9.min(labels.numel()))?;
    save_image_grid(&shown, &names, 3, &args.output)?;
    println!("Drew {} to {}", shown.size(0)?, args.output.display());
    Ok(())
}

//! The custom dataset of PyTorch's data tutorial
//! (<https://docs.pytorch.org/tutorials/beginner/basics/data_tutorial.html>): a CSV file of names and labels, and a folder
//! of images. `cargo run --features images --example custom_dataset` loads such a folder, which `support/pictures.rs` writes.

#[path = "support/pictures.rs"]
mod pictures;

use std::path::{Path, PathBuf};

use anyhow::Context;
use kiln::{data::DatasetExt, data::transforms::Image, data::transforms::ToTensor, prelude::*, vis::save_image_grid};

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
    let folder = tempfile::tempdir()?;
    let annotations_file = pictures::write(folder.path())?;
    let training_data = CustomImageDataset::new(&annotations_file, folder.path())?.transform(ToTensor);
    let train_dataloader = DataLoader::builder(training_data).batch_size(64).shuffle(true).num_workers(2).build()?;
    for batch in &train_dataloader {
        let (features, labels) = batch?;
        println!("Feature batch shape: {}, labels batch shape: {}", features.shape(), labels.shape());
    }
    let (features, labels) = train_dataloader.iter().next().context("no images")??;
    let names: Vec<String> = labels.to_vec::<i64>()?.iter().map(|label| format!("Label: {label}")).collect();
    let figure = std::env::temp_dir().join("custom_dataset.png");
    save_image_grid(&features.narrow(0, 0, 9)?, &names, 3, &figure)?;
    println!("Drew nine to {}", figure.display());
    Ok(())
}

//! The custom dataset of PyTorch's data tutorial
//! (<https://docs.pytorch.org/tutorials/beginner/basics/data_tutorial.html>): a CSV file of names and labels, and a folder
//! of images. `cargo run --example custom_dataset` writes such a folder from Fashion-MNIST, and loads it.

use std::path::{Path, PathBuf};

use anyhow::Result;
use kiln::{
    data::{
        DatasetExt, FashionMNIST,
        transforms::{Image, ToImage, ToTensor, Transform},
    },
    prelude::*,
    vis::save_image_grid,
};

struct CustomImageDataset {
    img_labels: Vec<(String, i64)>,
    img_dir: PathBuf,
}

impl CustomImageDataset {
    fn new(annotations_file: impl AsRef<Path>, img_dir: impl Into<PathBuf>) -> Result<CustomImageDataset> {
        let rows = csv::Reader::from_path(annotations_file)?.into_deserialize();
        Ok(CustomImageDataset { img_labels: rows.collect::<Result<_, _>>()?, img_dir: img_dir.into() })
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

fn main() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let annotations_file = folder.path().join("labels.csv");
    write_images(folder.path(), &annotations_file)?;

    let training_data = CustomImageDataset::new(annotations_file, folder.path())?.transform(ToTensor);
    let train_dataloader = DataLoader::builder(training_data).batch_size(64).shuffle(true).num_workers(2).build()?;
    for (number, batch) in train_dataloader.iter().enumerate() {
        let (features, labels) = batch?;
        println!("Feature batch shape: {}, labels batch shape: {}", features.shape(), labels.shape());
        if number == 0 {
            let names: Vec<String> = labels.to_vec::<i64>()?.iter().map(|label| format!("Label: {label}")).collect();
            let figure = std::env::temp_dir().join("custom_dataset.png");
            save_image_grid(&features.narrow(0, 0, 9)?, &names, 3, &figure)?;
            println!("Drew the first nine to {}", figure.display());
        }
    }
    Ok(())
}

/// Writes images as PNG files, and a CSV file with a line for each.
fn write_images(folder: &Path, annotations_file: &Path) -> Result<()> {
    let data = FashionMNIST::test().load()?;
    let mut annotations = csv::Writer::from_path(annotations_file)?;
    annotations.write_record(["file_name", "label"])?;
    for index in 0..200.min(data.len()) {
        let (image, label) = data.get(index)?;
        let name = format!("image_{index}.png");
        ToImage.apply(image)?.save(folder.join(&name))?;
        annotations.serialize((name, label))?;
    }
    Ok(annotations.flush()?)
}

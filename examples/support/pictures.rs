//! Writes a folder of images and a CSV file about them, as in the tutorial.

use std::path::Path;

use anyhow::Result;
use kiln::{
    data::{
        FashionMNIST,
        transforms::{ToImage, Transform},
    },
    prelude::*,
};

/// Writes images of Fashion-MNIST as PNG files to `folder`, and `labels.csv` with a line for each.
pub fn write(folder: &Path) -> Result<()> {
    let data = FashionMNIST::test().load()?;
    let mut annotations = csv::Writer::from_path(folder.join("labels.csv"))?;
    annotations.write_record(["file_name", "label"])?;
    for index in 0..200.min(data.len()) {
        let (image, label) = data.get(index)?;
        let name = format!("image_{index}.png");
        ToImage.apply(image)?.save(folder.join(&name))?;
        annotations.serialize((name, label))?;
    }
    annotations.flush()?;
    Ok(())
}

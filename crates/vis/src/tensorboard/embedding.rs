//! Points for TensorBoard's projector: tables of values and labels, a sheet of images, and the list of them.

use std::{
    fmt::Write as _,
    fs::{self, OpenOptions},
    io::Write as _,
    path::Path,
};

use kiln_data::transforms::{ToImage, Transform};
use kiln_tensor::{DType, Error, Result, Tensor, no_grad};

const OP: &str = "add_embedding";

/// Writes the points and what belongs to them, and adds them to the list.
pub(super) fn write(
    folder: &Path,
    tag: &str,
    points: &Tensor,
    labels: Option<&[&str]>,
    images: Option<&Tensor>,
    step: i64,
) -> Result<()> {
    let &[n, features] = points.dims() else { return Err(Error::shape(OP, "points [N, features]", points.shape())) };
    let values = points.detach().to_dtype(DType::F64)?.to_vec::<f64>()?;
    let label_table = labels.map(|labels| table_of_labels(labels, n)).transpose()?;
    let sheet = images.map(|images| sheet_of(images, n)).transpose()?;

    // Relative to the folder, with slashes on every system.
    let inside = format!("{step:05}/{}", file_name(tag));
    let own = folder.join(&inside);
    fs::create_dir_all(&own).map_err(|error| Error::io(&own, error))?;
    let save = |name: &str, bytes: &[u8]| {
        let path = own.join(name);
        fs::write(&path, bytes).map_err(|error| Error::io(&path, error))
    };
    let mut table = String::new();
    for row in values.chunks(features.max(1)).take(n) {
        let row: Vec<String> = row.iter().map(ToString::to_string).collect();
        table += &row.join("\t");
        table.push('\n');
    }
    save("tensors.tsv", table.as_bytes())?;
    let mut entry = format!("embeddings {{\n  tensor_name: {:?}\n", format!("{tag}:{step:05}"));
    // Writing to a string cannot fail.
    let _ = writeln!(entry, "  tensor_path: {:?}", format!("{inside}/tensors.tsv"));
    if let Some(table) = label_table {
        save("metadata.tsv", table.as_bytes())?;
        let _ = writeln!(entry, "  metadata_path: {:?}", format!("{inside}/metadata.tsv"));
    }
    if let Some((png, [height, width])) = sheet {
        save("sprite.png", &png)?;
        let _ = writeln!(entry, "  sprite {{\n    image_path: {:?}", format!("{inside}/sprite.png"));
        let _ = writeln!(entry, "    single_image_dim: {width}\n    single_image_dim: {height}\n  }}");
    }
    entry += "}\n";
    let list = folder.join("projector_config.pbtxt");
    let opened = OpenOptions::new().create(true).append(true).open(&list);
    opened.and_then(|mut file| file.write_all(entry.as_bytes())).map_err(|error| Error::io(&list, error))
}

/// A tag as the name of a folder: other characters than letters, digits and a few others by their codes.
fn file_name(tag: &str) -> String {
    let mut out = String::new();
    for byte in tag.bytes() {
        if byte.is_ascii_alphanumeric() || b"_-".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    if out.is_empty() { "default".to_owned() } else { out }
}

fn table_of_labels(labels: &[&str], n: usize) -> Result<String> {
    if labels.len() != n {
        return Err(Error::argument(OP, format!("{} labels for {n} points", labels.len())));
    }
    if let Some(label) = labels.iter().find(|label| label.contains(['\t', '\n', '\r'])) {
        return Err(Error::argument(OP, format!("the label {label:?} has a tab or a line break")));
    }
    Ok(labels.iter().map(|label| format!("{label}\n")).collect())
}

/// A PNG of all images in rows, as many as columns, and the extents of one.
fn sheet_of(images: &Tensor, n: usize) -> Result<(Vec<u8>, [usize; 2])> {
    let &[count, channels, height, width] = images.dims() else {
        return Err(Error::shape(OP, "images [N, C, H, W]", images.shape()));
    };
    if count != n || n == 0 {
        return Err(Error::argument(
            OP,
            format!("{count} images for {n} points; there must be one for each, and at least one"),
        ));
    }
    let side = (1..=n).find(|side| side * side >= n).unwrap_or(n);
    let png = no_grad(|| {
        let blank = Tensor::zeros([side * side - n, channels, height, width], images.options())?;
        let all = Tensor::cat(&[images, &blank], 0)?.reshape([side, side, channels, height, width])?;
        let sheet = all.permute([2, 0, 3, 1, 4])?.reshape([channels, side * height, side * width])?;
        ToImage.apply(sheet)?.encode_png()
    })?;
    Ok((png, [height, width]))
}

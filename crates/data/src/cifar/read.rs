//! Readers of CIFAR's two batch formats: Python's pickles and binary records.

use std::{fs, path::Path};

use kiln_pickle::NUMPY;
use kiln_tensor::{Error, Result};

use super::kind::{CifarKind, PIXELS};
use crate::memory::{out_of_memory, read_file, reserve};

/// The largest batch that is accepted: five times the largest of the family, CIFAR-100's training images.
const MAX_BYTES: u64 = 5 * 50_000 * (PIXELS as u64 + 100);

/// Pixels and labels of all files, concatenated.
pub(super) fn batches<K: CifarKind>(folder: &Path, files: &[&str], python: bool) -> Result<(Vec<u8>, Vec<u8>)> {
    let (mut images, mut labels) = (Vec::new(), Vec::new());
    for file in files {
        let path = folder.join(file);
        let len = fs::metadata(&path).map_err(|error| Error::io(&path, error))?.len();
        if len > MAX_BYTES {
            return Err(Error::file(&path, format!("{len} bytes are too many for a batch of {}", K::NAME)));
        }
        let bytes = read_file(&path)?;
        let start = labels.len();
        let part = if python { pickled::<K> } else { binary::<K> };
        part(&path, &bytes, &mut images, &mut labels)?;
        let classes = K::CLASSES.len();
        let wrong = labels[start..].iter().enumerate().find(|&(_, &label)| usize::from(label) >= classes);
        if let Some((index, label)) = wrong {
            let message = format!("label {label} of image {index}; there are {classes} classes, from 0");
            return Err(Error::file(&path, message));
        }
    }
    Ok((images, labels))
}

/// Reads records of one or two labels and the pixels.
fn binary<K: CifarKind>(path: &Path, bytes: &[u8], images: &mut Vec<u8>, labels: &mut Vec<u8>) -> Result<()> {
    let record = K::LABEL_BYTES + PIXELS;
    if !bytes.len().is_multiple_of(record) {
        let message = format!(
            "{} bytes are not a whole number of {record}-byte records: the file is cut short, or not a batch",
            bytes.len()
        );
        return Err(Error::file(path, message));
    }
    let count = bytes.len() / record;
    reserve(images, count * PIXELS, path)?;
    reserve(labels, count, path)?;
    for record in bytes.chunks_exact(record) {
        labels.push(record[K::LABEL_BYTES - 1]);
        images.extend_from_slice(&record[K::LABEL_BYTES..]);
    }
    Ok(())
}

/// Reads a dict with a list of labels and an array of pixels.
fn pickled<K: CifarKind>(path: &Path, bytes: &[u8], images: &mut Vec<u8>, labels: &mut Vec<u8>) -> Result<()> {
    let wrong = |message: String| Error::file(path, message);
    let allowed = |module: &str, name: &str| NUMPY.contains(&(module, name));
    let pickle = kiln_pickle::load(bytes, &allowed).map_err(|error| match error {
        kiln_pickle::Error::OutOfMemory { bytes } => out_of_memory(bytes as u64, path),
        error => wrong(error.to_string()),
    })?;
    let root = pickle.root();
    let list = root.get(K::LABELS).and_then(|list| list.items());
    let list = list.ok_or_else(|| wrong(format!("it has no list \"{}\"", K::LABELS)))?;
    let n = list.len();
    reserve(labels, n, path)?;
    for label in list {
        let label = label.int().ok_or_else(|| wrong("a label is not a number".into()))?;
        let outside = |_| wrong(format!("label {label}; there are {} classes", K::CLASSES.len()));
        labels.push(u8::try_from(label).map_err(outside)?);
    }
    let array = root.get("data").and_then(|array| array.numpy());
    let array = array.ok_or_else(|| wrong("it has no array \"data\"".into()))?;
    if array.dtype != "u1" || array.shape != [n, PIXELS] || array.fortran {
        let (dtype, shape) = (array.dtype, array.shape);
        let message =
            format!("its \"data\" is {dtype} of shape {shape:?}, expected row-major u1 of shape [{n}, {PIXELS}]");
        return Err(wrong(message));
    }
    reserve(images, array.bytes.len(), path)?;
    images.extend_from_slice(&array.bytes);
    Ok(())
}

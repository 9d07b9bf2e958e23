//! Recognizes the format of a file by its first bytes, and says what to do about files that hold no weights or that
//! Kiln does not read.

use kiln_tensor::{Error, Result};

use crate::{header::has_header, source::Source};

/// The formats that [`load`](crate::load) reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Safetensors,
    /// The JSON index of several safetensors files.
    Index,
    /// `torch.save` since PyTorch 1.6: a zip archive. The contents distinguish it from other zip archives.
    Zip,
    /// `torch.save` before PyTorch 1.6: pickles, then the values.
    Legacy,
}

/// How many bytes of a file are examined.
const START: usize = 512;

/// First bytes of files that are often taken for weights: what each is, and what to do about it.
const OTHERS: &[(&[u8], &str)] = &[
    (b"version https://git-lfs", "a Git LFS pointer, whose file was not fetched (`git lfs pull`)"),
    (b"\x1f\x8b", "a gzip-compressed file; decompress it first"),
    (b"BZh", "a bzip2-compressed file; decompress it first"),
    (b"\xfd7zXZ\0", "an xz-compressed file; decompress it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd-compressed file; decompress it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive; unpack it first"),
    (
        b"\x93NUMPY",
        "a NumPy array (.npy); save tensors with names: safetensors.numpy.save_file({\"name\": array}, path)",
    ),
    (b"GGUF", "a GGUF file"),
    (b"\x89HDF", "an HDF5 file, as Keras writes it"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"%PDF", "a PDF document"),
];

impl Format {
    /// The format of a file; if it has another one, an error that names it.
    pub fn of(source: &Source) -> Result<Format> {
        let start = source.prefix(START)?;
        if start.starts_with(b"PK\x03\x04") || start.starts_with(b"PK\x05\x06") {
            return Ok(Format::Zip);
        }
        if is_legacy(&start) {
            return Ok(Format::Legacy);
        }
        if has_header(&start, source.len()) {
            return Ok(Format::Safetensors);
        }
        let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&start).trim_ascii_start();
        if text.first() == Some(&b'{') {
            return Ok(Format::Index);
        }
        match other(&start, text) {
            Some(what) => {
                let known = "a safetensors file, the index of several, or a file of torch.save";
                Err(Error::file(source.path(), format!("it looks like {what}, not {known}")))
            }
            // Reading it as a safetensors file says what is wrong with it.
            None => Ok(Format::Safetensors),
        }
    }
}

fn other(start: &[u8], text: &[u8]) -> Option<&'static str> {
    if let Some((_, what)) = OTHERS.iter().find(|(magic, _)| start.starts_with(magic)) {
        return Some(what);
    }
    if start.get(257..262) == Some(b"ustar") {
        return Some("a tar archive; unpack it, or save it anew with PyTorch if a PyTorch before 0.1.10 wrote it");
    }
    let tag = |tag: &[u8]| text.get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag));
    if [&b"<!doctype"[..], b"<html", b"<head", b"<?xml", b"<error"].into_iter().any(tag) {
        return Some("a web page, as servers send instead of a file (a login page, or a wrong address)");
    }
    // The version of the format, then the name of the program that wrote it.
    if matches!(start, [0x08, 1..=30, 0x12, ..]) {
        return Some("an ONNX model");
    }
    // Python pickles of protocol 2 and later; older ones are text.
    if matches!(start, [0x80, 2..=5, ..]) {
        return Some("a Python pickle; save tensors with torch.save(state_dict, path)");
    }
    // A safetensors file starts with a header length whose last bytes are zero, so it never starts like text.
    let is_text = |byte: &u8| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~' | 0x80..);
    let is_utf8 = std::str::from_utf8(start).map_or_else(|e| e.error_len().is_none(), |_| true);
    (start.len() >= 8 && is_utf8 && start.iter().all(is_text)).then_some("text")
}

/// Whether a file begins like the older format of `torch.save`: with the pickle of its magic number, in any
/// protocol.
fn is_legacy(start: &[u8]) -> bool {
    const MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
    const IN_DIGITS: &[u8] = b"L119547037146038801333356L";
    start.starts_with(IN_DIGITS) || start[..start.len().min(32)].windows(MAGIC.len()).any(|bytes| bytes == MAGIC)
}

//! Reading image files, within [`ImageLimits`].

use std::path::Path;

use kiln_derive::located;
use kiln_tensor::{Error, Result};

#[cfg(feature = "images")]
use super::decode::decode;
use super::{
    Image,
    limits::{Failure, ImageLimits},
};
use crate::memory::{out_of_memory, read_file};

#[located(site)]
impl Image {
    /// Reads an image file: JPEG, PNG, BMP, GIF (its first frame), TIFF, WebP or PNM (PBM, PGM, PPM, PAM). The format
    /// is recognized by the contents, not by the name.
    ///
    /// Gray images stay gray; everything else becomes RGB as in PIL's `convert("RGB")`: palettes are looked up, alpha
    /// is dropped, CMYK is converted, and 16-bit colors are reduced to their upper byte. Gray values of 16 bits, 32
    /// bits and floats are **clipped** to 0 to 255, as in PIL: scale such files yourself. The orientation tag of a
    /// camera is not applied. Bytes of a JPEG may differ from PIL's by a few, because decoders round differently.
    ///
    /// # Errors
    /// If the file cannot be read, is not an image, is truncated, damaged, or larger than [`ImageLimits::default`]
    /// allows; the error names it. [`OutOfMemory`](kiln_tensor::ErrorKind::OutOfMemory) if the machine does not have
    /// the memory.
    pub fn open(path: impl AsRef<Path>) -> Result<Image> {
        Image::open_with(path, ImageLimits::default())
    }

    /// [`open`](Image::open) with other bounds on the size of the image.
    ///
    /// # Errors
    /// Those of [`open`](Image::open).
    pub fn open_with(path: impl AsRef<Path>, limits: ImageLimits) -> Result<Image> {
        let path = path.as_ref();
        let bytes = read_file(path)?;
        decode(&bytes, limits).map_err(|failure| match failure {
            Failure::File(message) => Error::file(path, message),
            Failure::Memory(bytes) => out_of_memory(bytes, path),
        })
    }

    /// As [`open_with`](Image::open_with), with three channels.
    #[cfg(feature = "images")]
    pub(crate) fn open_rgb(path: &Path, limits: ImageLimits) -> Result<Image> {
        let image = Image::open_with(path, limits)?;
        let mut pixels = Vec::new();
        if image.channels() == 1 {
            // Reserved here, since `to_rgb` cannot report that memory has run out.
            crate::memory::reserve(&mut pixels, 3 * image.pixels().len(), path)?;
        }
        Ok(image.into_rgb(pixels))
    }

    /// As [`open`](Image::open), from the bytes of a file.
    ///
    /// # Errors
    /// Those of [`open`](Image::open).
    pub fn decode(bytes: &[u8]) -> Result<Image> {
        Image::decode_with(bytes, ImageLimits::default())
    }

    /// [`decode`](Image::decode) with other bounds on the size of the image.
    ///
    /// # Errors
    /// Those of [`open`](Image::open).
    pub fn decode_with(bytes: &[u8], limits: ImageLimits) -> Result<Image> {
        decode(bytes, limits).map_err(|failure| match failure {
            Failure::File(message) => Error::argument("Image::decode", message),
            Failure::Memory(bytes) => out_of_memory(bytes, Path::new("an image in memory")),
        })
    }
}

#[cfg(not(feature = "images"))]
fn decode(_: &[u8], _: ImageLimits) -> Result<Image, Failure> {
    Err("images can only be decoded if Kiln is built with its feature `images`".into())
}

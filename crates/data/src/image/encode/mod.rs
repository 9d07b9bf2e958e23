//! Writes images to files, in the format of the file's extension.

#[cfg(feature = "images")]
mod jpeg;
mod png;

use std::path::Path;

use kiln_derive::located;
use kiln_tensor::{Error, Result};

use super::Image;

#[located(site)]
impl Image {
    /// Writes the image to a file, in the format of the file's extension: `png`, and with the feature `images` also
    /// `jpg`, `bmp`, `gif`, `tif`, `webp`, `ppm`, `pgm`. JPEG (quality 75) is lossy, GIF has 256 colors; the others
    /// preserve every pixel.
    ///
    /// # Errors
    /// If the image has no pixels or is too large for the format, the extension is unknown, or the file cannot be
    /// written; the error names it.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_lowercase();
        let bytes = self.encoded(&ending).map_err(|message| Error::file(path, message))?;
        std::fs::write(path, bytes).map_err(|error| Error::io(path, error))
    }

    /// The bytes of a PNG file.
    ///
    /// # Errors
    /// If the image has no pixels.
    pub fn encode_png(&self) -> Result<Vec<u8>> {
        png::encode(self).map_err(|message| Error::argument("Image::encode_png", message))
    }

    #[cfg(not(feature = "images"))]
    fn encoded(&self, ending: &str) -> Result<Vec<u8>, String> {
        match ending {
            "png" => png::encode(self),
            _ => Err("files other than .png can only be written if Kiln is built with its feature `images`".to_owned()),
        }
    }

    #[cfg(feature = "images")]
    fn encoded(&self, ending: &str) -> Result<Vec<u8>, String> {
        if self.pixels.is_empty() {
            return Err(format!("{self:?} has no pixels"));
        }
        match ending {
            "png" => png::encode(self),
            "jpg" | "jpeg" => jpeg::encode(self),
            "bmp" => others::bmp(self),
            "gif" => others::gif(self),
            "tif" | "tiff" => others::tiff(self),
            "webp" => others::webp(self),
            "ppm" | "pgm" | "pnm" => Ok(others::pnm(self)),
            _ => Err(format!(
                "cannot write images as {ending:?}; the formats are png, jpg, bmp, gif, tif, webp, ppm and pgm"
            )),
        }
    }
}

/// Simple formats, and formats that their decoders' crates also write.
#[cfg(feature = "images")]
mod others {
    use std::{borrow::Cow, io::Cursor};

    use super::Image;

    /// 24 bits per pixel, or 8 with a gray palette; rows bottom-up.
    pub fn bmp(image: &Image) -> Result<Vec<u8>, String> {
        let too_large = || format!("{image:?} is too large for a BMP file");
        let stride = (image.width() * image.channels()).next_multiple_of(4);
        let palette = if image.channels() == 1 { 1024 } else { 0 };
        let offset = 54 + palette;
        let len = u32::try_from(stride as u64 * image.height() as u64 + offset as u64).map_err(|_| too_large())?;
        let side = |n: usize| i32::try_from(n).map_err(|_| too_large());
        let mut out = b"BM".to_vec();
        out.extend(len.to_le_bytes());
        out.extend([0; 4]);
        out.extend((offset as u32).to_le_bytes());
        out.extend(40u32.to_le_bytes());
        out.extend(side(image.width())?.to_le_bytes());
        out.extend(side(image.height())?.to_le_bytes());
        out.extend([1, 0, 8 * image.channels() as u8, 0]);
        out.extend([0; 24]);
        (0..palette / 4).for_each(|gray| out.extend([gray as u8, gray as u8, gray as u8, 0]));
        for y in (0..image.height()).rev() {
            let start = out.len();
            for pixel in image.row(y).chunks_exact(image.channels()) {
                out.extend(pixel.iter().rev());
            }
            out.resize(start + stride, 0);
        }
        Ok(out)
    }

    pub fn gif(image: &Image) -> Result<Vec<u8>, String> {
        let side = |n: usize| u16::try_from(n).map_err(|_| format!("{image:?} is too large for a GIF file"));
        let (width, height) = (side(image.width())?, side(image.height())?);
        // Gray images use the global palette: Pillow reads a frame's own palette as black if it is all grays in order.
        let (mut frame, palette) = if image.channels() == 3 {
            (::gif::Frame::from_rgb(width, height, image.pixels()), Vec::new())
        } else {
            let grays: Vec<u8> = (0..=255).flat_map(|gray| [gray; 3]).collect();
            (::gif::Frame::from_indexed_pixels(width, height, image.pixels(), None), grays)
        };
        frame.make_lzw_pre_encoded();
        let mut out = Vec::new();
        let failed = |error: ::gif::EncodingError| error.to_string();
        let mut encoder = ::gif::Encoder::new(&mut out, width, height, &palette).map_err(failed)?;
        encoder.write_lzw_pre_encoded_frame(&frame).map_err(failed)?;
        drop(encoder);
        Ok(out)
    }

    pub fn tiff(image: &Image) -> Result<Vec<u8>, String> {
        use ::tiff::encoder::{TiffEncoder, colortype};
        let side = |n: usize| u32::try_from(n).map_err(|_| format!("{image:?} is too large for a TIFF file"));
        let (width, height) = (side(image.width())?, side(image.height())?);
        let mut out = Cursor::new(Vec::new());
        let failed = |error: ::tiff::TiffError| error.to_string();
        let mut encoder = TiffEncoder::new(&mut out).map_err(failed)?;
        if image.channels() == 3 {
            encoder.write_image::<colortype::RGB8>(width, height, image.pixels()).map_err(failed)?;
        } else {
            encoder.write_image::<colortype::Gray8>(width, height, image.pixels()).map_err(failed)?;
        }
        Ok(out.into_inner())
    }

    /// Lossless.
    pub fn webp(image: &Image) -> Result<Vec<u8>, String> {
        use image_webp::{ColorType, WebPEncoder};
        let side = |n: usize| u32::try_from(n).map_err(|_| format!("{image:?} is too large for a WebP file"));
        let (width, height) = (side(image.width())?, side(image.height())?);
        let color = if image.channels() == 3 { ColorType::Rgb8 } else { ColorType::L8 };
        let mut out = Vec::new();
        WebPEncoder::new(&mut out).encode(image.pixels(), width, height, color).map_err(|error| error.to_string())?;
        Ok(out)
    }

    /// Binary PPM or PGM.
    pub fn pnm(image: &Image) -> Vec<u8> {
        let kind = if image.channels() == 3 { "P6" } else { "P5" };
        let header = format!("{kind}\n{} {}\n255\n", image.width(), image.height());
        [Cow::from(header.into_bytes()), Cow::from(image.pixels())].concat()
    }
}

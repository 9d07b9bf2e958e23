//! Pictures in memory, and how they are read from files.

use std::{fmt, path::Path};

use kiln_tensor::{Error, Result};

use super::png;

/// A picture of bytes: `height` rows of `width` pixels of 1 (grey) or 3 (red, green, blue) channels, what PIL calls the
/// modes `L` and `RGB`.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    height: usize,
    width: usize,
    channels: usize,
    pixels: Vec<u8>,
}

impl Image {
    /// A picture of these pixels, row by row, the channels of a pixel side by side.
    ///
    /// # Errors
    /// There are not 1 or 3 channels, or not `height * width * channels` bytes.
    pub fn new(height: usize, width: usize, channels: usize, pixels: Vec<u8>) -> Result<Image> {
        let wanted = height.checked_mul(width).and_then(|area| area.checked_mul(channels));
        if !matches!(channels, 1 | 3) || wanted != Some(pixels.len()) {
            let message = format!("{} bytes are no picture of {height}×{width} with {channels} channels", pixels.len());
            return Err(Error::argument("Image::new", message));
        }
        Ok(Image { height, width, channels, pixels })
    }

    /// Reads a picture file: JPEG, PNG, BMP, GIF (its first frame), TIFF or WebP, told by its contents. Grey pictures stay
    /// grey, an alpha channel is dropped, 16-bit samples are scaled to 8. As in PIL, the orientation that a camera notes
    /// is not applied. Bytes from a JPEG may differ from PIL's by 4 at most: decoders round differently.
    ///
    /// # Errors
    /// The file cannot be read, or is no whole picture; the error names it. Kiln was built without the feature `images`.
    pub fn open(path: impl AsRef<Path>) -> Result<Image> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|error| Error::file(path, error.to_string()))?;
        Image::decoded(&bytes).map_err(|message| Error::file(path, message))
    }

    /// As [`open`](Image::open), from the bytes of a file.
    ///
    /// # Errors
    /// They are no whole picture. Kiln was built without the feature `images`.
    pub fn decode(bytes: &[u8]) -> Result<Image> {
        Image::decoded(bytes).map_err(|message| Error::argument("Image::decode", message))
    }

    #[cfg(not(feature = "images"))]
    fn decoded(_: &[u8]) -> std::result::Result<Image, String> {
        Err("images can only be decoded if Kiln is built with its feature `images`".to_owned())
    }

    #[cfg(feature = "images")]
    fn decoded(bytes: &[u8]) -> std::result::Result<Image, String> {
        let picture = ::image::load_from_memory(bytes).map_err(|error| error.to_string())?;
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        let (channels, pixels) = if picture.color().has_color() {
            (3, picture.into_rgb8().into_raw())
        } else {
            (1, picture.into_luma8().into_raw())
        };
        Ok(Image { height, width, channels, pixels })
    }

    /// Writes the picture to a file, in the format that the file's ending names: `png`, and with the feature `images` also
    /// `jpg`, `bmp`, `tif`, `webp` ….
    ///
    /// # Errors
    /// The picture has no pixels, the ending is not known, or the file cannot be written; the error names it.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("png")) {
            let bytes = png::encode(self).map_err(|message| Error::file(path, message))?;
            return std::fs::write(path, bytes).map_err(|error| Error::io(path, error));
        }
        self.save_encoded(path).map_err(|message| Error::file(path, message))
    }

    #[cfg(not(feature = "images"))]
    fn save_encoded(&self, _: &Path) -> std::result::Result<(), String> {
        Err("files other than .png can only be written if Kiln is built with its feature `images`".to_owned())
    }

    #[cfg(feature = "images")]
    fn save_encoded(&self, path: &Path) -> std::result::Result<(), String> {
        let color = if self.channels == 3 { ::image::ColorType::Rgb8 } else { ::image::ColorType::L8 };
        let side = |n: usize| u32::try_from(n).map_err(|_| format!("{self:?} has too long a side"));
        ::image::save_buffer(path, &self.pixels, side(self.width)?, side(self.height)?, color)
            .map_err(|error| error.to_string())
    }

    /// The bytes of a PNG file.
    ///
    /// # Errors
    /// The picture has no pixels.
    pub fn encode_png(&self) -> Result<Vec<u8>> {
        png::encode(self).map_err(|message| Error::argument("Image::encode_png", message))
    }

    /// Rows.
    #[must_use]
    pub fn height(&self) -> usize {
        self.height
    }

    /// Pixels of a row.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// 1 or 3.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The bytes, row by row.
    #[must_use]
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The bytes, without a copy.
    #[must_use]
    pub fn into_pixels(self) -> Vec<u8> {
        self.pixels
    }

    /// With three equal channels, if it is grey.
    #[must_use]
    pub fn to_rgb(self) -> Image {
        if self.channels == 3 {
            return self;
        }
        let pixels = self.pixels.iter().flat_map(|&grey| [grey; 3]).collect();
        Image { channels: 3, pixels, ..self }
    }

    /// The bytes of row `y`.
    pub(super) fn row(&self, y: usize) -> &[u8] {
        let bytes = self.width * self.channels;
        &self.pixels[y * bytes..][..bytes]
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image({}×{}, {} channels)", self.height, self.width, self.channels)
    }
}

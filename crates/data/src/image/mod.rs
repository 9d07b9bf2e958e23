//! 8-bit gray or RGB images in memory, and their files.

#[cfg(feature = "images")]
mod decode;
mod encode;
mod limits;
mod open;

use std::fmt;

use kiln_derive::located;
use kiln_tensor::{Error, Result};
pub use limits::ImageLimits;

/// An 8-bit image: `height` rows of `width` pixels with 1 channel (gray) or 3 (red, green, blue). These are the modes `L`
/// and `RGB` of PIL.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    height: usize,
    width: usize,
    channels: usize,
    pixels: Vec<u8>,
}

#[located(site)]
impl Image {
    /// An image with these pixels, row by row, with the channels of a pixel adjacent.
    ///
    /// # Errors
    /// If `channels` is not 1 or 3, or there are not `height * width * channels` bytes.
    pub fn new(height: usize, width: usize, channels: usize, pixels: Vec<u8>) -> Result<Image> {
        let wanted = height.checked_mul(width).and_then(|area| area.checked_mul(channels));
        if !matches!(channels, 1 | 3) || wanted != Some(pixels.len()) {
            let message =
                format!("{} bytes do not make a {height}×{width} image with {channels} channels", pixels.len());
            return Err(Error::argument("Image::new", message));
        }
        Ok(Image { height, width, channels, pixels })
    }

    /// Number of rows.
    #[must_use]
    pub fn height(&self) -> usize {
        self.height
    }

    /// Number of pixels in a row.
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

    /// The image with three channels: a gray one gets three equal channels.
    #[must_use]
    pub fn to_rgb(self) -> Image {
        let channels = if self.channels == 1 { Vec::with_capacity(3 * self.pixels.len()) } else { Vec::new() };
        self.into_rgb(channels)
    }

    /// [`to_rgb`](Image::to_rgb) with an empty vector for the channels of a gray image.
    fn into_rgb(self, mut pixels: Vec<u8>) -> Image {
        if self.channels == 3 {
            return self;
        }
        self.pixels.iter().for_each(|&gray| pixels.extend([gray; 3]));
        Image { channels: 3, pixels, ..self }
    }

    /// The bytes of row `y`.
    pub(crate) fn row(&self, y: usize) -> &[u8] {
        let bytes = self.width * self.channels;
        &self.pixels[y * bytes..][..bytes]
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image({}×{}, {} channels)", self.height, self.width, self.channels)
    }
}

//! `CenterCrop`, `RandomCrop` and `Pad`.

use kiln_tensor::{Error, Result};

use super::{Transform, image_ops::ImageOps, pixel_ops::padded_extent};
use crate::random;

/// Crops the center of an image: torchvision's `CenterCrop`. A smaller image is padded with zeros first.
#[derive(Clone, Copy, Debug)]
pub struct CenterCrop {
    height: usize,
    width: usize,
}

impl CenterCrop {
    /// Crops `height` rows of `width` columns.
    #[must_use]
    pub fn new(height: usize, width: usize) -> CenterCrop {
        CenterCrop { height, width }
    }

    /// Crops equally many rows and columns.
    #[must_use]
    pub fn square(side: usize) -> CenterCrop {
        CenterCrop::new(side, side)
    }

    pub(super) fn size(&self) -> (usize, usize) {
        (self.height, self.width)
    }
}

impl<P: ImageOps> Transform<P> for CenterCrop {
    type Output = P;
    fn apply(&self, image: P) -> Result<P> {
        let (height, width) = image.extent()?;
        let (down, across) = (self.height.saturating_sub(height), self.width.saturating_sub(width));
        let margin = [across / 2, down / 2, across.div_ceil(2), down.div_ceil(2)];
        let image = if margin == [0; 4] { image } else { image.pad(margin, 0.0)? };
        let (height, width) = image.extent()?;
        image.crop(center_offset(height, self.height), center_offset(width, self.width), self.height, self.width)
    }
}

/// The start of the middle `part` of `all`. Halves are rounded to even, as in Python's `round`.
pub(super) fn center_offset(all: usize, part: usize) -> usize {
    ((all - part) as f64 / 2.0).round_ties_even() as usize
}

/// Adds margins of a constant value: torchvision's `Pad`.
#[derive(Clone, Copy, Debug)]
pub struct Pad {
    margin: [usize; 4],
    fill: f64,
}

impl Pad {
    /// Margins at the left, top, right and bottom.
    #[must_use]
    pub fn new(margin: [usize; 4]) -> Pad {
        Pad { margin, fill: 0.0 }
    }

    /// The value of the margin, 0 by default: 0 to 255 for images, the value itself for tensors.
    #[must_use]
    pub fn fill(self, fill: f64) -> Pad {
        Pad { fill, ..self }
    }

    pub(super) fn margin(&self) -> [usize; 4] {
        self.margin
    }

    pub(super) fn filling(&self) -> f64 {
        self.fill
    }
}

impl<P: ImageOps> Transform<P> for Pad {
    type Output = P;
    fn apply(&self, image: P) -> Result<P> {
        image.pad(self.margin, self.fill)
    }
}

/// Crops a region at a random position: torchvision's `RandomCrop`.
#[derive(Clone, Copy, Debug)]
pub struct RandomCrop {
    height: usize,
    width: usize,
    padding: Option<Pad>,
    pad_if_needed: bool,
}

impl RandomCrop {
    /// Crops `height` rows of `width` columns.
    #[must_use]
    pub fn new(height: usize, width: usize) -> RandomCrop {
        RandomCrop { height, width, padding: None, pad_if_needed: false }
    }

    /// Sets a margin that is added before cropping.
    #[must_use]
    pub fn padding(self, margin: Pad) -> RandomCrop {
        RandomCrop { padding: Some(margin), ..self }
    }

    /// Whether an image that is too small is padded with zeros, on both sides, rather than an error.
    #[must_use]
    pub fn pad_if_needed(self, pad: bool) -> RandomCrop {
        RandomCrop { pad_if_needed: pad, ..self }
    }
}

impl RandomCrop {
    /// The image with the margins that it gets before cropping.
    pub(super) fn padded<P: ImageOps>(&self, mut image: P) -> Result<P> {
        if let Some(padding) = &self.padding {
            image = padding.apply(image)?;
        }
        let needed = self.needed(image.extent()?);
        if needed == [0; 4] { Ok(image) } else { image.pad(needed, 0.0) }
    }

    /// The margins that an image of this height and width needs to be large enough.
    fn needed(&self, (height, width): (usize, usize)) -> [usize; 4] {
        let (down, across) = (self.height.saturating_sub(height), self.width.saturating_sub(width));
        if self.pad_if_needed { [across, down, across, down] } else { [0; 4] }
    }

    /// The height and width of [`padded`](RandomCrop::padded) images.
    pub(super) fn padded_extent(&self, extent: (usize, usize)) -> Result<(usize, usize)> {
        let extent = self.padding.map_or(Ok(extent), |padding| padded_extent(extent, padding.margin))?;
        padded_extent(extent, self.needed(extent))
    }

    /// Height and width of the region.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.height, self.width)
    }

    /// Draws the top and left offset of the region.
    pub(super) fn draw_offset(&self, (height, width): (usize, usize)) -> Result<(usize, usize)> {
        if self.height > height || self.width > width {
            let message = format!(
                "a crop of {}×{} does not fit into an image of {height}×{width}; `pad_if_needed` pads it",
                self.height, self.width
            );
            return Err(Error::argument("RandomCrop", message));
        }
        let mut stream = random::stream();
        Ok((stream.below(height - self.height + 1), stream.below(width - self.width + 1)))
    }
}

impl<P: ImageOps> Transform<P> for RandomCrop {
    type Output = P;
    fn apply(&self, image: P) -> Result<P> {
        let image = self.padded(image)?;
        let (top, left) = self.draw_offset(image.extent()?)?;
        image.crop(top, left, self.height, self.width)
    }
}

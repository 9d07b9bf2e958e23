//! Parts of a picture of a given size.

use kiln_tensor::{Error, Result};

use super::{Picture, Transform, picture::padded};
use crate::draw;

/// The middle of a picture; what is smaller gets a margin of zeros first, as in torchvision.
#[derive(Clone, Copy, Debug)]
pub struct CenterCrop {
    height: usize,
    width: usize,
}

impl CenterCrop {
    /// `height` rows of `width` columns.
    #[must_use]
    pub fn new(height: usize, width: usize) -> CenterCrop {
        CenterCrop { height, width }
    }

    /// As many rows as columns.
    #[must_use]
    pub fn square(side: usize) -> CenterCrop {
        CenterCrop::new(side, side)
    }

    pub(super) fn size(&self) -> (usize, usize) {
        (self.height, self.width)
    }
}

impl<P: Picture> Transform<P> for CenterCrop {
    type Output = P;
    fn apply(&self, picture: P) -> Result<P> {
        let (height, width) = picture.extent()?;
        let (down, across) = (self.height.saturating_sub(height), self.width.saturating_sub(width));
        let margin = [across / 2, down / 2, across.div_ceil(2), down.div_ceil(2)];
        let picture = if margin == [0; 4] { picture } else { picture.pad(margin, 0.0)? };
        let (height, width) = picture.extent()?;
        picture.crop(middle(height, self.height), middle(width, self.width), self.height, self.width)
    }
}

/// Where the middle `part` of `all` begins. Halves are rounded to even, as Python's `round` does.
pub(super) fn middle(all: usize, part: usize) -> usize {
    ((all - part) as f64 / 2.0).round_ties_even() as usize
}

/// A margin of one value around a picture.
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

    /// What the margin is filled with instead of 0: a byte's value for images, the value itself for tensors.
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

impl<P: Picture> Transform<P> for Pad {
    type Output = P;
    fn apply(&self, picture: P) -> Result<P> {
        picture.pad(self.margin, self.fill)
    }
}

/// A part at a random place.
#[derive(Clone, Copy, Debug)]
pub struct RandomCrop {
    height: usize,
    width: usize,
    padding: Option<Pad>,
    pad_if_needed: bool,
}

impl RandomCrop {
    /// `height` rows of `width` columns.
    #[must_use]
    pub fn new(height: usize, width: usize) -> RandomCrop {
        RandomCrop { height, width, padding: None, pad_if_needed: false }
    }

    /// A margin that the picture gets before.
    #[must_use]
    pub fn padding(self, margin: Pad) -> RandomCrop {
        RandomCrop { padding: Some(margin), ..self }
    }

    /// Whether a picture that is too small gets a margin of zeros, wide enough at both sides, instead of being an error.
    #[must_use]
    pub fn pad_if_needed(self, pad: bool) -> RandomCrop {
        RandomCrop { pad_if_needed: pad, ..self }
    }
}

impl RandomCrop {
    /// With its margins.
    pub(super) fn widened<P: Picture>(&self, mut picture: P) -> Result<P> {
        if let Some(padding) = &self.padding {
            picture = padding.apply(picture)?;
        }
        let needed = self.needed(picture.extent()?);
        if needed == [0; 4] { Ok(picture) } else { picture.pad(needed, 0.0) }
    }

    /// The margin that a picture of this extent needs to be large enough.
    fn needed(&self, (height, width): (usize, usize)) -> [usize; 4] {
        let (down, across) = (self.height.saturating_sub(height), self.width.saturating_sub(width));
        if self.pad_if_needed { [across, down, across, down] } else { [0; 4] }
    }

    /// The extent that a picture of this extent has [`widened`](RandomCrop::widened).
    pub(super) fn widened_extent(&self, extent: (usize, usize)) -> Result<(usize, usize)> {
        let extent = self.padding.map_or(Ok(extent), |padding| padded(extent, padding.margin))?;
        padded(extent, self.needed(extent))
    }

    /// Rows and columns of the part.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.height, self.width)
    }

    /// Draws where the part begins, from the top and from the left.
    pub(super) fn place(&self, (height, width): (usize, usize)) -> Result<(usize, usize)> {
        if self.height > height || self.width > width {
            let message = format!(
                "a part of {}×{} does not fit into a picture of {height}×{width}; `pad_if_needed` gives it a margin",
                self.height, self.width
            );
            return Err(Error::argument("RandomCrop", message));
        }
        let mut stream = draw::stream();
        Ok((stream.below(height - self.height + 1), stream.below(width - self.width + 1)))
    }
}

impl<P: Picture> Transform<P> for RandomCrop {
    type Output = P;
    fn apply(&self, picture: P) -> Result<P> {
        let picture = self.widened(picture)?;
        let (top, left) = self.place(picture.extent()?)?;
        picture.crop(top, left, self.height, self.width)
    }
}

//! `RandomResizedCrop`, the standard augmentation for training on ImageNet.

use kiln_derive::located;
use kiln_tensor::{Error, Result};

use super::{
    Image, Transform, crop::center_offset, erase::range, image_ops::ImageOps, interpolation::Interpolation,
    resize::Resize,
};
use crate::{epoch::RandomStream, random};

const OP: &str = "RandomResizedCrop";

/// Crops a region of random area and aspect ratio, and resizes it (Szegedy et al., "Going deeper with convolutions", 2015):
/// torchvision's `RandomResizedCrop`.
#[derive(Clone, Copy, Debug)]
pub struct RandomResizedCrop {
    resize: Resize,
    scale: (f64, f64),
    ratio: (f64, f64),
}

#[located(site)]
impl RandomResizedCrop {
    /// Resizes regions of 8 to 100 % of the area and an aspect ratio of 3/4 to 4/3 to `height` rows of `width` columns.
    #[must_use]
    pub fn new(height: usize, width: usize) -> RandomResizedCrop {
        RandomResizedCrop { resize: Resize::new(height, width), scale: (0.08, 1.0), ratio: (3.0 / 4.0, 4.0 / 3.0) }
    }

    /// The same with equally many rows and columns.
    #[must_use]
    pub fn square(side: usize) -> RandomResizedCrop {
        RandomResizedCrop::new(side, side)
    }

    /// The range of the region's area, as a fraction of the image.
    ///
    /// # Errors
    /// Unless `0 < low <= high`.
    pub fn scale(self, low: f64, high: f64) -> Result<RandomResizedCrop> {
        Ok(RandomResizedCrop { scale: range(OP, "scale", low, high)?, ..self })
    }

    /// The range of the aspect ratio, width divided by height.
    ///
    /// # Errors
    /// Unless `0 < low <= high`.
    pub fn ratio(self, low: f64, high: f64) -> Result<RandomResizedCrop> {
        Ok(RandomResizedCrop { ratio: range(OP, "ratio", low, high)?, ..self })
    }

    /// The interpolation; bilinear by default.
    #[must_use]
    pub fn interpolation(self, interpolation: Interpolation) -> RandomResizedCrop {
        RandomResizedCrop { resize: self.resize.interpolation(interpolation), ..self }
    }

    /// Draws the region's top, left, height and width. After ten attempts that do not fit, it is the largest central
    /// region of an allowed aspect ratio.
    fn draw(&self, (height, width): (usize, usize), stream: &mut RandomStream) -> (usize, usize, usize, usize) {
        let area = height as f64 * width as f64;
        for _ in 0..10 {
            let part = area * stream.uniform_between(self.scale.0, self.scale.1);
            // Uniform in the logarithm, so that 3/4 is as likely as 4/3.
            let aspect = stream.uniform_between(self.ratio.0.ln(), self.ratio.1.ln()).exp();
            let columns = (part * aspect).sqrt().round_ties_even() as usize;
            let rows = (part / aspect).sqrt().round_ties_even() as usize;
            if 0 < columns && columns <= width && 0 < rows && rows <= height {
                return (stream.below(height - rows + 1), stream.below(width - columns + 1), rows, columns);
            }
        }
        let aspect = width as f64 / height as f64;
        let (rows, columns) = if aspect < self.ratio.0 {
            ((width as f64 / self.ratio.0).round_ties_even() as usize, width)
        } else if aspect > self.ratio.1 {
            (height, (height as f64 * self.ratio.1).round_ties_even() as usize)
        } else {
            (height, width)
        };
        let (rows, columns) = (rows.clamp(1, height), columns.clamp(1, width));
        (center_offset(height, rows), center_offset(width, columns), rows, columns)
    }
}

impl Transform<Image> for RandomResizedCrop {
    type Output = Image;
    fn apply(&self, image: Image) -> Result<Image> {
        let size = image.extent()?;
        if size.0 == 0 || size.1 == 0 {
            return Err(Error::argument(OP, format!("{image:?} has no pixels")));
        }
        let (top, left, rows, columns) = self.draw(size, &mut random::stream());
        // Cropped first, so that the filter does not read pixels outside the region.
        let image = image.crop(top, left, rows, columns)?;
        self.resize.apply(image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epoch::Epoch;

    #[test]
    fn parts_are_inside_and_spread_as_asked() {
        let crop = RandomResizedCrop::square(4).scale(0.2, 0.8).unwrap().ratio(0.5, 2.0).unwrap();
        let mut stream = Epoch::new(3, 0).stream(1 << 40);
        let (mut area, mut wide) = (0.0, 0);
        for _ in 0..4000 {
            let (top, left, rows, columns) = crop.draw((300, 400), &mut stream);
            assert!(top + rows <= 300 && left + columns <= 400);
            let (share, aspect) = ((rows * columns) as f64 / 120_000.0, columns as f64 / rows as f64);
            assert!((0.19..0.81).contains(&share) && (0.48..2.05).contains(&aspect), "{share} {aspect}");
            area += share / 4000.0;
            wide += usize::from(aspect > 1.0);
        }
        // Attempts that do not fit are rare here; they are large regions of extreme aspect ratio.
        assert!((0.44..0.51).contains(&area), "{area}");
        assert!((1900..2500).contains(&wide), "{wide}");
    }

    #[test]
    fn no_part_fits() {
        // No region with an aspect ratio of 3/4 to 4/3 and 90 % of the area fits into so elongated an image.
        let crop = RandomResizedCrop::square(4).scale(0.9, 1.0).unwrap();
        let mut stream = Epoch::new(3, 0).stream(1 << 40);
        assert_eq!(crop.draw((30, 300), &mut stream), (0, 130, 30, 40));
        assert_eq!(crop.draw((300, 30), &mut stream), (130, 0, 40, 30));
        assert!(RandomResizedCrop::square(4).scale(0.0, 1.0).is_err());
        assert!(RandomResizedCrop::square(4).ratio(2.0, 1.0).is_err());
        assert!(crop.apply(Image::new(0, 5, 3, vec![]).unwrap()).is_err());
    }
}

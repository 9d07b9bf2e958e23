//! What can be cropped, turned and coloured: images and tensors alike.

use kiln_tensor::{DType, Error, Result, Scalar, Tensor};

use super::{
    Image, Rotation,
    color::{Adjust, grey_image, grey_tensor},
    rotate,
};

/// Something with rows and columns: an [`Image`], or a tensor of which the last two dimensions are height and width.
pub trait Picture: Sized {
    /// Height and width.
    ///
    /// # Errors
    /// It has none: a tensor of fewer than two dimensions.
    fn extent(&self) -> Result<(usize, usize)>;

    /// The part of `height` rows from `top` on and `width` columns from `left` on.
    ///
    /// # Errors
    /// It is not all inside.
    fn crop(self, top: usize, left: usize, height: usize, width: usize) -> Result<Self>;

    /// With a margin of left, top, right and bottom: `fill` is a byte's value (0 to 255) for images, and the value itself
    /// for tensors.
    ///
    /// # Errors
    /// The result is too large, or a byte cannot hold `fill`.
    fn pad(self, margin: [usize; 4], fill: f64) -> Result<Self>;

    /// Left and right exchanged.
    ///
    /// # Errors
    /// As [`extent`](Picture::extent).
    fn flip_horizontal(self) -> Result<Self>;

    /// Top and bottom exchanged.
    ///
    /// # Errors
    /// As [`extent`](Picture::extent).
    fn flip_vertical(self) -> Result<Self>;

    /// Turned by `angle` degrees against the clock. Images follow Pillow and tensors torchvision's own way, which differ
    /// at borders.
    ///
    /// # Errors
    /// The angle is not finite, the result is too large, or a byte cannot hold the filling.
    fn rotate(self, angle: f64, how: &Rotation) -> Result<Self>;

    /// With `factor` times the brightness: 0 is black, 1 changes nothing.
    ///
    /// # Errors
    /// The factor is negative; a tensor has neither 1 nor 3 channels.
    fn adjust_brightness(self, factor: f64) -> Result<Self>;

    /// With `factor` times the distance to the mean grey: 0 is all grey, 1 changes nothing.
    ///
    /// # Errors
    /// As [`adjust_brightness`](Picture::adjust_brightness).
    fn adjust_contrast(self, factor: f64) -> Result<Self>;

    /// With `factor` times the distance to each pixel's grey: 0 is without colours, 1 changes nothing.
    ///
    /// # Errors
    /// As [`adjust_brightness`](Picture::adjust_brightness).
    fn adjust_saturation(self, factor: f64) -> Result<Self>;

    /// With colours turned by a share of the colour wheel, from -0.5 to 0.5.
    ///
    /// # Errors
    /// The share is out of its range; a tensor has neither 1 nor 3 channels.
    fn adjust_hue(self, share: f64) -> Result<Self>;

    /// In greys, of 1 channel or 3 equal ones.
    ///
    /// # Errors
    /// Another number of channels; a tensor has neither 1 nor 3.
    fn to_grayscale(self, channels: usize) -> Result<Self>;
}

/// That a part lies inside.
fn check(size: (usize, usize), top: usize, left: usize, height: usize, width: usize) -> Result<()> {
    let inside = |start: usize, len: usize, all: usize| start.checked_add(len).is_some_and(|end| end <= all);
    if inside(top, height, size.0) && inside(left, width, size.1) {
        return Ok(());
    }
    let message = format!("{height}×{width} from ({top}, {left}) on is not inside of {}×{}", size.0, size.1);
    Err(Error::argument("crop", message))
}

/// Height and width with a margin.
pub(super) fn padded(
    (height, width): (usize, usize),
    [left, top, right, bottom]: [usize; 4],
) -> Result<(usize, usize)> {
    let sum = |a: usize, b: usize, c: usize| a.checked_add(b)?.checked_add(c);
    sum(height, top, bottom)
        .zip(sum(width, left, right))
        .ok_or_else(|| Error::argument("pad", "the margin is larger than any picture"))
}

impl Picture for Image {
    fn extent(&self) -> Result<(usize, usize)> {
        Ok((self.height(), self.width()))
    }

    fn crop(self, top: usize, left: usize, height: usize, width: usize) -> Result<Image> {
        let size = self.extent()?;
        check(size, top, left, height, width)?;
        if (height, width) == size {
            return Ok(self);
        }
        let channels = self.channels();
        let mut pixels = Vec::with_capacity(height * width * channels);
        for y in top..top + height {
            pixels.extend_from_slice(&self.row(y)[left * channels..][..width * channels]);
        }
        Image::new(height, width, channels, pixels)
    }

    fn pad(self, margin: [usize; 4], fill: f64) -> Result<Image> {
        if !(0.0..=255.0).contains(&fill) {
            return Err(Error::argument("pad", format!("{fill} is no value of a byte")));
        }
        let (height, width) = padded(self.extent()?, margin)?;
        let (channels, [left, top, ..]) = (self.channels(), margin);
        let too_large = || Error::argument("pad", format!("{height}×{width} is too large"));
        let len = height.checked_mul(width).and_then(|area| area.checked_mul(channels)).ok_or_else(too_large)?;
        let mut pixels = Vec::new();
        pixels.try_reserve_exact(len).map_err(|_| too_large())?;
        pixels.resize(len, fill as u8);
        for y in 0..self.height() {
            let row = self.row(y);
            pixels[((top + y) * width + left) * channels..][..row.len()].copy_from_slice(row);
        }
        Image::new(height, width, channels, pixels)
    }

    fn flip_horizontal(self) -> Result<Image> {
        let (height, width, channels) = (self.height(), self.width(), self.channels());
        let mut pixels = Vec::with_capacity(self.pixels().len());
        for y in 0..height {
            self.row(y).rchunks_exact(channels).for_each(|pixel| pixels.extend_from_slice(pixel));
        }
        Image::new(height, width, channels, pixels)
    }

    fn flip_vertical(self) -> Result<Image> {
        let (height, width, channels) = (self.height(), self.width(), self.channels());
        let pixels = (0..height).rev().flat_map(|y| self.row(y)).copied().collect();
        Image::new(height, width, channels, pixels)
    }

    fn rotate(self, angle: f64, how: &Rotation) -> Result<Image> {
        rotate::image(&self, angle, how)
    }

    fn adjust_brightness(self, factor: f64) -> Result<Image> {
        Adjust::Brightness(factor).image(self)
    }

    fn adjust_contrast(self, factor: f64) -> Result<Image> {
        Adjust::Contrast(factor).image(self)
    }

    fn adjust_saturation(self, factor: f64) -> Result<Image> {
        Adjust::Saturation(factor).image(self)
    }

    fn adjust_hue(self, share: f64) -> Result<Image> {
        Adjust::Hue(share).image(self)
    }

    fn to_grayscale(self, channels: usize) -> Result<Image> {
        grey_image(self, channels)
    }
}

impl Picture for Tensor {
    fn extent(&self) -> Result<(usize, usize)> {
        match *self.dims() {
            [.., height, width] => Ok((height, width)),
            _ => Err(Error::shape("transforms", "a picture, […, height, width]", self.shape())),
        }
    }

    fn crop(self, top: usize, left: usize, height: usize, width: usize) -> Result<Tensor> {
        check(self.extent()?, top, left, height, width)?;
        self.narrow(-2, top, height)?.narrow(-1, left, width)
    }

    fn pad(self, margin: [usize; 4], fill: f64) -> Result<Tensor> {
        let size = self.extent()?;
        let (height, width) = padded(size, margin)?;
        let mut dims = self.dims().to_vec();
        let rank = dims.len();
        (dims[rank - 2], dims[rank - 1]) = (height, width);
        let fill = match self.dtype() {
            dtype if dtype.is_float() => Scalar::Float(fill),
            DType::Bool => Scalar::Bool(fill != 0.0),
            _ => Scalar::Int(fill as i64),
        };
        let out = Tensor::full(&dims[..], fill, self.options().requires_grad(false))?;
        out.narrow(-2, margin[1], size.0)?.narrow(-1, margin[0], size.1)?.copy_(&self)?;
        Ok(out)
    }

    fn flip_horizontal(self) -> Result<Tensor> {
        self.extent()?;
        self.flip(-1)
    }

    fn flip_vertical(self) -> Result<Tensor> {
        self.extent()?;
        self.flip(-2)
    }

    fn rotate(self, angle: f64, how: &Rotation) -> Result<Tensor> {
        rotate::tensor(&self, angle, how)
    }

    fn adjust_brightness(self, factor: f64) -> Result<Tensor> {
        Adjust::Brightness(factor).tensor(&self)
    }

    fn adjust_contrast(self, factor: f64) -> Result<Tensor> {
        Adjust::Contrast(factor).tensor(&self)
    }

    fn adjust_saturation(self, factor: f64) -> Result<Tensor> {
        Adjust::Saturation(factor).tensor(&self)
    }

    fn adjust_hue(self, share: f64) -> Result<Tensor> {
        Adjust::Hue(share).tensor(&self)
    }

    fn to_grayscale(self, channels: usize) -> Result<Tensor> {
        grey_tensor(&self, channels)
    }
}

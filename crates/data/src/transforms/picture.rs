//! What can be cropped, padded and flipped: images and tensors alike.

use kiln_tensor::{DType, Error, Result, Scalar, Tensor};

use super::Image;

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
fn padded((height, width): (usize, usize), [left, top, right, bottom]: [usize; 4]) -> Result<(usize, usize)> {
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
}

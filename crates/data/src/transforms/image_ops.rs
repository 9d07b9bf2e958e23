//! `ImageOps`: crops, flips, rotations and color changes of images and of tensors alike, torchvision's `functional`.

use kiln_tensor::{DType, Error, Result, Scalar, Tensor};

use super::{
    adjust::{Adjust, gray_image, gray_tensor},
    pixel_ops::{self, check_crop, padded_extent},
    rotation::{self, Rotation},
};
use crate::image::Image;

/// The operations that transforms are composed of, on an [`Image`] (with Pillow's rounding) and on a tensor whose last
/// two dimensions are height and width (with torchvision's arithmetic).
pub trait ImageOps: Sized {
    /// Height and width.
    ///
    /// # Errors
    /// If a tensor has fewer than two dimensions.
    fn extent(&self) -> Result<(usize, usize)>;

    /// The region of `height` rows from `top` and `width` columns from `left`.
    ///
    /// # Errors
    /// If the region is not inside.
    fn crop(self, top: usize, left: usize, height: usize, width: usize) -> Result<Self>;

    /// Adds margins at the left, top, right and bottom, filled with `fill`: 0 to 255 for images, the value itself for
    /// tensors.
    ///
    /// # Errors
    /// If the result is too large, or `fill` is not in the range of a byte.
    fn pad(self, margin: [usize; 4], fill: f64) -> Result<Self>;

    /// Mirrors left and right.
    ///
    /// # Errors
    /// Those of [`extent`](ImageOps::extent).
    fn flip_horizontal(self) -> Result<Self>;

    /// Mirrors top and bottom.
    ///
    /// # Errors
    /// Those of [`extent`](ImageOps::extent).
    fn flip_vertical(self) -> Result<Self>;

    /// Rotates by `angle` degrees counterclockwise. Images follow Pillow, and tensors torchvision's `grid_sample`,
    /// which differ at borders.
    ///
    /// # Errors
    /// If the angle is not finite, the result is too large, or the fill value is not in the range of a byte.
    fn rotate(self, angle: f64, how: &Rotation) -> Result<Self>;

    /// Multiplies the brightness: a factor of 0 is black, 1 changes nothing.
    ///
    /// # Errors
    /// If the factor is negative, or a tensor has neither 1 nor 3 channels.
    fn adjust_brightness(self, factor: f64) -> Result<Self>;

    /// Multiplies the distance to the mean gray: a factor of 0 is uniform gray, 1 changes nothing.
    ///
    /// # Errors
    /// Those of [`adjust_brightness`](ImageOps::adjust_brightness).
    fn adjust_contrast(self, factor: f64) -> Result<Self>;

    /// Multiplies the distance to each pixel's gray: a factor of 0 is a gray image, 1 changes nothing.
    ///
    /// # Errors
    /// Those of [`adjust_brightness`](ImageOps::adjust_brightness).
    fn adjust_saturation(self, factor: f64) -> Result<Self>;

    /// Shifts the hue by a fraction of the color wheel, from -0.5 to 0.5.
    ///
    /// # Errors
    /// If the fraction is out of range, or a tensor has neither 1 nor 3 channels.
    fn adjust_hue(self, fraction: f64) -> Result<Self>;

    /// Converts to gray, with 1 channel or 3 equal ones.
    ///
    /// # Errors
    /// If `channels` is not 1 or 3, or a tensor has neither 1 nor 3 channels.
    fn to_grayscale(self, channels: usize) -> Result<Self>;
}

impl ImageOps for Image {
    fn extent(&self) -> Result<(usize, usize)> {
        Ok((self.height(), self.width()))
    }

    fn crop(self, top: usize, left: usize, height: usize, width: usize) -> Result<Image> {
        pixel_ops::crop(self, top, left, height, width)
    }

    fn pad(self, margin: [usize; 4], fill: f64) -> Result<Image> {
        pixel_ops::pad(&self, margin, fill)
    }

    fn flip_horizontal(self) -> Result<Image> {
        pixel_ops::flip_horizontal(&self)
    }

    fn flip_vertical(self) -> Result<Image> {
        pixel_ops::flip_vertical(&self)
    }

    fn rotate(self, angle: f64, how: &Rotation) -> Result<Image> {
        rotation::image(&self, angle, how)
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

    fn adjust_hue(self, fraction: f64) -> Result<Image> {
        Adjust::Hue(fraction).image(self)
    }

    fn to_grayscale(self, channels: usize) -> Result<Image> {
        gray_image(self, channels)
    }
}

impl ImageOps for Tensor {
    fn extent(&self) -> Result<(usize, usize)> {
        match *self.dims() {
            [.., height, width] => Ok((height, width)),
            _ => Err(Error::shape("transforms", "an image, […, height, width]", self.shape())),
        }
    }

    fn crop(self, top: usize, left: usize, height: usize, width: usize) -> Result<Tensor> {
        check_crop(self.extent()?, top, left, height, width)?;
        self.narrow(-2, top, height)?.narrow(-1, left, width)
    }

    fn pad(self, margin: [usize; 4], fill: f64) -> Result<Tensor> {
        let size = self.extent()?;
        let (height, width) = padded_extent(size, margin)?;
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
        rotation::tensor(&self, angle, how)
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

    fn adjust_hue(self, fraction: f64) -> Result<Tensor> {
        Adjust::Hue(fraction).tensor(&self)
    }

    fn to_grayscale(self, channels: usize) -> Result<Tensor> {
        gray_tensor(&self, channels)
    }
}

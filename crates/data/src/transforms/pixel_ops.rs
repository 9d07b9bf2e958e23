//! Crops, margins, flips and transposition of 8-bit images.

use kiln_tensor::{Error, Result};

use crate::image::Image;

/// Checks that a region lies inside an image of this height and width.
pub(super) fn check_crop(size: (usize, usize), top: usize, left: usize, height: usize, width: usize) -> Result<()> {
    let inside = |start: usize, len: usize, all: usize| start.checked_add(len).is_some_and(|end| end <= all);
    if inside(top, height, size.0) && inside(left, width, size.1) {
        return Ok(());
    }
    let message = format!("{height}×{width} from ({top}, {left}) is not inside an image of {}×{}", size.0, size.1);
    Err(Error::argument("crop", message))
}

/// Height and width with margins at the left, top, right and bottom.
pub(super) fn padded_extent(
    (height, width): (usize, usize),
    [left, top, right, bottom]: [usize; 4],
) -> Result<(usize, usize)> {
    let sum = |a: usize, b: usize, c: usize| a.checked_add(b)?.checked_add(c);
    sum(height, top, bottom)
        .zip(sum(width, left, right))
        .ok_or_else(|| Error::argument("pad", "the margin is larger than any image"))
}

pub(super) fn crop(image: Image, top: usize, left: usize, height: usize, width: usize) -> Result<Image> {
    let size = (image.height(), image.width());
    check_crop(size, top, left, height, width)?;
    if (height, width) == size {
        return Ok(image);
    }
    let channels = image.channels();
    let mut pixels = Vec::with_capacity(height * width * channels);
    for y in top..top + height {
        pixels.extend_from_slice(&image.row(y)[left * channels..][..width * channels]);
    }
    Image::new(height, width, channels, pixels)
}

pub(super) fn pad(image: &Image, margin: [usize; 4], fill: f64) -> Result<Image> {
    if !(0.0..=255.0).contains(&fill) {
        return Err(Error::argument("pad", format!("the fill value {fill} is not in 0 to 255")));
    }
    let (height, width) = padded_extent((image.height(), image.width()), margin)?;
    let (channels, [left, top, ..]) = (image.channels(), margin);
    let too_large = || Error::argument("pad", format!("{height}×{width} is too large"));
    let len = height.checked_mul(width).and_then(|area| area.checked_mul(channels)).ok_or_else(too_large)?;
    let mut pixels = Vec::new();
    pixels.try_reserve_exact(len).map_err(|_| too_large())?;
    pixels.resize(len, fill as u8);
    for y in 0..image.height() {
        let row = image.row(y);
        pixels[((top + y) * width + left) * channels..][..row.len()].copy_from_slice(row);
    }
    Image::new(height, width, channels, pixels)
}

pub(super) fn flip_horizontal(image: &Image) -> Result<Image> {
    let (height, width, channels) = (image.height(), image.width(), image.channels());
    let mut pixels = Vec::with_capacity(image.pixels().len());
    for y in 0..height {
        image.row(y).rchunks_exact(channels).for_each(|pixel| pixels.extend_from_slice(pixel));
    }
    Image::new(height, width, channels, pixels)
}

pub(super) fn flip_vertical(image: &Image) -> Result<Image> {
    let (height, width, channels) = (image.height(), image.width(), image.channels());
    let pixels = (0..height).rev().flat_map(|y| image.row(y)).copied().collect();
    Image::new(height, width, channels, pixels)
}

/// Exchanges rows and columns.
pub(super) fn transpose(image: &Image) -> Result<Image> {
    let (height, width, channels) = (image.height(), image.width(), image.channels());
    let mut pixels = Vec::with_capacity(image.pixels().len());
    for x in 0..width {
        (0..height).for_each(|y| pixels.extend_from_slice(&image.row(y)[x * channels..][..channels]));
    }
    Image::new(width, height, channels, pixels)
}

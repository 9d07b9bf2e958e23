//! Operations on pixels that decoders share: unpacking bits, dropping alpha, converting inks.

use crate::image::{Image, limits::Failure};

/// An image with these pixels. The decoder has already compared the number of bytes with the size.
pub(super) fn image(height: usize, width: usize, channels: usize, pixels: Vec<u8>) -> Result<Image, Failure> {
    Image::new(height, width, channels, pixels).map_err(|error| Failure::File(error.to_string()))
}

/// Keeps the first `kept` of every `stride` bytes, in place: drops an alpha channel.
pub(super) fn keep_channels(mut pixels: Vec<u8>, stride: usize, kept: usize) -> Vec<u8> {
    let count = pixels.len() / stride;
    for pixel in 1..count {
        pixels.copy_within(pixel * stride..pixel * stride + kept, pixel * kept);
    }
    pixels.truncate(count * kept);
    pixels.shrink_to_fit();
    pixels
}

/// Converts every four bytes to RGB, in place.
pub(super) fn rgb_of_four(mut pixels: Vec<u8>, rgb: impl Fn([u8; 4]) -> [u8; 3]) -> Vec<u8> {
    for pixel in pixels.chunks_exact_mut(4) {
        let color = rgb([pixel[0], pixel[1], pixel[2], pixel[3]]);
        pixel[..3].copy_from_slice(&color);
    }
    keep_channels(pixels, 4, 3)
}

/// Pillow's conversion of inks, each 0 to 255, to RGB.
pub(super) fn rgb_of_cmyk([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    let paper = 255 - u32::from(k);
    // x / 255, rounded.
    let divided = |x: u32| (x + 128 + ((x + 128) >> 8)) >> 8;
    [c, m, y].map(|ink| (paper - divided(u32::from(ink) * paper)) as u8)
}

/// Unpacks samples of 1, 2, 4 or 8 bits from rows that begin at whole bytes.
pub(super) fn unpack_bits(row: &[u8], bits: usize, width: usize) -> impl Iterator<Item = u8> {
    let per_byte = 8 / bits;
    let mask = (0xffu16 >> (8 - bits)) as u8;
    (0..width).map(move |x| (row[x / per_byte] >> (8 - bits * (x % per_byte + 1))) & mask)
}

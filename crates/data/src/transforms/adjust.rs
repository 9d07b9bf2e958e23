//! Brightness, contrast, saturation, hue and grayscale conversion, for images (Pillow's arithmetic in bytes) and
//! tensors (torchvision's in floats).

use kiln_derive::located;
use kiln_tensor::{Device, Error, Result, Tensor};

use super::{
    hsv::{hsv_of_rgb_bytes, rgb_of_hsv_bytes},
    planes::Planes,
};
use crate::image::Image;

/// A color adjustment and its factor.
#[derive(Clone, Copy, Debug)]
pub(super) enum Adjust {
    Brightness(f64),
    Contrast(f64),
    Saturation(f64),
    Hue(f64),
}

#[located(site)]
impl Adjust {
    fn check(self) -> Result<()> {
        let (op, factor, fits, wanted) = match self {
            Adjust::Brightness(v) => ("adjust_brightness", v, v >= 0.0 && v.is_finite(), "a number from 0"),
            Adjust::Contrast(v) => ("adjust_contrast", v, v >= 0.0 && v.is_finite(), "a number from 0"),
            Adjust::Saturation(v) => ("adjust_saturation", v, v >= 0.0 && v.is_finite(), "a number from 0"),
            Adjust::Hue(v) => ("adjust_hue", v, (-0.5..=0.5).contains(&v), "a number from -0.5 to 0.5"),
        };
        if fits { Ok(()) } else { Err(Error::argument(op, format!("the factor is {factor}, expected {wanted}"))) }
    }

    /// The adjustment of an image, in bytes, as in Pillow's `ImageEnhance`.
    pub fn image(self, image: Image) -> Result<Image> {
        self.check()?;
        let (height, width, channels) = (image.height(), image.width(), image.channels());
        let mut pixels = image.into_pixels();
        let gray = |pixel: &[u8]| if let &[r, g, b] = pixel { luma([r, g, b]) } else { pixel[0] };
        match self {
            Adjust::Brightness(factor) => pixels.iter_mut().for_each(|byte| *byte = blend(0, *byte, factor)),
            Adjust::Contrast(factor) => {
                let sum: u64 = pixels.chunks_exact(channels).map(|pixel| u64::from(gray(pixel))).sum();
                let mean = (sum as f64 / (height * width).max(1) as f64 + 0.5) as u8;
                pixels.iter_mut().for_each(|byte| *byte = blend(mean, *byte, factor));
            }
            Adjust::Saturation(factor) => {
                for pixel in pixels.chunks_exact_mut(channels) {
                    let gray = gray(pixel);
                    pixel.iter_mut().for_each(|byte| *byte = blend(gray, *byte, factor));
                }
            }
            Adjust::Hue(factor) if channels == 3 => {
                let turn = (factor * 255.0) as i32 as u8;
                for pixel in pixels.chunks_exact_mut(3) {
                    if let [r, g, b] = *pixel {
                        let [h, s, v] = hsv_of_rgb_bytes([r, g, b]);
                        pixel.copy_from_slice(&rgb_of_hsv_bytes([h.wrapping_add(turn), s, v]));
                    }
                }
            }
            Adjust::Hue(_) => {}
        }
        Image::new(height, width, channels, pixels)
    }

    /// The adjustment of a tensor, in floats, as in torchvision.
    pub fn tensor(self, x: &Tensor) -> Result<Tensor> {
        self.check()?;
        let mut planes = Planes::of("ColorJitter", x)?;
        let color = planes.channels == 3;
        match self {
            Adjust::Brightness(factor) => planes.change_all(|values| blend_all(values, &[0.0], factor)),
            Adjust::Contrast(factor) => planes.change_images(|image, bytes| {
                let gray = if color { luminance(image, bytes) } else { image.to_vec() };
                let mean = gray.iter().map(|&v| f64::from(v)).sum::<f64>() / gray.len().max(1) as f64;
                blend_all(image, &[mean as f32], factor);
            }),
            Adjust::Saturation(factor) if color => planes.change_images(|image, bytes| {
                let gray = luminance(image, bytes);
                blend_all(image, &gray, factor);
            }),
            Adjust::Hue(factor) if color => planes.shift_hue(factor as f32),
            Adjust::Saturation(_) | Adjust::Hue(_) => {}
        }
        planes.tensor()
    }
}

/// Pillow's luma of a color (ITU-R 601-2), in fixed-point numbers with 16 fractional bits.
pub(super) fn luma([r, g, b]: [u8; 3]) -> u8 {
    ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
}

/// Interpolates from `zero` (a factor of 0) to `byte` (a factor of 1), and extrapolates beyond.
fn blend(zero: u8, byte: u8, factor: f64) -> u8 {
    let (zero, byte) = (f32::from(zero), f32::from(byte));
    (zero + factor as f32 * (byte - zero)) as u8
}

/// The luma of each pixel of an image of three planes; truncated to integers if it holds bytes.
fn luminance(image: &[f32], bytes: bool) -> Vec<f32> {
    let (r, rest) = image.split_at(image.len() / 3);
    let (g, b) = rest.split_at(r.len());
    let gray = |((&r, &g), &b): ((&f32, &f32), &f32)| {
        let gray = 0.2989 * r + 0.587 * g + 0.114 * b;
        if bytes { gray.trunc() } else { gray }
    };
    r.iter().zip(g).zip(b).map(gray).collect()
}

/// `factor` times the values plus `1 - factor` times the zeros, which repeat if there are fewer.
fn blend_all(values: &mut [f32], zeros: &[f32], factor: f64) {
    let (share, rest) = (factor as f32, (1.0 - factor) as f32);
    for chunk in values.chunks_mut(if zeros.len() == 1 { usize::MAX } else { zeros.len().max(1) }) {
        let zeros = zeros.iter().cycle();
        chunk.iter_mut().zip(zeros).for_each(|(value, zero)| *value = share * *value + rest * zero);
    }
}

/// Converts an image to grayscale.
pub(super) fn gray_image(image: Image, channels: usize) -> Result<Image> {
    check_channels(channels)?;
    let gray = if image.channels() == 3 {
        let pixels = image.pixels().chunks_exact(3).map(|p| luma([p[0], p[1], p[2]])).collect();
        Image::new(image.height(), image.width(), 1, pixels)?
    } else {
        image
    };
    Ok(if channels == 3 { gray.to_rgb() } else { gray })
}

/// Converts a tensor of images to grayscale.
pub(super) fn gray_tensor(x: &Tensor, channels: usize) -> Result<Tensor> {
    check_channels(channels)?;
    let planes = Planes::of("Grayscale", x)?;
    let gray = if planes.channels == 3 {
        let values = planes.images().flat_map(|image| luminance(image, planes.are_bytes())).collect::<Vec<f32>>();
        let mut dims = x.dims().to_vec();
        let rank = dims.len();
        dims[rank - 3] = 1;
        Tensor::from_vec(values, dims, Device::Cpu)?.to_dtype(x.dtype())?.to_device(x.device())?
    } else {
        x.clone()
    };
    if channels == 1 {
        return Ok(gray);
    }
    let mut dims = gray.dims().to_vec();
    let rank = dims.len();
    dims[rank - 3] = 3;
    gray.expand(&dims[..])?.contiguous()
}

/// Checks the number of channels of a grayscale image.
pub(super) fn check_channels(channels: usize) -> Result<()> {
    match channels {
        1 | 3 => Ok(()),
        _ => Err(Error::argument("Grayscale", format!("{channels} channels, expected 1 or 3"))),
    }
}

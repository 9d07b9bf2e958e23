//! Brightness, contrast, saturation and hue.

use kiln_tensor::{Device, Error, Result, Tensor};

use super::{Image, Picture, Transform, planes::Planes};
use crate::draw;

/// One of the four changes of colour, and by how much.
#[derive(Clone, Copy, Debug)]
pub(super) enum Adjust {
    Brightness(f64),
    Contrast(f64),
    Saturation(f64),
    Hue(f64),
}

impl Adjust {
    fn check(self) -> Result<()> {
        let (op, factor, fits, wanted) = match self {
            Adjust::Brightness(v) => ("adjust_brightness", v, v >= 0.0 && v.is_finite(), "a number from 0"),
            Adjust::Contrast(v) => ("adjust_contrast", v, v >= 0.0 && v.is_finite(), "a number from 0"),
            Adjust::Saturation(v) => ("adjust_saturation", v, v >= 0.0 && v.is_finite(), "a number from 0"),
            Adjust::Hue(v) => ("adjust_hue", v, (-0.5..=0.5).contains(&v), "a number from -0.5 to 0.5"),
        };
        if fits { Ok(()) } else { Err(Error::argument(op, format!("the factor is {factor}; {wanted} is expected"))) }
    }

    /// As Pillow's `ImageEnhance`, in bytes.
    pub fn image(self, image: Image) -> Result<Image> {
        self.check()?;
        let (height, width, channels) = (image.height(), image.width(), image.channels());
        let mut pixels = image.into_pixels();
        let grey = |pixel: &[u8]| if let &[r, g, b] = pixel { luma([r, g, b]) } else { pixel[0] };
        match self {
            Adjust::Brightness(factor) => pixels.iter_mut().for_each(|byte| *byte = blend(0, *byte, factor)),
            Adjust::Contrast(factor) => {
                let sum: u64 = pixels.chunks_exact(channels).map(|pixel| u64::from(grey(pixel))).sum();
                let mean = (sum as f64 / (height * width).max(1) as f64 + 0.5) as u8;
                pixels.iter_mut().for_each(|byte| *byte = blend(mean, *byte, factor));
            }
            Adjust::Saturation(factor) => {
                for pixel in pixels.chunks_exact_mut(channels) {
                    let grey = grey(pixel);
                    pixel.iter_mut().for_each(|byte| *byte = blend(grey, *byte, factor));
                }
            }
            Adjust::Hue(factor) if channels == 3 => {
                let turn = (factor * 255.0) as i32 as u8;
                for pixel in pixels.chunks_exact_mut(3) {
                    if let [r, g, b] = *pixel {
                        let [h, s, v] = hsv_bytes([r, g, b]);
                        pixel.copy_from_slice(&rgb_bytes([h.wrapping_add(turn), s, v]));
                    }
                }
            }
            Adjust::Hue(_) => {}
        }
        Image::new(height, width, channels, pixels)
    }

    /// As torchvision's for tensors, in floats.
    pub fn tensor(self, x: &Tensor) -> Result<Tensor> {
        self.check()?;
        let mut planes = Planes::of("ColorJitter", x)?;
        let colour = planes.channels == 3;
        match self {
            Adjust::Brightness(factor) => planes.each(|values| blended(values, &[0.0], factor)),
            Adjust::Contrast(factor) => planes.each_picture(|picture, whole| {
                let grey = if colour { greys(picture, whole) } else { picture.to_vec() };
                let mean = grey.iter().map(|&v| f64::from(v)).sum::<f64>() / grey.len().max(1) as f64;
                blended(picture, &[mean as f32], factor);
            }),
            Adjust::Saturation(factor) if colour => planes.each_picture(|picture, whole| {
                let grey = greys(picture, whole);
                blended(picture, &grey, factor);
            }),
            Adjust::Hue(factor) if colour => planes.hue(factor as f32),
            Adjust::Saturation(_) | Adjust::Hue(_) => {}
        }
        planes.tensor()
    }
}

/// What Pillow takes for the grey of a colour (ITU-R 601-2), in whole numbers of 1/65536.
pub(super) fn luma([r, g, b]: [u8; 3]) -> u8 {
    ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
}

/// From `zero` (a factor of 0) to `byte` (1) and beyond.
fn blend(zero: u8, byte: u8, factor: f64) -> u8 {
    let (zero, byte) = (f32::from(zero), f32::from(byte));
    (zero + factor as f32 * (byte - zero)) as u8
}

/// Pillow's `HSV`: 255 is a whole turn.
fn hsv_bytes([r, g, b]: [u8; 3]) -> [u8; 3] {
    let (most, least) = (r.max(g).max(b), r.min(g).min(b));
    if most == least {
        return [0, 0, most];
    }
    let range = f32::from(most - least);
    let [rc, gc, bc] = [r, g, b].map(|v| f32::from(most - v) / range);
    let sixths = if r == most {
        f64::from(bc - gc)
    } else if g == most {
        2.0 + f64::from(rc) - f64::from(bc)
    } else {
        4.0 + f64::from(gc) - f64::from(rc)
    };
    let hue = (sixths as f32 as f64 / 6.0 + 1.0) % 1.0;
    [(hue as f32 as f64 * 255.0) as u8, (f64::from(range / f32::from(most)) * 255.0) as u8, most]
}

fn rgb_bytes([h, s, v]: [u8; 3]) -> [u8; 3] {
    if s == 0 {
        return [v; 3];
    }
    let sixths = f32::from(h) as f64 * 6.0 / 255.0;
    let sector = sixths.floor();
    let rest = (sixths - sector) as f32 as f64;
    let share = (f64::from(s) / 255.0) as f32 as f64;
    let byte = |x: f64| (f64::from(v) * x).round() as u8;
    let (p, q, t) = (byte(1.0 - share), byte(1.0 - share * rest), byte(1.0 - share * (1.0 - rest)));
    sector_of(sector as u8, v, p, q, t)
}

/// The colour in one of the six sectors of the colour wheel.
pub(super) fn sector_of<T>(sector: u8, v: T, p: T, q: T, t: T) -> [T; 3] {
    match sector % 6 {
        0 => [v, t, p],
        1 => [q, v, p],
        2 => [p, v, t],
        3 => [p, q, v],
        4 => [t, p, v],
        _ => [v, p, q],
    }
}

/// The grey of each pixel of a picture of three planes, cut to whole numbers if it is of bytes.
pub(super) fn greys(picture: &[f32], whole: bool) -> Vec<f32> {
    let (r, rest) = picture.split_at(picture.len() / 3);
    let (g, b) = rest.split_at(r.len());
    let grey = |((&r, &g), &b): ((&f32, &f32), &f32)| {
        let grey = 0.2989 * r + 0.587 * g + 0.114 * b;
        if whole { grey.trunc() } else { grey }
    };
    r.iter().zip(g).zip(b).map(grey).collect()
}

/// `factor` times the values and the rest of the zeros, which repeat if there are fewer.
fn blended(values: &mut [f32], zeros: &[f32], factor: f64) {
    let (share, rest) = (factor as f32, (1.0 - factor) as f32);
    for chunk in values.chunks_mut(if zeros.len() == 1 { usize::MAX } else { zeros.len().max(1) }) {
        let zeros = zeros.iter().cycle();
        chunk.iter_mut().zip(zeros).for_each(|(value, zero)| *value = share * *value + rest * zero);
    }
}

/// Changes brightness, contrast, saturation and hue at random, in random order, as torchvision's. Each is off until it is
/// given a range.
#[derive(Clone, Copy, Debug, Default)]
pub struct ColorJitter {
    brightness: Option<(f64, f64)>,
    contrast: Option<(f64, f64)>,
    saturation: Option<(f64, f64)>,
    hue: Option<(f64, f64)>,
}

macro_rules! range {
    ($($(#[$doc:meta])* $name:ident $between:ident;)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// `by` is not finite or negative.
        pub fn $name(self, by: f64) -> Result<ColorJitter> {
            if !(by >= 0.0 && by.is_finite()) {
                return Err(Error::argument("ColorJitter", format!("{} {by}; a number from 0 is expected", stringify!($name))));
            }
            self.$between((1.0 - by).max(0.0), 1.0 + by)
        }

        #[doc = concat!("[`", stringify!($name), "`](ColorJitter::", stringify!($name), ") by a factor between two.")]
        ///
        /// # Errors
        /// They are not finite, in order and at least 0.
        pub fn $between(self, low: f64, high: f64) -> Result<ColorJitter> {
            Ok(ColorJitter { $name: Some(ordered(stringify!($name), low, high, 0.0, f64::MAX)?), ..self })
        }
    )*};
}

fn ordered(what: &str, low: f64, high: f64, least: f64, most: f64) -> Result<(f64, f64)> {
    if least <= low && low <= high && high <= most {
        return Ok((low, high));
    }
    Err(Error::argument("ColorJitter", format!("{low} to {high} is no range of {what}")))
}

impl ColorJitter {
    /// Changes nothing yet.
    #[must_use]
    pub fn new() -> ColorJitter {
        ColorJitter::default()
    }

    range! {
        /// Brightness by a factor between `1 - by` (at least 0) and `1 + by`.
        brightness brightness_between;
        /// Contrast by a factor between `1 - by` (at least 0) and `1 + by`.
        contrast contrast_between;
        /// Saturation by a factor between `1 - by` (at least 0) and `1 + by`.
        saturation saturation_between;
    }

    /// Turns the colours by a share between `-by` and `by` of the colour wheel; at most half of it.
    ///
    /// # Errors
    /// `by` is not between 0 and 0.5.
    pub fn hue(self, by: f64) -> Result<ColorJitter> {
        self.hue_between(-by, by)
    }

    /// [`hue`](ColorJitter::hue) by a share between two.
    ///
    /// # Errors
    /// They are not in order between -0.5 and 0.5.
    pub fn hue_between(self, low: f64, high: f64) -> Result<ColorJitter> {
        Ok(ColorJitter { hue: Some(ordered("hue", low, high, -0.5, 0.5)?), ..self })
    }
}

impl<P: Picture> Transform<P> for ColorJitter {
    type Output = P;
    fn apply(&self, mut picture: P) -> Result<P> {
        let mut stream = draw::stream();
        let order = stream.permutation(4);
        let factors =
            [self.brightness, self.contrast, self.saturation, self.hue].map(|r| r.map(|(a, b)| stream.range(a, b)));
        for which in order {
            picture = match (which, factors[which]) {
                (_, None) => picture,
                (0, Some(factor)) => picture.adjust_brightness(factor)?,
                (1, Some(factor)) => picture.adjust_contrast(factor)?,
                (2, Some(factor)) => picture.adjust_saturation(factor)?,
                (_, Some(factor)) => picture.adjust_hue(factor)?,
            };
        }
        Ok(picture)
    }
}

/// Colours as greys.
#[derive(Clone, Copy, Debug)]
pub struct Grayscale {
    channels: usize,
}

impl Grayscale {
    /// Into 1 channel, or into 3 equal ones.
    ///
    /// # Errors
    /// Another number of channels.
    pub fn new(channels: usize) -> Result<Grayscale> {
        match channels {
            1 | 3 => Ok(Grayscale { channels }),
            _ => Err(Error::argument("Grayscale", format!("{channels} channels; 1 or 3 are expected"))),
        }
    }
}

impl Default for Grayscale {
    fn default() -> Grayscale {
        Grayscale { channels: 1 }
    }
}

impl<P: Picture> Transform<P> for Grayscale {
    type Output = P;
    fn apply(&self, picture: P) -> Result<P> {
        picture.to_grayscale(self.channels)
    }
}

/// An image in greys.
pub(super) fn grey_image(image: Image, channels: usize) -> Result<Image> {
    Grayscale::new(channels)?;
    let grey = if image.channels() == 3 {
        let pixels = image.pixels().chunks_exact(3).map(|p| luma([p[0], p[1], p[2]])).collect();
        Image::new(image.height(), image.width(), 1, pixels)?
    } else {
        image
    };
    Ok(if channels == 3 { grey.to_rgb() } else { grey })
}

/// A tensor in greys.
pub(super) fn grey_tensor(x: &Tensor, channels: usize) -> Result<Tensor> {
    Grayscale::new(channels)?;
    let planes = Planes::of("Grayscale", x)?;
    let grey = if planes.channels == 3 {
        let values = planes.pictures().flat_map(|picture| greys(picture, planes.whole())).collect::<Vec<f32>>();
        let mut dims = x.dims().to_vec();
        let rank = dims.len();
        dims[rank - 3] = 1;
        Tensor::from_vec(values, dims, Device::Cpu)?.to_dtype(x.dtype())?.to_device(x.device())?
    } else {
        x.clone()
    };
    if channels == 1 {
        return Ok(grey);
    }
    let mut dims = grey.dims().to_vec();
    let rank = dims.len();
    dims[rank - 3] = 3;
    grey.expand(&dims[..])?.contiguous()
}

//! `ColorJitter` and `Grayscale`.

use kiln_derive::located;
use kiln_tensor::{Error, Result};

use super::{Transform, adjust::check_channels, image_ops::ImageOps};
use crate::random;

/// Adjusts brightness, contrast, saturation and hue by random factors, in random order: torchvision's `ColorJitter`.
/// Each adjustment is off until it is given a range.
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
        /// If `by` is not finite, or negative.
        pub fn $name(self, by: f64) -> Result<ColorJitter> {
            if !(by >= 0.0 && by.is_finite()) {
                return Err(Error::argument("ColorJitter", format!("{} {by} must be finite and not negative", stringify!($name))));
            }
            self.$between((1.0 - by).max(0.0), 1.0 + by)
        }

        #[doc = concat!("[`", stringify!($name), "`](ColorJitter::", stringify!($name), ") by a factor between `low` and `high`.")]
        ///
        /// # Errors
        /// Unless the bounds are finite, in order and at least 0.
        pub fn $between(self, low: f64, high: f64) -> Result<ColorJitter> {
            Ok(ColorJitter { $name: Some(ordered(stringify!($name), low, high, 0.0, f64::MAX)?), ..self })
        }
    )*};
}

fn ordered(what: &str, low: f64, high: f64, least: f64, most: f64) -> Result<(f64, f64)> {
    if least <= low && low <= high && high <= most {
        return Ok((low, high));
    }
    Err(Error::argument("ColorJitter", format!("{low} to {high} is not a range of {what}")))
}

#[located(site)]
impl ColorJitter {
    /// A transform without any adjustment.
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

    /// Shifts the hue by a fraction of the color wheel between `-by` and `by`.
    ///
    /// # Errors
    /// If `by` is not between 0 and 0.5.
    pub fn hue(self, by: f64) -> Result<ColorJitter> {
        self.hue_between(-by, by)
    }

    /// [`hue`](ColorJitter::hue) by a fraction between `low` and `high`.
    ///
    /// # Errors
    /// Unless the bounds are in order, between -0.5 and 0.5.
    pub fn hue_between(self, low: f64, high: f64) -> Result<ColorJitter> {
        Ok(ColorJitter { hue: Some(ordered("hue", low, high, -0.5, 0.5)?), ..self })
    }
}

impl<P: ImageOps> Transform<P> for ColorJitter {
    type Output = P;
    fn apply(&self, mut image: P) -> Result<P> {
        let mut stream = random::stream();
        let order = stream.permutation(4);
        let factors = [self.brightness, self.contrast, self.saturation, self.hue]
            .map(|r| r.map(|(a, b)| stream.uniform_between(a, b)));
        for which in order {
            image = match (which, factors[which]) {
                (_, None) => image,
                (0, Some(factor)) => image.adjust_brightness(factor)?,
                (1, Some(factor)) => image.adjust_contrast(factor)?,
                (2, Some(factor)) => image.adjust_saturation(factor)?,
                (_, Some(factor)) => image.adjust_hue(factor)?,
            };
        }
        Ok(image)
    }
}

/// Converts to grayscale: torchvision's `Grayscale`.
#[derive(Clone, Copy, Debug)]
pub struct Grayscale {
    channels: usize,
}

#[located(site)]
impl Grayscale {
    /// Converts to 1 channel, or to 3 equal ones.
    ///
    /// # Errors
    /// If `channels` is not 1 or 3.
    pub fn new(channels: usize) -> Result<Grayscale> {
        check_channels(channels)?;
        Ok(Grayscale { channels })
    }
}

impl Default for Grayscale {
    fn default() -> Grayscale {
        Grayscale { channels: 1 }
    }
}

impl<P: ImageOps> Transform<P> for Grayscale {
    type Output = P;
    fn apply(&self, image: P) -> Result<P> {
        image.to_grayscale(self.channels)
    }
}

//! `RandomRotation`: rotates an image by a random angle.

use kiln_derive::located;
use kiln_tensor::{Error, Result};

use super::{Transform, image_ops::ImageOps, rotation::Rotation};
use crate::random;

/// Rotates an image by a random angle: torchvision's `RandomRotation`.
#[derive(Clone, Copy, Debug)]
pub struct RandomRotation {
    degrees: (f64, f64),
    options: Rotation,
}

#[located(site)]
impl RandomRotation {
    /// Rotates by up to `degrees` in either direction: torchvision's `RandomRotation(30)`.
    ///
    /// # Errors
    /// If `degrees` is negative or not finite.
    pub fn new(degrees: f64) -> Result<RandomRotation> {
        RandomRotation::range(-degrees, degrees)
    }

    /// Rotates by an angle between two, counterclockwise.
    ///
    /// # Errors
    /// Unless they are finite and in order.
    pub fn range(low: f64, high: f64) -> Result<RandomRotation> {
        if low.is_finite() && high.is_finite() && low <= high {
            return Ok(RandomRotation { degrees: (low, high), options: Rotation::new() });
        }
        Err(Error::argument("RandomRotation", format!("{low} to {high} is not a range of angles")))
    }

    /// Sets interpolation, size, fill value and center.
    #[must_use]
    pub fn with(self, options: Rotation) -> RandomRotation {
        RandomRotation { options, ..self }
    }
}

impl<P: ImageOps> Transform<P> for RandomRotation {
    type Output = P;
    fn apply(&self, image: P) -> Result<P> {
        let angle = random::stream().uniform_between(self.degrees.0, self.degrees.1);
        image.rotate(angle, &self.options)
    }
}

//! `Interpolation`, an option of resizing and rotation.

/// How the values of new pixels are interpolated: torchvision's `InterpolationMode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Interpolation {
    /// The nearest pixel.
    Nearest,
    /// Linear in both directions (a triangle filter).
    #[default]
    Bilinear,
    /// Cubic in both directions (Catmull-Rom, a = -0.5, as in Pillow).
    Bicubic,
}

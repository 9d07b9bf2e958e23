//! How pixels between pixels are computed.

/// How new pixels are made of old ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Interpolation {
    /// The pixel that lies nearest.
    Nearest,
    /// A weighted mean, by a triangle.
    #[default]
    Bilinear,
    /// A weighted mean, by a cubic spline (Catmull-Rom: a = -0.5, as Pillow).
    Bicubic,
}

//! Rotation of images (Pillow's affine transform) and of tensors (torchvision's `grid_sample`).

use kiln_tensor::{DType, Device, Error, Result, Tensor};

use super::{
    interpolation::Interpolation,
    pixel_ops::{flip_horizontal, flip_vertical, transpose},
};
use crate::image::Image;

const OP: &str = "rotate";

/// Options of [`ImageOps::rotate`](super::ImageOps::rotate).
#[derive(Clone, Copy, Debug)]
pub struct Rotation {
    interpolation: Interpolation,
    expand: bool,
    fill: f64,
    center: Option<(f64, f64)>,
}

impl Rotation {
    /// Nearest-pixel interpolation, around the center, without changing the size, filled with zeros.
    #[must_use]
    pub fn new() -> Rotation {
        Rotation { interpolation: Interpolation::Nearest, expand: false, fill: 0.0, center: None }
    }

    /// The interpolation; the nearest pixel by default. Tensors do not support bicubic, as in torchvision.
    #[must_use]
    pub fn interpolation(self, interpolation: Interpolation) -> Rotation {
        Rotation { interpolation, ..self }
    }

    /// Whether to enlarge the result so that it holds the whole rotated image. The center is ignored then.
    #[must_use]
    pub fn expand(self, expand: bool) -> Rotation {
        Rotation { expand, ..self }
    }

    /// The value of pixels outside the original, in all channels: 0 to 255 for images, the value itself for tensors.
    #[must_use]
    pub fn fill(self, fill: f64) -> Rotation {
        Rotation { fill, ..self }
    }

    /// The center of rotation, in pixels from the left and from the top; the middle of the image by default.
    #[must_use]
    pub fn center(self, x: f64, y: f64) -> Rotation {
        Rotation { center: Some((x, y)), ..self }
    }
}

impl Default for Rotation {
    fn default() -> Rotation {
        Rotation::new()
    }
}

/// The number of rows and columns of the result, or an error if there is no memory for it.
fn result_size(rows: f64, columns: f64, channels: usize) -> Result<(usize, usize)> {
    let (rows, columns) = (rows as usize, columns as usize);
    let len = rows.checked_mul(columns).and_then(|area| area.checked_mul(channels));
    if len.is_some_and(|len| Vec::<f32>::new().try_reserve_exact(len).is_ok()) {
        return Ok((rows, columns));
    }
    Err(Error::argument(OP, format!("a result of {rows}×{columns} is too large")))
}

fn check(angle: f64, how: &Rotation) -> Result<()> {
    let center = how.center.unwrap_or_default();
    if angle.is_finite() && center.0.is_finite() && center.1.is_finite() {
        return Ok(());
    }
    Err(Error::argument(OP, format!("angle {angle} and center {center:?} must be finite")))
}

/// As in Pillow: `[a, b, c, d, e, f]` maps a pixel `(x, y)` of the result to `(ax + by + c, dx + ey + f)`.
pub(super) fn image(image: &Image, angle: f64, how: &Rotation) -> Result<Image> {
    check(angle, how)?;
    if !(0.0..=255.0).contains(&how.fill) {
        return Err(Error::argument(OP, format!("the fill value {} is not in 0 to 255", how.fill)));
    }
    let (height, width, channels) = (image.height(), image.width(), image.channels());
    let angle = angle.rem_euclid(360.0);
    // Right angles copy pixels, whatever the interpolation.
    if how.center.is_none() && (angle == 0.0 || angle == 180.0) {
        return if angle == 0.0 { Ok(image.clone()) } else { flip_vertical(&flip_horizontal(image)?) };
    }
    if how.center.is_none() && (angle == 90.0 || angle == 270.0) && (how.expand || width == height) {
        let transposed = transpose(image)?;
        return if angle == 90.0 { flip_vertical(&transposed) } else { flip_horizontal(&transposed) };
    }
    let (w, h) = (width as f64, height as f64);
    let (cx, cy) = how.center.unwrap_or((w / 2.0, h / 2.0));
    let turn = -angle.to_radians();
    let round = |v: f64| (v * 1e15).round_ties_even() / 1e15;
    let [a, b, d, e] = [turn.cos(), turn.sin(), -turn.sin(), turn.cos()].map(round);
    let (mut c, mut f) = (a * -cx + b * -cy + cx, d * -cx + e * -cy + cy);
    let (mut rows, mut columns) = (h, w);
    if how.expand {
        let corners = [(0.0, 0.0), (w, 0.0), (w, h), (0.0, h)].map(|(x, y)| (a * x + b * y + c, d * x + e * y + f));
        let extent = |values: [f64; 4]| {
            let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            most.ceil() - values.iter().copied().fold(f64::INFINITY, f64::min).floor()
        };
        (columns, rows) = (extent(corners.map(|p| p.0)), extent(corners.map(|p| p.1)));
        let (x, y) = (-(columns - w) / 2.0, -(rows - h) / 2.0);
        (c, f) = (a * x + b * y + c, d * x + e * y + f);
    }
    let (rows, columns) = result_size(rows, columns, channels)?;
    let mut pixels = vec![how.fill as u8; rows * columns * channels];
    let mut targets = pixels.chunks_exact_mut(channels);
    if how.interpolation == Interpolation::Nearest {
        // In fixed-point numbers with 16 fractional bits, as in Pillow, so that pixel borders fall to the same side.
        let fixed = |v: f64| (v * 65536.0 + 0.5).floor() as i64;
        let [a16, b16, d16, e16] = [a, b, d, e].map(fixed);
        let (mut x0, mut y0) = (fixed(c + a * 0.5 + b * 0.5), fixed(f + d * 0.5 + e * 0.5));
        for _ in 0..rows {
            let (mut x, mut y) = (x0, y0);
            for target in targets.by_ref().take(columns) {
                if let (Ok(column), Ok(row)) = (usize::try_from(x >> 16), usize::try_from(y >> 16))
                    && column < width
                    && row < height
                {
                    target.copy_from_slice(&image.row(row)[column * channels..][..channels]);
                }
                (x, y) = (x + a16, y + d16);
            }
            (x0, y0) = (x0 + b16, y0 + e16);
        }
    } else {
        for row in 0..rows {
            for (column, target) in targets.by_ref().take(columns).enumerate() {
                let (x, y) = (column as f64 + 0.5, row as f64 + 0.5);
                let (x, y) = (a * x + b * y + c, d * x + e * y + f);
                if x >= 0.0 && x < w && y >= 0.0 && y < h {
                    sample(image, (x - 0.5, y - 0.5), how.interpolation, target);
                }
            }
        }
    }
    Image::new(rows, columns, channels, pixels)
}

/// The interpolated value at a position. Beyond the border, the nearest pixels are repeated.
fn sample(image: &Image, (x, y): (f64, f64), interpolation: Interpolation, target: &mut [u8]) {
    let (left, top) = (x.floor(), y.floor());
    let (dx, dy) = (x - left, y - top);
    let clip = |at: f64, len: usize| (at.max(0.0) as usize).min(len - 1);
    let channels = image.channels();
    let at = |down: f64, across: f64, channel: usize| {
        let (row, column) = (clip(top + down, image.height()), clip(left + across, image.width()));
        f64::from(image.row(row)[column * channels + channel])
    };
    for (channel, byte) in target.iter_mut().enumerate() {
        let value = if interpolation == Interpolation::Bicubic {
            let line = |down| cubic([-1.0, 0.0, 1.0, 2.0].map(|across| at(down, across, channel)), dx);
            cubic([-1.0, 0.0, 1.0, 2.0].map(line), dy)
        } else {
            let line = |down| at(down, 0.0, channel) + (at(down, 1.0, channel) - at(down, 0.0, channel)) * dx;
            line(0.0) + (line(1.0) - line(0.0)) * dy
        };
        *byte = value as u8; // truncates and saturates
    }
}

/// Pillow's cubic spline for rotation (a = -1; resizing has a = -0.5).
fn cubic([v1, v2, v3, v4]: [f64; 4], d: f64) -> f64 {
    v2 + d * (v3 - v1 + d * (2.0 * (v1 - v2) + v3 - v4 + d * (v2 - v1 - v3 + v4)))
}

/// As in torchvision for tensors: coordinates are computed in `f32` relative to the center, and bilinear interpolation
/// blends with the fill value at the border.
pub(super) fn tensor(x: &Tensor, angle: f64, how: &Rotation) -> Result<Tensor> {
    check(angle, how)?;
    let [.., height, width] = *x.dims() else {
        return Err(Error::shape(OP, "an image, […, height, width]", x.shape()));
    };
    if how.interpolation == Interpolation::Bicubic {
        return Err(Error::argument(
            OP,
            "tensors support nearest and bilinear interpolation; images also support bicubic",
        ));
    }
    let turn = -angle.to_radians();
    let [a, b, d, e] = [turn.cos(), turn.sin(), -turn.sin(), turn.cos()].map(|v| v as f32);
    let (w, h) = (width as f32, height as f32);
    let (cx, cy) = how.center.map_or((0.0, 0.0), |(cx, cy)| (cx as f32 - w / 2.0, cy as f32 - h / 2.0));
    let (c, f) = (cx - a * cx - b * cy, cy - d * cx - e * cy);
    let (mut rows, mut columns) = (h, w);
    if how.expand {
        let corners = [(-w, -h), (-w, h), (w, h), (w, -h)]
            .map(|(x, y)| (0.5 * (a * x + b * y) + c + 0.5 * w, 0.5 * (d * x + e * y) + f + 0.5 * h));
        let extent = |values: [f32; 4]| {
            // Truncated to ten-thousandths, so that a rounding error does not add a pixel.
            let cut = |v: f32| (v / 1e-4).trunc() * 1e-4;
            let most = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            cut(most).ceil() - cut(values.iter().copied().fold(f32::INFINITY, f32::min)).floor()
        };
        (columns, rows) = (extent(corners.map(|p| p.0)), extent(corners.map(|p| p.1)));
    }
    let area = height * width;
    let planes = x.dims().iter().rev().skip(2).product();
    let (rows, columns) = result_size(f64::from(rows), f64::from(columns), planes)?;
    let from = x.detach().to_dtype(DType::F32)?.to_device(Device::Cpu)?.to_vec::<f32>()?;
    let (fill, mut values) = (how.fill as f32, vec![0f32; rows * columns * planes]);
    let inside = |v: f32, len: usize| (v >= 0.0 && v < len as f32).then_some(v as usize);
    for row in 0..rows {
        for column in 0..columns {
            let (x, y) = (column as f32 + 0.5 - columns as f32 * 0.5, row as f32 + 0.5 - rows as f32 * 0.5);
            let place = |p: f32, q: f32, r: f32, len: f32| {
                let unit = x * (p / (0.5 * len)) + y * (q / (0.5 * len)) + r / (0.5 * len);
                ((unit + 1.0) * len - 1.0) / 2.0
            };
            let (x, y) = (place(a, b, c, w), place(d, e, f, h));
            for plane in 0..planes {
                let at = |x: f32, y: f32| {
                    let (x, y) = (inside(x, width)?, inside(y, height)?);
                    from.get(plane * area + y * width + x).copied()
                };
                values[(plane * rows + row) * columns + column] = if how.interpolation == Interpolation::Nearest {
                    at(x.round_ties_even(), y.round_ties_even()).unwrap_or(fill)
                } else {
                    let (left, top) = (x.floor(), y.floor());
                    let (dx, dy) = (x - left, y - top);
                    let corners = [
                        (left, top, (1.0 - dx) * (1.0 - dy)),
                        (left + 1.0, top, dx * (1.0 - dy)),
                        (left, top + 1.0, (1.0 - dx) * dy),
                        (left + 1.0, top + 1.0, dx * dy),
                    ];
                    let (mut sum, mut weight) = (0.0, 0.0);
                    for (x, y, share) in corners {
                        if let Some(value) = at(x, y) {
                            (sum, weight) = (sum + share * value, weight + share);
                        }
                    }
                    sum * weight + (1.0 - weight) * fill
                };
            }
        }
    }
    let mut dims = x.dims().to_vec();
    let rank = dims.len();
    (dims[rank - 2], dims[rank - 1]) = (rows, columns);
    if !x.dtype().is_float() {
        values.iter_mut().for_each(|v| *v = v.round_ties_even());
    }
    Tensor::from_vec(values, dims, Device::Cpu)?.to_dtype(x.dtype())?.to_device(x.device())
}

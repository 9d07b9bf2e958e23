//! `Resize`, with Pillow's results.

use std::cell::RefCell;

use fast_image_resize::{
    FilterType, PixelTrait, ResizeAlg, ResizeOptions, Resizer,
    images::TypedImage,
    pixels::{U8, U8x3},
};
use kiln_tensor::{Error, Result};

use super::{Image, Transform, image_ops::ImageOps, interpolation::Interpolation};

thread_local! {
    /// Keeps its buffers for the next image.
    static RESIZER: RefCell<Resizer> = RefCell::new(Resizer::new());
}

/// Resizes an image: torchvision's `Resize`. When the image gets smaller, the filter is widened accordingly, which avoids
/// aliasing: Pillow always does that, and torchvision with `antialias=True`, its default.
#[derive(Clone, Copy, Debug)]
pub struct Resize {
    size: Size,
    interpolation: Interpolation,
    antialias: bool,
}

#[derive(Clone, Copy, Debug)]
enum Size {
    Exact(usize, usize),
    Shorter(usize),
}

impl Resize {
    /// Resizes to `height` rows of `width` columns, whatever the aspect ratio becomes.
    #[must_use]
    pub fn new(height: usize, width: usize) -> Resize {
        Resize { size: Size::Exact(height, width), interpolation: Interpolation::Bilinear, antialias: true }
    }

    /// Resizes so that the shorter side has this length, keeping the aspect ratio: torchvision's `Resize(256)`.
    #[must_use]
    pub fn shorter(side: usize) -> Resize {
        Resize { size: Size::Shorter(side), ..Resize::new(0, 0) }
    }

    /// The interpolation; bilinear by default.
    #[must_use]
    pub fn interpolation(self, interpolation: Interpolation) -> Resize {
        Resize { interpolation, ..self }
    }

    /// Whether the filter is widened when the image gets smaller.
    #[must_use]
    pub fn antialias(self, antialias: bool) -> Resize {
        Resize { antialias, ..self }
    }

    /// Height and width of the result for an image of this height and width.
    fn target(&self, (height, width): (usize, usize)) -> (usize, usize) {
        match self.size {
            Size::Exact(height, width) => (height, width),
            // Rounded down, as in torchvision.
            Size::Shorter(side) if height <= width => (side, side.saturating_mul(width) / height),
            Size::Shorter(side) => (side.saturating_mul(height) / width, side),
        }
    }

    /// Filters one direction and then the other, rounding to bytes in between. The order affects the rounding: as in
    /// Pillow 13, the first is the one that leaves fewer pixels for the second.
    fn filtered(&self, image: Image, filter: FilterType, (rows, columns): (usize, usize)) -> Result<Image> {
        let (source_height, source_width, channels) = (image.height(), image.width(), image.channels());
        let refuse = |reason: String| {
            Error::argument("Resize", format!("{source_height}×{source_width} with {channels} channels: {reason}"))
        };
        let side = |n: usize| u32::try_from(n).map_err(|_| refuse(format!("a side of {n} pixels is too long")));
        let (height, width) = (side(source_height)?, side(source_width)?);
        let across = rows as u128 * source_width as u128 >= source_height as u128 * columns as u128;
        let to = (side(columns)?, side(rows)?);
        let between = if across { (to.0, height) } else { (width, to.1) };
        let algorithm = if self.antialias { ResizeAlg::Convolution(filter) } else { ResizeAlg::Interpolation(filter) };
        let scale = if channels == 3 { scale::<U8x3> } else { scale::<U8> };
        let half = scale(algorithm, image.into_pixels(), (width, height), between).map_err(refuse)?;
        let pixels = scale(algorithm, half, between, to).map_err(refuse)?;
        Image::new(rows, columns, channels, pixels)
    }
}

/// Resizes pixels to another width and height. The resizer's generic functions are compiled in this crate, hundreds of
/// times for each type of pixels and of images, so as few types as possible are used: the source has the mutable type
/// of the result and of the resizer's own buffers.
fn scale<P: PixelTrait>(
    algorithm: ResizeAlg,
    mut pixels: Vec<u8>,
    (width, height): (u32, u32),
    to: (u32, u32),
) -> Result<Vec<u8>, String> {
    let from = TypedImage::<P>::from_buffer(width, height, &mut pixels).map_err(|error| error.to_string())?;
    let mut out = vec![0; to.0 as usize * to.1 as usize * P::size()];
    let mut target = TypedImage::<P>::from_buffer(to.0, to.1, &mut out).map_err(|error| error.to_string())?;
    let options = ResizeOptions::new().resize_alg(algorithm);
    RESIZER
        .with_borrow_mut(|resizer| resizer.resize_typed(&from, &mut target, &options))
        .map_err(|error| error.to_string())?;
    Ok(out)
}

/// The old pixels that contain the centers of `to` new pixels. Positions are accumulated step by step, as in Pillow, so
/// that centers on the border of two pixels fall to the same side.
fn centers(from: usize, to: usize) -> Vec<usize> {
    let step = from as f64 / to as f64;
    let sums = std::iter::successors(Some(step * 0.5), |center| Some(center + step));
    sums.take(to).map(|center| (center as usize).min(from - 1)).collect()
}

/// Nearest-pixel interpolation: each new pixel is the old one that contains its center.
fn nearest(image: &Image, (rows, columns): (usize, usize)) -> Result<Image> {
    let channels = image.channels();
    let across = centers(image.width(), columns);
    let mut pixels = Vec::with_capacity(rows * columns * channels);
    for y in centers(image.height(), rows) {
        let row = image.row(y);
        across.iter().for_each(|x| pixels.extend_from_slice(&row[x * channels..][..channels]));
    }
    Image::new(rows, columns, channels, pixels)
}

impl Transform<Image> for Resize {
    type Output = Image;
    fn apply(&self, image: Image) -> Result<Image> {
        let size = image.extent()?;
        if size.0 == 0 || size.1 == 0 {
            return Err(Error::argument("Resize", format!("{image:?} has no pixels")));
        }
        let target = self.target(size);
        if target == size {
            return Ok(image);
        }
        // Bounds the result and the image between the two passes: running out of memory there would abort the program.
        let (rows, columns) = (target.0.max(size.0), target.1.max(size.1));
        let most = rows.checked_mul(columns).and_then(|area| area.checked_mul(image.channels()));
        let holds = most.is_some_and(|bytes| Vec::<u8>::new().try_reserve_exact(bytes).is_ok());
        if target.0 == 0 || target.1 == 0 || !holds {
            return Err(Error::argument("Resize", format!("{image:?} cannot become {}×{}", target.0, target.1)));
        }
        match self.interpolation {
            Interpolation::Nearest => nearest(&image, target),
            Interpolation::Bilinear => self.filtered(image, FilterType::Bilinear, target),
            Interpolation::Bicubic => self.filtered(image, FilterType::CatmullRom, target),
        }
    }
}

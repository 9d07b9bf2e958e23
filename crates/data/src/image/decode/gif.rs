//! GIF decoding: the first frame.

use gif::{ColorOutput, DecodeOptions, DecodingError, MemoryLimit};

use super::pixels::image;
use crate::image::{
    Image,
    limits::{Budget, Failure, zeros},
};

pub(super) fn decode(bytes: &[u8], budget: Budget) -> Result<Image, Failure> {
    let failed = |error: DecodingError| match error {
        DecodingError::Io(_) => Failure::File("the GIF is cut short".into()),
        error => Failure::File(format!("damaged GIF: {error}")),
    };
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    let bound = std::num::NonZeroU64::new(budget.bytes() as u64).unwrap_or(std::num::NonZeroU64::MIN);
    options.set_memory_limit(MemoryLimit::Bytes(bound));
    let mut decoder = options.read_info(bytes).map_err(failed)?;
    let screen = (usize::from(decoder.width()), usize::from(decoder.height()));
    let frame = decoder.next_frame_info().map_err(failed)?.ok_or("the GIF has no frame")?;
    let (left, top) = (usize::from(frame.left), usize::from(frame.top));
    let (columns, rows, transparent) = (usize::from(frame.width), usize::from(frame.height), frame.transparent);
    // A frame that extends beyond the screen makes the image larger, as in Pillow.
    let (width, height) = (screen.0.max(left + columns), screen.1.max(top + rows));
    let _reservation = budget.admit(width as u64, height as u64, 3, (columns * rows) as u64)?;
    let mut indices = zeros(columns * rows)?;
    decoder.read_into_buffer(&mut indices).map_err(failed)?;
    let palette = decoder.palette().map_err(failed)?;
    let color = |index: u8| {
        palette.get(usize::from(index) * 3..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; 3])
    };
    let mut pixels = zeros(width * height * 3)?;
    if (columns, rows) != (width, height) {
        let around = color(transparent.unwrap_or(0));
        pixels.chunks_exact_mut(3).for_each(|pixel| pixel.copy_from_slice(&around));
    }
    for (y, row) in indices.chunks_exact(columns.max(1)).enumerate() {
        let target = &mut pixels[((top + y) * width + left) * 3..][..columns * 3];
        target.chunks_exact_mut(3).zip(row).for_each(|(pixel, &index)| pixel.copy_from_slice(&color(index)));
    }
    image(height, width, 3, pixels)
}

//! PNG decoding, including interlaced files. Chunks that do not affect pixels (profiles, texts) are skipped.

use std::io::Cursor;

use png::{BitDepth, ColorType, DecodingError, Transformations};

use super::pixels::{image, keep_channels};
use crate::image::{
    Image,
    limits::{Budget, Failure, zeros},
};

pub(super) fn decode(bytes: &[u8], budget: Budget) -> Result<Image, Failure> {
    let failed = |error: DecodingError| match error {
        DecodingError::LimitsExceeded => Failure::File(format!(
            "decoding the PNG takes more than {} bytes (`ImageLimits::memory` allows more)",
            budget.bytes()
        )),
        DecodingError::IoError(_) => Failure::File("the PNG is cut short".into()),
        error => Failure::File(format!("damaged PNG: {error}")),
    };
    let limits = png::Limits { bytes: budget.bytes() };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), limits);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    // Looks palettes up, and scales samples of less than 8 bits to 8.
    decoder.set_transformations(Transformations::EXPAND);
    let header = decoder.read_header_info().map_err(failed)?;
    let (width, height) = (header.width, header.height);
    let reservation = budget.admit(width.into(), height.into(), 1, 0)?;
    let mut reader = decoder.read_info().map_err(failed)?;
    let (color, depth) = reader.output_color_type();
    let wide = depth == BitDepth::Sixteen;
    let stride = color.samples() * if wide { 2 } else { 1 };
    drop(reservation);
    // Unpacked rows are held in a buffer that grows by doubling: at most ten rows, or all, or 256 KiB.
    let rows = u64::from(height.min(10)) * u64::from(width) * stride as u64;
    let _reservation = budget.admit(width.into(), height.into(), stride as u64, 3 * rows + (1 << 19))?;
    let mut pixels = zeros(reader.output_buffer_size().ok_or("its size exceeds this machine's addresses")?)?;
    reader.next_frame(&mut pixels).map_err(failed)?;
    let (height, width) = (height as usize, width as usize);
    let channels = match color {
        ColorType::Grayscale | ColorType::GrayscaleAlpha => 1,
        _ => 3,
    };
    if wide {
        if color == ColorType::Grayscale {
            pixels.chunks_exact_mut(2).for_each(|p| p[0] = if p[0] > 0 { 255 } else { p[1] });
        }
        pixels = keep_channels(pixels, 2, 1);
    }
    if color.samples() != channels {
        pixels = keep_channels(pixels, color.samples(), channels);
    }
    image(height, width, channels, pixels)
}

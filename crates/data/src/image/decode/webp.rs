//! WebP, lossy and lossless; of an animation the first frame.

use std::io::Cursor;

use image_webp::{DecodingError, WebPDecoder};

use super::{
    super::limits::{Budget, Failure, zeros},
    Image, image, keep_channels,
};

const CUT: &str = "the WebP is cut short";

pub(super) fn decode(bytes: &[u8], budget: Budget) -> Result<Image, Failure> {
    let failed = |error: DecodingError| match error {
        DecodingError::IoError(_) => Failure::from(CUT),
        error => Failure::File(format!("damaged WebP: {error}")),
    };
    let size = bytes.get(4..8).and_then(|size| size.first_chunk()).map_or(0, |size| u32::from_le_bytes(*size));
    let chunks = bytes[8..].get(..size as usize).and_then(|chunks| chunks.get(4..)).ok_or(CUT)?;
    for (width, height) in frames(chunks) {
        // Decoding a frame takes its planes and their filters, or four channels.
        budget.admit(width, height, 4, 0)?;
    }
    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(failed)?;
    decoder.set_memory_limit(budget.bytes());
    let (width, height) = decoder.dimensions();
    let channels = if decoder.has_alpha() { 4 } else { 3 };
    // Besides the result there is the frame; an animation has a canvas, too.
    let besides = if decoder.is_animated() { 8 } else { 4 };
    budget.admit(width.into(), height.into(), channels as u64 + besides, 0)?;
    let mut pixels = zeros(decoder.output_buffer_size().ok_or("its size exceeds this machine's addresses")?)?;
    decoder.read_image(&mut pixels).map_err(failed)?;
    let pixels = if channels == 4 { keep_channels(pixels, 4, 3) } else { pixels };
    image(height as usize, width as usize, 3, pixels)
}

/// Width and height of every frame in these chunks. The decoder reserves memory for what a frame declares, before it compares
/// that with the size of the image.
fn frames(mut chunks: &[u8]) -> Vec<(u64, u64)> {
    let mut sizes = Vec::new();
    while let Some((&[a, b, c, d, s0, s1, s2, s3], rest)) = chunks.split_first_chunk() {
        let len = u32::from_le_bytes([s0, s1, s2, s3]) as usize;
        let data = &rest[..len.min(rest.len())];
        match (&[a, b, c, d], data) {
            (b"VP8 ", &[_, _, _, _, _, _, w0, w1, h0, h1, ..]) => {
                let side = |low, high| u64::from(u16::from_le_bytes([low, high]) & 0x3fff);
                sizes.push((side(w0, w1), side(h0, h1)));
            }
            (b"VP8L", &[_, h0, h1, h2, h3, ..]) => {
                let header = u64::from(u32::from_le_bytes([h0, h1, h2, h3]));
                sizes.push(((header & 0x3fff) + 1, (header >> 14 & 0x3fff) + 1));
            }
            (b"ANMF", _) => sizes.extend(frames(data.get(16..).unwrap_or_default())),
            _ => {}
        }
        chunks = rest.get(len.next_multiple_of(2)..).unwrap_or_default();
    }
    sizes
}

//! WebP decoding, lossy and lossless; for animations, the first frame.

use std::io::Cursor;

use image_webp::{DecodingError, WebPDecoder};

use super::pixels::{image, keep_channels};
use crate::image::{
    Image,
    limits::{Budget, Failure, Reservation, zeros},
};

const CUT: &str = "the WebP is cut short";

pub(super) fn decode(bytes: &[u8], budget: Budget) -> Result<Image, Failure> {
    let failed = |error: DecodingError| match error {
        DecodingError::IoError(_) => Failure::from(CUT),
        error => Failure::File(format!("damaged WebP: {error}")),
    };
    let size = bytes.get(4..8).and_then(|size| size.first_chunk()).map_or(0, |size| u32::from_le_bytes(*size));
    let chunks = bytes[8..].get(..size as usize).and_then(|chunks| chunks.get(4..)).ok_or(CUT)?;
    let tables = check_frames(chunks, budget)?;
    let reservation = Reservation::new(tables)?;
    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(failed)?;
    decoder.set_memory_limit(budget.bytes());
    let (width, height) = decoder.dimensions();
    let channels = if decoder.has_alpha() { 4 } else { 3 };
    // In addition to the result there is the frame: planes with margins, or four channels. Alpha is decompressed to
    // four channels and one. An animation also has a canvas.
    let besides = 4 + if decoder.has_alpha() { 5 } else { 0 } + if decoder.is_animated() { 8 } else { 0 };
    let margins = 64 * (u64::from(width) + u64::from(height));
    drop(reservation);
    let _image = budget.admit(width.into(), height.into(), channels as u64 + besides, margins)?;
    let _tables = Reservation::new(tables)?;
    let mut pixels = zeros(decoder.output_buffer_size().ok_or("its size exceeds this machine's addresses")?)?;
    decoder.read_image(&mut pixels).map_err(failed)?;
    let pixels = if channels == 4 { keep_channels(pixels, 4, 3) } else { pixels };
    image(height as usize, width as usize, 3, pixels)
}

/// Checks the sizes of all frames in these chunks against the budget: the decoder reserves memory for the declared size
/// of a frame before it compares that with the size of the image. Returns the bytes that the decoder may need in
/// addition to the pixels of a frame.
fn check_frames(mut chunks: &[u8], budget: Budget) -> Result<u64, Failure> {
    /// The length of a part of a lossy image has 24 bits, and that much is reserved before it is read.
    const MAX_PART: u64 = 1 << 24;
    /// Bytes of Huffman tables per byte of a lossless file: up to 20 in files of common programs.
    const MAX_TABLES: u64 = 64;
    let mut most = 0;
    while let Some((&[a, b, c, d, s0, s1, s2, s3], rest)) = chunks.split_first_chunk() {
        let len = u32::from_le_bytes([s0, s1, s2, s3]) as usize;
        // The chunks of an animation frame are checked as if they followed its header.
        let len = if &[a, b, c, d] == b"ANMF" { 16 } else { len };
        let data = &rest[..len.min(rest.len())];
        let packed = data.len() as u64;
        // A frame's size takes its planes or four channels.
        let frame = |width, height| budget.admit(width, height, 4, 0).map(drop);
        most = most.max(match (&[a, b, c, d], data) {
            (b"VP8 ", &[_, _, _, _, _, _, w0, w1, h0, h1, ..]) => {
                let side = |low, high| u64::from(u16::from_le_bytes([low, high]) & 0x3fff);
                frame(side(w0, w1), side(h0, h1))?;
                MAX_PART + 3 * packed
            }
            (b"VP8L", &[_, h0, h1, h2, h3, ..]) => {
                let header = u64::from(u32::from_le_bytes([h0, h1, h2, h3]));
                frame((header & 0x3fff) + 1, (header >> 14 & 0x3fff) + 1)?;
                MAX_TABLES * packed
            }
            (b"ALPH", _) => MAX_TABLES * packed,
            _ => 0,
        });
        chunks = rest.get(len.next_multiple_of(2)..).unwrap_or_default();
    }
    Ok(most)
}

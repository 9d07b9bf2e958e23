//! JPEG decoding, baseline and progressive.
//!
//! The decoder fills in gray where data end early, as browsers do. So the markers are checked first: a file without an
//! end marker is an error, as in Pillow ("image file is truncated").

use zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions};
use zune_jpeg::JpegDecoder;

use super::pixels::{image, rgb_of_cmyk, rgb_of_four};
use crate::image::{
    Image,
    limits::{Budget, Failure, zeros},
};

pub(super) fn decode(bytes: &[u8], budget: Budget) -> Result<Image, Failure> {
    let frame = frame(bytes)?;
    let _reservation = budget.admit(frame.width, frame.height, frame.components, frame.extra() + bytes.len() as u64)?;
    let failed = |error| Failure::File(format!("damaged JPEG: {error:?}"));
    let options = DecoderOptions::default().set_strict_mode(false).set_max_width(usize::MAX).set_max_height(usize::MAX);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(failed)?;
    let space = match decoder.input_colorspace() {
        Some(ColorSpace::Luma) => ColorSpace::Luma,
        // As stored; converted below.
        Some(inks @ (ColorSpace::CMYK | ColorSpace::YCCK)) => inks,
        _ => ColorSpace::RGB,
    };
    decoder.set_options(options.jpeg_set_out_colorspace(space));
    let (width, height) = decoder.dimensions().ok_or("damaged JPEG: it has no size")?;
    let mut pixels = zeros(decoder.output_buffer_size().ok_or("damaged JPEG: it has no size")?)?;
    decoder.decode_into(&mut pixels).map_err(failed)?;
    match space {
        ColorSpace::Luma => image(height, width, 1, pixels),
        // Adobe's files store the complements of inks, and Pillow treats all CMYK files that way.
        ColorSpace::CMYK => image(height, width, 3, rgb_of_four(pixels, |inks| rgb_of_cmyk(inks.map(|ink| 255 - ink)))),
        // The complements of cyan, magenta and yellow as YCbCr.
        ColorSpace::YCCK => {
            let rgb = |[y, cb, cr, key]: [u8; 4]| {
                let [c, m, y] = rgb_of_ycbcr([y, cb, cr]);
                rgb_of_cmyk([c, m, y, 255 - key])
            };
            image(height, width, 3, rgb_of_four(pixels, rgb))
        }
        _ => image(height, width, 3, pixels),
    }
}

/// Red, green and blue of JPEG's YCbCr (ITU-R BT.601, full range).
fn rgb_of_ycbcr([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    let [y, cb, cr] = [f32::from(y), f32::from(cb) - 128.0, f32::from(cr) - 128.0];
    // `as` saturates.
    [y + 1.402 * cr, y - 0.344_136 * cb - 0.714_136 * cr, y + 1.772 * cb].map(|value| value.round() as u8)
}

/// What the headers of the frame and the first scan declare.
struct Frame {
    width: u64,
    height: u64,
    components: u64,
    /// The largest sampling factors.
    sampling: (u64, u64),
    /// Whether the coefficients of the whole image are kept until the last scan: in progressive files, and if a scan
    /// has only some of the components.
    keeps_coefficients: bool,
}

impl Frame {
    /// The bytes that decoding needs in addition to the pixels.
    fn extra(&self) -> u64 {
        let Frame { width, height, components, sampling: (across, down), keeps_coefficients } = *self;
        // Blocks of 8×8 samples of 16 bits, in units of up to 4×4 blocks.
        let padded = |side: u64| side.next_multiple_of(32);
        let coefficients = if keeps_coefficients { padded(width) * padded(height) * components * 2 } else { 0 };
        // Rows of a component before and after upsampling to the image's size, which needs extra rows.
        let rows = 10 * down + 17 * across * down + down * across * down + 8;
        coefficients + padded(width) * components * rows * 2
    }
}

/// Walks the markers to the end of the image.
fn frame(bytes: &[u8]) -> Result<Frame, Failure> {
    const CUT: &str = "the JPEG is cut short: it has no end marker";
    let (mut at, mut frame, mut first_scan) = (2, None::<Frame>, None::<u64>);
    loop {
        match next_marker(bytes, &mut at).ok_or(CUT)? {
            0xd9 => {
                let mut frame = frame.ok_or("damaged JPEG: it ends before its frame header")?;
                frame.keeps_coefficients |= first_scan.is_some_and(|count| count < frame.components);
                return Ok(frame);
            }
            // Restart markers, and others without a length.
            0x01 | 0xd0..=0xd8 => {}
            marker => {
                let segment = bytes.get(at..).unwrap_or_default();
                let &[high, low, ..] = segment else { return Err(CUT.into()) };
                let len = usize::from(u16::from_be_bytes([high, low]));
                let segment =
                    segment.get(2..len).ok_or(if len < 2 { "damaged JPEG: a segment has no length" } else { CUT })?;
                match (marker, segment) {
                    (0xc4 | 0xc8 | 0xcc, _) => {}
                    (0xc0..=0xcf, &[_, h1, h0, w1, w0, components, ref each @ ..]) => {
                        let side = |high, low| u64::from(u16::from_be_bytes([high, low]));
                        let factors = each.chunks_exact(3).map(|component| component[1]);
                        let largest = |of: fn(u8) -> u8| factors.clone().map(of).max().unwrap_or(1).clamp(1, 4).into();
                        frame = Some(Frame {
                            width: side(w1, w0),
                            height: side(h1, h0),
                            components: components.into(),
                            sampling: (largest(|factor| factor >> 4), largest(|factor| factor & 15)),
                            keeps_coefficients: marker == 0xc2,
                        });
                    }
                    (0xda, &[components, ..]) => first_scan = first_scan.or(Some(components.into())),
                    _ => {}
                }
                at += len;
            }
        }
    }
}

/// The next marker from `at` on; `at` is moved past it. Entropy-coded data contain none: there 0xff is followed by 0.
fn next_marker(bytes: &[u8], at: &mut usize) -> Option<u8> {
    loop {
        *at += bytes.get(*at..)?.iter().position(|&byte| byte == 0xff)?;
        // Any number of 0xff may precede a marker.
        *at += bytes.get(*at..)?.iter().position(|&byte| byte != 0xff)?;
        *at += 1;
        match bytes[*at - 1] {
            0 => {}
            marker => return Some(marker),
        }
    }
}

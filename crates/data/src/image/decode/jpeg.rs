//! JPEG, baseline and progressive.
//!
//! The decoder fills in gray where data end early, as browsers do. So the markers are walked first: a file without an end
//! marker is cut, as for Pillow ("image file is truncated").

use zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions};
use zune_jpeg::JpegDecoder;

use super::{
    super::limits::{Budget, Failure, zeros},
    Image, image, rgb_of_cmyk,
};

pub(super) fn decode(bytes: &[u8], budget: Budget) -> Result<Image, Failure> {
    let frame = frame(bytes)?;
    let components = frame.components;
    // Progressive decoding, and that of one component after the other, keeps the coefficients of the whole image, 16 bits
    // each, in blocks of up to 32×32 pixels.
    let padded = |side: u64| side.next_multiple_of(32);
    let coefficients = padded(frame.width) * padded(frame.height) * components * 2;
    budget.admit(frame.width, frame.height, components, if frame.progressive { coefficients } else { 0 })?;
    let failed = |error| Failure::File(format!("damaged JPEG: {error:?}"));
    let options = DecoderOptions::default().set_strict_mode(false).set_max_width(usize::MAX).set_max_height(usize::MAX);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(failed)?;
    let space = match decoder.input_colorspace() {
        Some(ColorSpace::Luma) => ColorSpace::Luma,
        // As they are stored: they are converted below.
        Some(inks @ (ColorSpace::CMYK | ColorSpace::YCCK)) => inks,
        _ => ColorSpace::RGB,
    };
    decoder.set_options(options.jpeg_set_out_colorspace(space));
    let (width, height) = decoder.dimensions().ok_or("damaged JPEG: it has no size")?;
    let mut pixels = zeros(decoder.output_buffer_size().ok_or("damaged JPEG: it has no size")?)?;
    decoder.decode_into(&mut pixels).map_err(failed)?;
    match space {
        ColorSpace::Luma => image(height, width, 1, pixels),
        ColorSpace::CMYK => {
            // Adobe's files hold the complements of inks, and so does Pillow take all of them.
            let rgb = pixels.chunks_exact(4).flat_map(|p| rgb_of_cmyk([p[0], p[1], p[2], p[3]].map(|ink| 255 - ink)));
            image(height, width, 3, rgb.collect())
        }
        // The complements of cyan, magenta and yellow as YCbCr.
        ColorSpace::YCCK => {
            let rgb = pixels.chunks_exact(4).flat_map(|p| {
                let [c, m, y] = rgb_of_ycbcr([p[0], p[1], p[2]]);
                rgb_of_cmyk([c, m, y, 255 - p[3]])
            });
            image(height, width, 3, rgb.collect())
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

/// What the frame header says.
struct Frame {
    width: u64,
    height: u64,
    components: u64,
    progressive: bool,
}

/// Walks the markers to the end of the image.
fn frame(bytes: &[u8]) -> Result<Frame, Failure> {
    const CUT: &str = "the JPEG is cut short: it has no end marker";
    let (mut at, mut frame) = (2, None);
    loop {
        match next_marker(bytes, &mut at).ok_or(CUT)? {
            0xd9 => return Ok(frame.ok_or("damaged JPEG: it ends before its frame header")?),
            // Restarts, and what else has no length.
            0x01 | 0xd0..=0xd8 => {}
            marker => {
                let segment = bytes.get(at..).unwrap_or_default();
                let &[high, low, ..] = segment else { return Err(CUT.into()) };
                let len = usize::from(u16::from_be_bytes([high, low]));
                let segment =
                    segment.get(2..len).ok_or(if len < 2 { "damaged JPEG: a segment has no length" } else { CUT })?;
                if let (0xc0..=0xcf, &[_, h1, h0, w1, w0, components, ..]) = (marker, segment)
                    && !matches!(marker, 0xc4 | 0xc8 | 0xcc)
                {
                    let side = |high, low| u64::from(u16::from_be_bytes([high, low]));
                    frame = Some(Frame {
                        width: side(w1, w0),
                        height: side(h1, h0),
                        components: components.into(),
                        progressive: marker == 0xc2,
                    });
                }
                at += len;
            }
        }
    }
}

/// The next marker from `at` on, which is moved behind it. Entropy-coded data have none: there 0xff is followed by 0.
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

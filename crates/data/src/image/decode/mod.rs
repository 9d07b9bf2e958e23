//! Decodes image files to 8-bit gray or RGB pixels, as Pillow's `convert` does. A truncated file is an error.

mod bmp;
mod gif;
mod jpeg;
mod pixels;
mod png;
mod pnm;
mod tiff;
mod webp;

use super::{
    Image,
    limits::{Failure, ImageLimits, Reservation},
};

pub(super) fn decode(bytes: &[u8], limits: ImageLimits) -> Result<Image, Failure> {
    let budget = limits.budget(bytes.len());
    // The memory for reading a header.
    let _reservation = Reservation::new(0)?;
    match bytes {
        [] => Err("it is empty".into()),
        [0xff, 0xd8, 0xff, ..] => jpeg::decode(bytes, budget),
        [0x89, b'P', b'N', b'G', ..] => png::decode(bytes, budget),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => gif::decode(bytes, budget),
        [b'B', b'M', ..] => bmp::decode(bytes, budget),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => webp::decode(bytes, budget),
        [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => tiff::decode(bytes, budget),
        [b'P', b'1'..=b'7', ..] => pnm::decode(bytes, budget),
        _ => {
            Err("its first bytes are not those of a supported image format (JPEG, PNG, BMP, GIF, TIFF, WebP or PNM)"
                .into())
        }
    }
}

//! BMP decoding: 1 to 32 bits per pixel, with palettes, bit fields and run-length encoding.

use super::pixels::{image, unpack_bits};
use crate::image::{
    Image,
    limits::{Budget, Failure, zeros},
};

const CUT: &str = "the BMP is cut short";
const RLE8: u32 = 1;
const RLE4: u32 = 2;
const BIT_FIELDS: u32 = 3;
const ALPHA_BIT_FIELDS: u32 = 6;

struct Header {
    width: usize,
    height: usize,
    top_down: bool,
    bits: usize,
    compression: u32,
    /// The masks of red, green and blue in a pixel of 16 or 32 bits.
    masks: [u32; 3],
    palette: Vec<[u8; 3]>,
    /// The offset of the pixels.
    offset: usize,
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, Failure> {
    Ok(u16::from_le_bytes(*bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or(CUT)?))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Failure> {
    Ok(u32::from_le_bytes(*bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or(CUT)?))
}

pub(super) fn decode(bytes: &[u8], budget: Budget) -> Result<Image, Failure> {
    let header = header(bytes)?;
    let Header { width, height, .. } = header;
    let run_lengths = matches!(header.compression, RLE8 | RLE4);
    let _reservation =
        budget.admit(width as u64, height as u64, 3, if run_lengths { (width * height) as u64 } else { 0 })?;
    let data = bytes.get(header.offset..).ok_or(CUT)?;
    let mut pixels = zeros(width * height * 3)?;
    // Rows are stored bottom-up, unless the height is negative.
    let place = |row: usize| (if header.top_down { row } else { height - 1 - row }) * width * 3;
    if run_lengths {
        let indices = runs(data, width, height, header.compression == RLE4)?;
        for (row, indices) in indices.chunks_exact(width).enumerate() {
            let target = &mut pixels[place(row)..][..width * 3];
            target
                .chunks_exact_mut(3)
                .zip(indices)
                .for_each(|(pixel, &index)| pixel.copy_from_slice(&color(&header, index)));
        }
        return image(height, width, 3, pixels);
    }
    // The last row may lack its padding to a multiple of 4 bytes.
    let used = (width * header.bits).div_ceil(8);
    let stride = used.next_multiple_of(4);
    let channel = channels(header.masks);
    for row in 0..height {
        let source = data.get(row * stride..).and_then(|rest| rest.get(..used)).ok_or(CUT)?;
        let target = pixels[place(row)..][..width * 3].chunks_exact_mut(3);
        match header.bits {
            24 => target.zip(source.chunks_exact(3)).for_each(|(pixel, p)| pixel.copy_from_slice(&[p[2], p[1], p[0]])),
            16 => target.zip(source.chunks_exact(2)).for_each(|(pixel, p)| {
                pixel.copy_from_slice(&channel.map(|of| of.byte(u16::from_le_bytes([p[0], p[1]]).into())));
            }),
            32 => target.zip(source.chunks_exact(4)).for_each(|(pixel, p)| {
                pixel.copy_from_slice(&channel.map(|of| of.byte(u32::from_le_bytes([p[0], p[1], p[2], p[3]]))));
            }),
            bits => target
                .zip(unpack_bits(source, bits, width))
                .for_each(|(pixel, index)| pixel.copy_from_slice(&color(&header, index))),
        }
    }
    image(height, width, 3, pixels)
}

fn color(header: &Header, index: u8) -> [u8; 3] {
    header.palette.get(usize::from(index)).copied().unwrap_or_default()
}

fn header(bytes: &[u8]) -> Result<Header, Failure> {
    let offset = u32_at(bytes, 10)? as usize;
    let size = u32_at(bytes, 14)?;
    let (width, height, bits, compression, colors) = match size {
        // The first OS/2 version.
        12 => (i64::from(u16_at(bytes, 18)?), i64::from(u16_at(bytes, 20)?), u16_at(bytes, 24)?, 0, 0),
        40 | 52 | 56 | 64 | 108 | 124 => (
            i64::from(u32_at(bytes, 18)? as i32),
            i64::from(u32_at(bytes, 22)? as i32),
            u16_at(bytes, 28)?,
            u32_at(bytes, 30)?,
            u32_at(bytes, 46)?,
        ),
        size => return Err(format!("a BMP with a header of {size} bytes, which is not a known version").into()),
    };
    let bits = usize::from(bits);
    let fits = match compression {
        0 => matches!(bits, 1 | 4 | 8 | 16 | 24 | 32),
        RLE8 => bits == 8 && height > 0,
        RLE4 => bits == 4 && height > 0,
        BIT_FIELDS | ALPHA_BIT_FIELDS => matches!(bits, 16 | 32),
        _ => false,
    };
    if !fits {
        return Err(
            format!("a BMP of {bits} bits per pixel with compression {compression}, which is not supported").into()
        );
    }
    if width <= 0 || height == 0 {
        return Err(format!("its header declares an empty image, {height}×{width}").into());
    }
    let masks = match (compression, bits) {
        // Bit fields are in the header or, in its first version, follow it: at the same offset.
        (BIT_FIELDS | ALPHA_BIT_FIELDS, _) => [u32_at(bytes, 54)?, u32_at(bytes, 58)?, u32_at(bytes, 62)?],
        (_, 16) => [0x7c00, 0x03e0, 0x001f],
        _ => [0x00ff_0000, 0x0000_ff00, 0x0000_00ff],
    };
    let mut palette = Vec::new();
    if bits <= 8 {
        let stride = if size == 12 { 3 } else { 4 };
        let most = 1usize << bits;
        let count = if colors == 0 { most } else { most.min(colors as usize) };
        let start = 14 + size as usize;
        let entries = bytes.get(start..).unwrap_or_default();
        // A palette that the pixels overlap is shorter than declared.
        let entries = &entries[..entries.len().min(count * stride).min(offset.saturating_sub(start))];
        palette.extend(entries.chunks_exact(stride).map(|p| [p[2], p[1], p[0]]));
    }
    Ok(Header {
        width: width as usize,
        height: height.unsigned_abs() as usize,
        top_down: height < 0,
        bits,
        compression,
        masks,
        palette,
        offset,
    })
}

/// One channel of a pixel with bit fields.
#[derive(Clone, Copy)]
struct Channel {
    shift: u32,
    max: u32,
}

fn channels(masks: [u32; 3]) -> [Channel; 3] {
    masks.map(|mask| {
        let shift = mask.trailing_zeros() % 32;
        Channel { shift, max: mask >> shift }
    })
}

impl Channel {
    fn byte(self, pixel: u32) -> u8 {
        let value = u64::from((pixel >> self.shift) & self.max);
        if self.max == 255 { value as u8 } else { (value * 255 / u64::from(self.max.max(1))) as u8 }
    }
}

/// The indices of a run-length encoded image, rows bottom-up. Skipped pixels are 0.
fn runs(data: &[u8], width: usize, height: usize, nibbles: bool) -> Result<Vec<u8>, Failure> {
    let mut indices = zeros(width * height)?;
    let (mut x, mut y, mut at) = (0usize, 0usize, 0usize);
    let mut put = |x: &mut usize, y: usize, index: u8| {
        // Pixels past the end of a row are dropped.
        if *x < width && y < height {
            indices[y * width + *x] = index;
        }
        *x += 1;
    };
    let byte = |at: usize| data.get(at).copied().ok_or(CUT);
    let nibble = |byte: u8, i: usize| {
        if !nibbles {
            byte
        } else if i.is_multiple_of(2) {
            byte >> 4
        } else {
            byte & 15
        }
    };
    loop {
        let (count, value) = (byte(at)?, byte(at + 1)?);
        at += 2;
        match (count, value) {
            (0, 0) => (x, y) = (0, y + 1),
            (0, 1) => break,
            (0, 2) => {
                (x, y) = (x + usize::from(byte(at)?), y + usize::from(byte(at + 1)?));
                at += 2;
            }
            (0, len) => {
                let len = usize::from(len);
                let bytes = if nibbles { len.div_ceil(2) } else { len };
                for i in 0..len {
                    put(&mut x, y, nibble(byte(at + if nibbles { i / 2 } else { i })?, i));
                }
                at += bytes.next_multiple_of(2);
            }
            (len, value) => (0..usize::from(len)).for_each(|i| put(&mut x, y, nibble(value, i))),
        }
        // Once all rows are complete, the end code may be missing.
        if y >= height || (y + 1 == height && x >= width) {
            break;
        }
    }
    Ok(indices)
}

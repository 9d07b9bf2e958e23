//! TIFF decoding: the first image, in strips or tiles.

use std::io::Cursor;

use tiff::{
    ColorType, TiffError,
    decoder::{Decoder, DecodingResult, Limits},
    tags::Tag,
};

use super::pixels::{image, keep_channels, rgb_of_cmyk, rgb_of_four, unpack_bits};
use crate::image::{
    Image,
    limits::{Budget, Failure, Reservation, collected, room},
};

/// The value of the compression tag for JPEG.
const JPEG: u16 = 7;

pub(super) fn decode(bytes: &[u8], budget: Budget) -> Result<Image, Failure> {
    let failed = |error: TiffError| match error {
        TiffError::IoError(_) => Failure::from("the TIFF is cut short"),
        TiffError::LimitsExceeded => Failure::File(format!(
            "decoding the TIFF takes more than {} bytes (`ImageLimits::memory` allows more)",
            budget.bytes()
        )),
        error => Failure::File(format!("damaged or unsupported TIFF: {error}")),
    };
    let directory = Directory::first(bytes);
    // While reading tags, the decoder keeps their values in up to three forms, of at most 48 bytes in all.
    let tags = directory.values() * 48;
    let reservation = Reservation::new(tags)?;
    // The decoder does not support palettes, so indices are read as gray.
    let indices = palette_as_gray(&directory)?;
    let mut decoder = Decoder::new(Cursor::new(indices.as_deref().unwrap_or(bytes))).map_err(failed)?;
    let (width, height) = decoder.dimensions().map_err(failed)?;
    let color = decoder.colortype().map_err(failed)?;
    // A strip or tile may be larger than the image, and is decompressed as a whole.
    let (tile_width, tile_height) = decoder.chunk_dimensions();
    let per_pixel = (u64::from(color.num_samples()) * u64::from(color.bit_depth())).div_ceil(8);
    let tile = u64::from(tile_width).saturating_mul(tile_height.into()).saturating_mul(per_pixel);
    // The samples, and the pixels made from them; planar samples are first interleaved.
    let planes = decoder.find_tag_unsigned::<u16>(Tag::PlanarConfiguration).map_err(failed)? == Some(2);
    let per_pixel = per_pixel * if planes { 2 } else { 1 } + 3;
    // For JPEG compression: a copy that grows by doubling, the coefficients, and the samples before they are copied.
    let is_jpeg = decoder.find_tag_unsigned::<u16>(Tag::Compression).map_err(failed)? == Some(JPEG);
    let strip = if is_jpeg { tile.saturating_mul(4).saturating_add(3 * bytes.len() as u64) } else { tile };
    drop(reservation);
    let _reservation = budget.admit(width.into(), height.into(), per_pixel, strip.saturating_add(tags))?;
    let mut limits = Limits::default();
    limits.decoding_buffer_size = budget.bytes();
    limits.intermediate_buffer_size = budget.bytes();
    limits.ifd_value_size = budget.bytes().min(bytes.len());
    let mut decoder = decoder.with_limits(limits);
    let palette = match indices {
        Some(_) => Some(decoder.get_tag_u16_vec(Tag::ColorMap).map_err(failed)?),
        None => None,
    };
    let mut samples = DecodingResult::U8(Vec::new());
    let layout = decoder.read_image_to_buffer(&mut samples).map_err(failed)?;
    let (height, width) = (height as usize, width as usize);
    let area = height * width;
    if samples.as_buffer(0).as_bytes().len() < layout.complete_len {
        return Err(failed(TiffError::LimitsExceeded));
    }
    if layout.planes > 1 {
        samples = interleaved(samples, layout.planes)?;
    }
    let unread = || Failure::File(format!("a TIFF of {color:?}, which is not supported"));
    let rgb = |pixels| image(height, width, 3, pixels);
    if let Some(map) = palette {
        return match (color, samples) {
            (ColorType::Gray(8), DecodingResult::U8(values)) => rgb(looked_up(area, values.into_iter(), 8, &map)?),
            (ColorType::Gray(bits @ (1 | 2 | 4)), DecodingResult::U8(values)) => {
                rgb(looked_up(area, unpacked(&values, bits, width)?, bits, &map)?)
            }
            _ => Err(format!("a TIFF with a palette of {} bits, which is not supported", color.bit_depth()).into()),
        };
    }
    match (color, samples) {
        (ColorType::Gray(8), DecodingResult::U8(values)) => image(height, width, 1, values),
        (ColorType::Gray(bits @ (1 | 2 | 4)), DecodingResult::U8(values)) => {
            let scale = 255 / ((1 << bits) - 1) as u8;
            image(height, width, 1, collected(area, unpacked(&values, bits, width)?.map(|value| value * scale))?)
        }
        (ColorType::Gray(_), values) => image(height, width, 1, clipped(&values)?.ok_or_else(unread)?),
        (ColorType::GrayA(_) | ColorType::Multiband { num_samples: 2, .. }, values) => {
            image(height, width, 1, keep_channels(upper(values)?.ok_or_else(unread)?, 2, 1))
        }
        (ColorType::RGB(_), values) => rgb(upper(values)?.ok_or_else(unread)?),
        (ColorType::RGBA(_), values) => rgb(keep_channels(upper(values)?.ok_or_else(unread)?, 4, 3)),
        (ColorType::CMYK(_), values) => rgb(rgb_of_four(upper(values)?.ok_or_else(unread)?, rgb_of_cmyk)),
        _ => Err(unread()),
    }
}

/// Packed samples, row by row.
fn unpacked(values: &[u8], bits: u8, width: usize) -> Result<impl Iterator<Item = u8>, Failure> {
    let bits = usize::from(bits);
    let row = (width * bits).div_ceil(8);
    if row == 0 {
        return Err("its header declares an empty image".into());
    }
    Ok(values.chunks_exact(row).flat_map(move |row| unpack_bits(row, bits, width)))
}

/// Looks colors up in a map that holds all reds, then all greens, then all blues, 16 bits each.
fn looked_up(area: usize, indices: impl Iterator<Item = u8>, bits: u8, map: &[u16]) -> Result<Vec<u8>, Failure> {
    let count = 1usize << bits;
    let entry = |at: usize| map.get(at).map_or(0, |value| (value >> 8) as u8);
    let colors = indices.flat_map(|index| [0, 1, 2].map(|channel| entry(channel * count + usize::from(index))));
    collected(3 * area, colors)
}

/// Gray values clipped to bytes, without their fractions: Pillow's conversion of modes `I;16`, `I` and `F` to `L`.
fn clipped(values: &DecodingResult) -> Result<Option<Vec<u8>>, Failure> {
    fn each<T: Copy>(values: &[T], byte: impl Fn(T) -> u8) -> Result<Option<Vec<u8>>, Failure> {
        collected(values.len(), values.iter().map(|&value| byte(value))).map(Some)
    }
    // `as` clips floats, and turns NaN into 0.
    let byte = |value: i64| value.clamp(0, 255) as u8;
    match values {
        DecodingResult::U16(values) => each(values, |value| value.min(255) as u8),
        DecodingResult::U32(values) => each(values, |value| value.min(255) as u8),
        DecodingResult::I16(values) => each(values, |value| byte(value.into())),
        DecodingResult::I32(values) => each(values, |value| byte(value.into())),
        DecodingResult::F32(values) => each(values, |value| value as u8),
        DecodingResult::F64(values) => each(values, |value| value as u8),
        _ => Ok(None),
    }
}

/// Colors of 8 bits, or the upper bytes of those of 16.
fn upper(values: DecodingResult) -> Result<Option<Vec<u8>>, Failure> {
    match values {
        DecodingResult::U8(values) => Ok(Some(values)),
        DecodingResult::U16(values) => collected(values.len(), values.iter().map(|value| (value >> 8) as u8)).map(Some),
        _ => Ok(None),
    }
}

/// Interleaves planes of one channel each.
fn interleaved(samples: DecodingResult, planes: usize) -> Result<DecodingResult, Failure> {
    fn of<T: Copy>(values: &[T], planes: usize) -> Result<Vec<T>, Failure> {
        let plane = values.len() / planes;
        let pixels = (0..plane).flat_map(|at| (0..planes).map(move |p| values[p * plane + at]));
        collected(plane * planes, pixels)
    }
    match samples {
        DecodingResult::U8(values) => Ok(DecodingResult::U8(of(&values, planes)?)),
        DecodingResult::U16(values) => Ok(DecodingResult::U16(of(&values, planes)?)),
        _ => Err("a TIFF of planes of more than 16 bits, which is not supported".into()),
    }
}

/// The directory of a file's first image: its tags.
struct Directory<'a> {
    bytes: &'a [u8],
    little: bool,
    /// The size of a count or an offset in bytes: 8 in a BigTIFF.
    word: usize,
    /// The start and the number of the entries.
    start: usize,
    count: usize,
}

impl<'a> Directory<'a> {
    fn first(bytes: &'a [u8]) -> Directory<'a> {
        let mut directory = Directory { bytes, little: bytes[0] == b'I', word: 4, start: 0, count: 0 };
        let big = directory.number(2, 2) == Some(43);
        directory.word = if big { 8 } else { 4 };
        let count_len = if big { 8 } else { 2 };
        let at = directory.number(directory.word, directory.word).and_then(|at| usize::try_from(at).ok());
        let at = at.unwrap_or(usize::MAX);
        let most = (bytes.len() / directory.entry_len()) as u64;
        directory.count = directory.number(at, count_len).unwrap_or(0).min(most) as usize;
        directory.start = at.saturating_add(count_len);
        directory
    }

    fn entry_len(&self) -> usize {
        4 + 2 * self.word
    }

    /// The offset of each entry: a tag and a type of two bytes each, a count of values, and the values or their offset.
    fn entries(&self) -> impl Iterator<Item = usize> {
        let (start, len) = (self.start, self.entry_len());
        (0..self.count).map(move |entry| start + entry * len)
    }

    fn number(&self, at: usize, len: usize) -> Option<u64> {
        let bytes = self.bytes.get(at..)?.get(..len)?;
        let join = |number, &byte| number << 8 | u64::from(byte);
        Some(if self.little { bytes.iter().rev().fold(0, join) } else { bytes.iter().fold(0, join) })
    }

    /// The number of values of all tags.
    fn values(&self) -> u64 {
        let counts = self.entries().map(|entry| self.number(entry + 4, self.word).unwrap_or(0));
        // More values than the file has bytes are refused.
        counts.fold(0, u64::saturating_add).min(self.bytes.len() as u64)
    }
}

/// A copy of the file whose first image claims to be gray, if it has a palette.
fn palette_as_gray(directory: &Directory<'_>) -> Result<Option<Vec<u8>>, Failure> {
    const PHOTOMETRIC: u64 = 262;
    const PALETTE: u64 = 3;
    let value_at = |entry: usize| entry + 4 + directory.word;
    let palette = |&entry: &usize| {
        directory.number(entry, 2) == Some(PHOTOMETRIC) && directory.number(value_at(entry), 2) == Some(PALETTE)
    };
    let Some(entry) = directory.entries().find(palette) else { return Ok(None) };
    let mut copy = room(directory.bytes.len())?;
    copy.extend_from_slice(directory.bytes);
    copy[value_at(entry) + usize::from(!directory.little)] = 1;
    Ok(Some(copy))
}

//! TIFF: the first image, in strips or tiles.

use std::io::Cursor;

use tiff::{
    ColorType, TiffError,
    decoder::{Decoder, DecodingResult, Limits},
    tags::Tag,
};

use super::{
    super::limits::{Budget, Failure},
    Image, image, keep_channels, rgb_of_cmyk, unpack_bits,
};

pub(super) fn decode(bytes: &[u8], budget: Budget) -> Result<Image, Failure> {
    let failed = |error: TiffError| match error {
        TiffError::IoError(_) => Failure::from("the TIFF is cut short"),
        TiffError::LimitsExceeded => Failure::File(format!(
            "decoding the TIFF takes more than {} bytes (`ImageLimits::memory` allows more)",
            budget.bytes()
        )),
        error => Failure::File(format!("damaged TIFF, or of a kind that is not read: {error}")),
    };
    // The decoder knows no palettes, so their indices are read as gray.
    let indices = palette_as_gray(bytes)?;
    let mut decoder = Decoder::new(Cursor::new(indices.as_deref().unwrap_or(bytes))).map_err(failed)?;
    let (width, height) = decoder.dimensions().map_err(failed)?;
    let color = decoder.colortype().map_err(failed)?;
    // A strip or tile may be larger than the image, and is unpacked as a whole.
    let (tile_width, tile_height) = decoder.chunk_dimensions();
    let per_pixel = (u64::from(color.num_samples()) * u64::from(color.bit_depth())).div_ceil(8);
    let tile = u64::from(tile_width).saturating_mul(tile_height.into()).saturating_mul(per_pixel);
    budget.admit(width.into(), height.into(), per_pixel + 3, tile)?;
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
    if samples.as_buffer(0).as_bytes().len() < layout.complete_len {
        return Err(failed(TiffError::LimitsExceeded));
    }
    if layout.planes > 1 {
        samples = interleaved(samples, layout.planes)?;
    }
    let unread = || Failure::File(format!("a TIFF of {color:?}, which is not read"));
    let rgb = |pixels| image(height, width, 3, pixels);
    if let Some(map) = palette {
        return match (color, samples) {
            (ColorType::Gray(8), DecodingResult::U8(values)) => rgb(looked_up(values.into_iter(), 8, &map)),
            (ColorType::Gray(bits @ (1 | 2 | 4)), DecodingResult::U8(values)) => {
                rgb(looked_up(unpacked(&values, bits, width)?, bits, &map))
            }
            _ => Err(format!("a TIFF with a palette of {} bits, which is not read", color.bit_depth()).into()),
        };
    }
    match (color, samples) {
        (ColorType::Gray(8), DecodingResult::U8(values)) => image(height, width, 1, values),
        (ColorType::Gray(bits @ (1 | 2 | 4)), DecodingResult::U8(values)) => {
            let scale = 255 / ((1 << bits) - 1) as u8;
            image(height, width, 1, unpacked(&values, bits, width)?.map(|value| value * scale).collect())
        }
        (ColorType::Gray(_), values) => image(height, width, 1, clipped(&values).ok_or_else(unread)?),
        (ColorType::GrayA(_) | ColorType::Multiband { num_samples: 2, .. }, values) => {
            image(height, width, 1, keep_channels(upper(values).ok_or_else(unread)?, 2, 1))
        }
        (ColorType::RGB(_), values) => rgb(upper(values).ok_or_else(unread)?),
        (ColorType::RGBA(_), values) => rgb(keep_channels(upper(values).ok_or_else(unread)?, 4, 3)),
        (ColorType::CMYK(_), values) => {
            let inks = upper(values).ok_or_else(unread)?;
            rgb(inks.chunks_exact(4).flat_map(|p| rgb_of_cmyk([p[0], p[1], p[2], p[3]])).collect())
        }
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

/// The colors of a map that holds all reds, all greens and all blues, 16 bits each.
fn looked_up(indices: impl Iterator<Item = u8>, bits: u8, map: &[u16]) -> Vec<u8> {
    let count = 1usize << bits;
    let entry = |at: usize| map.get(at).map_or(0, |value| (value >> 8) as u8);
    indices.flat_map(|index| [0, 1, 2].map(|channel| entry(channel * count + usize::from(index)))).collect()
}

/// Gray values clipped to bytes, without their fraction: Pillow's modes `I;16`, `I` and `F` as `L`.
fn clipped(values: &DecodingResult) -> Option<Vec<u8>> {
    // `as` clips floats, and makes 0 of what is not a number.
    let byte = |value: i64| value.clamp(0, 255) as u8;
    Some(match values {
        DecodingResult::U16(values) => values.iter().map(|&value| value.min(255) as u8).collect(),
        DecodingResult::U32(values) => values.iter().map(|&value| value.min(255) as u8).collect(),
        DecodingResult::I16(values) => values.iter().map(|&value| byte(value.into())).collect(),
        DecodingResult::I32(values) => values.iter().map(|&value| byte(value.into())).collect(),
        DecodingResult::F32(values) => values.iter().map(|&value| value as u8).collect(),
        DecodingResult::F64(values) => values.iter().map(|&value| value as u8).collect(),
        _ => return None,
    })
}

/// Colors of 8 bits, or the upper bytes of those of 16.
fn upper(values: DecodingResult) -> Option<Vec<u8>> {
    match values {
        DecodingResult::U8(values) => Some(values),
        DecodingResult::U16(values) => Some(values.into_iter().map(|value| (value >> 8) as u8).collect()),
        _ => None,
    }
}

/// Pixels from planes, one after the other, of one channel each.
fn interleaved(samples: DecodingResult, planes: usize) -> Result<DecodingResult, Failure> {
    fn of<T: Copy>(values: &[T], planes: usize) -> Vec<T> {
        let plane = values.len() / planes;
        (0..plane).flat_map(|at| (0..planes).map(move |p| values[p * plane + at])).collect()
    }
    match samples {
        DecodingResult::U8(values) => Ok(DecodingResult::U8(of(&values, planes))),
        DecodingResult::U16(values) => Ok(DecodingResult::U16(of(&values, planes))),
        _ => Err("a TIFF of planes of more than 16 bits, which is not read".into()),
    }
}

/// A copy of the file whose first image claims to be gray, if it has a palette.
fn palette_as_gray(bytes: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
    const PHOTOMETRIC: u64 = 262;
    const PALETTE: u64 = 3;
    let little = bytes[0] == b'I';
    let number = |at: usize, len: usize| -> Option<u64> {
        let bytes = bytes.get(at..)?.get(..len)?;
        let join = |number, &byte| number << 8 | u64::from(byte);
        Some(if little { bytes.iter().rev().fold(0, join) } else { bytes.iter().fold(0, join) })
    };
    // The version says how wide offsets and counts are, and how long an entry is.
    let big = number(2, 2) == Some(43);
    let (directory, count_len, entry_len) = if big { (number(8, 8), 8, 20) } else { (number(4, 4), 2, 12) };
    let directory = directory.and_then(|at| usize::try_from(at).ok()).unwrap_or(usize::MAX);
    let count = number(directory, count_len).unwrap_or(0).min((bytes.len() / entry_len) as u64);
    let entries = (0..count as usize).map(|entry| directory + count_len + entry * entry_len);
    let value_at = |entry: usize| entry + if big { 12 } else { 8 };
    let palette = |&entry: &usize| number(entry, 2) == Some(PHOTOMETRIC) && number(value_at(entry), 2) == Some(PALETTE);
    let Some(entry) = entries.into_iter().find(palette) else { return Ok(None) };
    let mut copy = Vec::new();
    copy.try_reserve_exact(bytes.len()).map_err(|_| Failure::Memory(bytes.len() as u64))?;
    copy.extend_from_slice(bytes);
    copy[value_at(entry) + usize::from(!little)] = 1;
    Ok(Some(copy))
}

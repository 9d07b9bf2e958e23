//! PNG encoding (<https://www.w3.org/TR/png-3/>).

use std::io::Write;

use flate2::{Compression, write::ZlibEncoder};

use super::super::Image;

const SIGNATURE: [u8; 8] = *b"\x89PNG\r\n\x1a\n";
/// Bytes of compressed data per chunk.
const CHUNK: usize = 1 << 20;
/// The filter types of a line: each byte minus its neighbor to the left, above, the mean of both, or the Paeth
/// predictor: the one of three neighbors that is closest to their gradient.
const FILTERS: [Filter; 5] =
    [|_, _, _| 0, |left, _, _| left, |_, above, _| above, |left, above, _| left.midpoint(above), paeth];

/// Predicts a byte from those to its left, above it, and above left.
type Filter = fn(u8, u8, u8) -> u8;

fn paeth(left: u8, above: u8, corner: u8) -> u8 {
    let estimate = i16::from(left) + i16::from(above) - i16::from(corner);
    let [to_left, to_above, to_corner] = [left, above, corner].map(|byte| estimate.abs_diff(byte.into()));
    if to_left <= to_above && to_left <= to_corner {
        left
    } else if to_above <= to_corner {
        above
    } else {
        corner
    }
}

/// The file. Each line uses the filter with the smallest sum of absolute differences.
pub(super) fn encode(image: &Image) -> Result<Vec<u8>, String> {
    let side = |n: usize| u32::try_from(n).ok().filter(|&n| n > 0 && n <= i32::MAX as u32);
    let (Some(width), Some(height)) = (side(image.width()), side(image.height())) else {
        return Err(format!("{image:?} has no pixels, or too many for a PNG file"));
    };
    let color_type = if image.channels() == 3 { 2 } else { 0 };
    let mut file = SIGNATURE.to_vec();
    let [mut header, size] = [Vec::new(), [width.to_be_bytes(), height.to_be_bytes()].concat()];
    header.extend_from_slice(&size);
    // 8 bits, then the only defined compression and filter methods, and no interlacing.
    header.extend_from_slice(&[8, color_type, 0, 0, 0]);
    chunk(&mut file, *b"IHDR", &header);
    for part in compressed(image).map_err(|error| error.to_string())?.chunks(CHUNK) {
        chunk(&mut file, *b"IDAT", part);
    }
    chunk(&mut file, *b"IEND", &[]);
    Ok(file)
}

fn chunk(file: &mut Vec<u8>, name: [u8; 4], data: &[u8]) {
    // A chunk has at most `CHUNK` bytes.
    file.extend_from_slice(&(data.len() as u32).to_be_bytes());
    let start = file.len();
    file.extend_from_slice(&name);
    file.extend_from_slice(data);
    let sum = crc32fast::hash(&file[start..]);
    file.extend_from_slice(&sum.to_be_bytes());
}

/// The filtered lines, each preceded by its filter type, in a zlib stream.
fn compressed(image: &Image) -> std::io::Result<Vec<u8>> {
    let (len, step) = (image.width() * image.channels(), image.channels());
    let mut out = ZlibEncoder::new(Vec::new(), Compression::default());
    let mut above = vec![0; len];
    let mut lines: [Vec<u8>; FILTERS.len()] = Default::default();
    for y in 0..image.height() {
        let row = image.row(y);
        for (line, filter) in lines.iter_mut().zip(FILTERS) {
            line.clear();
            line.extend((0..len).map(|x| {
                let (left, corner) = if x < step { (0, 0) } else { (row[x - step], above[x - step]) };
                row[x].wrapping_sub(filter(left, above[x], corner))
            }));
        }
        let sum = |line: &[u8]| line.iter().map(|&byte| u64::from((byte as i8).unsigned_abs())).sum::<u64>();
        if let Some((number, line)) = lines.iter().enumerate().min_by_key(|(_, line)| sum(line)) {
            out.write_all(&[number as u8])?;
            out.write_all(line)?;
        }
        above.copy_from_slice(row);
    }
    out.finish()
}

#[cfg(all(test, feature = "images"))]
mod tests {
    use super::*;

    /// Pixels for which consecutive lines favor different filters.
    fn pattern(height: usize, width: usize, channels: usize) -> Image {
        let pixel = |i: usize| {
            let (y, x) = (i / (width * channels), i % (width * channels));
            match y % 6 {
                0 => 77,
                1 => (x * 9) as u8,
                2 => (x * 31 + x * x * 7) as u8,
                3 => (x * 31 + x * x * 7 + 1) as u8,
                4 => (x * y) as u8,
                _ => (i * 131 % 251) as u8,
            }
        };
        Image::new(height, width, channels, (0..height * width * channels).map(pixel).collect()).unwrap()
    }

    #[test]
    fn decoders_read_what_is_written() {
        for (height, width, channels) in [(1, 1, 1), (1, 1, 3), (7, 5, 3), (5, 7, 1), (40, 33, 3), (64, 2000, 3)] {
            let image = pattern(height, width, channels);
            assert_eq!(Image::decode(&encode(&image).unwrap()).unwrap(), image, "{image:?}");
        }
    }

    /// A well-mixed byte (SplitMix64), in which no filter finds a pattern.
    fn noise(i: u64) -> u8 {
        let i = (i ^ (i >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let i = (i ^ (i >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (i >> 56) as u8
    }

    #[test]
    fn large_images_have_several_chunks() {
        let noise = (1u64..=1200 * 1200).map(noise).collect();
        let image = Image::new(1200, 1200, 1, noise).unwrap();
        let file = encode(&image).unwrap();
        assert!(file.windows(4).filter(|name| name == b"IDAT").count() > 1);
        assert_eq!(Image::decode(&file).unwrap(), image);
    }

    #[test]
    fn what_is_smooth_becomes_small() {
        let smooth = (0..256 * 256).map(|i| (i / 256 + i % 256) as u8).collect();
        let file = encode(&Image::new(256, 256, 1, smooth).unwrap()).unwrap();
        assert!(file.len() < 2000, "{} bytes", file.len());
    }

    #[test]
    fn images_without_pixels_are_refused() {
        for (height, width) in [(0, 0), (0, 3), (3, 0)] {
            assert!(encode(&Image::new(height, width, 1, vec![]).unwrap()).unwrap_err().contains("no pixels"));
        }
    }
}

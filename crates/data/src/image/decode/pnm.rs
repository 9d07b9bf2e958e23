//! PNM decoding: PBM, PGM and PPM, as text and binary, and PAM.

use super::pixels::{image, unpack_bits};
use crate::image::{
    Image,
    limits::{Budget, Failure, room},
};

const CUT: &str = "the PNM is cut short";

/// The contents of a header.
struct Header {
    width: usize,
    height: usize,
    /// Samples per pixel, the first `kept` of which are color.
    samples: usize,
    kept: usize,
    /// The value of white.
    max: u32,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Black is 1.
    TextBits,
    PackedBits,
    Text,
    Binary,
}

pub(super) fn decode(bytes: &[u8], budget: Budget) -> Result<Image, Failure> {
    let mut input = Input { bytes, at: 2 };
    let header = if bytes[1] == b'7' { pam(&mut input)? } else { pnm(bytes[1], &mut input)? };
    let Header { width, height, samples, kept, max, kind } = header;
    if !(1..=65535).contains(&max) {
        return Err(format!("a PNM with a largest value of {max}, expected 1 to 65535").into());
    }
    let _reservation = budget.admit(width as u64, height as u64, kept as u64, 0)?;
    let count = width * height * samples;
    let per_sample = if max > 255 { 2 } else { 1 };
    // Refused before memory is reserved: the file has fewer bytes than samples, or fewer bits.
    let needed = match kind {
        Kind::Binary => (count as u64) * per_sample as u64,
        Kind::PackedBits => (width.div_ceil(8) * height) as u64,
        Kind::Text | Kind::TextBits => count as u64,
    };
    let data = bytes.get(input.at..).unwrap_or_default();
    if (data.len() as u64) < needed {
        return Err(CUT.into());
    }
    let mut pixels = room(width * height * kept)?;
    match kind {
        Kind::PackedBits => {
            for row in data.chunks_exact(width.div_ceil(8)).take(height) {
                pixels.extend(unpack_bits(row, 1, width).map(|bit| 255 * (1 - bit)));
            }
        }
        Kind::TextBits => {
            for _ in 0..count {
                pixels.push(255 * (1 - input.bit()?));
            }
        }
        Kind::Text => {
            for _ in 0..count {
                let value = input.number()?;
                if value > max {
                    return Err(format!("damaged PNM: the value {value} is above its largest, {max}").into());
                }
                pixels.push(eight_bits(value, max, kept));
            }
        }
        Kind::Binary => {
            let value = |sample: &[u8]| match *sample {
                [high, low] => u32::from(u16::from_be_bytes([high, low])),
                _ => u32::from(sample[0]),
            };
            for pixel in data[..needed as usize].chunks_exact(samples * per_sample) {
                let color = pixel.chunks_exact(per_sample).take(kept);
                pixels.extend(color.map(|sample| eight_bits(value(sample).min(max), max, kept)));
            }
        }
    }
    image(height, width, kept, pixels)
}

/// Converts a value of at most `max` to 8 bits, as Pillow does: colors are scaled, and so is gray of up to 8 bits; gray
/// of 16 bits is scaled to 65535 and clipped to 255.
fn eight_bits(value: u32, max: u32, channels: usize) -> u8 {
    let white = if channels == 1 && max > 255 { 65535 } else { 255 };
    let scaled = if max == white {
        value
    } else {
        (f64::from(value) / f64::from(max) * f64::from(white)).round_ties_even() as u32
    };
    scaled.min(255) as u8
}

fn pnm(digit: u8, input: &mut Input) -> Result<Header, Failure> {
    let (width, height) = (input.side()?, input.side()?);
    let (kind, bits) = match digit {
        b'1' => (Kind::TextBits, true),
        b'4' => (Kind::PackedBits, true),
        b'2' | b'3' => (Kind::Text, false),
        _ => (Kind::Binary, false),
    };
    let max = if bits { 1 } else { input.number()? };
    // A single white space precedes the samples.
    input.at += 1;
    let channels = if matches!(digit, b'3' | b'6') { 3 } else { 1 };
    Ok(Header { width, height, samples: channels, kept: channels, max, kind })
}

/// Parses lines of a name and a value, up to ENDHDR.
fn pam(input: &mut Input) -> Result<Header, Failure> {
    let (mut width, mut height, mut samples, mut max) = (0, 0, 0, 0);
    loop {
        let rest = input.bytes.get(input.at..).unwrap_or_default();
        let len = rest.iter().position(|&byte| byte == b'\n').ok_or(CUT)?;
        let line = String::from_utf8_lossy(&rest[..len]).into_owned();
        input.at += len + 1;
        let (name, value) = line.trim().split_once(char::is_whitespace).unwrap_or((line.trim(), ""));
        let number = || value.trim().parse::<u32>().map_err(|_| Failure::File(format!("damaged PAM header: {line:?}")));
        match name {
            "WIDTH" => width = number()? as usize,
            "HEIGHT" => height = number()? as usize,
            "DEPTH" => samples = number()? as usize,
            "MAXVAL" => max = number()?,
            "ENDHDR" => break,
            _ => {}
        }
    }
    if !(1..=4).contains(&samples) {
        return Err(format!("a PAM file with {samples} samples per pixel, expected 1 to 4").into());
    }
    Ok(Header { width, height, samples, kept: if samples > 2 { 3 } else { 1 }, max, kind: Kind::Binary })
}

struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Input<'_> {
    /// Skips white space and comments; returns the byte that follows.
    fn next_visible(&mut self) -> Result<u8, Failure> {
        loop {
            match *self.bytes.get(self.at).ok_or(CUT)? {
                b'#' => {
                    let rest = &self.bytes[self.at..];
                    self.at += rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')).ok_or(CUT)?;
                }
                byte if byte.is_ascii_whitespace() || byte == 0x0b => self.at += 1,
                byte => return Ok(byte),
            }
        }
    }

    fn number(&mut self) -> Result<u32, Failure> {
        self.next_visible()?;
        let digits = self.bytes[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let text = &self.bytes[self.at..self.at + digits];
        let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
        self.at += digits;
        number.ok_or_else(|| Failure::File(format!("damaged PNM: there is no number at byte {}", self.at)))
    }

    fn side(&mut self) -> Result<usize, Failure> {
        Ok(self.number()? as usize)
    }

    fn bit(&mut self) -> Result<u8, Failure> {
        let byte = self.next_visible()?;
        self.at += 1;
        match byte {
            b'0' | b'1' => Ok(byte - b'0'),
            _ => Err(format!("damaged PBM: {:?} at byte {} is not a bit", char::from(byte), self.at - 1).into()),
        }
    }
}

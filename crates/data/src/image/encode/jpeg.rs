//! JPEG encoding (baseline, ITU-T T.81), quality 75, without chroma subsampling.

use super::super::Image;

/// The order in which the coefficients of a block are written: from low to high frequencies.
#[rustfmt::skip]
const ZIGZAG: [usize; 64] = [
     0,  1,  8, 16,  9,  2,  3, 10, 17, 24, 32, 25, 18, 11,  4,  5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13,  6,  7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// The standard's examples of quantization (tables K.1 and K.2), in zigzag order: for luma, and for chroma.
#[rustfmt::skip]
const QUANTIZATION: [[u32; 64]; 2] = [
    [16, 11, 12, 14, 12, 10, 16, 14, 13, 14, 18, 17, 16, 19, 24, 40, 26, 24, 22, 22, 24, 49, 35, 37, 29, 40, 58, 51, 61, 60, 57, 51,
     56, 55, 64, 72, 92, 78, 64, 68, 87, 69, 55, 56, 80, 109, 81, 87, 95, 98, 103, 104, 103, 62, 77, 113, 121, 112, 100, 120, 92, 101, 103, 99],
    [17, 18, 18, 24, 21, 24, 47, 26, 26, 47, 99, 66, 56, 66, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
     99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99],
];
/// The scale of these tables in percent: 50 is quality 75.
const SCALE: u32 = 50;

/// A Huffman code: how many code words have 1, 2, … 16 bits, and their symbols in order.
struct Code {
    counts: [u8; 16],
    symbols: &'static [u8],
}

const CATEGORIES: &[u8] = &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];

/// The standard's typical codes (tables K.3 to K.6): for luma the DC and AC coefficients, and the same for chroma.
const CODES: [[Code; 2]; 2] = [
    [
        Code { counts: [0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0], symbols: CATEGORIES },
        Code {
            counts: [0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 125],
            symbols: b"\
                \x01\x02\x03\x00\x04\x11\x05\x12\x21\x31\x41\x06\x13\x51\x61\x07\x22\x71\x14\x32\x81\x91\xa1\x08\x23\x42\xb1\
                \xc1\x15\x52\xd1\xf0\x24\x33\x62\x72\x82\x09\x0a\x16\x17\x18\x19\x1a\x25\x26\x27\x28\x29\x2a\x34\x35\x36\x37\
                \x38\x39\x3a\x43\x44\x45\x46\x47\x48\x49\x4a\x53\x54\x55\x56\x57\x58\x59\x5a\x63\x64\x65\x66\x67\x68\x69\x6a\
                \x73\x74\x75\x76\x77\x78\x79\x7a\x83\x84\x85\x86\x87\x88\x89\x8a\x92\x93\x94\x95\x96\x97\x98\x99\x9a\xa2\xa3\
                \xa4\xa5\xa6\xa7\xa8\xa9\xaa\xb2\xb3\xb4\xb5\xb6\xb7\xb8\xb9\xba\xc2\xc3\xc4\xc5\xc6\xc7\xc8\xc9\xca\xd2\xd3\
                \xd4\xd5\xd6\xd7\xd8\xd9\xda\xe1\xe2\xe3\xe4\xe5\xe6\xe7\xe8\xe9\xea\xf1\xf2\xf3\xf4\xf5\xf6\xf7\xf8\xf9\xfa",
        },
    ],
    [
        Code { counts: [0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0], symbols: CATEGORIES },
        Code {
            counts: [0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 119],
            symbols: b"\
                \x00\x01\x02\x03\x11\x04\x05\x21\x31\x06\x12\x41\x51\x07\x61\x71\x13\x22\x32\x81\x08\x14\x42\x91\xa1\xb1\xc1\
                \x09\x23\x33\x52\xf0\x15\x62\x72\xd1\x0a\x16\x24\x34\xe1\x25\xf1\x17\x18\x19\x1a\x26\x27\x28\x29\x2a\x35\x36\
                \x37\x38\x39\x3a\x43\x44\x45\x46\x47\x48\x49\x4a\x53\x54\x55\x56\x57\x58\x59\x5a\x63\x64\x65\x66\x67\x68\x69\
                \x6a\x73\x74\x75\x76\x77\x78\x79\x7a\x82\x83\x84\x85\x86\x87\x88\x89\x8a\x92\x93\x94\x95\x96\x97\x98\x99\x9a\
                \xa2\xa3\xa4\xa5\xa6\xa7\xa8\xa9\xaa\xb2\xb3\xb4\xb5\xb6\xb7\xb8\xb9\xba\xc2\xc3\xc4\xc5\xc6\xc7\xc8\xc9\xca\
                \xd2\xd3\xd4\xd5\xd6\xd7\xd8\xd9\xda\xe2\xe3\xe4\xe5\xe6\xe7\xe8\xe9\xea\xf2\xf3\xf4\xf5\xf6\xf7\xf8\xf9\xfa",
        },
    ],
];

impl Code {
    /// The code word of each symbol, and its number of bits.
    fn words(&self) -> Vec<(u32, u32)> {
        let mut words = vec![(0, 0); 256];
        let (mut word, mut symbols) = (0, self.symbols.iter());
        for (bits, &count) in (1..).zip(&self.counts) {
            for &symbol in symbols.by_ref().take(count.into()) {
                words[usize::from(symbol)] = (word, bits);
                word += 1;
            }
            word <<= 1;
        }
        words
    }
}

pub(super) fn encode(image: &Image) -> Result<Vec<u8>, String> {
    let side = |n: usize| u16::try_from(n).ok().filter(|&n| n > 0);
    let (Some(width), Some(height)) = (side(image.width()), side(image.height())) else {
        return Err(format!("{image:?} has no pixels, or too many for a JPEG file"));
    };
    let channels = image.channels();
    let tables = QUANTIZATION.map(|table| table.map(|step| ((step * SCALE + 50) / 100).clamp(1, 255)));
    let mut out = vec![0xff, 0xd8];
    segment(&mut out, 0xe0, b"JFIF\0\x01\x01\0\0\x01\0\x01\0\0");
    for (kind, table) in tables.iter().enumerate() {
        let steps = table.iter().map(|&step| step as u8);
        segment(&mut out, 0xdb, &[kind as u8].into_iter().chain(steps).collect::<Vec<u8>>());
    }
    let [h1, h0] = height.to_be_bytes();
    let [w1, w0] = width.to_be_bytes();
    let mut frame = vec![8, h1, h0, w1, w0, channels as u8];
    let mut scan = vec![channels as u8];
    for channel in 0..channels as u8 {
        let kind = channel.min(1);
        frame.extend([channel + 1, 0x11, kind]);
        scan.extend([channel + 1, kind << 4 | kind]);
    }
    scan.extend([0, 63, 0]);
    segment(&mut out, 0xc0, &frame);
    for (kind, codes) in CODES.iter().enumerate() {
        for (class, code) in codes.iter().enumerate() {
            segment(&mut out, 0xc4, &[&[(class << 4 | kind) as u8], &code.counts[..], code.symbols].concat());
        }
    }
    segment(&mut out, 0xda, &scan);
    let words = CODES.map(|codes| codes.map(|code| code.words()));
    let mut bits = BitWriter { out, pending: 0, count: 0 };
    let mut last = [0; 3];
    for top in (0..image.height()).step_by(8) {
        for left in (0..image.width()).step_by(8) {
            for (channel, last) in last.iter_mut().enumerate().take(channels) {
                let kind = channel.min(1);
                let block = transformed(&samples(image, top, left, channel));
                let levels = std::array::from_fn(|i| (block[ZIGZAG[i]] / tables[kind][i] as f32).round() as i32);
                bits.block(&levels, last, &words[kind]);
            }
        }
    }
    Ok(bits.finish())
}

fn segment(out: &mut Vec<u8>, marker: u8, data: &[u8]) {
    out.extend([0xff, marker]);
    out.extend((data.len() as u16 + 2).to_be_bytes());
    out.extend(data);
}

/// One channel of a block in YCbCr, centered at 0; beyond the border the last pixels are repeated.
fn samples(image: &Image, top: usize, left: usize, channel: usize) -> [f32; 64] {
    std::array::from_fn(|i| {
        let (y, x) = ((top + i / 8).min(image.height() - 1), (left + i % 8).min(image.width() - 1));
        match image.row(y)[x * image.channels()..] {
            [r, g, b, ..] if image.channels() == 3 => {
                let [r, g, b] = [r, g, b].map(f32::from);
                match channel {
                    0 => 0.299 * r + 0.587 * g + 0.114 * b - 128.0,
                    1 => -0.168_736 * r - 0.331_264 * g + 0.5 * b,
                    _ => 0.5 * r - 0.418_688 * g - 0.081_312 * b,
                }
            }
            [gray, ..] => f32::from(gray) - 128.0,
            [] => 0.0,
        }
    })
}

/// The discrete cosine transform of a block, first along its rows, then along its columns.
fn transformed(block: &[f32; 64]) -> [f32; 64] {
    use std::f32::consts::{FRAC_1_SQRT_2, PI};
    let basis: [[f32; 8]; 8] = std::array::from_fn(|u| {
        let scale = if u == 0 { 0.5 * FRAC_1_SQRT_2 } else { 0.5 };
        std::array::from_fn(|x| scale * (PI * ((2 * x + 1) * u) as f32 / 16.0).cos())
    });
    let rows: [f32; 64] = std::array::from_fn(|i| (0..8).map(|x| basis[i % 8][x] * block[i / 8 * 8 + x]).sum());
    std::array::from_fn(|i| (0..8).map(|y| basis[i / 8][y] * rows[y * 8 + i % 8]).sum())
}

struct BitWriter {
    out: Vec<u8>,
    pending: u32,
    count: u32,
}

impl BitWriter {
    fn put(&mut self, value: u32, bits: u32) {
        self.pending = self.pending << bits | value;
        self.count += bits;
        while self.count >= 8 {
            self.count -= 8;
            let byte = (self.pending >> self.count) as u8;
            self.out.push(byte);
            if byte == 0xff {
                self.out.push(0); // so that it is no marker
            }
        }
        self.pending &= (1 << self.count) - 1;
    }

    /// Writes a symbol, whose lower half is the number of bits of `level` that follow.
    fn level(&mut self, words: &[(u32, u32)], zeros: u32, level: i32) {
        let bits = 32 - level.unsigned_abs().leading_zeros();
        let (word, len) = words[(zeros << 4 | bits) as usize];
        self.put(word, len);
        let value = if level < 0 { level - 1 } else { level };
        self.put(value as u32 & ((1 << bits) - 1), bits);
    }

    fn block(&mut self, levels: &[i32; 64], last: &mut i32, [first, others]: &[Vec<(u32, u32)>; 2]) {
        self.level(first, 0, levels[0] - *last);
        *last = levels[0];
        let mut zeros = 0;
        for &level in &levels[1..] {
            if level == 0 {
                zeros += 1;
                continue;
            }
            while zeros > 15 {
                self.put(others[0xf0].0, others[0xf0].1);
                zeros -= 16;
            }
            self.level(others, zeros, level);
            zeros = 0;
        }
        if zeros > 0 {
            self.put(others[0].0, others[0].1);
        }
    }

    /// Pads the last byte with ones, and adds the end marker.
    fn finish(mut self) -> Vec<u8> {
        self.put(0x7f, 7);
        self.out.extend([0xff, 0xd9]);
        self.out
    }
}

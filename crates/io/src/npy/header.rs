//! The header of an array of NumPy: a version, a length, and a Python dict with its dtype, memory order and shape
//! (<https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>).

use std::fmt;

use kiln_tensor::{DType, Device, MAX_RANK, Result, Shape, Tensor};

use super::archive::Contents;
use crate::budget::Budget;

const MAGIC: &[u8] = b"\x93NUMPY";
/// The longest header that is read: numpy.load refuses longer ones than 10,000 characters by default.
const MAX_HEADER: usize = 1 << 16;

/// How the elements are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// As in a tensor.
    Native(DType),
    /// Integers that Kiln does not have, by the number of their bytes.
    Signed(usize),
    Unsigned(usize),
}

impl Kind {
    /// By NumPy's letter and number of bytes.
    fn of(letter: char, bytes: usize) -> Option<Kind> {
        Some(match (letter, bytes) {
            ('f', 2) => Kind::Native(DType::F16),
            ('f', 4) => Kind::Native(DType::F32),
            ('f', 8) => Kind::Native(DType::F64),
            ('i', 4) => Kind::Native(DType::I32),
            ('i', 8) => Kind::Native(DType::I64),
            ('u', 1) => Kind::Native(DType::U8),
            ('b', 1) => Kind::Native(DType::Bool),
            ('i', 1 | 2) => Kind::Signed(bytes),
            ('u', 2 | 4 | 8) => Kind::Unsigned(bytes),
            _ => return None,
        })
    }

    /// The bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Kind::Native(dtype) => dtype.size(),
            Kind::Signed(bytes) | Kind::Unsigned(bytes) => bytes,
        }
    }

    /// The dtype of the tensor.
    pub fn dtype(self) -> DType {
        match self {
            Kind::Native(dtype) => dtype,
            Kind::Signed(_) | Kind::Unsigned(..=2) => DType::I32,
            Kind::Unsigned(_) => DType::I64,
        }
    }

    /// Whether the tensor has the elements as they are stored.
    pub fn is_native(self) -> bool {
        matches!(self, Kind::Native(_))
    }

    /// A tensor of little-endian integers of a type that Kiln does not have; the message if one does not fit.
    pub fn widened(self, raw: &[u8], shape: Shape, device: Device) -> Result<Result<Tensor, String>> {
        let value = |bytes: &[u8]| -> Option<i64> {
            let mut wide = [0; 8];
            wide[..bytes.len()].copy_from_slice(bytes);
            let value = u64::from_le_bytes(wide);
            match self {
                Kind::Signed(size) => {
                    let unused = 64 - 8 * size as u32;
                    Some((value << unused).cast_signed() >> unused)
                }
                _ => i64::try_from(value).ok(),
            }
        };
        let mut values = Vec::new();
        if values.try_reserve_exact(raw.len() / self.size()).is_err() {
            return Ok(Err("there is not enough memory for its integers".to_owned()));
        }
        for bytes in raw.chunks_exact(self.size()) {
            let Some(value) = value(bytes) else {
                return Ok(Err("it has an integer above i64::MAX, the largest that a tensor holds".to_owned()));
            };
            values.push(value);
        }
        let wide = Tensor::from_vec(values, shape, device)?;
        Ok(Ok(kiln_tensor::no_grad(|| wide.to_dtype(self.dtype()))?))
    }
}

/// The extents of an array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dims(pub Vec<usize>);

impl Dims {
    /// The number of elements; the largest number if that overflows.
    pub fn numel(&self) -> usize {
        if self.0.contains(&0) { 0 } else { self.0.iter().fold(1, |product: usize, dim| product.saturating_mul(*dim)) }
    }

    pub fn reversed(&self) -> Dims {
        Dims(self.0.iter().rev().copied().collect())
    }
}

impl fmt::Display for Dims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// What a header says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub kind: Kind,
    /// Whether the elements are big-endian.
    pub swapped: bool,
    pub fortran: bool,
    pub shape: Dims,
}

impl Header {
    /// Reads the header, and returns the offset of the elements; or what is wrong with it.
    pub fn read(contents: &Contents<'_>, budget: &mut Budget) -> Result<Result<(Header, usize), String>> {
        if contents.len() < 10 {
            return Ok(Err("it is not an array of NumPy, or cut off".to_owned()));
        }
        let start = contents.read(0, 10, budget)?;
        if !start.starts_with(MAGIC) {
            return Ok(Err("it is not an array of NumPy".to_owned()));
        }
        let (text_at, len) = match start[6] {
            1 => (10, usize::from(u16::from_le_bytes([start[8], start[9]]))),
            2 | 3 if contents.len() < 12 => return Ok(Err("it is cut off".to_owned())),
            2 | 3 => {
                let bytes = contents.read(8, 4, budget)?;
                (12, u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize)
            }
            version => return Ok(Err(format!("version {version} of the format is not known"))),
        };
        if len > MAX_HEADER || len > contents.len() - text_at {
            return Ok(Err(format!("its header of {len} bytes is cut off, or too long")));
        }
        let text = contents.read(text_at, len, budget)?;
        Ok(String::from_utf8(text)
            .map_err(|_| "its header is not text".to_owned())
            .and_then(|text| Header::parse(&text))
            .map(|header| (header, text_at + len)))
    }

    /// Parses the dict, of which Python allows more forms than NumPy writes.
    fn parse(text: &str) -> Result<Header, String> {
        let mut parser = Parser { rest: text };
        let (mut descr, mut fortran, mut shape) = (None, None, None);
        parser.expect('{')?;
        while !parser.skip('}') {
            let key = parser.string()?;
            parser.expect(':')?;
            match key.as_str() {
                "descr" if descr.is_none() => descr = Some(parser.descr()?),
                "fortran_order" if fortran.is_none() => fortran = Some(parser.truth()?),
                "shape" if shape.is_none() => shape = Some(parser.shape()?),
                _ => return Err(format!("its header has an unknown or repeated key {key:?}")),
            }
            if !parser.skip(',') {
                parser.expect('}')?;
                break;
            }
        }
        if !parser.rest.trim().is_empty() {
            return Err("something follows the dict of its header".to_owned());
        }
        let (Some((kind, swapped)), Some(fortran), Some(shape)) = (descr, fortran, shape) else {
            return Err("its header lacks descr, fortran_order or shape".to_owned());
        };
        Ok(Header { kind, swapped, fortran, shape })
    }
}

/// The rest of a header.
struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    /// Passes over a character after white space, if it is there.
    fn skip(&mut self, wanted: char) -> bool {
        match self.rest.trim_start().strip_prefix(wanted) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, wanted: char) -> Result<(), String> {
        if self.skip(wanted) { Ok(()) } else { Err(format!("its header lacks a {wanted:?}")) }
    }

    fn string(&mut self) -> Result<String, String> {
        let rest = self.rest.trim_start();
        let quote = rest.chars().next().filter(|quote| matches!(quote, '\'' | '"'));
        let text = quote.and_then(|quote| rest[1..].split_once(quote));
        let (text, rest) = text.ok_or_else(|| "its header has something else where a string should be".to_owned())?;
        self.rest = rest;
        Ok(text.to_owned())
    }

    /// The characters up to the first that is none of these.
    fn word(&mut self, is_part: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest.trim_start();
        let (word, rest) = rest.split_at(rest.find(|c| !is_part(c)).unwrap_or(rest.len()));
        self.rest = rest;
        word
    }

    fn truth(&mut self) -> Result<bool, String> {
        match self.word(|c| c.is_ascii_alphabetic()) {
            "True" => Ok(true),
            "False" => Ok(false),
            other => Err(format!("its header has {other:?} where True or False should be")),
        }
    }

    /// A dtype such as `<f4`, and whether it is big-endian.
    fn descr(&mut self) -> Result<(Kind, bool), String> {
        if self.rest.trim_start().starts_with(['[', '(']) {
            return Err("its elements are structures, which are no tensor".to_owned());
        }
        let text = self.string()?;
        let mut letters = text.chars();
        let order = letters.next().unwrap_or(' ');
        let letter = letters.next().unwrap_or(' ');
        let kind = letters.as_str().parse().ok().and_then(|bytes| Kind::of(letter, bytes));
        match kind {
            Some(kind) if matches!(order, '<' | '>' | '|' | '=') => Ok((kind, order == '>' && kind.size() > 1)),
            _ => {
                let what = match letter {
                    'O' => ": Python objects, which only a pickle can restore",
                    'U' | 'S' | 'a' => ": text",
                    'c' => ": complex numbers",
                    'M' | 'm' => ": dates or durations",
                    'V' => ": bytes without a meaning that NumPy knows, as of bfloat16 (save it as float32)",
                    _ => "",
                };
                Err(format!("its elements are of dtype {text:?}{what}, which no tensor has"))
            }
        }
    }

    /// A tuple of extents.
    fn shape(&mut self) -> Result<Dims, String> {
        let mut dims = Vec::new();
        self.expect('(')?;
        while !self.skip(')') {
            let digits = self.word(|c| c.is_ascii_digit());
            let dim = digits.parse().map_err(|_| "its shape has something else than extents".to_owned())?;
            // Python 2 wrote `3L`.
            self.rest = self.rest.strip_prefix('L').unwrap_or(self.rest);
            if dims.len() == MAX_RANK {
                return Err(format!("it has more than {MAX_RANK} dimensions"));
            }
            dims.push(dim);
            if !self.skip(',') {
                self.expect(')')?;
                break;
            }
        }
        Ok(Dims(dims))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_python_are_read() {
        let f32 = |fortran, dims: &[usize]| Header {
            kind: Kind::Native(DType::F32),
            swapped: false,
            fortran,
            shape: Dims(dims.to_vec()),
        };
        for (text, want) in [
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }   \n", f32(false, &[3, 4])),
            ("{\"shape\":(3L,),\"fortran_order\":True,\"descr\":\"=f4\"}", f32(true, &[3])),
            (" { 'descr' : '<f4' , 'fortran_order' : False , 'shape' : ( ) } ", f32(false, &[])),
        ] {
            assert_eq!(Header::parse(text), Ok(want), "{text}");
        }
        let big = Header::parse("{'descr': '>u8', 'fortran_order': False, 'shape': (0,)}").unwrap();
        assert_eq!((big.kind, big.swapped, big.kind.dtype()), (Kind::Unsigned(8), true, DType::I64));
        assert!(!Header::parse("{'descr': '>i1', 'fortran_order': False, 'shape': ()}").unwrap().swapped);
    }

    #[test]
    fn others_are_refused_with_the_reason() {
        let with = |descr: &str, shape: &str| format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}");
        for (text, want) in [
            (String::new(), "lacks a '{'"),
            ("{}".to_owned(), "lacks descr"),
            ("{'descr': '<f4'".to_owned(), "lacks a '}'"),
            ("{'descr': '<f4', 'descr': '<f4'}".to_owned(), "repeated key \"descr\""),
            ("{'x': 1}".to_owned(), "unknown or repeated key \"x\""),
            ("{3: 1}".to_owned(), "where a string should be"),
            (with("'<f4'", "(1,)") + " os.system('')", "follows the dict"),
            (with("'|O'", "(1,)"), "Python objects"),
            (with("'<U5'", "(1,)"), "text"),
            (with("'<c8'", "(1,)"), "complex"),
            (with("'<M8[ns]'", "(1,)"), "dates"),
            (with("'<V2'", "(1,)"), "bfloat16"),
            (with("'<f16'", "(1,)"), "dtype \"<f16\""),
            (with("'f4'", "(1,)"), "dtype \"f4\""),
            (with("'é4'", "(1,)"), "dtype"),
            (with("''", "(1,)"), "dtype \"\""),
            (with("[('x', '<f4')]", "(1,)"), "structures"),
            (with("'<f4'", "(-1,)"), "something else than extents"),
            (with("'<f4'", "(1.5,)"), "lacks a ')'"),
            (with("'<f4'", "(99999999999999999999,)"), "something else than extents"),
            (with("'<f4'", "[1]"), "lacks a '('"),
            (with("'<f4'", "(1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1)"), "dimensions"),
            ("{'fortran_order': false}".to_owned(), "True or False"),
        ] {
            let error = Header::parse(&text).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}

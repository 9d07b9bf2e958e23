//! IDX files, the format of MNIST and its kin, packed by gzip or not.
//!
//! A file is four bytes (two zeros, the element type, the number of dimensions), the extents as big-endian
//! 32-bit numbers, and the elements in row-major order. Only unsigned bytes, type 8, are read: no image
//! data set of this family uses another.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

use flate2::bufread::MultiGzDecoder;
use kiln_tensor::{Error, MAX_RANK, Result};

/// The contents of an IDX file of unsigned bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idx {
    /// The extents, outermost first.
    pub dims: Vec<usize>,
    /// The elements in row-major order.
    pub data: Vec<u8>,
}

/// The most elements that are read: three times those of EMNIST, the largest of the family.
const MAX_ELEMENTS: u64 = 2 << 30;
/// Deflate never shrinks data to less than 1/1032 (<https://zlib.net/zlib_tech.html>).
const DEFLATE_RATIO: u64 = 1032;
/// What is reserved before anything has been read; beyond it memory grows with the data that really come.
const RESERVE: u64 = 64 << 20;
const UNSIGNED_BYTE: u8 = 8;

/// Reads an IDX file. Whether it is packed shows in its first bytes, not in its name.
///
/// # Errors
/// The file cannot be read ([`ErrorKind::Io`](kiln_tensor::ErrorKind::Io)), or it is not an IDX file of
/// unsigned bytes, is cut short, damaged, or longer than its header says
/// ([`ErrorKind::File`](kiln_tensor::ErrorKind::File)).
pub fn read(path: impl AsRef<Path>) -> Result<Idx> {
    let path = path.as_ref();
    let file = File::open(path).map_err(|error| Error::io(path, error))?;
    let len = file.metadata().map_err(|error| Error::io(path, error))?.len();
    parse(path, BufReader::with_capacity(1 << 16, file), len)
}

/// Reads the contents of an IDX file that are in memory; `path` is for error messages.
///
/// # Errors
/// As [`read`].
pub fn decode(path: impl AsRef<Path>, bytes: &[u8]) -> Result<Idx> {
    parse(path.as_ref(), bytes, bytes.len() as u64)
}

/// `len` is the file's own length.
fn parse(path: &Path, mut input: impl BufRead, len: u64) -> Result<Idx> {
    let packed = input.fill_buf().map_err(|error| Error::io(path, error))?.starts_with(&[0x1f, 0x8b]);
    if packed {
        let most = len.saturating_mul(DEFLATE_RATIO);
        parse_plain(path, &mut MultiGzDecoder::new(input), most)
    } else {
        parse_plain(path, &mut input, len)
    }
}

/// `most` is how many bytes can come at all: a header that promises more is refused before anything is
/// reserved for it.
fn parse_plain(path: &Path, input: &mut dyn Read, most: u64) -> Result<Idx> {
    let [zero, also_zero, kind, rank] = word(path, input)?;
    if (zero, also_zero) != (0, 0) {
        let magic = u32::from_be_bytes([zero, also_zero, kind, rank]);
        return Err(Error::file(path, format!("not an IDX file: its first bytes are {magic:#010x}, not 0x0000tt0r")));
    }
    if kind != UNSIGNED_BYTE {
        return Err(Error::file(path, format!("IDX element type {kind:#04x}; only unsigned bytes (0x08) are read")));
    }
    if rank == 0 || usize::from(rank) > MAX_RANK {
        return Err(Error::file(path, format!("an IDX header with {rank} dimensions; 1 to {MAX_RANK} are expected")));
    }
    let dims = (0..rank).map(|_| Ok(u32::from_be_bytes(word(path, input)?))).collect::<Result<Vec<u32>>>()?;
    let declared = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(u64::from(d))).filter(|&n| n <= MAX_ELEMENTS);
    let Some(declared) = declared else {
        return Err(Error::file(path, format!("its header declares extents {dims:?}: over {MAX_ELEMENTS} bytes")));
    };
    if declared > most {
        let message = format!(
            "cut short, or a wrong header: {declared} bytes declared by extents {dims:?}, at most {most} there"
        );
        return Err(Error::file(path, message));
    }
    let data = elements(path, input, declared)?;
    Ok(Idx { dims: dims.into_iter().map(|d| d as usize).collect(), data })
}

fn elements(path: &Path, input: &mut dyn Read, declared: u64) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    let reserve = declared.min(RESERVE) as usize;
    data.try_reserve_exact(reserve).map_err(|_| Error::file(path, format!("no memory for {reserve} bytes")))?;
    input.take(declared).read_to_end(&mut data).map_err(|error| failed(path, error))?;
    if (data.len() as u64) < declared {
        let message = format!("cut short: {} of the {declared} bytes that its header declares", data.len());
        return Err(Error::file(path, message));
    }
    // Reading on to the end also makes gzip compare its checksum.
    if input.take(1).read_to_end(&mut Vec::new()).map_err(|error| failed(path, error))? > 0 {
        return Err(Error::file(path, format!("goes on after the {declared} bytes that its header declares")));
    }
    Ok(data)
}

fn word(path: &Path, input: &mut dyn Read) -> Result<[u8; 4]> {
    let mut bytes = [0; 4];
    input.read_exact(&mut bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::file(path, "cut short within the IDX header"),
        _ => failed(path, error),
    })?;
    Ok(bytes)
}

/// The decoder reports damage as I/O errors too; those of the operating system have a number.
fn failed(path: &Path, error: io::Error) -> Error {
    match (error.raw_os_error(), error.kind()) {
        (Some(_), _) => Error::io(path, error),
        (None, io::ErrorKind::UnexpectedEof) => Error::file(path, "cut short: the gzip stream has no end"),
        (None, _) => Error::file(path, format!("damaged gzip data: {error}")),
    }
}

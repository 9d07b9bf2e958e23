//! Reader for IDX files, the format of MNIST and its family, gzip-compressed or not.
//!
//! A file is four bytes (two zeros, the element type, the number of dimensions), the extents as big-endian
//! 32-bit numbers, and the elements in row-major order. Only unsigned bytes, type 8, are read: no image data
//! set of this family uses another type.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

use flate2::bufread::MultiGzDecoder;
use kiln_derive::located;
use kiln_tensor::{Error, MAX_RANK, Result};

use crate::memory::out_of_memory;

/// The contents of an IDX file of unsigned bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idx {
    /// The extents, outermost first.
    pub dims: Vec<usize>,
    /// The elements in row-major order.
    pub data: Vec<u8>,
}

/// Maximum number of elements that are read: three times those of EMNIST, the largest of the family.
const MAX_ELEMENTS: u64 = 2 << 30;
/// A compressed file may decompress to this plus a multiple of its length: twice what the files of MNIST's family need.
const FREE_BYTES: u64 = 64 << 20;
const MAX_EXPANSION: u64 = 10;
/// Reserved before anything has been read, in addition to the same multiple of the file; beyond it memory grows with
/// the data that actually arrive.
const RESERVE: u64 = 16 << 20;
const UNSIGNED_BYTE: u8 = 8;

/// Reads an IDX file. Whether it is compressed is recognized by its first bytes, not by its name. A compressed file may
/// decompress to 64 MiB plus ten times its length; [`read_with_limit`] allows more.
///
/// # Errors
/// If the file cannot be read ([`ErrorKind::Io`](kiln_tensor::ErrorKind::Io)), or it is not an IDX file of unsigned
/// bytes, is cut short, damaged, or longer than its header says ([`ErrorKind::File`](kiln_tensor::ErrorKind::File)).
/// Memory runs out.
#[located(site)]
pub fn read(path: impl AsRef<Path>) -> Result<Idx> {
    open(path.as_ref(), None)
}

/// As [`read`], for a file with at most `bytes` elements.
///
/// # Errors
/// Those of [`read`].
#[located(site)]
pub fn read_with_limit(path: impl AsRef<Path>, bytes: u64) -> Result<Idx> {
    open(path.as_ref(), Some(bytes))
}

fn open(path: &Path, limit: Option<u64>) -> Result<Idx> {
    let file = File::open(path).map_err(|error| Error::io(path, error))?;
    let len = file.metadata().map_err(|error| Error::io(path, error))?.len();
    parse(path, BufReader::with_capacity(1 << 16, file), len, limit)
}

/// Reads the contents of an IDX file from memory; `path` is for error messages.
///
/// # Errors
/// Those of [`read`].
#[located(site)]
pub fn decode(path: impl AsRef<Path>, bytes: &[u8]) -> Result<Idx> {
    parse(path.as_ref(), bytes, bytes.len() as u64, None)
}

/// `len` is the file's own length.
fn parse(path: &Path, mut input: impl BufRead, len: u64, limit: Option<u64>) -> Result<Idx> {
    let packed = input.fill_buf().map_err(|error| Error::io(path, error))?.starts_with(&[0x1f, 0x8b]);
    let times = len.saturating_mul(MAX_EXPANSION);
    let most = if packed { times.saturating_add(FREE_BYTES) } else { len };
    let most = match limit {
        Some(limit) if packed => limit,
        Some(limit) => most.min(limit),
        None => most,
    };
    let reserve = times.saturating_add(RESERVE);
    if packed {
        parse_plain(path, &mut MultiGzDecoder::new(input), most, reserve)
    } else {
        parse_plain(path, &mut input, most, reserve)
    }
}

/// `most` is how many elements the file can hold or may hold: a header that declares more is refused before anything is
/// reserved for it.
fn parse_plain(path: &Path, input: &mut dyn Read, most: u64, reserve: u64) -> Result<Idx> {
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
            "cut short, or a wrong header: extents {dims:?} declare {declared} bytes; at most {most} can be there \
             (`idx::read_with_limit` allows packed files more)"
        );
        return Err(Error::file(path, message));
    }
    let data = elements(path, input, declared, reserve)?;
    Ok(Idx { dims: dims.into_iter().map(|d| d as usize).collect(), data })
}

fn elements(path: &Path, input: &mut dyn Read, declared: u64, reserve: u64) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    let reserve = declared.min(reserve);
    data.try_reserve_exact(reserve as usize).map_err(|_| out_of_memory(reserve, path))?;
    input.take(declared).read_to_end(&mut data).map_err(|error| failed(path, error))?;
    if (data.len() as u64) < declared {
        let message = format!("cut short: {} of the {declared} bytes that its header declares", data.len());
        return Err(Error::file(path, message));
    }
    // Reading on to the end also makes gzip verify its checksum.
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

/// The decoder reports damage as I/O errors as well; those of the operating system have a number.
fn failed(path: &Path, error: io::Error) -> Error {
    match (error.raw_os_error(), error.kind()) {
        (Some(_), _) => Error::io(path, error),
        (None, io::ErrorKind::UnexpectedEof) => Error::file(path, "cut short: the gzip stream has no end"),
        (None, io::ErrorKind::OutOfMemory) => out_of_memory(MAX_ELEMENTS, path),
        (None, _) => Error::file(path, format!("damaged gzip data: {error}")),
    }
}

//! Writes arrays, and zip archives of them, with the 64-bit records of the format where numbers need them.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

use flate2::{Compression, write::DeflateEncoder};
use kiln_tensor::{DType, Error, Result, StateDict, Tensor};

use crate::{atomic, save::to_host};

/// The header of an array: its bytes begin at a multiple of this.
const ALIGNMENT: usize = 64;
/// 1980-01-01, the first day of the format, so that equal tensors make equal files.
const DATE: u16 = 1 << 5 | 1;

/// The bytes before the elements of a tensor.
pub(super) fn header(tensor: &Tensor, op: &'static str) -> Result<Vec<u8>> {
    let descr = match tensor.dtype() {
        DType::F16 => "<f2",
        DType::F32 => "<f4",
        DType::F64 => "<f8",
        DType::I32 => "<i4",
        DType::I64 => "<i8",
        DType::U8 => "|u1",
        DType::Bool => "|b1",
        dtype => return Err(Error::dtype(op, dtype, "NumPy has no such dtype; convert with `to_dtype(DType::F32)`")),
    };
    let dims: Vec<String> = tensor.dims().iter().map(ToString::to_string).collect();
    let shape = dims.join(", ") + if dims.len() == 1 { "," } else { "" };
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}").into_bytes();
    // NumPy leaves room for a first extent of this many digits, so that an array can be appended to.
    let growth = dims.first().map_or(0, |first| 21usize.saturating_sub(first.len()));
    let len = (10 + text.len() + growth + 1).next_multiple_of(ALIGNMENT) - 10;
    text.resize(len - 1, b' ');
    text.push(b'\n');
    let mut out = b"\x93NUMPY\x01\0".to_vec();
    out.extend((len as u16).to_le_bytes());
    out.append(&mut text);
    Ok(out)
}

/// One record of an archive.
struct Entry {
    name: String,
    crc: u32,
    /// The length of the contents, and of what is stored of them.
    size: u64,
    packed: u64,
    method: u16,
    /// The offset of its local header.
    offset: u64,
}

/// What of a number fits into 32 bits; the format's mark if it does not.
fn narrow(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The field of 64-bit numbers for those that do not fit into 32 bits, in the format's order.
fn wide(numbers: &[u64]) -> Vec<u8> {
    let wide: Vec<u8> = numbers.iter().filter(|n| **n >= u64::from(u32::MAX)).flat_map(|n| n.to_le_bytes()).collect();
    if wide.is_empty() {
        return wide;
    }
    let mut out = vec![1, 0];
    out.extend((wide.len() as u16).to_le_bytes());
    out.extend(wide);
    out
}

impl Entry {
    /// What local header and directory have in common, from the version on.
    fn common(&self, extra: &[u8]) -> Vec<u8> {
        let version: u16 = if extra.is_empty() { 20 } else { 45 };
        // Names are UTF-8.
        let flags: u16 = if self.name.is_ascii() { 0 } else { 1 << 11 };
        let mut out = Vec::new();
        for number in [version, flags, self.method, 0, DATE] {
            out.extend(number.to_le_bytes());
        }
        for number in [self.crc, narrow(self.packed), narrow(self.size)] {
            out.extend(number.to_le_bytes());
        }
        for number in [self.name.len() as u16, extra.len() as u16] {
            out.extend(number.to_le_bytes());
        }
        out
    }

    fn local_header(&self) -> Vec<u8> {
        let mut extra = Vec::new();
        let mut common = self.common(&extra);
        if self.size.max(self.packed) >= u64::from(u32::MAX) {
            // Here both sizes are in the field, also one that fits.
            extra = [&[1, 0, 16, 0][..], &self.size.to_le_bytes(), &self.packed.to_le_bytes()].concat();
            common = self.common(&extra);
            common[14..22].fill(0xff);
        }
        [b"PK\x03\x04", &common[..], self.name.as_bytes(), &extra].concat()
    }

    fn directory_entry(&self) -> Vec<u8> {
        let extra = wide(&[self.size, self.packed, self.offset]);
        let mut out = b"PK\x01\x02\x2d\0".to_vec();
        out.extend(self.common(&extra));
        out.extend([0; 10]); // comment, disk, attributes
        out.extend(narrow(self.offset).to_le_bytes());
        out.extend(self.name.as_bytes());
        out.extend(extra);
        out
    }
}

/// The records after the directory, which starts at `start` and has `size` bytes.
fn end(count: u64, start: u64, size: u64) -> Vec<u8> {
    let mut out = Vec::new();
    if count >= u64::from(u16::MAX) || start.max(size) >= u64::from(u32::MAX) {
        out.extend(b"PK\x06\x06");
        out.extend(44u64.to_le_bytes());
        out.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        for number in [count, count, size, start] {
            out.extend(number.to_le_bytes());
        }
        out.extend(b"PK\x06\x07\0\0\0\0");
        out.extend((start + size).to_le_bytes());
        out.extend(1u32.to_le_bytes());
    }
    let short = u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes();
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend(short);
    out.extend(short);
    out.extend(narrow(size).to_le_bytes());
    out.extend(narrow(start).to_le_bytes());
    out.extend([0, 0]);
    out
}

/// Writes an archive of these tensors.
pub(super) fn archive(path: &Path, state: &StateDict, compressed: bool) -> Result<()> {
    let op = if compressed { "save_npz_compressed" } else { "save_npz" };
    for (name, tensor) in state {
        header(tensor, op)?;
        if name.len() + 4 > usize::from(u16::MAX) {
            return Err(Error::argument(op, format!("a name of {} bytes is too long for a zip archive", name.len())));
        }
    }
    atomic::write(path, |file: &mut File| {
        let failed = |e: io::Error| Error::io(path, e);
        let mut out = BufWriter::with_capacity(1 << 20, file);
        let (mut directory, mut at) = (Vec::new(), 0u64);
        for (name, tensor) in state {
            let (header, values) = (header(tensor, op)?, to_host(tensor)?);
            let parts = [&header[..], values.bytes()];
            let mut crc = crc32fast::Hasher::new();
            parts.iter().for_each(|part| crc.update(part));
            let packed = if compressed { Some(deflated(&parts).map_err(failed)?) } else { None };
            let size = parts.iter().map(|part| part.len() as u64).sum();
            let entry = Entry {
                name: format!("{name}.npy"),
                crc: crc.finalize(),
                size,
                packed: packed.as_ref().map_or(size, |packed| packed.len() as u64),
                method: if compressed { 8 } else { 0 },
                offset: at,
            };
            let head = entry.local_header();
            out.write_all(&head).map_err(failed)?;
            let stored: &[&[u8]] = match &packed {
                Some(packed) => &[packed],
                None => &parts,
            };
            stored.iter().try_for_each(|part| out.write_all(part)).map_err(failed)?;
            at += head.len() as u64 + entry.packed;
            directory.extend(entry.directory_entry());
        }
        let end = end(state.len() as u64, at, directory.len() as u64);
        out.write_all(&directory).and_then(|()| out.write_all(&end)).and_then(|()| out.flush()).map_err(failed)
    })
}

fn deflated(parts: &[&[u8]]) -> io::Result<Vec<u8>> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    parts.iter().try_for_each(|part| encoder.write_all(part))?;
    encoder.finish()
}

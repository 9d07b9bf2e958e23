//! A parser for the parts of a cubin (an ELF file of machine code) that a driver reads: architecture, CUDA release,
//! kernels with their parameters.
use std::collections::HashMap;
use std::ffi::c_void;

use crate::ptx::Entry;

/// An ELF file for a GPU.
#[derive(Debug)]
pub struct Cubin {
    /// The architecture, 90 for `sm_90`.
    pub arch: u32,
    /// The CUDA release that made it, 135 for 13.5.
    pub toolkit: u32,
    pub entries: HashMap<String, Entry>,
}

/// Not a cubin, or a damaged one.
#[derive(Debug, PartialEq, Eq)]
pub struct Invalid;

const MAGIC: &[u8; 4] = b"\x7fELF";
const HEADER: usize = 64;
const SECTION: usize = 64;
const SEGMENT: usize = 56;
/// `EM_CUDA`
const MACHINE: u16 = 190;
/// `SHT_NOBITS`
const NO_BITS: u32 = 8;
/// Shared memory that the hardware reserves per block from sm_90 on, which section sizes include.
const RESERVED_SHARED: u32 = 1024;

/// Attributes of `.nv.info`.
const KERNEL_PARAMETER: u8 = 0x17;
const MAX_THREADS: u8 = 0x05;
const CUDA_VERSION: u8 = 0x37;
/// The format of an attribute with a size field and that many bytes; all others have four bytes.
const SIZED: u8 = 0x04;

fn number<const N: usize>(bytes: &[u8], at: usize) -> Result<u64, Invalid> {
    let bytes = bytes.get(at..at.checked_add(N).ok_or(Invalid)?).ok_or(Invalid)?;
    Ok(bytes.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte)))
}

fn place(bytes: &[u8], at: usize) -> Result<usize, Invalid> {
    usize::try_from(number::<8>(bytes, at)?).ok().filter(|place| *place < 1 << 30).ok_or(Invalid)
}

/// Whether an image is an ELF file rather than text.
///
/// # Safety
/// `image` is zero-terminated text, or an ELF file.
pub unsafe fn is_elf(image: *const c_void) -> bool {
    // SAFETY: the caller's promise; text may end before the fourth byte, and then differs there.
    (0..MAGIC.len()).all(|i| unsafe { image.cast::<u8>().add(i).read() } == MAGIC[i])
}

/// The bytes of an ELF file, whose header contains its length.
///
/// # Safety
/// [`is_elf`], and the file is whole.
pub unsafe fn bytes<'a>(image: *const c_void) -> Result<&'a [u8], Invalid> {
    let start = image.cast::<u8>();
    // SAFETY: a whole file has a header, and the tables that it names.
    unsafe {
        let header = std::slice::from_raw_parts(start, HEADER);
        let (segments, sections) = (place(header, 32)?, place(header, 40)?);
        let (segment_count, section_count) = (number::<2>(header, 56)? as usize, number::<2>(header, 60)? as usize);
        let tables = (segments + segment_count * SEGMENT).max(sections + section_count * SECTION);
        let upto = std::slice::from_raw_parts(start, tables);
        let mut end = tables;
        for i in 0..section_count {
            let at = sections + i * SECTION;
            if number::<4>(upto, at + 4)? as u32 != NO_BITS {
                end = end.max(place(upto, at + 24)? + place(upto, at + 32)?);
            }
        }
        Ok(std::slice::from_raw_parts(start, end))
    }
}

/// Reads a whole file.
pub fn parse(file: &[u8]) -> Result<Cubin, Invalid> {
    if file.get(..4) != Some(MAGIC) || number::<2>(file, 18)? as u16 != MACHINE {
        return Err(Invalid);
    }
    // Version 8 of the format has the architecture one byte further on.
    let flags = number::<4>(file, 48)? as u32;
    let arch = if file[8] >= 8 { flags >> 8 & 0xff } else { flags & 0xff };
    let (sections, count) = (place(file, 40)?, number::<2>(file, 60)? as usize);
    let header = |i: usize| -> Result<(usize, u32, usize, usize), Invalid> {
        let at = sections + i * SECTION;
        let (name, kind) = (number::<4>(file, at)? as usize, number::<4>(file, at + 4)? as u32);
        Ok((name, kind, place(file, at + 24)?, place(file, at + 32)?))
    };
    let names = header(number::<2>(file, 62)? as usize)?.2;
    let mut found = Vec::new();
    for i in 0..count {
        let (name, kind, offset, size) = header(i)?;
        let name = file.get(names + name..).and_then(|text| text.split(|byte| *byte == 0).next()).ok_or(Invalid)?;
        let name = std::str::from_utf8(name).map_err(|_| Invalid)?;
        let contents = if kind == NO_BITS { &[] } else { file.get(offset..offset + size).ok_or(Invalid)? };
        found.push((name, size, contents));
    }
    let (mut entries, mut toolkit) = (HashMap::new(), 0);
    for (name, _, info) in &found {
        let Some(kernel) = name.strip_prefix(".nv.info.") else { continue };
        let mut entry = Entry::default();
        let mut parameters = Vec::new();
        for (attribute, value) in attributes(info)? {
            match attribute {
                // Symbol, index, offset; flags, whose upper bits are the size.
                KERNEL_PARAMETER => parameters.push((number::<2>(value, 4)?, (number::<4>(value, 8)? >> 18) as u32)),
                MAX_THREADS => {
                    let threads = (0..3).map(|i| number::<4>(value, 4 * i)).product::<Result<u64, Invalid>>()?;
                    entry.max_threads = Some(threads as u32);
                }
                CUDA_VERSION => toolkit = toolkit.max(number::<4>(value, 0)? as u32),
                _ => {}
            }
        }
        parameters.sort_unstable();
        entry.parameters = parameters.into_iter().map(|(_, size)| size).collect();
        let shared = found.iter().find(|(name, ..)| name.strip_prefix(".nv.shared.") == Some(kernel));
        entry.shared = shared.map_or(0, |(_, size, _)| *size as u32);
        if arch >= 90 {
            entry.shared = entry.shared.saturating_sub(RESERVED_SHARED);
        }
        entries.insert((*kernel).to_string(), entry);
    }
    Ok(Cubin { arch, toolkit, entries })
}

/// The attributes with more than two bytes.
fn attributes(info: &[u8]) -> Result<Vec<(u8, &[u8])>, Invalid> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < info.len() {
        let (form, attribute, size) = (info[at], *info.get(at + 1).ok_or(Invalid)?, number::<2>(info, at + 2)?);
        at += 4;
        if form == SIZED {
            let value = info.get(at..at + size as usize).ok_or(Invalid)?;
            found.push((attribute, value));
            at += size as usize;
        }
    }
    Ok(found)
}

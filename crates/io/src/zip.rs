//! Parses the directory of a zip archive, as `torch.save` and NumPy's `savez` write them
//! (<https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT>): names, offsets and checksums.

use std::collections::HashMap;

use kiln_tensor::{Error, Result};

use crate::{budget::Budget, source::Source};

/// One record.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// The offset of its local header.
    header: usize,
    /// The length in bytes.
    pub len: usize,
    /// The length of its contents when they are unpacked.
    #[cfg_attr(not(feature = "npy"), allow(dead_code))]
    pub size: usize,
    /// The checksum of its contents, if the archive states one.
    pub crc: Option<u32>,
    /// The compression method, by the format's number.
    method: u16,
    encrypted: bool,
}

/// The records of an archive by name.
pub(crate) type Records = HashMap<String, Record>;

/// Bytes of the end-of-directory record: counts, and the location of the directory.
const END: usize = 22;
/// The most bytes of a comment after it.
const MAX_COMMENT: usize = u16::MAX as usize;

/// A little-endian number of `N` bytes.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<usize> {
    let mut wide = [0; 8];
    wide[..N].copy_from_slice(bytes.get(at..at + N)?);
    usize::try_from(u64::from_le_bytes(wide)).ok()
}

/// Reads the directory of an archive.
pub(crate) fn records(source: &Source, budget: &mut Budget) -> Result<Records> {
    let wrong = |what: &str| Error::file(source.path(), format!("not a complete zip archive: {what}"));
    let (count, start, size) =
        directory(source)?.ok_or_else(|| wrong("it is cut off, or something follows its end"))?;
    budget.spend(size)?;
    let directory = source.read(start, size)?;
    let mut out = Records::new();
    let mut places = Vec::new();
    let mut at = 0usize;
    for _ in 0..count {
        // Replacing invalid UTF-8 makes a name longer.
        budget.look_for(4 * number::<2>(&directory, at.saturating_add(28)).unwrap_or(0))?;
        let (name, record, next) = entry(&directory, at).ok_or_else(|| wrong("its directory is damaged"))?;
        at = next;
        // Growing the map copies it.
        budget.entry(3 * (size_of::<(String, Record)>() + size_of::<(usize, usize)>()) + name.len())?;
        let end = record.header.checked_add(record.len).filter(|&end| end <= start);
        let end = end.ok_or_else(|| wrong(&format!("record {name:?} is cut off")))?;
        budget.push(&mut places, (record.header, end))?;
        if out.contains_key(&name) {
            return Err(wrong(&format!("record {name:?} appears twice")));
        }
        budget.insert(&mut out, name, record)?;
    }
    places.sort_unstable();
    if places.windows(2).any(|pair| pair[1].0 < pair[0].1) {
        return Err(wrong("records overlap"));
    }
    budget.give_back(size);
    Ok(out)
}

/// The number of entries of the directory, its offset, and its length; from the 64-bit records of very large archives.
fn directory(source: &Source) -> Result<Option<(usize, usize, usize)>> {
    let tail_len = source.len().min(END + MAX_COMMENT);
    let tail = source.read(source.len() - tail_len, tail_len)?;
    let is_end = |at: &usize| {
        tail[*at..].starts_with(b"PK\x05\x06")
            && number::<2>(&tail, at + 20).is_some_and(|n| at + END + n == tail.len())
    };
    let Some(at) = (0..=tail.len().saturating_sub(END)).rev().find(is_end) else { return Ok(None) };
    let end = source.len() - tail.len() + at;
    let plain = || Some((number::<2>(&tail, at + 10)?, number::<4>(&tail, at + 16)?, number::<4>(&tail, at + 12)?));
    let mut found = plain();
    if let Some(locator) = at.checked_sub(20).map(|at| &tail[at..]).filter(|bytes| bytes.starts_with(b"PK\x06\x07")) {
        let Some(wide) = number::<8>(locator, 8).filter(|wide| wide.checked_add(56).is_some_and(|e| e <= end)) else {
            return Ok(None);
        };
        let wide = source.read(wide, 56)?;
        let fields = || Some((number::<8>(&wide, 32)?, number::<8>(&wide, 48)?, number::<8>(&wide, 40)?));
        found = fields().filter(|_| wide.starts_with(b"PK\x06\x06"));
    }
    Ok(found.filter(|(_, start, size)| start.checked_add(*size).is_some_and(|stop| stop <= end)))
}

/// The directory entry at `at`, and the offset of the next one.
fn entry(directory: &[u8], at: usize) -> Option<(String, Record, usize)> {
    let entry = directory.get(at..).filter(|entry| entry.starts_with(b"PK\x01\x02"))?;
    let [flags, method] = [number::<2>(entry, 8)?, number::<2>(entry, 10)?];
    let crc = number::<4>(entry, 16)?;
    let mut numbers = [number::<4>(entry, 24)?, number::<4>(entry, 20)?, number::<4>(entry, 42)?];
    let [name_len, extra_len, comment_len] =
        [number::<2>(entry, 28)?, number::<2>(entry, 30)?, number::<2>(entry, 32)?];
    let name = entry.get(46..46 + name_len)?;
    let mut extra = entry.get(46 + name_len..46 + name_len + extra_len)?;
    while let (Some(kind), Some(len)) = (number::<2>(extra, 0), number::<2>(extra, 2)) {
        let field = extra.get(4..4 + len)?;
        if kind == 1 {
            // The 64-bit values of the fields that do not fit into 32 bits, in this order.
            let mut wide = 0;
            for narrow in numbers.iter_mut().filter(|narrow| **narrow == u32::MAX as usize) {
                *narrow = number::<8>(field, wide)?;
                wide += 8;
            }
        }
        extra = &extra[4 + len..];
    }
    let [size, packed, header] = numbers;
    let encrypted = flags & 1 != 0;
    // Two different sizes mean compression, whatever the method says.
    let method = if method == 0 && size != packed { u16::MAX } else { method as u16 };
    // `torch.serialization.set_crc32_options(False)` writes 0 instead of a checksum.
    let crc = u32::try_from(crc).ok().filter(|&crc| crc != 0);
    let name = String::from_utf8_lossy(name).into_owned();
    Some((
        name,
        Record { header, len: packed, size, crc, method, encrypted },
        at + 46 + name_len + extra_len + comment_len,
    ))
}

impl Record {
    /// The offset of the contents; an error if they are compressed, encrypted or not where the directory says.
    pub fn start(&self, name: &str, source: &Source) -> Result<usize> {
        let wrong = |what: &str| Error::file(source.path(), format!("record {name:?} of its zip archive {what}"));
        if self.encrypted {
            return Err(wrong("is encrypted"));
        }
        if self.method != 0 {
            let what = "is compressed by a method that is not expected here: unpack the archive and pack it without compression";
            return Err(wrong(what));
        }
        self.place(name, source)
    }

    /// Whether the contents are packed by the method "deflate".
    #[cfg(feature = "npy")]
    pub fn is_deflated(&self) -> bool {
        self.method == 8 && !self.encrypted
    }

    /// The offset of the contents, packed or not.
    pub fn place(&self, name: &str, source: &Source) -> Result<usize> {
        let wrong = |what: &str| Error::file(source.path(), format!("record {name:?} of its zip archive {what}"));
        let header = source.read(self.header, 30)?;
        let start = number::<2>(&header, 26)
            .zip(number::<2>(&header, 28))
            .filter(|_| header.starts_with(b"PK\x03\x04"))
            .map(|(name_len, extra_len)| self.header + 30 + name_len + extra_len);
        let start = start.ok_or_else(|| wrong("is not where the directory says"))?;
        if start.checked_add(self.len).is_none_or(|end| end > source.len()) {
            return Err(wrong("is cut off"));
        }
        Ok(start)
    }
}

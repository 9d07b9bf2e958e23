//! The bytes of an array: a file, a part of an archive, or what was unpacked from one.

use std::io::Read;

use flate2::read::DeflateDecoder;
use kiln_tensor::{Error, Result};

use crate::{budget::Budget, source::Source, zip::Record};

/// Where the bytes of an array are.
pub(super) enum Contents<'a> {
    /// From an offset of a file on.
    File { source: &'a Source, start: usize, len: usize },
    /// The same, with a checksum.
    Stored { source: &'a Source, start: usize, len: usize, crc: Option<u32> },
    /// In memory, where the checksum was compared.
    Unpacked(Vec<u8>),
}

/// How many bytes are read at a time to compare a checksum.
const BLOCK: usize = 1 << 20;

impl<'a> Contents<'a> {
    /// The contents of a record of an archive, unpacked if they are compressed.
    pub fn of(record: &Record, name: &str, source: &'a Source, budget: &mut Budget) -> Result<Contents<'a>> {
        if !record.is_deflated() {
            let start = record.start(name, source)?;
            return Ok(Contents::Stored { source, start, len: record.len, crc: record.crc });
        }
        let wrong = |what: &str| Error::file(source.path(), format!("record {name:?} of its zip archive {what}"));
        let start = record.place(name, source)?;
        // Both exist for a while.
        budget.spend(record.len.saturating_add(record.size))?;
        let packed = source.read(start, record.len)?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(record.size).map_err(|_| source.out_of_memory(record.size))?;
        // One byte more shows that there is more than the archive says.
        let mut unpacking = DeflateDecoder::new(&packed[..]).take(record.size as u64 + 1);
        unpacking.read_to_end(&mut bytes).map_err(|_| wrong("is damaged"))?;
        if bytes.len() != record.size {
            return Err(wrong("is not as long as the archive says"));
        }
        if record.crc.is_some_and(|crc| crc != crc32fast::hash(&bytes)) {
            return Err(wrong("does not match its checksum"));
        }
        budget.give_back(record.len);
        Ok(Contents::Unpacked(bytes))
    }

    pub fn len(&self) -> usize {
        match self {
            Contents::File { len, .. } | Contents::Stored { len, .. } => *len,
            Contents::Unpacked(bytes) => bytes.len(),
        }
    }

    /// Fills `out` with the bytes from offset `at` on; they must exist.
    pub fn read_into(&self, at: usize, out: &mut [u8]) -> Result<()> {
        match self {
            Contents::File { source, start, .. } | Contents::Stored { source, start, .. } => {
                source.read_into(start + at, out)
            }
            Contents::Unpacked(bytes) => {
                out.copy_from_slice(&bytes[at..at + out.len()]);
                Ok(())
            }
        }
    }

    /// `len` bytes from offset `at` on; they must exist.
    pub fn read(&self, at: usize, len: usize, budget: &mut Budget) -> Result<Vec<u8>> {
        budget.look_for(len)?;
        let mut out = vec![0; len];
        self.read_into(at, &mut out)?;
        Ok(out)
    }

    /// Compares the checksum, if there is one to compare. `end` is where the array ends; of a file, more may follow.
    pub fn check(&self, end: usize) -> Result<(), String> {
        let Contents::Stored { source, start, len, crc } = self else { return Ok(()) };
        if end < *len {
            return Err("something follows the array".to_owned());
        }
        let Some(crc) = crc else { return Ok(()) };
        let mut hasher = crc32fast::Hasher::new();
        let mut block = vec![0; BLOCK.min(*len)];
        for at in (0..*len).step_by(BLOCK) {
            let part = &mut block[..BLOCK.min(len - at)];
            source.read_into(start + at, part).map_err(|error| error.to_string())?;
            hasher.update(part);
        }
        if hasher.finalize() == *crc { Ok(()) } else { Err("it does not match its checksum".to_owned()) }
    }

    /// Gives the memory back that unpacking took.
    pub fn give_back(self, budget: &mut Budget) {
        if let Contents::Unpacked(bytes) = self {
            budget.give_back(bytes.len());
        }
    }
}

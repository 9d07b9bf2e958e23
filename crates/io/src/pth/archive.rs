//! Where the storages lie in a file, in both formats of `torch.save`.

use std::{collections::HashMap, io::Cursor, ops::Range};

use kiln_pickle::{Pickle, Value};
use zip::{CompressionMethod, ZipArchive};

use super::classes::{self, allowed};

/// A file's pickle and what it refers to.
pub(super) struct Archive {
    /// Where the pickle of the saved object is.
    pub pickle: Range<usize>,
    /// The storages by their keys.
    pub storages: HashMap<String, Stored>,
    pub big_endian: bool,
}

/// Where a storage lies in the file.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub bytes: Range<usize>,
    /// A checksum, if the file has one.
    pub crc: Option<u32>,
}

impl Stored {
    pub fn verify(&self, file: &[u8]) -> Result<(), String> {
        let bytes = file.get(self.bytes.clone()).ok_or("it is cut off")?;
        match self.crc {
            Some(crc) if crc32fast::hash(bytes) != crc => Err("its values do not match their checksum".into()),
            _ => Ok(()),
        }
    }
}

/// The format since PyTorch 1.6: a zip archive of uncompressed records
/// (<https://docs.pytorch.org/docs/stable/notes/serialization.html>).
pub(super) fn zipped(file: &[u8]) -> Result<Archive, String> {
    let wrong = |e: zip::result::ZipError| format!("not a whole zip archive: {e}");
    let mut archive = ZipArchive::new(Cursor::new(file)).map_err(wrong)?;
    if archive.has_overlapping_entries().map_err(wrong)? {
        return Err("records of its zip archive overlap".into());
    }
    let mut records = HashMap::new();
    for i in 0..archive.len() {
        let record = archive.by_index_raw(i).map_err(wrong)?;
        let name = record.name().map_err(wrong)?.into_owned();
        if record.compression() != CompressionMethod::Stored
            || record.encrypted()
            || record.size() != record.compressed_size()
        {
            let method = record.compression();
            return Err(format!(
                "record {name:?} is compressed ({method}), which torch.save never does: unpack the archive and pack it without compression"
            ));
        }
        let start = record.data_start().and_then(|start| usize::try_from(start).ok());
        let end = start.zip(usize::try_from(record.size()).ok()).and_then(|(start, size)| start.checked_add(size));
        let (Some(start), Some(end)) = (start, end) else {
            return Err(format!("record {name:?} has no place in it"));
        };
        // `torch.serialization.set_crc32_options(False)` writes 0.
        let crc = Some(record.crc32()).filter(|&crc| crc != 0);
        let stored = Stored { bytes: start..end, crc };
        stored.verify_place(file).map_err(|e| format!("record {name:?}: {e}"))?;
        records.insert(name, stored);
    }
    let is_root = |name: &&String| name.as_str() == "data.pkl" || name.ends_with("/data.pkl");
    let Some(root) = records.keys().filter(is_root).min_by_key(|name| name.len()) else {
        return Err("a zip archive, but not one of torch.save: it has no data.pkl".into());
    };
    let folder = root[..root.len() - "data.pkl".len()].to_owned();
    if records.contains_key(&format!("{folder}constants.pkl")) {
        return Err("a TorchScript program; save its state_dict() with torch.save instead".into());
    }
    let pickle = records[root].clone();
    pickle.verify(file).map_err(|e| format!("record {root:?}: {e}"))?;
    let big_endian = match records.get(&format!("{folder}byteorder")).map(|r| &file[r.bytes.clone()]) {
        None | Some(b"little") => false,
        Some(b"big") => true,
        Some(other) => {
            return Err(format!("its byte order {:?} is none", String::from_utf8_lossy(&other[..other.len().min(20)])));
        }
    };
    let prefix = format!("{folder}data/");
    let storages =
        records.into_iter().filter_map(|(name, s)| Some((name.strip_prefix(&prefix)?.to_owned(), s))).collect();
    Ok(Archive { pickle: pickle.bytes, storages, big_endian })
}

impl Stored {
    fn verify_place(&self, file: &[u8]) -> Result<(), String> {
        if self.bytes.end <= file.len() { Ok(()) } else { Err("it is cut off".into()) }
    }
}

/// The format before PyTorch 1.6: pickles of a magic number, of the version, of the machine, of the object and of the
/// storages' keys, then the storages.
pub(super) fn legacy(file: &[u8]) -> Result<Archive, String> {
    let mut at = 0;
    let mut next = || -> Result<(Pickle<'_>, Range<usize>), String> {
        let pickle = kiln_pickle::load(file.get(at..).unwrap_or_default(), &allowed).map_err(|e| e.to_string())?;
        let place = at..at + pickle.consumed();
        at = place.end;
        Ok((pickle, place))
    };
    next()?;
    let (version, _) = next()?;
    if version.root().int() != Some(1001) {
        return Err("its version of the older format of torch.save is not 1001".into());
    }
    let (machine, _) = next()?;
    let little = machine.root().get("little_endian").and_then(Value::bool);
    let (object, place) = next()?;
    let (keys, _) = next()?;
    let sizes = element_sizes(&object);
    let mut storages = HashMap::new();
    for key in keys.root().items().ok_or("it has no list of storages")? {
        let key = key.text().ok_or("the key of a storage is no text")?.into_owned();
        let size = sizes.get(&key).ok_or_else(|| format!("nothing says what storage {key:?} holds"))?;
        let count: [u8; 8] = file.get(at..at + 8).and_then(|b| b.try_into().ok()).ok_or("it is cut off")?;
        let count = if little == Some(false) { u64::from_be_bytes(count) } else { u64::from_le_bytes(count) };
        let start = at + 8;
        let end = usize::try_from(count).ok().and_then(|n| n.checked_mul(*size)).and_then(|n| n.checked_add(start));
        let end = end
            .filter(|&end| end <= file.len())
            .ok_or_else(|| format!("storage {key:?} of {count} elements is cut off"))?;
        at = end;
        storages.insert(key, Stored { bytes: start..end, crc: None });
    }
    Ok(Archive { pickle: place, storages, big_endian: little == Some(false) })
}

/// The size of an element of each storage that the object refers to.
fn element_sizes(object: &Pickle<'_>) -> HashMap<String, usize> {
    let mut sizes = HashMap::new();
    for id in object.values().filter_map(Value::persistent) {
        let parts: Vec<Value> = id.items().into_iter().flatten().take(3).collect();
        let [_, class, key] = parts[..] else { continue };
        let (Some(class), Some(key)) = (class.global(), key.text()) else { continue };
        let size = if classes::is_untyped(class) { Some(1) } else { classes::of_storage(class).map(|t| t.size) };
        if let Some(size) = size {
            sizes.insert(key.into_owned(), size);
        }
    }
    sizes
}

//! Locates the pickled object and the storages in a file of either `torch.save` format; recognizes other archives.

use std::{borrow::Cow, collections::HashMap, path::Path};

use kiln_pickle::{Pickle, Value};
use kiln_tensor::{Error, Result};

use super::{classes, tree::tree, value::PthValue};
use crate::{
    budget::Budget,
    source::{Source, out_of_memory},
    zip::{self, Record, Records},
};

/// The storages of a file.
pub(super) struct Archive {
    /// The storages by key.
    pub storages: HashMap<String, Storage>,
    pub big_endian: bool,
}

/// The location of a storage in the file.
#[derive(Clone, Debug)]
pub(super) enum Storage {
    Record {
        name: String,
        record: Record,
    },
    /// In the older format: a range of bytes.
    Bytes {
        start: usize,
        len: usize,
    },
}

impl Storage {
    /// The length in bytes.
    pub fn len(&self) -> usize {
        match self {
            Storage::Record { record, .. } => record.len,
            Storage::Bytes { len, .. } => *len,
        }
    }

    /// The offset of the first byte.
    pub fn start(&self, source: &Source) -> Result<usize> {
        match self {
            Storage::Record { name, record } => record.start(name, source),
            Storage::Bytes { start, .. } => Ok(*start),
        }
    }

    /// The checksum, if the file has one.
    pub fn crc(&self) -> Option<u32> {
        if let Storage::Record { record, .. } = self { record.crc } else { None }
    }
}

/// Parses the pickle of a file. Classes become values, and no code is run.
fn unpickle<'a>(path: &Path, bytes: &'a [u8], budget: &Budget) -> Result<Pickle<'a>, Failure> {
    kiln_pickle::load_within(bytes, &|_, _| true, budget.left()).map_err(|error| match error {
        kiln_pickle::Error::Cut { .. } => Failure::Cut(Error::file(path, error.to_string())),
        kiln_pickle::Error::MemoryLimit { .. } => Failure::Other(budget.exceeded()),
        kiln_pickle::Error::OutOfMemory { bytes } => Failure::Other(out_of_memory(path, bytes)),
        _ => Failure::Other(Error::file(path, error.to_string())),
    })
}

/// Why parsing the start of a file failed.
enum Failure {
    /// The pickle is cut off: more of the file might help.
    Cut(Error),
    Other(Error),
}

impl Failure {
    fn error(self) -> Error {
        match self {
            Failure::Cut(error) | Failure::Other(error) => error,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Other(error)
    }
}

/// What an archive is that `torch.save` did not write, and what to do about it.
fn other(records: &Records) -> Option<&'static str> {
    // Archives of PyTorch have a top-level folder.
    let has = |wanted: &str| {
        records.keys().any(|name| name == wanted || name.split_once('/').is_some_and(|(_, n)| n == wanted))
    };
    let has_folder = |folder: &str| {
        let inside = |name: &str| name.starts_with(folder);
        records.keys().any(|name| inside(name) || name.split_once('/').is_some_and(|(_, n)| inside(n)))
    };
    if has("constants.pkl") || has("bytecode.pkl") || has_folder("code/") {
        return Some(
            "it is a TorchScript program; save its state_dict(): torch.save(torch.jit.load(path).state_dict(), path)",
        );
    }
    if has("archive_format") || has("serialized_exported_program.json") || has_folder("models/") && !has("data.pkl") {
        return Some(
            "it is a program of torch.export; save its state_dict: torch.save(torch.export.load(path).state_dict, path)",
        );
    }
    if has("data.pkl") {
        return None;
    }
    let all = |end: &str| !records.is_empty() && records.keys().all(|name| name.ends_with(end));
    Some(match () {
        () if all(".npy") => {
            "it is an archive of NumPy arrays (.npz); save them with names: safetensors.numpy.save_file(dict(arrays), path)"
        }
        () if has("model.weights.h5") => "it is a Keras model",
        () => "it is a zip archive, but not one of torch.save: it has no data.pkl",
    })
}

/// The format since PyTorch 1.6: a zip archive of uncompressed records
/// (<https://docs.pytorch.org/docs/stable/notes/serialization.html>).
pub(super) fn zipped(source: &Source, budget: &mut Budget) -> Result<(Archive, PthValue)> {
    let records = zip::records(source, budget)?;
    if let Some(what) = other(&records) {
        return Err(Error::file(source.path(), what));
    }
    let is_root = |name: &&String| name.as_str() == "data.pkl" || name.ends_with("/data.pkl");
    let root = records.keys().filter(is_root).min_by_key(|name| name.len());
    let root = root.ok_or_else(|| Error::file(source.path(), "its zip archive has no data.pkl"))?;
    let folder = root[..root.len() - "data.pkl".len()].to_owned();
    let contents = |name: &str, record: &Record, budget: &mut Budget| -> Result<Vec<u8>> {
        budget.spend(record.len)?;
        let bytes = source.read(record.start(name, source)?, record.len)?;
        match record.crc {
            Some(crc) if crc32fast::hash(&bytes) != crc => {
                Err(Error::file(source.path(), format!("record {name:?}: its contents do not match their checksum")))
            }
            _ => Ok(bytes),
        }
    };
    let bytes = contents(root, &records[root], budget)?;
    let order_name = format!("{folder}byteorder");
    let order = records.get(&order_name).map(|record| contents(&order_name, record, budget)).transpose()?;
    let big_endian = match order.as_deref() {
        None | Some(b"little") => false,
        Some(b"big") => true,
        Some(other) => {
            let order = String::from_utf8_lossy(&other[..other.len().min(20)]);
            return Err(Error::file(source.path(), format!("its byte order {order:?} is unknown")));
        }
    };
    let pickle = unpickle(source.path(), &bytes, budget).map_err(Failure::error)?;
    let value = tree(pickle.root(), budget)?;
    let prefix = format!("{folder}data/");
    let mut storages = HashMap::new();
    for (name, record) in records {
        if let Some(key) = name.strip_prefix(&prefix) {
            budget.look_for(key.len())?;
            budget.insert(&mut storages, key.to_owned(), Storage::Record { name, record })?;
        }
    }
    Ok((Archive { storages, big_endian }, value))
}

/// How many bytes of a file in the older format are read at first: its pickles precede the values.
const FIRST: usize = 1 << 20;

/// The format before PyTorch 1.6: pickles of a magic number, the version, the machine, the object and the keys of the
/// storages, then the storages.
pub(super) fn legacy(source: &Source, budget: &mut Budget) -> Result<(Archive, PthValue)> {
    let mut len = FIRST;
    loop {
        let mut attempt = budget.clone();
        attempt.spend(len.min(source.len()))?;
        let start = source.prefix(len)?;
        match legacy_pickles(source, &start, &mut attempt) {
            Ok(found) => {
                *budget = attempt;
                return Ok(found);
            }
            Err(Failure::Cut(_)) if len < source.len() => len = len.saturating_mul(4),
            Err(failure) => return Err(failure.error()),
        }
    }
}

fn legacy_pickles(source: &Source, start: &[u8], budget: &mut Budget) -> Result<(Archive, PthValue), Failure> {
    let wrong = |message: &str| Failure::Other(Error::file(source.path(), message));
    let mut at = 0;
    let mut next = |budget: &Budget| -> Result<Pickle<'_>, Failure> {
        let pickle = unpickle(source.path(), start.get(at..).unwrap_or_default(), budget)?;
        at += pickle.consumed();
        Ok(pickle)
    };
    next(budget)?;
    let version = next(budget)?;
    if version.root().int() != Some(1001) {
        return Err(wrong("its version of the older format of torch.save is not 1001"));
    }
    let machine = next(budget)?;
    let little = machine.root().get("little_endian").and_then(Value::bool) != Some(false);
    let object = next(budget)?;
    let keys = next(budget)?;
    let value = tree(object.root(), budget)?;
    let sizes = element_sizes(&object, budget)?;
    let mut storages = HashMap::new();
    for key in keys.root().items().ok_or_else(|| wrong("it has no list of storages"))? {
        let key = text(key, budget)?.ok_or_else(|| wrong("the key of a storage is not a string"))?.into_owned();
        let size =
            sizes.get(&key).ok_or_else(|| wrong(&format!("the object says no element type of storage {key:?}")))?;
        let mut count = [0; 8];
        source.read_into(at, &mut count)?;
        let count = if little { u64::from_le_bytes(count) } else { u64::from_be_bytes(count) };
        let start = at + 8;
        let len = usize::try_from(count).ok().and_then(|n| n.checked_mul(*size));
        let end = len.and_then(|len| len.checked_add(start)).filter(|&end| end <= source.len());
        let (Some(len), Some(end)) = (len, end) else {
            return Err(wrong(&format!("storage {key:?} of {count} elements is cut off")));
        };
        at = end;
        budget.entry(3 * size_of::<(String, Storage)>() + key.len())?;
        budget.insert(&mut storages, key, Storage::Bytes { start, len })?;
    }
    Ok((Archive { storages, big_endian: !little }, value))
}

/// A string; its memory is counted where it has to be copied.
fn text<'p>(value: Value<'p>, budget: &mut Budget) -> Result<Option<Cow<'p, str>>> {
    budget.look_for(value.text_size())?;
    Ok(value.text())
}

/// The element size of each storage that the object refers to, in bytes.
fn element_sizes(object: &Pickle<'_>, budget: &mut Budget) -> Result<HashMap<String, usize>> {
    let mut sizes = HashMap::new();
    for id in object.values().filter_map(Value::persistent) {
        let mut parts = id.items().into_iter().flatten();
        let (Some(_), Some(class), Some(key)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let (Some(class), Some(key)) = (class.global(), text(key, budget)?) else { continue };
        let size = if classes::is_untyped(class) { Some(1) } else { classes::of_storage(class).map(|t| t.size) };
        if let Some(size) = size {
            budget.entry(3 * size_of::<(String, usize)>() + key.len())?;
            budget.insert(&mut sizes, key.into_owned(), size)?;
        }
    }
    Ok(sizes)
}

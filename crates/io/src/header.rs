//! The header of a safetensors file: JSON with the dtype, shape and data offsets of every tensor
//! (<https://huggingface.co/docs/safetensors>). It is parsed entry by entry, so that memory is counted and duplicate
//! names are found.

use std::{cell::RefCell, collections::HashMap, fmt, ops::Range};

use indexmap::{IndexMap, map::Entry};
use kiln_backend::MAX_RANK;
use kiln_tensor::{DType, Error, Result, Shape};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use crate::{budget::Budget, source::out_of_memory};

/// Longer headers are refused, as by all readers of the format.
const MAX_HEADER: u64 = 100_000_000;

/// The name that the format reserves for metadata about the file.
pub(crate) const METADATA: &str = "__metadata__";

/// The format's name of an element type: Kiln's name in capitals.
pub(crate) fn name_of(dtype: DType) -> String {
    dtype.name().to_uppercase()
}

/// The header entry of a tensor that is written.
#[derive(Debug, Serialize)]
pub(crate) struct Description {
    pub dtype: String,
    pub shape: Vec<usize>,
    /// Where its values begin and end, counted from the end of the header.
    pub data_offsets: (usize, usize),
}

/// Dtype and shape of a tensor in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The element type.
    pub dtype: DType,
    /// The extents.
    pub shape: Shape,
    /// The range of its values, counted from the end of the header.
    pub(crate) bytes: Range<usize>,
}

/// A parsed header.
#[derive(Default)]
pub(crate) struct Header {
    pub metadata: HashMap<String, String>,
    /// In the order of the values in the file.
    pub tensors: IndexMap<String, TensorInfo>,
}

impl Header {
    /// Parses the JSON text of the header of a file with `values` bytes of values.
    pub fn parse(text: &[u8], values: usize, budget: &mut Budget) -> Result<Header> {
        let path = budget.path().to_owned();
        // The parser assembles a string with escapes in a buffer that grows by doubling.
        budget.look_for(if text.contains(&b'\\') { text.len().saturating_mul(3) } else { 0 })?;
        let wrong = |message: String| Error::file(&path, message);
        let reader = HeaderReader { budget: RefCell::new(budget), exceeded: RefCell::new(None) };
        let mut json = serde_json::Deserializer::from_slice(text);
        let parsed = (&reader).deserialize(&mut json).and_then(|header| json.end().map(|()| header));
        if let Some(error) = reader.exceeded.take() {
            return Err(error);
        }
        let mut header = parsed.map_err(|e| wrong(format!("not a valid safetensors header: {e}")))?;
        header.tensors.sort_unstable_by(|a_name, a, b_name, b| {
            (a.bytes.start, a.bytes.end, a_name).cmp(&(b.bytes.start, b.bytes.end, b_name))
        });
        let mut end = 0;
        for (name, info) in &header.tensors {
            if info.bytes.start != end {
                let (start, what) =
                    (info.bytes.start, if info.bytes.start < end { "overlap others" } else { "leave a gap" });
                return Err(wrong(format!("its header is invalid: the values of {name:?}, from byte {start}, {what}")));
            }
            end = info.bytes.end;
        }
        if end != values {
            return Err(wrong(format!("its header declares {end} bytes of values, but it holds {values}")));
        }
        Ok(header)
    }
}

/// The length of the JSON text at the start of a file of `len` bytes, from its first eight bytes.
pub(crate) fn header_length(start: &[u8], len: usize) -> Result<usize, String> {
    let Some((length, _)) = start.split_first_chunk::<8>() else {
        return Err(format!("not a safetensors file: it has only {len} bytes"));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        return Err(format!("not a safetensors file: it starts with a header length of {length} bytes"));
    }
    let held = len - 8;
    let cut = || format!("its header of {length} bytes is cut off after {held}");
    usize::try_from(length).ok().filter(|&length| length <= held).ok_or_else(cut)
}

/// Whether a file of `len` bytes with this start has a header of the safetensors format.
pub(crate) fn has_header(start: &[u8], len: usize) -> bool {
    header_length(start, len).is_ok_and(|length| length > 0) && start.get(8) == Some(&b'{')
}

struct HeaderReader<'b> {
    budget: RefCell<&'b mut Budget>,
    /// An error of the budget, which JSON errors cannot carry.
    exceeded: RefCell<Option<Error>>,
}

impl HeaderReader<'_> {
    /// Keeps an error that JSON errors cannot carry, and stops the parser.
    fn fail<E: serde::de::Error>(&self, error: Error) -> E {
        let message = E::custom(&error);
        self.exceeded.replace(Some(error));
        message
    }

    fn entry<E: serde::de::Error>(&self, bytes: usize) -> Result<(), E> {
        self.budget.borrow_mut().entry(bytes).map_err(|error| self.fail(error))
    }

    fn no_room<E: serde::de::Error>(&self, bytes: usize) -> E {
        self.fail(out_of_memory(self.budget.borrow().path(), bytes))
    }
}

impl<'de> DeserializeSeed<'de> for &HeaderReader<'_> {
    type Value = Header;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Header, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &HeaderReader<'_> {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object that describes tensors by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut header = Header::default();
        let mut has_metadata = false;
        while let Some(name) = map.next_key_seed(Text(self))? {
            if name == METADATA {
                if std::mem::replace(&mut has_metadata, true) {
                    return Err(A::Error::custom(format!("{METADATA:?} appears twice")));
                }
                header.metadata = map.next_value_seed(MetadataReader(self))?;
                continue;
            }
            // While the map grows, the old and the new table exist.
            let bytes = 3 * size_of::<(String, TensorInfo)>();
            self.entry(bytes + 2 * name.len())?;
            header.tensors.try_reserve(1).map_err(|_| self.no_room(bytes * header.tensors.len()))?;
            match header.tensors.entry(name) {
                Entry::Occupied(entry) => {
                    return Err(A::Error::custom(format!("tensor {:?} appears twice", short(entry.key()))));
                }
                Entry::Vacant(entry) => {
                    let info = tensor_info(entry.key(), map.next_value()?).map_err(A::Error::custom)?;
                    entry.insert(info);
                }
            }
        }
        Ok(header)
    }
}

/// The beginning of a name for a message: a name may be as long as the file.
fn short(name: &str) -> &str {
    let end = name.char_indices().nth(200).map_or(name.len(), |(at, _)| at);
    &name[..end]
}

/// A string whose memory is counted.
struct Text<'a, 'b>(&'a HeaderReader<'b>);

impl<'de> DeserializeSeed<'de> for Text<'_, '_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Text<'_, '_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<String, E> {
        self.0.entry(text.len())?;
        let mut out = String::new();
        out.try_reserve_exact(text.len()).map_err(|_| self.0.no_room(text.len()))?;
        out.push_str(text);
        Ok(out)
    }
}

/// The header entry of a tensor as it is parsed.
#[derive(Deserialize)]
struct TensorEntry {
    dtype: DtypeName,
    shape: Extents,
    data_offsets: (usize, usize),
}

/// The element type, or the beginning of an unknown name.
struct DtypeName(Result<DType, String>);

impl<'de> Deserialize<'de> for DtypeName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<DtypeName, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = DtypeName;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a dtype")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<DtypeName, E> {
                let known = DType::ALL.into_iter().find(|&dtype| name_of(dtype) == name);
                Ok(DtypeName(known.ok_or_else(|| name.chars().take(20).collect())))
            }
        }
        deserializer.deserialize_str(Reader)
    }
}

/// The extents of a tensor, or what is wrong with them. No more extents are kept than the maximal rank.
struct Extents(Result<Shape, String>);

impl<'de> Deserialize<'de> for Extents {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Extents, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Extents;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of extents")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Extents, A::Error> {
                let mut extents = [0; MAX_RANK + 1];
                let mut rank = 0;
                while let Some(extent) = list.next_element()? {
                    extents[rank.min(MAX_RANK)] = extent;
                    rank += 1;
                }
                let extents = &extents[..rank.min(MAX_RANK + 1)];
                Ok(Extents(Shape::new(extents).map_err(|e| e.to_string())))
            }
        }
        deserializer.deserialize_seq(Reader)
    }
}

/// Checks that dtype, shape and offsets of a tensor agree.
fn tensor_info(name: &str, entry: TensorEntry) -> Result<TensorInfo, String> {
    let TensorEntry { dtype, shape: Extents(shape), data_offsets: (start, end) } = entry;
    let name = short(name);
    let dtype = dtype.0.map_err(|dtype| format!("tensor {name:?} has dtype {dtype}, which Kiln does not have"))?;
    let shape = shape.map_err(|e| format!("tensor {name:?}: {e}"))?;
    let bytes = shape.numel().checked_mul(dtype.size());
    if bytes.is_none() || end.checked_sub(start) != bytes {
        return Err(format!("tensor {name:?} of {dtype} and shape {shape} cannot have its values in {start}..{end}"));
    }
    Ok(TensorInfo { dtype, shape, bytes: start..end })
}

struct MetadataReader<'a, 'b>(&'a HeaderReader<'b>);

impl<'de> DeserializeSeed<'de> for MetadataReader<'_, '_> {
    type Value = HashMap<String, String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for MetadataReader<'_, '_> {
    type Value = HashMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut out = HashMap::new();
        let reader = self.0;
        while let Some(key) = map.next_key_seed(Text(reader))? {
            if out.contains_key(&key) {
                map.next_value::<IgnoredAny>()?;
                return Err(A::Error::custom(format!("{:?} appears twice in {METADATA:?}", short(&key))));
            }
            let value = map.next_value_seed(Text(reader))?;
            let bytes = 3 * size_of::<(String, String)>();
            reader.entry(bytes)?;
            out.try_reserve(1).map_err(|_| reader.no_room(bytes * out.len()))?;
            out.insert(key, value);
        }
        Ok(out)
    }
}

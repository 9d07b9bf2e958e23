//! The header of a safetensors file: JSON that says dtype, shape and place of every tensor
//! (<https://huggingface.co/docs/safetensors>), read entry by entry, so that its memory is counted and no name is there
//! twice.

use std::{cell::RefCell, collections::HashMap, fmt};

use indexmap::{IndexMap, map::Entry};
use kiln_tensor::{DType, Error, Result, Shape};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor},
};

use crate::{budget::Budget, tensor_file::TensorInfo};

/// The name that the format keeps for text about the file.
pub(crate) const METADATA: &str = "__metadata__";

/// The format's names of Kiln's element types.
const DTYPES: &[(DType, &str)] = &[
    (DType::F32, "F32"),
    (DType::F64, "F64"),
    (DType::F16, "F16"),
    (DType::BF16, "BF16"),
    (DType::I64, "I64"),
    (DType::I32, "I32"),
    (DType::U8, "U8"),
    (DType::Bool, "BOOL"),
];

/// The format's name of an element type.
pub(crate) fn name_of(dtype: DType) -> &'static str {
    DTYPES.iter().find(|(known, _)| *known == dtype).map_or("", |(_, name)| name)
}

/// One tensor as the header describes it.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Description {
    pub dtype: String,
    pub shape: Vec<usize>,
    /// Where its values begin and end, counted from the end of the header.
    pub data_offsets: (usize, usize),
}

/// What a header says.
#[derive(Default)]
pub(crate) struct Header {
    pub metadata: HashMap<String, String>,
    /// In the order of the values in the file.
    pub tensors: IndexMap<String, TensorInfo>,
}

impl Header {
    /// Reads the JSON text of a file that has `values` bytes of values.
    pub fn parse(text: &[u8], values: usize, budget: &mut Budget) -> Result<Header> {
        let path = budget.path().to_owned();
        let wrong = |message: String| Error::file(&path, message);
        let reader = HeaderReader { budget: RefCell::new(budget), exceeded: RefCell::new(None) };
        let mut json = serde_json::Deserializer::from_slice(text);
        let parsed = (&reader).deserialize(&mut json).and_then(|header| json.end().map(|()| header));
        if let Some(error) = reader.exceeded.take() {
            return Err(error);
        }
        let mut header = parsed.map_err(|e| wrong(format!("not a valid safetensors header: {e}")))?;
        header.tensors.sort_by(|a_name, a, b_name, b| {
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

struct HeaderReader<'b> {
    budget: RefCell<&'b mut Budget>,
    /// The error of the budget, which JSON errors cannot carry.
    exceeded: RefCell<Option<Error>>,
}

impl HeaderReader<'_> {
    fn entry<E: serde::de::Error>(&self, bytes: usize) -> Result<(), E> {
        self.budget.borrow_mut().entry(bytes).map_err(|error| {
            self.exceeded.replace(Some(error));
            E::custom("too large")
        })
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
        while let Some(name) = map.next_key::<String>()? {
            if name == METADATA {
                if std::mem::replace(&mut has_metadata, true) {
                    return Err(A::Error::custom(format!("{METADATA:?} is there twice")));
                }
                header.metadata = map.next_value_seed(MetadataReader(self))?;
                continue;
            }
            // The entry is there twice while the map grows.
            self.entry(3 * (name.len() + size_of::<(String, TensorInfo)>()))?;
            header.tensors.try_reserve(1).map_err(|_| A::Error::custom("out of memory"))?;
            match header.tensors.entry(name) {
                Entry::Occupied(entry) => {
                    return Err(A::Error::custom(format!("tensor {:?} is there twice", entry.key())));
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

/// Checks that dtype, shape and offsets of a tensor agree.
fn tensor_info(name: &str, description: Description) -> Result<TensorInfo, String> {
    let Description { dtype, shape, data_offsets: (start, end) } = description;
    let known = DTYPES.iter().find(|(_, known)| *known == dtype);
    let &(dtype, _) = known.ok_or_else(|| {
        let dtype: String = dtype.chars().take(20).collect();
        format!("tensor {name:?} has dtype {dtype}, which Kiln does not have")
    })?;
    let shape = Shape::new(&shape).map_err(|e| format!("tensor {name:?}: {e}"))?;
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
        while let Some(key) = map.next_key::<String>()? {
            if out.contains_key(&key) {
                map.next_value::<IgnoredAny>()?;
                return Err(A::Error::custom(format!("{key:?} is there twice in {METADATA:?}")));
            }
            let value: String = map.next_value()?;
            self.0.entry(3 * size_of::<(String, String)>() + key.len() + value.len())?;
            out.try_reserve(1).map_err(|_| A::Error::custom("out of memory"))?;
            out.insert(key, value);
        }
        Ok(out)
    }
}

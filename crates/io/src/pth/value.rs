//! The saved object as a value: what Python's pickle describes, without running any code.

use std::{fmt, ops::Deref, sync::Arc};

use super::classes::TorchType;

/// A value in a `torch.save` file. Parts that the object refers to several times are shared, so traversing all paths
/// can take far longer than the length of the file suggests.
#[derive(Clone)]
#[non_exhaustive]
#[allow(missing_docs)] // each is what its name says
pub enum PthValue {
    None,
    Bool(bool),
    /// Also a NumPy integer.
    Int(i64),
    /// Also a NumPy float.
    Float(f64),
    /// Real and imaginary part.
    Complex(f64, f64),
    /// Also a dtype (`torch.float32`) and a device (`cuda:0`).
    Str(String),
    Bytes(Vec<u8>),
    List(Arc<Vec<PthValue>>),
    /// Also a `torch.Size`.
    Tuple(Arc<Vec<PthValue>>),
    Set(Arc<Vec<PthValue>>),
    /// Of any kind (`OrderedDict`, `Counter`, …), in its order, with each key once.
    Dict(Arc<PthDict>),
    Tensor(PthTensor),
    /// An object of any other class (`argparse.Namespace`, `pathlib.PosixPath`, an enum, a NumPy array, a model).
    Object(Arc<PthObject>),
    /// A class, a function, a storage, or an integer of more than 64 bits, by its name in Python; or a note on a value
    /// that is nested too deeply or contains itself.
    Other(String),
}

impl PthValue {
    /// The value of a string key in a dict, or of an attribute of an object.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&PthValue> {
        self.entries().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// The entries of a dict that have strings as keys; of an object that is filled like a dict, these entries; of
    /// another object, its attributes.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &PthValue)> {
        let pairs = match self {
            PthValue::Dict(dict) => &dict[..],
            PthValue::Object(object) => object.fields(),
            _ => &[],
        };
        pairs
            .iter()
            .filter_map(|(key, value)| if let PthValue::Str(key) = key { Some((key.as_str(), value)) } else { None })
    }

    /// The pairs of a dict, or of an object that is filled like one; without attributes.
    pub(super) fn pairs(&self) -> &[(PthValue, PthValue)] {
        match self {
            PthValue::Dict(dict) => dict,
            PthValue::Object(object) => &object.pairs,
            _ => &[],
        }
    }

    /// The value as a number, if it is an integer, float or bool, which Python converts into each other.
    #[must_use]
    pub fn number(&self) -> Option<f64> {
        match self {
            PthValue::Bool(value) => Some(f64::from(u8::from(*value))),
            PthValue::Int(value) => Some(*value as f64),
            PthValue::Float(value) => Some(*value),
            _ => None,
        }
    }

    fn show(&self, f: &mut fmt::Formatter<'_>, depth: usize) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, name: &str, items: &[PthValue]| {
            write!(f, "{name}[")?;
            for item in items.iter().take(SHOWN) {
                item.show(f, depth + 1)?;
                f.write_str(", ")?;
            }
            f.write_str(if items.len() > SHOWN { "…]" } else { "]" })
        };
        match self {
            PthValue::None => f.write_str("None"),
            PthValue::Bool(value) => write!(f, "{value}"),
            PthValue::Int(value) => write!(f, "{value}"),
            PthValue::Float(value) => write!(f, "{value:?}"),
            PthValue::Complex(re, im) => write!(f, "({re:?} + {im:?}j)"),
            PthValue::Str(text) => write!(f, "{text:?}"),
            PthValue::Bytes(bytes) => write!(f, "<{} bytes>", bytes.len()),
            PthValue::Tensor(tensor) => write!(f, "Tensor({} {:?})", tensor.torch_dtype(), tensor.dims()),
            PthValue::Other(name) => write!(f, "<{name}>"),
            _ if depth > 3 => f.write_str("…"),
            PthValue::List(items) => list(f, "", items),
            PthValue::Tuple(items) => list(f, "tuple", items),
            PthValue::Set(items) => list(f, "set", items),
            PthValue::Dict(_) | PthValue::Object(_) => {
                let (name, pairs) = match self {
                    PthValue::Object(object) => (object.class.as_str(), object.fields()),
                    _ => ("", self.pairs()),
                };
                write!(f, "{name}{{")?;
                for (key, value) in pairs.iter().take(SHOWN) {
                    key.show(f, depth + 1)?;
                    f.write_str(": ")?;
                    value.show(f, depth + 1)?;
                    f.write_str(", ")?;
                }
                f.write_str(if pairs.len() > SHOWN { "…}" } else { "}" })
            }
        }
    }
}

/// How many elements of a value are printed.
const SHOWN: usize = 20;

/// The upper levels, shortened.
impl fmt::Debug for PthValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.show(f, 0)
    }
}

/// A dict: its pairs in order.
#[derive(Clone, Debug)]
pub struct PthDict {
    pub(super) pairs: Vec<(PthValue, PthValue)>,
    pub(super) attributes: PthValue,
}

impl PthDict {
    /// The attributes that were set on it: a state dict has `_metadata`, the versions of its layers.
    #[must_use]
    pub fn attributes(&self) -> &PthValue {
        &self.attributes
    }
}

impl Deref for PthDict {
    type Target = [(PthValue, PthValue)];

    fn deref(&self) -> &Self::Target {
        &self.pairs
    }
}

/// An object of a class that Kiln does not know, as its pickle describes it. The object was never constructed: no code
/// of the class has run.
#[derive(Clone, Debug)]
pub struct PthObject {
    pub(super) class: String,
    pub(super) arguments: Vec<PthValue>,
    pub(super) state: PthValue,
    pub(super) items: Vec<PthValue>,
    pub(super) pairs: Vec<(PthValue, PthValue)>,
    /// Why Kiln cannot load it as a tensor.
    pub(super) problem: Option<String>,
}

impl PthObject {
    /// The module and name of its class, or of the function that constructs it: `argparse.Namespace`.
    #[must_use]
    pub fn class(&self) -> &str {
        &self.class
    }

    /// The arguments that the class or function would be called with.
    #[must_use]
    pub fn arguments(&self) -> &[PthValue] {
        &self.arguments
    }

    /// What `__setstate__` would be called with: mostly a dict of its attributes.
    #[must_use]
    pub fn state(&self) -> &PthValue {
        &self.state
    }

    /// The items that would be appended to it, as to a list.
    #[must_use]
    pub fn items(&self) -> &[PthValue] {
        &self.items
    }

    /// The pairs that would be set on it, as on a dict.
    #[must_use]
    pub fn pairs(&self) -> &[(PthValue, PthValue)] {
        &self.pairs
    }

    fn fields(&self) -> &[(PthValue, PthValue)] {
        match &self.state {
            PthValue::Dict(state) if self.pairs.is_empty() => state,
            _ => &self.pairs,
        }
    }
}

/// A tensor in a file: its dtype, its shape, and the part of a storage that it is.
#[derive(Clone, Debug)]
pub struct PthTensor {
    pub(super) place: Arc<Place>,
    pub(super) requires_grad: bool,
}

/// The location of a tensor: part of a storage.
#[derive(Debug)]
pub(super) struct Place {
    pub kind: &'static TorchType,
    /// The storage's key.
    pub storage: String,
    /// In elements.
    pub offset: usize,
    pub dims: Vec<usize>,
    /// In elements.
    pub strides: Vec<usize>,
}

impl PthTensor {
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// PyTorch's name of its element type, e.g. `float32`.
    #[must_use]
    pub fn torch_dtype(&self) -> &'static str {
        self.place.kind.name
    }

    /// The extents.
    #[must_use]
    pub fn dims(&self) -> &[usize] {
        &self.place.dims
    }

    /// Whether it was a parameter, or another leaf that required gradients.
    #[must_use]
    pub fn requires_grad(&self) -> bool {
        self.requires_grad
    }
}

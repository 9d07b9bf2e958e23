//! The saved object.

use std::borrow::Cow;

use kiln_pickle::{Node, Value};

use super::classes::{self, TorchType};

/// What a file of `torch.save` holds.
#[derive(Clone, Debug)]
#[non_exhaustive]
#[allow(missing_docs)] // each is what its name says
pub enum PthValue {
    None,
    Bool(bool),
    /// Also a NumPy integer.
    Int(i64),
    /// Also a NumPy float.
    Float(f64),
    /// Also a dtype (`torch.float32`) and a device (`cuda:0`).
    Str(String),
    Bytes(Vec<u8>),
    List(Vec<PthValue>),
    /// Also a `torch.Size`.
    Tuple(Vec<PthValue>),
    Set(Vec<PthValue>),
    /// Of any kind (`OrderedDict`, `Counter`, …), in its order, with each key once.
    Dict(Vec<(PthValue, PthValue)>),
    Tensor(PthTensor),
    /// Something that Kiln knows of, but has no use for, by its name in Python.
    Other(String),
}

impl PthValue {
    /// The value of a string key in a dict.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&PthValue> {
        self.entries().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// The values of a dict that have strings as keys.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &PthValue)> {
        let pairs = if let PthValue::Dict(pairs) = self { &pairs[..] } else { &[] };
        pairs
            .iter()
            .filter_map(|(key, value)| if let PthValue::Str(key) = key { Some((key.as_str(), value)) } else { None })
    }

    /// The tensors of a dict.
    pub(super) fn tensors(&self) -> impl Iterator<Item = (&str, &PthTensor)> {
        self.entries().filter_map(|(key, value)| if let PthValue::Tensor(t) = value { Some((key, t)) } else { None })
    }
}

/// A tensor in a file: which elements of which storage it has.
#[derive(Clone, Debug)]
pub struct PthTensor {
    pub(super) kind: &'static TorchType,
    /// The storage's key.
    pub(super) storage: String,
    /// In elements.
    pub(super) offset: usize,
    pub(super) dims: Vec<usize>,
    /// In elements.
    pub(super) strides: Vec<usize>,
    requires_grad: bool,
}

impl PthTensor {
    /// PyTorch's name of its element type, e.g. `float32`.
    #[must_use]
    pub fn torch_dtype(&self) -> &'static str {
        self.kind.name
    }

    /// The extents.
    #[must_use]
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// Whether it was a parameter, or another leaf that required gradients.
    #[must_use]
    pub fn requires_grad(&self) -> bool {
        self.requires_grad
    }
}

/// How deeply values may be nested; what refers to itself is deeper.
const DEPTH: usize = 100;
/// How much may come of one pickle, which can name one value in many places: about so many values.
const BUDGET: usize = 1 << 22;

/// The value of a pickle as a tree.
pub(super) fn tree(root: Value<'_>) -> Result<PthValue, String> {
    Tree { budget: BUDGET }.convert(root, 0)
}

struct Tree {
    budget: usize,
}

impl Tree {
    fn spend(&mut self, amount: usize) -> Result<(), String> {
        let left = self.budget.checked_sub(amount);
        self.budget = left.ok_or("its object is too large, or one part of it is in too many places")?;
        Ok(())
    }

    fn convert(&mut self, value: Value<'_>, depth: usize) -> Result<PthValue, String> {
        self.spend(1)?;
        if depth > DEPTH {
            return Err("its object is nested too deeply, or in itself".into());
        }
        Ok(match value.node() {
            Node::None => PthValue::None,
            Node::Bool(b) => PthValue::Bool(*b),
            Node::Int(i) => i64::try_from(*i).map_or_else(|_| PthValue::Other("int".into()), PthValue::Int),
            Node::Float(f) => PthValue::Float(*f),
            Node::Text(text) => PthValue::Str(self.own(text)?),
            Node::Bytes(bytes) => PthValue::Bytes(self.own_bytes(bytes)?),
            Node::Tuple(_) => PthValue::Tuple(self.all(value, depth)?),
            Node::List(_) => PthValue::List(self.all(value, depth)?),
            Node::Set(_) => PthValue::Set(self.all(value, depth)?),
            Node::Dict(_) => self.dict(value, depth)?,
            Node::Global(global) => match classes::of_dtype((&global.0, &global.1)) {
                Some(kind) => PthValue::Str(format!("torch.{}", kind.name)),
                None => PthValue::Other(format!("{}.{}", global.0, global.1)),
            },
            Node::Persistent(_) => PthValue::Other("torch.storage".into()),
            Node::Object(_) => self.object(value, depth)?,
        })
    }

    fn own(&mut self, text: &str) -> Result<String, String> {
        self.spend(text.len() / 32)?;
        Ok(text.to_owned())
    }

    fn own_bytes(&mut self, bytes: &[u8]) -> Result<Vec<u8>, String> {
        self.spend(bytes.len() / 32)?;
        Ok(bytes.to_owned())
    }

    fn all(&mut self, value: Value<'_>, depth: usize) -> Result<Vec<PthValue>, String> {
        value.items().into_iter().flatten().map(|item| self.convert(item, depth + 1)).collect()
    }

    fn dict(&mut self, value: Value<'_>, depth: usize) -> Result<PthValue, String> {
        let mut pairs: Vec<(PthValue, PthValue)> = Vec::new();
        let mut places = std::collections::HashMap::new();
        for (key, value) in value.pairs().into_iter().flatten() {
            let (name, value) = (key.text(), self.convert(value, depth + 1)?);
            let key = match (key.node(), &name) {
                // A `str` of Python 2, which is what names are there.
                (Node::Bytes(_), Some(name)) => PthValue::Str(self.own(name)?),
                _ => self.convert(key, depth + 1)?,
            };
            // As in Python, a key that comes again has its place and the new value.
            let place = name.map(|name: Cow<str>| *places.entry(name.into_owned()).or_insert(pairs.len()));
            match place.and_then(|place| pairs.get_mut(place)) {
                Some(slot) => slot.1 = value,
                None => pairs.push((key, value)),
            }
        }
        Ok(PthValue::Dict(pairs))
    }

    fn object(&mut self, value: Value<'_>, depth: usize) -> Result<PthValue, String> {
        let Some((class, arguments)) = value.call() else { return Err("a call of nothing".into()) };
        if let Some(bytes) = value.bytes() {
            return Ok(PthValue::Bytes(self.own_bytes(&bytes)?));
        }
        let elements = |tree: &mut Tree| arguments.first().map_or(Ok(Vec::new()), |&items| tree.all(items, depth));
        Ok(match (class, arguments.first()) {
            (("torch._utils" | "torch._tensor", _), _) => PthValue::Tensor(self.tensor(class, &arguments, depth)?),
            (("collections", "Counter"), Some(&counts)) => self.convert(counts, depth + 1)?,
            (("collections", "OrderedDict"), Some(&pairs)) => {
                // As Python 2 writes it: made of a list of pairs.
                let mut dict = Vec::new();
                for pair in pairs.items().into_iter().flatten() {
                    let [key, value] = <[PthValue; 2]>::try_from(self.all(pair, depth + 1)?)
                        .map_err(|_| "an OrderedDict of something else than pairs")?;
                    dict.push((key, value));
                }
                PthValue::Dict(dict)
            }
            (("collections", _), _) => self.dict(value, depth)?,
            (("builtins" | "__builtin__", "set" | "frozenset"), _) => PthValue::Set(elements(self)?),
            (("torch", "Size"), _) => PthValue::Tuple(elements(self)?),
            (("torch", "device"), _) => {
                let parts = arguments.iter().map(|part| match (part.text(), part.int()) {
                    (Some(text), _) => self.own(&text),
                    (_, Some(number)) => Ok(number.to_string()),
                    _ => Err("a device that is none".to_owned()),
                });
                PthValue::Str(parts.collect::<Result<Vec<_>, _>>()?.join(":"))
            }
            ((module, name), _) => number(value).unwrap_or_else(|| PthValue::Other(format!("{module}.{name}"))),
        })
    }

    fn tensor(&mut self, function: (&str, &str), arguments: &[Value<'_>], depth: usize) -> Result<PthTensor, String> {
        self.spend(1)?;
        if depth > DEPTH {
            return Err("a tensor is made of itself".into());
        }
        match (function, arguments) {
            ((_, "_rebuild_tensor" | "_rebuild_tensor_v2"), [storage, offset, dims, strides, rest @ ..]) => {
                let requires_grad = rest.first().copied().and_then(Value::bool).unwrap_or(false);
                tensor(*storage, [*offset, *dims, *strides], None, requires_grad)
            }
            ((_, "_rebuild_tensor_v3"), [storage, offset, dims, strides, requires_grad, _, dtype, ..]) => {
                let kind = dtype.global().and_then(classes::of_dtype);
                let requires_grad = requires_grad.bool().unwrap_or(false);
                tensor(
                    *storage,
                    [*offset, *dims, *strides],
                    Some(kind.ok_or("a tensor without a dtype")?),
                    requires_grad,
                )
            }
            ((_, "_rebuild_parameter" | "_rebuild_parameter_with_state"), [data, requires_grad, ..]) => {
                let (inner, arguments) = data.call().ok_or("a parameter of something else than a tensor")?;
                let tensor = self.tensor(inner, &arguments, depth + 1)?;
                Ok(PthTensor { requires_grad: requires_grad.bool().unwrap_or(true), ..tensor })
            }
            ((_, "_rebuild_from_type_v2"), [function, _, arguments, ..]) => {
                let function = function.global().ok_or("a tensor made by nothing")?;
                let arguments: Vec<Value> = arguments.items().ok_or("a tensor made of nothing")?.collect();
                self.tensor(function, &arguments, depth + 1)
            }
            ((module, name), _) => Err(format!("a tensor made by {module}.{name} in a way that Kiln does not know")),
        }
    }
}

/// A number of NumPy.
fn number(value: Value<'_>) -> Option<PthValue> {
    let scalar = value.numpy().filter(|array| array.shape.is_empty())?;
    let mut bytes = scalar.bytes.to_vec();
    if scalar.big_endian {
        bytes.reverse();
    }
    Some(match (&*scalar.dtype, &bytes[..]) {
        ("f8", bytes) => PthValue::Float(f64::from_le_bytes(bytes.try_into().ok()?)),
        ("f4", bytes) => PthValue::Float(f32::from_le_bytes(bytes.try_into().ok()?).into()),
        ("i8", bytes) => PthValue::Int(i64::from_le_bytes(bytes.try_into().ok()?)),
        ("i4", bytes) => PthValue::Int(i32::from_le_bytes(bytes.try_into().ok()?).into()),
        ("b1", [byte]) => PthValue::Bool(*byte != 0),
        _ => return None,
    })
}

/// `[offset, dims, strides]` of a storage; `kind` where the storage does not say what it holds.
fn tensor(
    storage: Value<'_>,
    [offset, dims, strides]: [Value<'_>; 3],
    kind: Option<&'static TorchType>,
    requires_grad: bool,
) -> Result<PthTensor, String> {
    const BAD: &str = "a tensor whose storage, offset, size or strides are none";
    let sizes = |value: Value<'_>| -> Option<Vec<usize>> { value.items()?.map(Value::size).collect() };
    // ("storage", class, key, location, elements), and in the older format (view's key, offset, elements) or None.
    let id: Vec<Value> = storage.persistent().and_then(Value::items).ok_or(BAD)?.collect();
    let [tag, class, key, _, _, rest @ ..] = &id[..] else { return Err(BAD.into()) };
    if tag.text().is_none_or(|tag| tag != "storage") {
        return Err(BAD.into());
    }
    let view = match rest.first().filter(|view| !view.is_none()) {
        None => 0,
        Some(view) => view.items().and_then(|mut parts| parts.nth(1)).and_then(Value::size).ok_or(BAD)?,
    };
    let kind = kind.or_else(|| class.global().and_then(classes::of_storage)).ok_or(BAD)?;
    let (dims, strides) = sizes(dims).zip(sizes(strides)).ok_or(BAD)?;
    if dims.len() != strides.len() {
        return Err(BAD.into());
    }
    let offset = offset.size().and_then(|offset| offset.checked_add(view)).ok_or(BAD)?;
    let storage = key.text().ok_or(BAD)?.into_owned();
    Ok(PthTensor { kind, storage, offset, dims, strides, requires_grad })
}

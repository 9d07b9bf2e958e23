//! Converts a pickle to a `PthValue`. Each object is converted once and shared, so that the result is no larger than
//! the pickle, however often it refers to a part.

use std::{collections::HashMap, sync::Arc};

use kiln_pickle::{Id, Node, Value};
use kiln_tensor::Result;

use super::{
    classes,
    rebuild::{is_rebuilt, rebuilt},
    value::{PthDict, PthObject, PthValue},
};
use crate::budget::Budget;

/// How deeply values may be nested.
const MAX_DEPTH: usize = 100;

/// Converts the root value of a pickle.
pub(super) fn tree(root: Value<'_>, budget: &mut Budget) -> Result<PthValue> {
    let mut tree = Tree { budget, done: HashMap::new() };
    let value = tree.convert(root, 0)?.0;
    // The converter's memory is freed.
    let entries = tree.done.len() * MEMO;
    tree.budget.give_back(entries);
    Ok(value)
}

/// Bytes for remembering a converted container.
const MEMO: usize = 3 * size_of::<(Id, Done)>();

/// The state of a container: `None` while its elements are being converted, then the value and its depth.
type Done = Option<(PthValue, usize)>;

struct Tree<'b> {
    budget: &'b mut Budget,
    done: HashMap<Id, Done>,
}

/// A value and the depth of nesting in it.
type Nested = (PthValue, usize);

impl Tree<'_> {
    /// Converts a value that is nested `depth` deep.
    fn convert(&mut self, value: Value<'_>, depth: usize) -> Result<Nested> {
        let leaf = match value.node() {
            Node::None => PthValue::None,
            Node::Bool(b) => PthValue::Bool(*b),
            Node::Int(i) => PthValue::Int(*i),
            Node::Float(f) => PthValue::Float(*f),
            Node::BigInt(_) => PthValue::Other("int".into()),
            Node::Text(text) => PthValue::Str(self.own(text)?),
            Node::Bytes(bytes) => PthValue::Bytes(self.own_bytes(bytes)?),
            Node::Persistent(_) => PthValue::Other("torch.storage".into()),
            Node::Global(global) => match classes::of_dtype((&global.0, &global.1)) {
                Some(kind) => PthValue::Str(format!("torch.{}", kind.name)),
                None => PthValue::Other(self.joined(&global.0, &global.1)?),
            },
            Node::Tuple(_) | Node::List(_) | Node::Set(_) | Node::Dict(_) | Node::Object(_) => {
                return self.container(value, depth);
            }
        };
        Ok((leaf, 0))
    }

    /// Converts a container, once.
    fn container(&mut self, value: Value<'_>, depth: usize) -> Result<Nested> {
        match self.done.get(&value.id()) {
            Some(Some((done, height))) if depth + height <= MAX_DEPTH => return Ok((done.clone(), *height)),
            Some(None) => return Ok((PthValue::Other("a value that contains itself".into()), 0)),
            None if depth < MAX_DEPTH => {}
            _ => return Ok((PthValue::Other("a value that is nested too deeply".into()), 0)),
        }
        self.budget.entry(MEMO)?;
        self.budget.insert(&mut self.done, value.id(), None)?;
        let mut height = 0;
        let converted = match value.node() {
            Node::Tuple(_) => PthValue::Tuple(Arc::new(self.all(value, depth, &mut height)?)),
            Node::List(_) => PthValue::List(Arc::new(self.all(value, depth, &mut height)?)),
            Node::Set(_) => PthValue::Set(Arc::new(self.all(value, depth, &mut height)?)),
            Node::Dict(_) => self.dict(value, depth, &mut height)?,
            _ => self.object(value, depth, &mut height)?,
        };
        self.done.insert(value.id(), Some((converted.clone(), height + 1)));
        Ok((converted, height + 1))
    }

    fn own(&mut self, text: &str) -> Result<String> {
        Ok(String::from_utf8(self.own_bytes(text.as_bytes())?).unwrap_or_default())
    }

    fn own_bytes(&mut self, bytes: &[u8]) -> Result<Vec<u8>> {
        self.budget.entry(bytes.len())?;
        let mut out = Vec::new();
        out.try_reserve_exact(bytes.len()).map_err(|_| self.out_of_memory(bytes.len()))?;
        out.extend_from_slice(bytes);
        Ok(out)
    }

    fn out_of_memory(&self, bytes: usize) -> kiln_tensor::Error {
        crate::source::out_of_memory(self.budget.path(), bytes)
    }

    fn joined(&mut self, module: &str, name: &str) -> Result<String> {
        self.budget.entry(module.len() + name.len() + 1)?;
        Ok(format!("{module}.{name}"))
    }

    /// An empty vector with a capacity for so many elements.
    fn room<T>(&mut self, count: usize) -> Result<Vec<T>> {
        let bytes = count.saturating_mul(size_of::<T>());
        self.budget.entry(bytes)?;
        let mut out = Vec::new();
        out.try_reserve_exact(count).map_err(|_| self.out_of_memory(bytes))?;
        Ok(out)
    }

    fn each<'p>(
        &mut self,
        items: impl ExactSizeIterator<Item = Value<'p>>,
        depth: usize,
        height: &mut usize,
    ) -> Result<Vec<PthValue>> {
        let mut out = self.room(items.len())?;
        for item in items {
            let (value, own) = self.convert(item, depth + 1)?;
            *height = own.max(*height);
            out.push(value);
        }
        Ok(out)
    }

    /// Converts the elements of a list, tuple or set.
    fn all(&mut self, value: Value<'_>, depth: usize, height: &mut usize) -> Result<Vec<PthValue>> {
        match value.items() {
            Some(items) => self.each(items, depth, height),
            None => Ok(Vec::new()),
        }
    }

    /// Converts key-value pairs and removes duplicate keys.
    fn unique<'p>(
        &mut self,
        pairs: impl ExactSizeIterator<Item = (Value<'p>, Value<'p>)>,
        depth: usize,
        height: &mut usize,
    ) -> Result<Vec<(PthValue, PthValue)>> {
        let mut out: Vec<(PthValue, PthValue)> = self.room(pairs.len())?;
        let mut places: HashMap<String, usize> = HashMap::new();
        for (key, value) in pairs {
            let (value, own) = self.convert(value, depth + 1)?;
            *height = own.max(*height);
            self.budget.look_for(key.text_size())?;
            let name = key.text();
            // As in Python, a repeated key keeps its position and takes the new value.
            if let Some(slot) = name.as_ref().and_then(|name| places.get(&**name)).and_then(|&place| out.get_mut(place))
            {
                slot.1 = value;
                continue;
            }
            let key = match (key.node(), &name) {
                // A `str` of Python 2, in which names are byte strings.
                (Node::Bytes(_), Some(name)) => PthValue::Str(self.own(name)?),
                _ => {
                    let (key, own) = self.convert(key, depth + 1)?;
                    *height = own.max(*height);
                    key
                }
            };
            if let Some(name) = name {
                self.budget.entry(name.len() + 3 * size_of::<(String, usize)>())?;
                self.budget.insert(&mut places, name.into_owned(), out.len())?;
            }
            out.push((key, value));
        }
        self.budget.give_back(places.keys().map(|name| name.len() + 3 * size_of::<(String, usize)>()).sum());
        Ok(out)
    }

    fn dict(&mut self, value: Value<'_>, depth: usize, height: &mut usize) -> Result<PthValue> {
        let pairs = match value.pairs() {
            Some(pairs) => self.unique(pairs, depth, height)?,
            None => Vec::new(),
        };
        self.finish_dict(pairs, value, depth, height)
    }

    /// Makes a dict from its pairs and from the attributes that were set on it.
    fn finish_dict(
        &mut self,
        pairs: Vec<(PthValue, PthValue)>,
        value: Value<'_>,
        depth: usize,
        height: &mut usize,
    ) -> Result<PthValue> {
        let attributes = self.state(value, depth, height)?;
        Ok(PthValue::Dict(Arc::new(PthDict { pairs, attributes })))
    }

    fn state(&mut self, value: Value<'_>, depth: usize, height: &mut usize) -> Result<PthValue> {
        let Some(state) = value.state() else { return Ok(PthValue::None) };
        let (state, own) = self.convert(state, depth + 1)?;
        *height = own.max(*height);
        Ok(state)
    }

    fn object(&mut self, value: Value<'_>, depth: usize, height: &mut usize) -> Result<PthValue> {
        // Counts the arguments, and the bytes that are converted to text.
        let arguments = value.arguments().map_or(0, |arguments| arguments.len());
        self.budget.look_for(arguments.saturating_mul(size_of::<Value>()).saturating_add(value.bytes_size()))?;
        if let Some(bytes) = value.bytes() {
            return Ok(PthValue::Bytes(self.own_bytes(&bytes)?));
        }
        let Some((class, arguments)) = value.call() else { return self.opaque(value, None, depth, height) };
        let first = arguments.first().copied();
        match (class, first) {
            (function, _) if is_rebuilt(function) => match rebuilt(function, &arguments, 0) {
                Ok(tensor) => {
                    self.budget.entry(16 * tensor.dims().len() + 256)?;
                    Ok(PthValue::Tensor(tensor))
                }
                Err(problem) => self.opaque(value, Some(problem), depth, height),
            },
            (("collections", "Counter"), Some(counts)) if counts.pairs().is_some() => self.dict(counts, depth, height),
            // As Python 2 writes it: constructed from a list of pairs.
            (("collections", "OrderedDict"), Some(list)) => {
                let items = list.items().map(|items| items.len()).unwrap_or_default();
                let mut pairs = self.room(items)?;
                for pair in list.items().into_iter().flatten() {
                    let mut parts = pair.items().into_iter().flatten();
                    match (parts.next(), parts.next(), parts.next()) {
                        (Some(key), Some(value), None) => pairs.push((key, value)),
                        _ => return self.opaque(value, None, depth, height),
                    }
                }
                let pairs = self.unique(pairs.into_iter(), depth, height)?;
                self.finish_dict(pairs, value, depth, height)
            }
            (("collections", "OrderedDict" | "defaultdict" | "Counter"), _) => self.dict(value, depth, height),
            (("builtins" | "__builtin__", "set" | "frozenset"), Some(items)) => {
                Ok(PthValue::Set(Arc::new(self.all(items, depth, height)?)))
            }
            (("builtins" | "__builtin__", "set" | "frozenset"), None) => Ok(PthValue::Set(Arc::default())),
            (("torch", "Size"), Some(extents)) => Ok(PthValue::Tuple(Arc::new(self.all(extents, depth, height)?))),
            (("torch", "device"), Some(_)) => {
                self.budget.look_for(arguments.iter().map(|part| 3 * part.text_size() + 64).sum())?;
                let part = |part: &Value<'_>| match (part.text(), part.int()) {
                    (Some(text), _) => Some(text.into_owned()),
                    (None, index) => index.map(|index| index.to_string()),
                };
                match arguments.iter().map(part).collect::<Option<Vec<String>>>() {
                    Some(parts) => Ok(PthValue::Str(self.own(&parts.join(":"))?)),
                    None => self.opaque(value, None, depth, height),
                }
            }
            (("builtins" | "__builtin__", "complex"), _) => match arguments[..] {
                [re, im] => match re.float().zip(im.float()) {
                    Some((re, im)) => Ok(PthValue::Complex(re, im)),
                    None => self.opaque(value, None, depth, height),
                },
                _ => self.opaque(value, None, depth, height),
            },
            _ => match number(value) {
                Some(number) => Ok(number),
                None => self.opaque(value, None, depth, height),
            },
        }
    }

    /// An object of an unknown class, described by its pickle.
    fn opaque(
        &mut self,
        value: Value<'_>,
        problem: Option<String>,
        depth: usize,
        height: &mut usize,
    ) -> Result<PthValue> {
        let class = match value.class() {
            Some((module, name)) => self.joined(module, name)?,
            None => "an object without a class".to_owned(),
        };
        self.budget.entry(size_of::<PthObject>())?;
        let arguments = match value.arguments() {
            Some(arguments) => self.each(arguments, depth, height)?,
            None => Vec::new(),
        };
        let items = match value.appended() {
            Some(items) => self.each(items, depth, height)?,
            None => Vec::new(),
        };
        let pairs = match value.pairs() {
            Some(pairs) => self.unique(pairs, depth, height)?,
            None => Vec::new(),
        };
        let state = self.state(value, depth, height)?;
        Ok(PthValue::Object(Arc::new(PthObject { class, arguments, state, items, pairs, problem })))
    }
}

/// A NumPy scalar.
fn number(value: Value<'_>) -> Option<PthValue> {
    let scalar = value.numpy().filter(|array| array.shape.is_empty())?;
    let mut bytes = scalar.bytes.to_vec();
    if scalar.big_endian {
        bytes.reverse();
    }
    let signed = |bytes: &[u8]| {
        let mut wide = [if bytes.last().is_some_and(|&top| top >= 0x80) { 0xff } else { 0 }; 8];
        wide.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(i64::from_le_bytes(wide))
    };
    let unsigned = |bytes: &[u8]| {
        let mut wide = [0; 8];
        wide.get_mut(..bytes.len())?.copy_from_slice(bytes);
        i64::try_from(u64::from_le_bytes(wide)).ok()
    };
    let double = |bytes: &[u8]| Some(f64::from_le_bytes(bytes.try_into().ok()?));
    let single = |bytes: &[u8]| Some(f64::from(f32::from_le_bytes(bytes.try_into().ok()?)));
    Some(match (&*scalar.dtype, &bytes[..]) {
        ("f8", bytes) => PthValue::Float(double(bytes)?),
        ("f4", bytes) => PthValue::Float(single(bytes)?),
        ("f2", bytes) => PthValue::Float(kiln_backend::half::f16::from_le_bytes(bytes.try_into().ok()?).to_f64()),
        // After the bytes of a big-endian number are swapped, the imaginary part comes first.
        ("c16", bytes) if !scalar.big_endian => PthValue::Complex(double(bytes.get(..8)?)?, double(bytes.get(8..)?)?),
        ("c8", bytes) if !scalar.big_endian => PthValue::Complex(single(bytes.get(..4)?)?, single(bytes.get(4..)?)?),
        ("i1" | "i2" | "i4" | "i8", bytes) => PthValue::Int(signed(bytes)?),
        ("u1" | "u2" | "u4" | "u8", bytes) => PthValue::Int(unsigned(bytes)?),
        ("b1", [byte]) => PthValue::Bool(*byte != 0),
        _ => return None,
    })
}

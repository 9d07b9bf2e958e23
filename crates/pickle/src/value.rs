//! The values in a pickle, and access to them.

use std::borrow::Cow;

/// Index of a node; equal indices are the same Python object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(pub(crate) u32);

/// One Python object.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // each is what its name says
pub enum Node<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// An integer of more than 64 bits, in little-endian two's complement. Decimal numbers of more than 128 bits have
    /// no bytes.
    BigInt(Cow<'a, [u8]>),
    Float(f64),
    Text(Cow<'a, str>),
    /// `bytes`, `bytearray`, or a `str` of Python 2.
    Bytes(Cow<'a, [u8]>),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    /// In insertion order; of equal keys, the last one counts.
    Dict(Vec<(Id, Id)>),
    Set(Vec<Id>),
    /// A class or function by its module and name.
    Global(Box<(Cow<'a, str>, Cow<'a, str>)>),
    /// The object that calling a class or function would create.
    Object(Box<Object>),
    /// An object stored outside the pickle, by the value that identifies it there.
    Persistent(Id),
}

/// A call, which was not executed.
#[derive(Clone, Debug)]
pub struct Object {
    /// A [`Node::Global`], or a [`Node::Object`] or [`Node::Persistent`] that stands for a class or function.
    pub callable: Id,
    /// A [`Node::Tuple`].
    pub arguments: Id,
    /// The keyword arguments, if the call has them.
    pub keywords: Option<Id>,
    /// The argument of `__setstate__`.
    pub state: Option<Id>,
    /// The arguments of `append`.
    pub items: Vec<Id>,
    /// The arguments of `__setitem__`.
    pub pairs: Vec<(Id, Id)>,
}

/// A pickle that has been read.
#[derive(Clone, Debug)]
pub struct Pickle<'a> {
    pub(crate) nodes: Vec<Node<'a>>,
    pub(crate) root: Id,
    pub(crate) consumed: usize,
}

impl<'a> Pickle<'a> {
    /// The object that was pickled.
    #[must_use]
    pub fn root(&self) -> Value<'_> {
        self.value(self.root)
    }

    /// The number of bytes read: another pickle may follow.
    #[must_use]
    pub fn consumed(&self) -> usize {
        self.consumed
    }

    /// All objects, in the order of their creation.
    pub fn values(&self) -> impl Iterator<Item = Value<'_>> {
        (0..self.nodes.len()).map(|i| self.value(Id(i as u32)))
    }

    fn value(&self, id: Id) -> Value<'_> {
        Value { pickle: self, id }
    }

    fn node(&self, id: Id) -> &Node<'a> {
        // Only the machine creates indices, and it never removes a node.
        &self.nodes[id.0 as usize]
    }
}

/// Functions that create an object of the class that is their first argument.
const REBUILDERS: &[(&str, &str)] = &[
    ("copyreg", "_reconstructor"),
    ("copy_reg", "_reconstructor"),
    ("copyreg", "__newobj__"),
    ("copy_reg", "__newobj__"),
    ("copyreg", "__newobj_ex__"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
];

/// One object of a pickle.
#[derive(Clone, Copy, Debug)]
pub struct Value<'p> {
    pub(crate) pickle: &'p Pickle<'p>,
    id: Id,
}

impl<'p> Value<'p> {
    /// The object's index.
    #[must_use]
    pub fn id(self) -> Id {
        self.id
    }

    /// The object itself.
    #[must_use]
    pub fn node(self) -> &'p Node<'p> {
        self.pickle.node(self.id)
    }

    fn at(self, id: Id) -> Value<'p> {
        Value { id, ..self }
    }

    /// Whether it is `None`.
    #[must_use]
    pub fn is_none(self) -> bool {
        matches!(self.node(), Node::None)
    }

    /// A bool.
    #[must_use]
    pub fn bool(self) -> Option<bool> {
        if let Node::Bool(value) = self.node() { Some(*value) } else { None }
    }

    /// An integer that fits into an `i64`.
    #[must_use]
    pub fn int(self) -> Option<i64> {
        if let Node::Int(value) = self.node() { Some(*value) } else { None }
    }

    /// An integer of at most 128 bits.
    #[must_use]
    pub fn wide_int(self) -> Option<i128> {
        match self.node() {
            Node::Int(value) => Some((*value).into()),
            Node::BigInt(bytes) if !bytes.is_empty() => wide(bytes),
            _ => None,
        }
    }

    /// An integer that fits into a `usize`.
    #[must_use]
    pub fn size(self) -> Option<usize> {
        self.int().and_then(|value| value.try_into().ok())
    }

    /// A float.
    #[must_use]
    pub fn float(self) -> Option<f64> {
        if let Node::Float(value) = self.node() { Some(*value) } else { None }
    }

    /// The most memory that [`text`](Value::text) allocates: 0 where it can borrow from the pickle.
    #[must_use]
    pub fn text_size(self) -> usize {
        match self.node() {
            // A byte of Latin-1 is at most two bytes of UTF-8.
            Node::Bytes(bytes) if std::str::from_utf8(bytes).is_err() => 2 * bytes.len(),
            _ => 0,
        }
    }

    /// The most memory that [`bytes`](Value::bytes) allocates: 0 where it can borrow from the pickle.
    #[must_use]
    pub fn bytes_size(self) -> usize {
        let mut value = self;
        // At most `bytearray(_codecs.encode(text, "latin1"))`, with a list of arguments for each call.
        let mut size = 0;
        for _ in 0..3 {
            let Some(mut arguments) = value.arguments() else { break };
            size += arguments.len() * size_of::<Value<'_>>();
            let Some(first) = arguments.next() else { break };
            value = first;
        }
        if let Node::Text(text) = value.node() { size + text.len() } else { size }
    }

    /// A string; a `str` of Python 2 is decoded as UTF-8, or else as Latin-1.
    #[must_use]
    pub fn text(self) -> Option<Cow<'p, str>> {
        match self.node() {
            Node::Text(text) => Some(Cow::Borrowed(text)),
            Node::Bytes(bytes) => Some(match std::str::from_utf8(bytes) {
                Ok(text) => Cow::Borrowed(text),
                Err(_) => {
                    let mut text = String::with_capacity(2 * bytes.len());
                    text.extend(bytes.iter().map(|&b| char::from(b)));
                    Cow::Owned(text)
                }
            }),
            _ => None,
        }
    }

    /// `bytes` or `bytearray`, including the form that Python 3 writes in old protocols (`_codecs.encode(text,
    /// "latin1")`, if that was allowed).
    #[must_use]
    pub fn bytes(self) -> Option<Cow<'p, [u8]>> {
        if let Node::Bytes(bytes) = self.node() {
            return Some(Cow::Borrowed(bytes));
        }
        let (class, arguments) = self.call()?;
        match (class, &arguments[..]) {
            (("builtins" | "__builtin__", "bytearray" | "bytes"), []) => Some(Cow::Borrowed(&[])),
            (("builtins" | "__builtin__", "bytearray"), [inside]) => match inside.call() {
                None | Some((("_codecs", "encode"), _)) => inside.bytes(),
                Some(_) => None,
            },
            (("_codecs", "encode") | ("builtins" | "__builtin__", "bytearray"), [text, coding])
                if matches!(&*coding.text()?, "latin1" | "latin-1") =>
            {
                let Node::Text(text) = text.node() else { return None };
                let mut bytes = Vec::with_capacity(text.len());
                for c in text.chars() {
                    bytes.push(u8::try_from(c).ok()?);
                }
                Some(Cow::Owned(bytes))
            }
            _ => None,
        }
    }

    /// The elements of a list, tuple or set.
    #[must_use]
    pub fn items(self) -> Option<impl ExactSizeIterator<Item = Value<'p>> + Clone> {
        match self.node() {
            Node::Tuple(items) | Node::List(items) | Node::Set(items) => Some(items.iter().map(move |&i| self.at(i))),
            _ => None,
        }
    }

    /// Keys and values of a dict, or of an object that is filled like one (`OrderedDict`).
    #[must_use]
    pub fn pairs(self) -> Option<impl ExactSizeIterator<Item = (Value<'p>, Value<'p>)> + Clone> {
        let pairs = match self.node() {
            Node::Dict(pairs) => pairs,
            Node::Object(object) => &object.pairs,
            _ => return None,
        };
        Some(pairs.iter().map(move |&(k, v)| (self.at(k), self.at(v))))
    }

    /// The value of a string key in a dict.
    #[must_use]
    pub fn get(self, key: &str) -> Option<Value<'p>> {
        let mut found = None;
        for (name, value) in self.pairs()? {
            if name.text().is_some_and(|name| name == key) {
                found = Some(value);
            }
        }
        found
    }

    /// Module and name, if it is a class or function.
    #[must_use]
    pub fn global(self) -> Option<(&'p str, &'p str)> {
        if let Node::Global(global) = self.node() { Some((&global.0, &global.1)) } else { None }
    }

    /// The call that would create the object.
    #[must_use]
    pub fn object(self) -> Option<&'p Object> {
        if let Node::Object(object) = self.node() { Some(object) } else { None }
    }

    /// The function that would be called, by module and name, and its arguments.
    #[must_use]
    pub fn call(self) -> Option<((&'p str, &'p str), Vec<Value<'p>>)> {
        let object = self.object()?;
        Some((self.at(object.callable).global()?, self.at(object.arguments).items()?.collect()))
    }

    /// Module and name of the object's class, as far as the pickle states it: for objects rebuilt by `copyreg` and
    /// NumPy, the class passed to the function; else the function that would be called.
    #[must_use]
    pub fn class(self) -> Option<(&'p str, &'p str)> {
        let mut value = self;
        // Nested calls end at some depth; deeper ones are malicious and get no name.
        for _ in 0..16 {
            value = match value.node() {
                Node::Global(global) => return Some((&global.0, &global.1)),
                Node::Object(object) => {
                    let callable = value.at(object.callable);
                    let first = || value.at(object.arguments).items().and_then(|mut items| items.next());
                    match callable.global() {
                        Some(("numpy.core.numeric" | "numpy._core.numeric", "_frombuffer")) => {
                            return Some(("numpy", "ndarray"));
                        }
                        Some(global) if REBUILDERS.contains(&global) => first().unwrap_or(callable),
                        _ => callable,
                    }
                }
                // `("module", class, file, source)`: the older format of `torch.save` names classes of modules in this
                // way.
                Node::Persistent(id) => value.at(*id).items().and_then(|mut items| items.nth(1))?,
                _ => return None,
            };
        }
        None
    }

    /// The arguments of the call that would create the object.
    #[must_use]
    pub fn arguments(self) -> Option<impl ExactSizeIterator<Item = Value<'p>> + Clone> {
        self.at(self.object()?.arguments).items()
    }

    /// The argument of `__setstate__`.
    #[must_use]
    pub fn state(self) -> Option<Value<'p>> {
        Some(self.at(self.object()?.state?))
    }

    /// The elements appended to an object, as to a `deque`.
    #[must_use]
    pub fn appended(self) -> Option<impl ExactSizeIterator<Item = Value<'p>> + Clone> {
        self.object().map(|object| object.items.iter().map(move |&i| self.at(i)))
    }

    /// The value that identifies an object outside the pickle.
    #[must_use]
    pub fn persistent(self) -> Option<Value<'p>> {
        if let Node::Persistent(id) = self.node() { Some(self.at(*id)) } else { None }
    }
}

/// Decodes a little-endian integer in two's complement; no bytes are 0.
pub(crate) fn twos_complement(bytes: &[u8]) -> Node<'_> {
    let value = wide(bytes).and_then(|value| i64::try_from(value).ok());
    value.map_or(Node::BigInt(Cow::Borrowed(bytes)), Node::Int)
}

/// The value of a little-endian integer in two's complement, if it has at most 128 bits.
fn wide(bytes: &[u8]) -> Option<i128> {
    let negative = bytes.last().is_some_and(|&top| top >= 0x80);
    let mut wide = [if negative { 0xff } else { 0 }; 16];
    wide.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(i128::from_le_bytes(wide))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_in_twos_complement() {
        assert_eq!((wide(b""), wide(b"\xff"), wide(b"\xff\x00")), (Some(0), Some(-1), Some(255)));
        assert_eq!(wide(&0x1950_a86a_20f9_469c_fc6c_i128.to_le_bytes()[..10]), Some(0x1950_a86a_20f9_469c_fc6c));
        assert_eq!(wide(&[1; 17]), None);
    }
}

//! The stack machine that runs a pickle's opcodes.

use std::borrow::Cow;

use crate::{
    error::{Error, Result},
    memo::Memo,
    meter::Meter,
    opcode::Opcode,
    read::Reader,
    text::{lossy_utf8, number, quoted, raw_unicode},
    value::{Id, Node, Object, Pickle, twos_complement},
};

/// The default memory limit of [`load`] for a pickle of this many bytes: ten times the length plus 64 MiB.
#[must_use]
pub fn default_memory_limit(len: usize) -> usize {
    len.saturating_mul(10).saturating_add(64 << 20)
}

/// Reads the pickle at the start of `bytes`, within [`default_memory_limit`]. `allowed(module, name)` says which
/// classes and functions the pickle may name.
///
/// # Errors
/// If the pickle is cut off or malformed, has an opcode that plain data does not need, names a class that is not
/// allowed, or needs too much memory.
pub fn load<'a>(bytes: &'a [u8], allowed: &dyn Fn(&str, &str) -> bool) -> Result<Pickle<'a>> {
    load_within(bytes, allowed, default_memory_limit(bytes.len()))
}

/// [`load`] within a memory limit in bytes, which does not count data borrowed from `bytes`.
///
/// # Errors
/// Those of [`load`].
pub fn load_within<'a>(
    bytes: &'a [u8],
    allowed: &dyn Fn(&str, &str) -> bool,
    memory_limit: usize,
) -> Result<Pickle<'a>> {
    let mut machine = Machine {
        reader: Reader::new(bytes),
        allowed,
        meter: Meter::new(memory_limit),
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Memo::default(),
        at: 0,
    };
    for constant in CONSTANTS {
        machine.add(constant)?;
    }
    let root = machine.run()?;
    Ok(Pickle { nodes: machine.nodes, root, consumed: machine.reader.at })
}

/// Values that are single objects in Python, and single nodes here: the first ones.
const CONSTANTS: [Node<'static>; 4] = [Node::None, Node::Bool(false), Node::Bool(true), Node::Tuple(Vec::new())];
const NONE: Id = Id(0);
const FALSE: Id = Id(1);
const TRUE: Id = Id(2);
const EMPTY_TUPLE: Id = Id(3);

struct Machine<'a, 'f> {
    reader: Reader<'a>,
    allowed: &'f dyn Fn(&str, &str) -> bool,
    meter: Meter,
    nodes: Vec<Node<'a>>,
    stack: Vec<Id>,
    /// Stack heights at the marks.
    marks: Vec<usize>,
    memo: Memo,
    /// Position of the current opcode.
    at: usize,
}

impl<'a> Machine<'a, '_> {
    fn run(&mut self) -> Result<Id> {
        loop {
            self.at = self.reader.at;
            let code = self.reader.byte()?;
            match Opcode::from_byte(code).ok_or(Error::Opcode { code, at: self.at })? {
                Opcode::Stop => return self.pop(),
                opcode => self.execute(opcode)?,
            }
        }
    }

    fn execute(&mut self, opcode: Opcode) -> Result<()> {
        use Opcode as Op;
        match opcode {
            // These do not affect the data.
            Op::Stop => Ok(()),
            Op::Proto => self.reader.byte().map(drop),
            Op::Frame => self.reader.take(8).map(drop),

            Op::Mark => {
                let height = self.stack.len();
                self.meter.push(&mut self.marks, height)
            }
            Op::Pop if self.height() == 0 && !self.marks.is_empty() => self.pop_mark().map(drop),
            Op::Pop => self.pop().map(drop),
            Op::PopMark => self.pop_mark().map(drop),
            Op::Dup => {
                let top = self.top()?;
                self.push(top)
            }

            Op::None => self.push(NONE),
            Op::NewTrue => self.push(TRUE),
            Op::NewFalse => self.push(FALSE),
            Op::Int | Op::Long | Op::BinInt | Op::BinInt1 | Op::BinInt2 | Op::Long1 | Op::Long4 => self.int(opcode),
            Op::Float => {
                let value = number(self.reader.line()?);
                let value = self.valid(value, "an invalid float")?;
                self.make(Node::Float(value))
            }
            Op::BinFloat => {
                let value = f64::from_be_bytes(self.reader.array()?);
                self.make(Node::Float(value))
            }

            Op::BinUnicode => self.text::<4>(),
            Op::ShortBinUnicode => self.text::<1>(),
            Op::BinUnicode8 => self.text::<8>(),
            Op::Unicode => {
                let line = self.reader.line()?;
                // At most three bytes of UTF-8 per byte of input.
                self.meter.take_box(line.len().saturating_mul(3))?;
                let text = self.valid(raw_unicode(line), "invalid text")?;
                self.make(Node::Text(Cow::Owned(text)))
            }
            Op::BinString | Op::BinBytes => self.bytes::<4>(),
            Op::ShortBinString | Op::ShortBinBytes => self.bytes::<1>(),
            Op::BinBytes8 | Op::ByteArray8 => self.bytes::<8>(),
            Op::String => {
                let line = self.reader.line()?;
                self.meter.take_box(line.len())?;
                let bytes = self.valid(quoted(line), "an invalid string literal")?;
                self.make(Node::Bytes(bytes))
            }

            Op::EmptyTuple | Op::Tuple | Op::Tuple1 | Op::Tuple2 | Op::Tuple3 => self.tuple(opcode),
            Op::EmptyList => self.make(Node::List(Vec::new())),
            Op::EmptyDict => self.make(Node::Dict(Vec::new())),
            Op::EmptySet => self.make(Node::Set(Vec::new())),
            Op::List | Op::FrozenSet => {
                let items = self.pop_mark()?;
                self.make(if opcode == Op::List { Node::List(items) } else { Node::Set(items) })
            }
            Op::Dict => {
                let pairs = self.pop_pairs()?;
                self.make(Node::Dict(pairs))
            }
            Op::Append => {
                let item = self.pop()?;
                let items = self.meter.collect(&[item])?;
                self.append(items)
            }
            Op::Appends | Op::AddItems => {
                let items = self.pop_mark()?;
                self.append(items)
            }
            Op::SetItem => {
                let (value, key) = (self.pop()?, self.pop()?);
                let pairs = self.meter.collect(&[(key, value)])?;
                self.insert(pairs)
            }
            Op::SetItems => {
                let pairs = self.pop_pairs()?;
                self.insert(pairs)
            }

            Op::Global | Op::StackGlobal => {
                let global = self.global(opcode)?;
                self.make(global)
            }
            Op::Reduce | Op::NewObj | Op::NewObjEx | Op::Inst | Op::Obj => self.call(opcode),
            Op::Build => self.build(),
            Op::PersId | Op::BinPersId => self.persistent(opcode),

            Op::Put | Op::BinPut | Op::LongBinPut | Op::Memoize => {
                let key = self.memo_key(opcode)?;
                let top = self.top()?;
                self.memo.insert(key, top, &mut self.meter)
            }
            Op::Get | Op::BinGet | Op::LongBinGet => {
                let key = self.memo_key(opcode)?;
                let id = self.valid(self.memo.get(key), "it refers to a value that it has not made")?;
                self.push(id)
            }
        }
    }

    fn int(&mut self, opcode: Opcode) -> Result<()> {
        let node = match opcode {
            Opcode::BinInt => Node::Int(i32::from_le_bytes(self.reader.array()?).into()),
            Opcode::BinInt1 => Node::Int(self.reader.byte()?.into()),
            Opcode::BinInt2 => Node::Int(u16::from_le_bytes(self.reader.array()?).into()),
            Opcode::Long1 => twos_complement(self.reader.counted::<1>()?),
            Opcode::Long4 => twos_complement(self.reader.counted::<4>()?),
            _ => match self.reader.line()?.trim_ascii_end() {
                b"00" if opcode == Opcode::Int => return self.push(FALSE),
                b"01" if opcode == Opcode::Int => return self.push(TRUE),
                line => {
                    // More than 64 bits.
                    self.meter.take_box(size_of::<i128>())?;
                    self.valid(decimal(line), "an invalid integer")?
                }
            },
        };
        self.make(node)
    }

    fn text<const N: usize>(&mut self) -> Result<()> {
        let bytes = self.reader.counted::<N>()?;
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => Cow::Borrowed(text),
            // Python writes lone surrogates for file names that are not valid Unicode.
            Err(_) => {
                self.meter.take_box(bytes.len().saturating_mul(3))?;
                Cow::Owned(lossy_utf8(bytes))
            }
        };
        self.make(Node::Text(text))
    }

    fn bytes<const N: usize>(&mut self) -> Result<()> {
        let bytes = self.reader.counted::<N>()?;
        self.make(Node::Bytes(Cow::Borrowed(bytes)))
    }

    fn tuple(&mut self, opcode: Opcode) -> Result<()> {
        let count = match opcode {
            Opcode::Tuple1 => 1,
            Opcode::Tuple2 => 2,
            Opcode::Tuple3 => 3,
            Opcode::Tuple => {
                let items = self.pop_mark()?;
                return self.make(Node::Tuple(items));
            }
            _ => return self.push(EMPTY_TUPLE),
        };
        let from = self.height().checked_sub(count).map(|below| self.floor() + below);
        let from = self.valid(from, "the stack is empty")?;
        let items = self.meter.collect(&self.stack[from..])?;
        self.stack.truncate(from);
        self.make(Node::Tuple(items))
    }

    /// Reads the name of a class or function.
    fn global(&mut self, opcode: Opcode) -> Result<Node<'a>> {
        let (module, name) = match opcode {
            Opcode::StackGlobal => {
                let (name, module) = (self.pop()?, self.pop()?);
                (self.text_of(module)?, self.text_of(name)?)
            }
            _ => {
                let (module, name) = (self.reader.line()?, self.reader.line()?);
                let utf8 = |bytes| self.valid(std::str::from_utf8(bytes).ok(), "a class name that is not text");
                (Cow::Borrowed(utf8(module)?), Cow::Borrowed(utf8(name)?))
            }
        };
        if (self.allowed)(&module, &name) {
            self.meter.take_box(size_of::<(Cow<str>, Cow<str>)>())?;
            return Ok(Node::Global(Box::new((module, name))));
        }
        // A name may be as long as the file; the message has only its beginning.
        let short = |text: &str| text.chars().take(200).collect();
        Err(Error::Class { module: short(&module), name: short(&name), at: self.at })
    }

    fn text_of(&mut self, id: Id) -> Result<Cow<'a, str>> {
        match &self.nodes[id.0 as usize] {
            Node::Text(Cow::Borrowed(text)) => Ok(Cow::Borrowed(text)),
            Node::Text(Cow::Owned(text)) => {
                self.meter.take_box(text.len())?;
                Ok(Cow::Owned(text.clone()))
            }
            _ => Err(self.malformed("a class name that is not text")),
        }
    }

    /// The opcodes differ in how Python calls the function; here the call is only recorded.
    fn call(&mut self, opcode: Opcode) -> Result<()> {
        let mut keywords = None;
        let (callable, arguments) = match opcode {
            Opcode::Inst => {
                let global = self.global(opcode)?;
                let items = self.pop_mark()?;
                (self.add(global)?, self.add(Node::Tuple(items))?)
            }
            Opcode::Obj => {
                let mut items = self.pop_mark()?;
                if items.is_empty() {
                    return Err(self.malformed("an object without a class"));
                }
                let callable = items.remove(0);
                (callable, self.add(Node::Tuple(items))?)
            }
            _ => {
                if opcode == Opcode::NewObjEx {
                    keywords = Some(self.pop()?);
                }
                let arguments = self.pop()?;
                (self.pop()?, arguments)
            }
        };
        let is = |id: Id| &self.nodes[id.0 as usize];
        let callable_kind = matches!(is(callable), Node::Global(_) | Node::Object(_) | Node::Persistent(_));
        if !callable_kind || !matches!(is(arguments), Node::Tuple(_)) {
            return Err(self.malformed("a call of something other than a class or function with a tuple"));
        }
        self.meter.take_box(size_of::<Object>())?;
        let object = Object { callable, arguments, keywords, state: None, items: Vec::new(), pairs: Vec::new() };
        self.make(Node::Object(Box::new(object)))
    }

    fn build(&mut self) -> Result<()> {
        let (state, target) = (self.pop()?, self.top()?);
        match &mut self.nodes[target.0 as usize] {
            Node::Object(object) => object.state = Some(state),
            // A placeholder for an object of which nothing else is known.
            Node::Global(_) | Node::Persistent(_) => {}
            _ => return Err(self.malformed("a state for a value that has none")),
        }
        Ok(())
    }

    fn persistent(&mut self, opcode: Opcode) -> Result<()> {
        let id = match opcode {
            Opcode::PersId => {
                let line = self.reader.line()?;
                let text = self.valid(std::str::from_utf8(line).ok(), "text that is not UTF-8")?;
                self.add(Node::Text(Cow::Borrowed(text)))?
            }
            _ => self.pop()?,
        };
        self.make(Node::Persistent(id))
    }

    fn memo_key(&mut self, opcode: Opcode) -> Result<u64> {
        match opcode {
            Opcode::Memoize => Ok(self.memo.len()),
            Opcode::BinPut | Opcode::BinGet => self.reader.byte().map(u64::from),
            Opcode::LongBinPut | Opcode::LongBinGet => self.reader.array().map(|b| u32::from_le_bytes(b).into()),
            _ => {
                let key = number(self.reader.line()?);
                self.valid(key, "an invalid memo index")
            }
        }
    }

    fn malformed(&self, what: &str) -> Error {
        Error::Malformed { at: self.at, what: what.into() }
    }

    fn valid<T>(&self, value: Option<T>, what: &str) -> Result<T> {
        value.ok_or_else(|| self.malformed(what))
    }

    fn push(&mut self, id: Id) -> Result<()> {
        self.meter.push(&mut self.stack, id)
    }

    /// Adds a node without pushing it on the stack.
    fn add(&mut self, node: Node<'a>) -> Result<Id> {
        let id = u32::try_from(self.nodes.len()).map_err(|_| self.malformed("more values than can be numbered"))?;
        self.meter.push(&mut self.nodes, node)?;
        Ok(Id(id))
    }

    fn make(&mut self, node: Node<'a>) -> Result<()> {
        let id = self.add(node)?;
        self.push(id)
    }

    /// Start of the part of the stack above the last mark; opcodes do not reach below it.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn height(&self) -> usize {
        self.stack.len() - self.floor()
    }

    fn top(&self) -> Result<Id> {
        let top = if self.height() > 0 { self.stack.last().copied() } else { None };
        self.valid(top, "the stack is empty")
    }

    fn pop(&mut self) -> Result<Id> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop();
        let mark = self.valid(mark, "there is no mark")?;
        let items = self.meter.collect(&self.stack[mark..])?;
        self.stack.truncate(mark);
        Ok(items)
    }

    fn pop_pairs(&mut self) -> Result<Vec<(Id, Id)>> {
        let items = self.pop_mark()?;
        if items.len() % 2 == 1 {
            return Err(self.malformed("a key without a value"));
        }
        let mut pairs = Vec::new();
        self.meter.reserve(&mut pairs, items.len() / 2)?;
        pairs.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
        self.meter.drop_vec(items);
        Ok(pairs)
    }

    fn append(&mut self, new: Vec<Id>) -> Result<()> {
        let target = self.top()?;
        match &mut self.nodes[target.0 as usize] {
            Node::List(items) | Node::Set(items) => self.meter.append(items, new),
            Node::Object(object) => self.meter.append(&mut object.items, new),
            _ => Err(self.malformed("elements for a value that takes none")),
        }
    }

    fn insert(&mut self, new: Vec<(Id, Id)>) -> Result<()> {
        let target = self.top()?;
        match &mut self.nodes[target.0 as usize] {
            Node::Dict(pairs) => self.meter.append(pairs, new),
            Node::Object(object) => self.meter.append(&mut object.pairs, new),
            _ => Err(self.malformed("keys for a value that takes none")),
        }
    }
}

/// Parses an integer in decimal digits.
fn decimal(line: &[u8]) -> Option<Node<'static>> {
    if let Some(value) = number::<i64>(line) {
        return Some(Node::Int(value));
    }
    if let Some(value) = number::<i128>(line) {
        return Some(Node::BigInt(Cow::Owned(value.to_le_bytes().to_vec())));
    }
    let digits = line.strip_suffix(b"L").unwrap_or(line);
    let digits = digits.strip_prefix(b"-").unwrap_or(digits);
    // More than 128 bits: the value is not computed.
    (!digits.is_empty() && digits.iter().all(u8::is_ascii_digit)).then_some(Node::BigInt(Cow::Borrowed(&[])))
}

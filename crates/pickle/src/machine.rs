//! The stack machine.

use std::{borrow::Cow, collections::HashMap};

use crate::{
    Error, Id, Node, Object, Pickle, Result,
    read::Reader,
    text::{long, number, quoted, raw_unicode},
};

/// The most values that a pickle may have; one of 48 bytes or more each.
pub const MAX_NODES: usize = 1 << 22;

/// Reads the pickle at the start of `bytes`. `allowed(module, name)` says which classes and functions may be
/// named in it.
///
/// # Errors
/// The pickle is cut or malformed, has an opcode that plain data does not need, names a class that is not
/// allowed, or has more than [`MAX_NODES`] values.
pub fn load<'a>(bytes: &'a [u8], allowed: &dyn Fn(&str, &str) -> bool) -> Result<Pickle<'a>> {
    let mut machine = Machine {
        reader: Reader::new(bytes),
        allowed,
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        op: 0,
    };
    let root = machine.run()?;
    Ok(Pickle { nodes: machine.nodes, root, consumed: machine.reader.at })
}

struct Machine<'a, 'f> {
    reader: Reader<'a>,
    allowed: &'f dyn Fn(&str, &str) -> bool,
    nodes: Vec<Node<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
    /// Where the present opcode is.
    op: usize,
}

impl<'a> Machine<'a, '_> {
    fn run(&mut self) -> Result<Id> {
        loop {
            self.op = self.reader.at;
            let code = self.reader.byte()?;
            if code == b'.' {
                return self.pop();
            }
            self.step(code)?;
        }
    }

    #[allow(clippy::too_many_lines)] // one line an opcode
    fn step(&mut self, code: u8) -> Result<()> {
        match code {
            // PROTO, FRAME: say nothing about the data.
            0x80 => self.reader.byte().map(drop),
            0x95 => self.reader.take(8).map(drop),
            b'(' => self.mark(),
            b'0' => self.pop().map(drop),
            b'1' => self.pop_mark().map(drop),
            b'2' => {
                let top = self.top()?;
                self.push(top)
            }

            b'N' => self.make(Node::None),
            0x88 => self.make(Node::Bool(true)),
            0x89 => self.make(Node::Bool(false)),
            b'I' => match self.reader.line()?.trim_ascii_end() {
                b"00" => self.make(Node::Bool(false)),
                b"01" => self.make(Node::Bool(true)),
                line => self.int(number(line)),
            },
            b'L' => {
                let line = self.reader.line()?;
                self.int(number(line))
            }
            b'J' => {
                let value = i32::from_le_bytes(self.reader.array()?);
                self.int(Some(value.into()))
            }
            b'K' => {
                let value = self.reader.byte()?;
                self.int(Some(value.into()))
            }
            b'M' => {
                let value = u16::from_le_bytes(self.reader.array()?);
                self.int(Some(value.into()))
            }
            0x8a => {
                let bytes = self.reader.counted::<1>()?;
                self.int(long(bytes))
            }
            0x8b => {
                let bytes = self.reader.counted::<4>()?;
                self.int(long(bytes))
            }
            b'G' => {
                let value = f64::from_be_bytes(self.reader.array()?);
                self.make(Node::Float(value))
            }
            b'F' => {
                let value = number(self.reader.line()?);
                let value = self.valid(value, "no float")?;
                self.make(Node::Float(value))
            }

            b'X' => self.text::<4>(),
            0x8c => self.text::<1>(),
            0x8d => self.text::<8>(),
            b'V' => {
                let text = raw_unicode(self.reader.line()?);
                let text = self.valid(text, "no text")?;
                self.make(Node::Text(Cow::Owned(text)))
            }
            b'T' | b'B' => self.bytes::<4>(),
            b'U' | b'C' => self.bytes::<1>(),
            0x8e | 0x96 => self.bytes::<8>(),
            b'S' => {
                let bytes = quoted(self.reader.line()?);
                let bytes = self.valid(bytes, "no string literal")?;
                self.make(Node::Bytes(bytes))
            }

            b')' => self.make(Node::Tuple(Vec::new())),
            b't' => {
                let items = self.pop_mark()?;
                self.make(Node::Tuple(items))
            }
            0x85..=0x87 => {
                let from = self.height().checked_sub(usize::from(code - 0x84)).map(|below| self.floor() + below);
                let from = self.valid(from, "the stack is empty")?;
                let items = self.stack.split_off(from);
                self.make(Node::Tuple(items))
            }
            b']' => self.make(Node::List(Vec::new())),
            b'l' => {
                let items = self.pop_mark()?;
                self.make(Node::List(items))
            }
            b'}' => self.make(Node::Dict(Vec::new())),
            b'd' => {
                let items = self.pop_mark()?;
                let pairs = self.pairs(&items)?;
                self.make(Node::Dict(pairs))
            }
            0x8f => self.make(Node::Set(Vec::new())),
            0x91 => {
                let items = self.pop_mark()?;
                self.make(Node::Set(items))
            }

            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])
            }
            b'e' | 0x90 => {
                let items = self.pop_mark()?;
                self.append(items)
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.insert(vec![(key, value)])
            }
            b'u' => {
                let items = self.pop_mark()?;
                let pairs = self.pairs(&items)?;
                self.insert(pairs)
            }

            b'c' => {
                let (module, name) = (self.reader.line()?, self.reader.line()?);
                let global = self.global(module, name)?;
                self.make(global)
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (name, module) = (self.text_of(name)?, self.text_of(module)?);
                let global = self.allowed_global(module, name)?;
                self.make(global)
            }
            // REDUCE and NEWOBJ differ in what Python calls; here nothing is called.
            b'R' | 0x81 => {
                let (arguments, callable) = (self.pop()?, self.pop()?);
                self.object(callable, arguments)
            }
            b'i' => {
                let (module, name) = (self.reader.line()?, self.reader.line()?);
                let global = self.global(module, name)?;
                let arguments = self.pop_mark()?;
                self.make(global)?;
                let callable = self.pop()?;
                self.make(Node::Tuple(arguments))?;
                let arguments = self.pop()?;
                self.object(callable, arguments)
            }
            b'o' => {
                let mut items = self.pop_mark()?;
                if items.is_empty() {
                    return Err(self.malformed("an object without a class"));
                }
                let callable = items.remove(0);
                self.make(Node::Tuple(items))?;
                let arguments = self.pop()?;
                self.object(callable, arguments)
            }
            b'b' => {
                let (state, object) = (self.pop()?, self.top()?);
                match &mut self.nodes[object.0 as usize] {
                    Node::Object(object) => {
                        object.state = Some(state);
                        Ok(())
                    }
                    _ => Err(self.malformed("a state for what has none")),
                }
            }
            b'P' => {
                let line = self.reader.line()?;
                let text = self.utf8(line)?;
                self.make(Node::Text(Cow::Borrowed(text)))?;
                let id = self.pop()?;
                self.make(Node::Persistent(id))
            }
            b'Q' => {
                let id = self.pop()?;
                self.make(Node::Persistent(id))
            }

            b'p' => {
                let key = number(self.reader.line()?);
                let key = self.valid(key, "no number of a memo")?;
                self.put(key)
            }
            b'q' => {
                let key = self.reader.byte()?;
                self.put(key.into())
            }
            b'r' => {
                let key = u32::from_le_bytes(self.reader.array()?);
                self.put(key.into())
            }
            0x94 => self.put(self.memo.len() as u64),
            b'g' => {
                let key = number(self.reader.line()?);
                let key = self.valid(key, "no number of a memo")?;
                self.recall(key)
            }
            b'h' => {
                let key = self.reader.byte()?;
                self.recall(key.into())
            }
            b'j' => {
                let key = u32::from_le_bytes(self.reader.array()?);
                self.recall(key.into())
            }
            _ => Err(Error::Opcode { code, at: self.op }),
        }
    }

    fn malformed(&self, what: &str) -> Error {
        Error::Malformed { at: self.op, what: what.into() }
    }

    fn valid<T>(&self, value: Option<T>, what: &str) -> Result<T> {
        value.ok_or_else(|| self.malformed(what))
    }

    fn push(&mut self, id: Id) -> Result<()> {
        if self.stack.len() >= MAX_NODES {
            return Err(Error::TooLarge);
        }
        self.stack.push(id);
        Ok(())
    }

    fn mark(&mut self) -> Result<()> {
        if self.marks.len() >= MAX_NODES {
            return Err(Error::TooLarge);
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    fn make(&mut self, node: Node<'a>) -> Result<()> {
        if self.nodes.len() >= MAX_NODES {
            return Err(Error::TooLarge);
        }
        let id = Id(self.nodes.len() as u32);
        self.nodes.push(node);
        self.push(id)
    }

    fn int(&mut self, value: Option<i128>) -> Result<()> {
        let value = self.valid(value, "no integer of at most 128 bits")?;
        self.make(Node::Int(value))
    }

    fn text<const N: usize>(&mut self) -> Result<()> {
        let bytes = self.reader.counted::<N>()?;
        // Lone surrogates, which Python can write, have no place in names.
        let text = self.utf8(bytes)?;
        self.make(Node::Text(Cow::Borrowed(text)))
    }

    fn utf8(&self, bytes: &'a [u8]) -> Result<&'a str> {
        self.valid(std::str::from_utf8(bytes).ok(), "text that is not UTF-8")
    }

    fn bytes<const N: usize>(&mut self) -> Result<()> {
        let bytes = self.reader.counted::<N>()?;
        self.make(Node::Bytes(Cow::Borrowed(bytes)))
    }

    /// Where the part of the stack above the last mark begins: opcodes do not reach below it.
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
        Ok(self.stack.split_off(mark))
    }

    fn pairs(&self, items: &[Id]) -> Result<Vec<(Id, Id)>> {
        if items.len() % 2 == 1 {
            return Err(self.malformed("a key without a value"));
        }
        Ok(items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
    }

    fn append(&mut self, new: Vec<Id>) -> Result<()> {
        let target = self.top()?;
        match &mut self.nodes[target.0 as usize] {
            Node::List(items) | Node::Set(items) => items.extend(new),
            Node::Object(object) => object.items.extend(new),
            _ => return Err(self.malformed("elements for what takes none")),
        }
        Ok(())
    }

    fn insert(&mut self, new: Vec<(Id, Id)>) -> Result<()> {
        let target = self.top()?;
        match &mut self.nodes[target.0 as usize] {
            Node::Dict(pairs) => pairs.extend(new),
            Node::Object(object) => object.pairs.extend(new),
            _ => return Err(self.malformed("keys for what takes none")),
        }
        Ok(())
    }

    fn global(&self, module: &'a [u8], name: &'a [u8]) -> Result<Node<'a>> {
        let (module, name) = (self.utf8(module)?, self.utf8(name)?);
        self.allowed_global(Cow::Borrowed(module), Cow::Borrowed(name))
    }

    fn allowed_global(&self, module: Cow<'a, str>, name: Cow<'a, str>) -> Result<Node<'a>> {
        if (self.allowed)(&module, &name) {
            return Ok(Node::Global(Box::new((module, name))));
        }
        // A name may be as long as the file; a message is not.
        let short = |text: &str| text.chars().take(200).collect();
        Err(Error::Class { module: short(&module), name: short(&name), at: self.op })
    }

    fn text_of(&self, id: Id) -> Result<Cow<'a, str>> {
        match &self.nodes[id.0 as usize] {
            Node::Text(text) => Ok(text.clone()),
            _ => Err(self.malformed("a class whose name is no text")),
        }
    }

    fn object(&mut self, callable: Id, arguments: Id) -> Result<()> {
        let is = |id: Id| &self.nodes[id.0 as usize];
        if !matches!((is(callable), is(arguments)), (Node::Global(_), Node::Tuple(_))) {
            return Err(self.malformed("a call of something else than a class or function with a tuple"));
        }
        let object = Object { callable, arguments, state: None, items: Vec::new(), pairs: Vec::new() };
        self.make(Node::Object(Box::new(object)))
    }

    fn put(&mut self, key: u64) -> Result<()> {
        let top = self.top()?;
        if self.memo.len() >= MAX_NODES {
            return Err(Error::TooLarge);
        }
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u64) -> Result<()> {
        let id = self.memo.get(&key).copied();
        let id = self.valid(id, "it refers to what it has not made")?;
        self.push(id)
    }
}

//! The account of a part of a program: what each launch and library call read and wrote, and the least that all of them
//! together have to move.

use std::collections::BTreeMap;

use crate::engine::Range;
use crate::intervals::Intervals;
use crate::json::quote;
use crate::work::Work;

/// Families of kernels that compute each element of their result from the same element of their operands: whatever makes such
/// an operand could do it on its way.
const ELEMENTWISE: [&str; 8] =
    ["bias_", "binary_", "cast_", "copy_", "dropout_apply_", "relu_bias_grad_", "unary_", "where_cond_"];

/// Those of ReLU's gradient.
const RELU_GRADIENTS: [&str; 2] = ["relu_bias_grad_", "unary_grad_relu_"];

/// What a launch, a library call, a copy or a fill did.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The kernel, or the function that was called.
    pub name: String,
    /// What it is: `kernel`, `product`, `convolution`, `attention`, `attention_grad`, `collective`, `copy` or `fill`.
    pub kind: &'static str,
    /// Blocks along each axis.
    pub grid: [u32; 3],
    /// What it read before it wrote it, without a library's workspace.
    pub reads: Vec<Range>,
    /// What it wrote, without a library's workspace.
    pub writes: Vec<Range>,
    /// Bytes of a library's workspace.
    pub aside: u64,
    /// Multiplications and additions of a library call.
    pub flops: u64,
    /// The type of a library call's factors.
    pub data: &'static str,
}

/// The number of bytes in some ranges, each counted once.
fn distinct(ranges: &[Range]) -> u64 {
    let mut all = Intervals::default();
    ranges.iter().for_each(|range| all.insert(*range));
    all.bytes()
}

/// What of a range comes before another range, and what after: a range may go on from a result into the workspace.
pub fn around(range: Range, hole: Range) -> impl Iterator<Item = Range> {
    let before = Range { end: range.end.min(hole.begin), ..range };
    let after = Range { begin: range.begin.max(hole.end), ..range };
    [before, after].into_iter().filter(|part| part.begin < part.end)
}

impl Entry {
    /// The entry of an operation that has run; nothing for those that move no memory of the device.
    pub fn new(name: &str, work: &Work, reads: &[Range], writes: &[Range]) -> Option<Entry> {
        let (kind, grid, workspace, flops, data) = match work {
            Work::Kernel(kernel) => ("kernel", kernel.grid, None, 0, ""),
            Work::Product(product) => {
                ("product", [1; 3], Some((product.workspace, product.workspace_bytes)), product.flops(), product.data())
            }
            Work::Convolution(one) => {
                ("convolution", [1; 3], Some((one.workspace, one.workspace_bytes)), one.flops(), one.data())
            }
            Work::Attention(one) => {
                (one.kind(), [1; 3], Some((one.workspace, one.workspace_bytes)), one.flops(), one.data())
            }
            Work::Copy { .. } => ("copy", [1; 3], None, 0, ""),
            Work::Collective(_) => ("collective", [1; 3], None, 0, ""),
            Work::Fill { .. } => ("fill", [1; 3], None, 0, ""),
            Work::Mark(_) | Work::Allocate(_) | Work::Free(_) | Work::Call { .. } => return None,
        };
        let aside = workspace.filter(|&(at, bytes)| at != 0 && bytes > 0);
        let hole = aside.map_or(Range { begin: 0, end: 0 }, |(at, bytes)| Range { begin: at, end: at + bytes as u64 });
        let writes = writes.iter().flat_map(|range| around(*range, hole)).collect();
        let reads = reads.to_vec();
        let aside = aside.map_or(0, |(_, bytes)| bytes as u64);
        Some(Entry { name: name.to_owned(), kind, grid, reads, writes, aside, flops, data })
    }

    /// Distinct bytes read.
    pub fn read(&self) -> u64 {
        distinct(&self.reads)
    }

    /// Distinct bytes written.
    pub fn written(&self) -> u64 {
        distinct(&self.writes)
    }

    fn is_of(&self, families: &[&str]) -> bool {
        self.kind == "kernel" && families.iter().any(|family| self.name.starts_with(family))
    }

    fn is_elementwise(&self) -> bool {
        self.is_of(&ELEMENTWISE)
    }

    fn is_fill(&self) -> bool {
        self.kind == "fill" || self.is_of(&["fill_"])
    }

    /// Whether this writes a value for `reader` alone that one launch could have kept to itself.
    fn could_include(&self, reader: &Entry) -> bool {
        match (self.kind, reader.kind) {
            // Of the engines that take ReLU's gradient along with a convolution, none is precompiled.
            ("convolution", _) => reader.is_elementwise() && !reader.is_of(&RELU_GRADIENTS),
            (_, "kernel") => reader.is_elementwise() || self.is_elementwise(),
            _ => false,
        }
    }

    /// `{"name": …, "kind": …, "grid": […], "read": …, "written": …, "aside": …, "flops": …, "data": …}`
    pub fn json(&self) -> String {
        let Entry { name, kind, grid, aside, flops, data, .. } = self;
        let (name, read, written) = (quote(name), self.read(), self.written());
        format!(
            "{{\"name\": {name}, \"kind\": \"{kind}\", \"grid\": {grid:?}, \"read\": {read}, \"written\": {written}, \
             \"aside\": {aside}, \"flops\": {flops}, \"data\": \"{data}\"}}"
        )
    }
}

/// Bytes that one entry wrote, and who has read them since.
#[derive(Clone)]
struct Value {
    end: u64,
    writer: usize,
    readers: Vec<usize>,
}

/// The values that lie in memory, by address.
#[derive(Default)]
struct Values(BTreeMap<u64, Value>);

impl Values {
    fn split(&mut self, at: u64) {
        if let Some((_, value)) = self.0.range_mut(..at).next_back()
            && value.end > at
        {
            let rest = value.clone();
            value.end = at;
            self.0.insert(at, rest);
        }
    }

    fn inside(&mut self, range: Range) -> Vec<u64> {
        self.split(range.begin);
        self.split(range.end);
        self.0.range(range.begin..range.end).map(|(begin, _)| *begin).collect()
    }
}

/// The bytes that entries read and write, and the least that they have to. Not needed are: what is written and overwritten
/// unread; what a fill writes; and what is written for a single launch that could be one with the writer, because either of
/// them is element-wise.
pub fn moved_and_least(entries: &[Entry]) -> (u64, u64) {
    let (mut values, mut saved) = (Values::default(), 0);
    let mut end = |begin: u64, value: &Value| {
        let (bytes, writer) = (value.end - begin, &entries[value.writer]);
        let accesses = match value.readers[..] {
            [] => 1,
            ref readers if writer.is_fill() => 1 + readers.len() as u64,
            [reader] if writer.could_include(&entries[reader]) => 2,
            _ => 0,
        };
        saved += accesses * bytes;
    };
    for (i, entry) in entries.iter().enumerate() {
        let mut reads = Intervals::default();
        entry.reads.iter().for_each(|range| reads.insert(*range));
        for range in reads.ranges() {
            for begin in values.inside(range) {
                if let Some(value) = values.0.get_mut(&begin) {
                    value.readers.push(i);
                }
            }
        }
        for range in &entry.writes {
            for begin in values.inside(*range) {
                if let Some(value) = values.0.remove(&begin).filter(|value| value.writer != i) {
                    end(begin, &value);
                }
            }
            values.0.insert(range.begin, Value { end: range.end, writer: i, readers: Vec::new() });
        }
    }
    // What is left may be read later.
    values.0.iter().filter(|(_, value)| !value.readers.is_empty()).for_each(|(begin, value)| end(*begin, value));
    let moved: u64 = entries.iter().map(|entry| entry.read() + entry.written()).sum();
    (moved, moved - saved)
}

//! The graphs of attention that the library has engines for, written as steps between named tensors. A graph is one of them if
//! it has these operations, in any order.
use crate::dnn::attributes::{Kind, Record};
use crate::dnn::operation::{INDEX, SELECT, operands};

/// What an operation computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Product,
    /// An element-wise function, by the library's number.
    Map(i64),
    /// The index along an axis.
    Index(i64),
    /// A reduction of rows or of heads, by the library's number.
    Reduce(i64),
    Transpose,
}

use Step::{Index, Map, Product, Reduce, Transpose};

const ADD: Step = Map(0);
const MUL: Step = Map(1);
const DIV: Step = Map(6);
const SUB: Step = Map(9);
const EXP: Step = Map(13);
const LOG: Step = Map(15);
const IDENTITY: Step = Map(21);
const AT_LEAST: Step = Map(303);
const CHOOSE: Step = Map(SELECT);
const SUM: Step = Reduce(0);
const MAX: Step = Reduce(3);

/// An operation: what it computes, of which tensors, and the tensor that it writes.
pub type Row = (Step, &'static [&'static str], &'static str);

/// Which scores a query sees: those of keys up to its own number. `hidden` is in the place of the others.
fn causal(scores: &'static [&'static str], rows: &'static [&'static str]) -> [Row; 4] {
    [
        (Index(2), scores, "rows"),
        (Index(3), scores, "columns"),
        (AT_LEAST, &["rows", "columns"], "visible"),
        (CHOOSE, rows, "masked"),
    ]
}

/// The forward pass.
pub fn forward(is_causal: bool) -> Vec<Row> {
    let mut rows: Vec<Row> = vec![(Product, &["q", "kt"], "scores"), (MUL, &["scores", "scale"], "scaled")];
    if is_causal {
        rows.extend(causal(&["scaled"], &["scaled", "hidden", "visible"]));
    }
    let (reduced, shifted): (&[&str], &[&str]) =
        if is_causal { (&["masked"], &["masked", "max"]) } else { (&["scaled"], &["scaled", "max"]) };
    rows.extend([
        (MAX, reduced, "max"),
        (SUB, shifted, "shifted"),
        (EXP, &["shifted"][..], "exponentials"),
        (SUM, &["exponentials"], "sum"),
        (LOG, &["sum"], "log"),
        (ADD, &["max", "log"], "stats"),
        (DIV, &["exponentials", "sum"], "weights"),
        (Product, &["weights", "v"], "o"),
    ]);
    rows
}

/// The gradient. Where heads of queries share keys, gradients of keys and values are made for each of them, and added.
pub fn backward(is_causal: bool, is_grouped: bool) -> Vec<Row> {
    let mut rows: Vec<Row> = vec![
        (Product, &["q", "kt"], "scores"),
        (MUL, &["scores", "scale"], "scaled"),
        (SUB, &["scaled", "stats"], "logs"),
    ];
    if is_causal {
        rows.extend(causal(&["logs"], &["logs", "hidden", "visible"]));
    }
    rows.push((EXP, if is_causal { &["masked"] } else { &["logs"] }, "exponentials"));
    rows.push((Transpose, &["exponentials"], "weights_t"));
    if is_grouped {
        rows.extend([(Product, &["weights_t", "do"][..], "dv_heads"), (SUM, &["dv_heads"], "dv")]);
    } else {
        rows.push((Product, &["weights_t", "do"], "dv"));
    }
    rows.extend([
        (MUL, &["do", "o"][..], "do_o"),
        (SUM, &["do_o"], "do_o_sum"),
        (MUL, &["do_o_sum", "one"], "sums"),
        (Product, &["do", "vt"], "dw"),
        (SUB, &["dw", "sums"], "centered"),
        (MUL, &["centered", "exponentials"], "weighted"),
        (MUL, &["weighted", "scale"], "ds"),
        (Transpose, &["ds"], "ds_t"),
    ]);
    if is_grouped {
        rows.extend([(Product, &["ds_t", "q"][..], "dk_heads"), (SUM, &["dk_heads"], "dk")]);
    } else {
        rows.push((Product, &["ds_t", "q"], "dk"));
    }
    rows.extend([(Transpose, &["kt"][..], "k"), (Product, &["ds", "k"], "dq_sum"), (IDENTITY, &["dq_sum"], "dq")]);
    rows
}

impl Step {
    /// What an operation computes, if it does so in the type that the library's engines want.
    fn of(operation: &Record) -> Option<Step> {
        let (step, precision, wanted) = match operation.kind {
            Kind::ProductOperation => (Product, operation.number_in(1523, 1500, 0), 0),
            Kind::ReductionOperation => {
                (Reduce(operation.number_in(1612, 1600, 0)), operation.number_in(1612, 1601, 0), 0)
            }
            Kind::ReshapeOperation => (Transpose, 0, 0),
            Kind::PointwiseOperation => {
                let precision = operation.number_in(750, 1, 0);
                match operation.number_in(750, 0, 0) {
                    INDEX => (Index(operation.number_in(750, 9, -1)), precision, 4),
                    303 => (AT_LEAST, precision, 11),
                    mode => (Map(mode), precision, 0),
                }
            }
            _ => return None,
        };
        (precision == wanted).then_some(step)
    }
}

/// The tensors of a graph by their names in a pattern.
#[derive(Clone, Default)]
pub struct Tensors<'a>(Vec<(&'static str, &'a Record)>);

impl<'a> Tensors<'a> {
    pub fn get(&self, name: &str) -> Option<&'a Record> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, tensor)| *tensor)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &'a Record)> {
        self.0.iter().copied()
    }

    /// Gives a tensor a name, if neither has another.
    fn name(&mut self, name: &'static str, tensor: &'a Record) -> Option<()> {
        let uid = tensor.uid()?;
        match self.0.iter().find(|(known, other)| *known == name || other.uid() == Some(uid)) {
            Some((known, other)) => (*known == name && other.uid() == Some(uid)).then_some(()),
            None => {
                self.0.push((name, tensor));
                Some(())
            }
        }
    }

    /// With the names of one operation's tensors, if it is that of the row.
    fn with(&self, operation: &'a Record, (step, from, to): &Row) -> Option<Tensors<'a>> {
        let mut named = (Step::of(operation)? == *step).then(|| self.clone())?;
        let (reads, writes) = operands(operation);
        for (name, attribute) in from.iter().zip(reads) {
            named.name(name, operation.part(attribute).ok()?)?;
        }
        named.name(to, operation.part(writes).ok()?)?;
        Some(named)
    }
}

/// The tensors of operations in any order, if they follow the rest of a pattern.
pub fn tensors<'a>(operations: &[&'a Record], pattern: &[Row], named: &Tensors<'a>) -> Option<Tensors<'a>> {
    let [row, later @ ..] = pattern else { return operations.is_empty().then(|| named.clone()) };
    if operations.len() != pattern.len() {
        return None;
    }
    (0..operations.len()).find_map(|i| {
        let named = named.with(operations[i], row)?;
        let mut others = operations.to_vec();
        others.remove(i);
        tensors(&others, later, &named)
    })
}

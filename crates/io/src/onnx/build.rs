//! Builds the ONNX graph of a model from traces of two runs with different batch sizes.

use std::collections::{HashMap, HashSet};

use kiln_tensor::{
    Error, Result, Scalar, Tensor,
    autograd::{Attribute, Step, Trace},
};

use super::{
    graph::{Graph, Port, extents},
    lower::lower,
    operation::{Batch, Operation},
};
use crate::save::to_host;

/// The trace of a run with one batch size.
pub(super) struct Run {
    pub inputs: Vec<Tensor>,
    pub outputs: Vec<Tensor>,
    pub trace: Trace,
}

fn wrong(message: impl Into<String>) -> Error {
    Error::argument("onnx::export", message)
}

/// Identifies a tensor by its address.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key(usize);

/// Handles of one tensor have the same key as long as one of them lives; the traces keep theirs.
fn key(tensor: &Tensor) -> Key {
    Key(tensor.id())
}

/// The index of the step that produced each tensor of a run. If several steps have the same output (an operation
/// composed of others), the last one that names an operation.
fn producers(run: &Run) -> HashMap<Key, usize> {
    let mut out: HashMap<Key, usize> = HashMap::new();
    for (i, step) in run.trace.steps().iter().enumerate() {
        let slot = out.entry(key(&step.output)).or_insert(i);
        if step.op.is_some() {
            *slot = i;
        }
    }
    out
}

/// The steps that the outputs depend on, in order.
fn needed(run: &Run, producers: &HashMap<Key, usize>) -> Vec<usize> {
    let inputs: HashSet<Key> = run.inputs.iter().map(key).collect();
    let mut stack: Vec<&Tensor> = run.outputs.iter().collect();
    let mut found = HashSet::new();
    while let Some(tensor) = stack.pop() {
        if let Some(&step) = producers.get(&key(tensor))
            && !inputs.contains(&key(tensor))
            && found.insert(step)
        {
            stack.extend(&run.trace.steps()[step].inputs);
        }
    }
    let mut found: Vec<usize> = found.into_iter().collect();
    found.sort_unstable();
    found
}

/// The graph of a model, from two runs with different batch sizes, or from the same run twice for a fixed batch size.
pub(super) fn graph_of(
    first: &Run,
    second: &Run,
    parameters: &[(String, Tensor)],
    input_names: &[String],
    output_names: &[String],
) -> Result<Graph> {
    let (made, made_second) = (producers(first), producers(second));
    let (steps, twins) = (needed(first, &made), needed(second, &made_second));
    let same = |(&a, &b): (&usize, &usize)| name_of(&first.trace.steps()[a]) == name_of(&second.trace.steps()[b]);
    if steps.len() != twins.len() || !steps.iter().zip(&twins).all(same) {
        return Err(wrong("the operations depend on the batch size; export with `dynamic_batch(false)`"));
    }
    let batch = match (&first.inputs[..], &second.inputs[..]) {
        ([a, ..], [b, ..]) => match (a.dims(), b.dims()) {
            (&[a, ..], &[b, ..]) if a != b => Some(Batch { input: input_names[0].clone(), sizes: [a, b] }),
            _ => None,
        },
        _ => None,
    };
    let mut builder = Builder { run: first, parameters, batch, graph: Graph::default(), values: HashMap::new() };
    // Inputs and outputs keep the names that the options give.
    let taken: Vec<String> = input_names.iter().chain(output_names).map(|name| builder.graph.name(name)).collect();
    if !taken.iter().eq(input_names.iter().chain(output_names)) {
        return Err(wrong(format!("inputs {input_names:?} and outputs {output_names:?} need different names")));
    }
    for (i, (a, b)) in first.inputs.iter().zip(&second.inputs).enumerate() {
        if a.version() != 0 {
            return Err(wrong("the model changes its input in place"));
        }
        builder.graph.inputs.push(Port { name: input_names[i].clone(), dtype: a.dtype(), extents: extents(a, b)? });
        builder.values.insert(key(a), input_names[i].clone());
    }
    for (&i, &j) in steps.iter().zip(&twins) {
        builder.step(&first.trace.steps()[i], &second.trace.steps()[j])?;
    }
    for (i, (a, b)) in first.outputs.iter().zip(&second.outputs).enumerate() {
        let value = builder.value(a)?;
        let name = &output_names[i];
        let last = steps.last().is_some_and(|&last| first.trace.steps()[last].output.is_same(a));
        // The last node writes to the output's name, unless its value is an output already.
        if !(last && first.outputs.len() == 1 && builder.graph.rename_last(&value, name)) {
            let copy = builder.graph.node("Identity", &[&value], Vec::new());
            builder.graph.rename_last(&copy, name);
        }
        builder.graph.outputs.push(Port { name: name.clone(), dtype: a.dtype(), extents: extents(a, b)? });
    }
    Ok(builder.graph)
}

struct Builder<'a> {
    run: &'a Run,
    parameters: &'a [(String, Tensor)],
    batch: Option<Batch>,
    graph: Graph,
    /// The names of tensors.
    values: HashMap<Key, String>,
}

impl Builder<'_> {
    /// The name of a tensor's value: an input, the output of a step, or a constant.
    fn value(&mut self, tensor: &Tensor) -> Result<String> {
        if let Some(name) = self.values.get(&key(tensor)) {
            return Ok(name.clone());
        }
        if self.run.trace.made(tensor) {
            return Err(wrong(format!(
                "a tensor of shape {} and dtype {} that the output depends on was made inside `forward` without an \
                 operation of Kiln: by `empty`, by a function of the program's own, or by a custom autograd function",
                tensor.shape(),
                tensor.dtype()
            )));
        }
        let parameter = self.parameters.iter().find(|(_, p)| p.is_same(tensor)).map(|(name, _)| name.as_str());
        let name = self.graph.constant(parameter.unwrap_or("constant"), tensor.detach());
        self.values.insert(key(tensor), name.clone());
        Ok(name)
    }

    fn step(&mut self, step: &Step, twin: &Step) -> Result<()> {
        let op = name_of(step);
        if step.output.version() != step.version {
            let what = if op == "constant" { "of a constructor such as `zeros`" } else { &format!("of {op}") };
            return Err(wrong(format!("the result {what} is changed in place")));
        }
        let name = match step.op {
            Some("constant") => self.constant(step, twin)?,
            Some(op) => {
                let differs = step.attributes.iter().zip(&twin.attributes).find(|(a, b)| a != b);
                if let Some(((name, a), (_, b))) = differs {
                    return Err(wrong(format!(
                        "{op} is called with {name} {a:?} for one batch size and {b:?} for another; export with \
                         `dynamic_batch(false)`"
                    )));
                }
                let inputs = step.inputs.iter().map(|t| self.value(t)).collect::<Result<Vec<String>>>()?;
                let operation = Operation { op, step, twin, inputs, batch: self.batch.as_ref() };
                lower(&mut self.graph, &operation)?
            }
            None => return Err(wrong(format!("{op} has no counterpart in the export"))),
        };
        self.values.insert(key(&step.output), name);
        Ok(())
    }

    /// A tensor that a constructor created inside `forward`: a constant, a number broadcast to an extent that depends
    /// on the batch size, or a ramp over the batch.
    fn constant(&mut self, step: &Step, twin: &Step) -> Result<String> {
        let (a, b) = (&step.output, &twin.output);
        let operation = Operation { op: "a constructor", step, twin, inputs: Vec::new(), batch: self.batch.as_ref() };
        let number = |name: &str, run: &Step| {
            let found = run.attributes.iter().find(|(n, _)| *n == name);
            found.and_then(|(_, value)| match value {
                Attribute::Int(value) => Some(Scalar::Int(*value)),
                Attribute::Float(value) => Some(Scalar::Float(*value)),
                _ => None,
            })
        };
        let same = |name: &str| number(name, step).filter(|value| number(name, twin) == Some(*value));
        if a.shape() == b.shape() {
            if to_host(a)?.bytes() != to_host(b)?.bytes() {
                let message = "a tensor made inside `forward` has values that depend on the batch size; export with \
                               `dynamic_batch(false)`";
                return Err(wrong(message));
            }
            return Ok(self.graph.constant("constant", a.detach()));
        }
        if let Some(value) = same("fill") {
            let value = self.graph.scalar("fill", value, a.dtype())?;
            let shape = operation.shape(&mut self.graph, a.dims(), b.dims())?;
            return Ok(self.graph.node("Expand", &[&value, &shape], Vec::new()));
        }
        if let (Some(start), Some(step)) = (same("start"), same("step")) {
            // start + step * (0, 1, …), as many as the extent says.
            let count = operation.shape(&mut self.graph, a.dims(), b.dims())?;
            let scalar = self.graph.ints("shape", Vec::new())?;
            let count = self.graph.node("Reshape", &[&count, &scalar], Vec::new());
            let [zero, one] =
                [0, 1].map(|number| self.graph.scalar("number", Scalar::Int(number), kiln_tensor::DType::I64));
            let numbers = self.graph.node("Range", &[&zero?, &count, &one?], Vec::new());
            let numbers = operation.cast(&mut self.graph, &numbers, kiln_tensor::DType::I64, a.dtype());
            let [start, step] = [start, step].map(|value| self.graph.scalar("number", value, a.dtype()));
            let scaled = self.graph.node("Mul", &[&numbers, &step?], Vec::new());
            return Ok(self.graph.node("Add", &[&scaled, &start?], Vec::new()));
        }
        Err(wrong("a tensor made inside `forward` depends on the batch size; export with `dynamic_batch(false)`"))
    }
}

/// The name of a step's operation: the exporter's name of it, else a name derived from its tape node.
fn name_of(step: &Step) -> String {
    if let Some(op) = step.op {
        return op.to_owned();
    }
    let stem = step.node.split("Backward").next().unwrap_or(&step.node);
    let mut name = String::new();
    for c in stem.chars() {
        if c.is_ascii_uppercase() && !name.is_empty() && !name.ends_with('_') {
            name.push('_');
        }
        name.push(c.to_ascii_lowercase());
    }
    name
}

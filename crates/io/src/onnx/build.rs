//! From traces to a graph.

use std::collections::{HashMap, HashSet};

use kiln_tensor::{
    Error, Result, Tensor,
    autograd::{Step, Trace},
};

use super::{
    graph::{Extent, Graph, Port},
    ops::{Operation, lower},
};

/// What a model did with one batch size.
pub(super) struct Run {
    pub inputs: Vec<Tensor>,
    pub outputs: Vec<Tensor>,
    pub trace: Trace,
}

fn wrong(message: impl Into<String>) -> Error {
    Error::argument("onnx::export", message)
}

/// The same tensor in two runs, told apart from others by its address.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key(usize);

/// Handles of one tensor have one key, as long as one of them lives; those of the traces do.
fn key(tensor: &Tensor) -> Key {
    Key(tensor.id())
}

/// The steps that made the tensors of a run: of several with one output (an operation made of others) the last that
/// says what it is.
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

/// The steps that the outputs depend on, in their order.
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

/// The extents of a tensor, from those in two runs.
pub(super) fn extents(a: &Tensor, b: &Tensor) -> Result<Vec<Extent>> {
    if a.rank() != b.rank() {
        let (a, b) = (a.shape(), b.shape());
        return Err(wrong(format!(
            "a tensor has the shape {a} for one batch size and {b} for another; export with `dynamic_batch(false)`"
        )));
    }
    let extent = |(&a, &b): (&usize, &usize)| if a == b { Extent::Fixed(a) } else { Extent::Open };
    Ok(a.dims().iter().zip(b.dims()).map(extent).collect())
}

/// The graph of two runs of one model with different batch sizes, or with itself for a fixed one.
pub(super) fn graph_of(
    first: &Run,
    second: &Run,
    parameters: &[(String, Tensor)],
    input_names: &[String],
    output_names: &[String],
) -> Result<Graph> {
    let (made, made_second) = (producers(first), producers(second));
    let (steps, twins) = (needed(first, &made), needed(second, &made_second));
    let name_of = |run: &Run, i: usize| run.trace.steps()[i].node.clone();
    let same = |(&a, &b): (&usize, &usize)| name_of(first, a) == name_of(second, b);
    if steps.len() != twins.len() || !steps.iter().zip(&twins).all(same) {
        return Err(wrong("the model does something else for another batch size; export with `dynamic_batch(false)`"));
    }
    let mut builder = Builder { run: first, parameters, graph: Graph::default(), values: HashMap::new() };
    // Outputs and inputs have the names that they are given.
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
        // The last node writes the output itself, unless that is an output already.
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
    graph: Graph,
    /// The names of tensors.
    values: HashMap<Key, String>,
}

impl Builder<'_> {
    /// The name of a tensor's value: of an input, of what a step made, or of a constant.
    fn value(&mut self, tensor: &Tensor) -> Result<String> {
        if let Some(name) = self.values.get(&key(tensor)) {
            return Ok(name.clone());
        }
        if self.run.trace.made(tensor) {
            return Err(wrong(format!(
                "a tensor of shape {} and dtype {} that the output depends on was made inside `forward` by something \
                 that is not traced: a comparison, `argmax`, `detach`, or a constructor (make constants with the \
                 model, as `Buffer`s)",
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
        if step.output.version() != step.version {
            return Err(wrong(format!("the result of {} is changed in place", step.node)));
        }
        let Some(op) = step.op else {
            let hint = if step.node.contains("Dropout") { "; call `eval()` first" } else { "" };
            return Err(wrong(format!("{} has no counterpart in the export{hint}", step.node)));
        };
        let differs = step.attributes.iter().zip(&twin.attributes).find(|(a, b)| a != b);
        if let Some(((name, a), (_, b))) = differs {
            return Err(wrong(format!(
                "{op} is called with {name} {a:?} for one batch size and {b:?} for another; export with \
                 `dynamic_batch(false)`"
            )));
        }
        let inputs = step.inputs.iter().map(|t| self.value(t)).collect::<Result<Vec<String>>>()?;
        let operation = Operation { op, step, twin, inputs };
        let name = lower(&mut self.graph, &operation)?;
        self.values.insert(key(&step.output), name);
        Ok(())
    }
}

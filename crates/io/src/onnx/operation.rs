//! One step of a traced model, as it is lowered to ONNX: its arguments, and its shapes for two batch sizes.

use kiln_tensor::{
    DType, Error, Result, Scalar, Tensor,
    autograd::{Attribute, Step},
};

use super::graph::{Extent, Graph, extents, int};

/// One step of the model, in both runs.
pub(super) struct Operation<'a> {
    pub op: &'static str,
    pub step: &'a Step,
    pub twin: &'a Step,
    /// The names of its inputs.
    pub inputs: Vec<String>,
    pub batch: Option<&'a Batch>,
}

/// The batch size, which the file leaves open.
pub(super) struct Batch {
    /// The graph input whose first extent it is.
    pub input: String,
    /// The batch sizes of the two runs.
    pub sizes: [usize; 2],
}

impl Operation<'_> {
    /// An error that names the operation.
    pub fn wrong(&self, why: &str) -> Error {
        Error::argument("onnx::export", format!("{}: {why}", self.op))
    }

    /// An argument by name.
    pub fn get(&self, name: &str) -> Option<&Attribute> {
        self.step.attributes.iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    pub fn int(&self, name: &str) -> Result<i64> {
        match self.get(name) {
            Some(Attribute::Int(value)) => Ok(*value),
            _ => Err(self.wrong(&format!("it does not say its {name}"))),
        }
    }

    pub fn number(&self, name: &str) -> Result<f64> {
        match self.get(name) {
            Some(Attribute::Float(value)) => Ok(*value),
            Some(Attribute::Int(value)) => Ok(*value as f64),
            _ => Err(self.wrong(&format!("it does not say its {name}"))),
        }
    }

    pub fn ints(&self, name: &str) -> Result<Vec<i64>> {
        match self.get(name) {
            Some(Attribute::Ints(values)) => Ok(values.clone()),
            _ => Err(self.wrong(&format!("it does not say its {name}"))),
        }
    }

    pub fn text(&self, name: &str) -> Result<&'static str> {
        match self.get(name) {
            Some(Attribute::Text(value)) => Ok(value),
            _ => Err(self.wrong(&format!("it does not say its {name}"))),
        }
    }

    /// An operand that is a number instead of a tensor.
    pub fn scalar(&self, name: &str) -> Option<Scalar> {
        match self.get(name) {
            Some(Attribute::Int(value)) => Some(Scalar::Int(*value)),
            Some(Attribute::Float(value)) => Some(Scalar::Float(*value)),
            _ => None,
        }
    }

    /// The name of input `i`.
    pub fn name(&self, i: usize) -> Result<&str> {
        self.inputs.get(i).map(String::as_str).ok_or_else(|| self.wrong("it has too few inputs"))
    }

    /// Input `i` in both runs.
    pub fn tensors(&self, i: usize) -> Result<[&Tensor; 2]> {
        match (self.step.inputs.get(i), self.twin.inputs.get(i)) {
            (Some(a), Some(b)) => Ok([a, b]),
            _ => Err(self.wrong("it has too few inputs")),
        }
    }

    /// The extents of input `i`.
    pub fn input(&self, i: usize) -> Result<Vec<Extent>> {
        let [a, b] = self.tensors(i)?;
        extents(a, b)
    }

    pub fn output(&self) -> Result<Vec<Extent>> {
        extents(&self.step.output, &self.twin.output)
    }

    /// The dtype of the result.
    pub fn dtype(&self) -> DType {
        self.step.output.dtype()
    }

    /// The dtype of input `i`; without such an input, that of the result.
    pub fn input_dtype(&self, i: usize) -> DType {
        self.step.inputs.get(i).map_or(self.dtype(), Tensor::dtype)
    }

    /// A shape as a vector, from its values in two runs; extents that depend on the batch size are computed from it.
    pub fn shape(&self, graph: &mut Graph, first: &[usize], second: &[usize]) -> Result<String> {
        if first == second {
            return graph.ints("shape", first.iter().map(|&extent| extent as i64).collect());
        }
        let Some(batch) = self.batch else { return Err(self.wrong("its shape differs between two equal runs")) };
        let size = graph.node("Shape", &[&batch.input], vec![int("start", 0), int("end", 1)]);
        let [a, b] = batch.sizes;
        let mut parts = Vec::new();
        for (&x, &y) in first.iter().zip(second) {
            parts.push(if x == y {
                graph.ints("extent", vec![x as i64])?
            } else if x.is_multiple_of(a) && y.is_multiple_of(b) && x / a == y / b {
                let times = graph.ints("times", vec![(x / a) as i64])?;
                graph.node("Mul", &[&size, &times], Vec::new())
            } else {
                return Err(self.wrong(&format!(
                    "an extent is {x} for batch size {a} and {y} for {b}, which is no multiple of it; export with \
                     `dynamic_batch(false)`"
                )));
            });
        }
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        Ok(graph.node("Concat", &parts, vec![int("axis", 0)]))
    }

    /// Extent `dim` of input `i` as a vector with one element.
    pub fn extent(&self, graph: &mut Graph, i: usize, dim: usize) -> Result<String> {
        let [a, b] = self.tensors(i)?;
        self.shape(graph, &a.dims()[dim..=dim], &b.dims()[dim..=dim])
    }

    /// Converts a value to a dtype.
    pub fn cast(&self, graph: &mut Graph, value: &str, from: DType, to: DType) -> String {
        if from == to { value.to_owned() } else { graph.cast(value, to) }
    }

    /// Applies a binary operator to a value and a number of the result's dtype.
    pub fn with_number(&self, graph: &mut Graph, operator: &str, value: &str, number: f64) -> Result<String> {
        let number = graph.scalar("number", Scalar::Float(number), self.dtype())?;
        Ok(graph.node(operator, &[value, &number], Vec::new()))
    }
}

//! An ONNX graph under construction: nodes, constants, and extents that depend on the batch size.

use std::collections::HashSet;

use kiln_tensor::{DType, Device, Error, Result, Scalar, Tensor};

use super::proto::{Attribute, Node, attribute_kind as kind, data_type};

/// One extent of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    Fixed(usize),
    /// It depends on the batch size.
    Open,
}

/// An input or output.
pub(super) struct Port {
    pub name: String,
    pub dtype: DType,
    pub extents: Vec<Extent>,
}

/// Nodes in topological order, and the tensors that they read.
#[derive(Default)]
pub(super) struct Graph {
    pub nodes: Vec<Node>,
    pub constants: Vec<(String, Tensor)>,
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
    names: HashSet<String>,
}

impl Graph {
    /// The wanted name, with a number appended if it is taken.
    pub fn name(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_owned();
        let mut number = 1;
        while !self.names.insert(name.clone()) {
            name = format!("{wanted}_{number}");
            number += 1;
        }
        name
    }

    /// Adds a node with one output, and returns the output's name.
    pub fn node(&mut self, op_type: &str, input: &[&str], attributes: Vec<Attribute>) -> String {
        let output = self.name(&op_type.to_lowercase());
        let name = format!("node_{output}");
        self.nodes.push(Node {
            input: input.iter().map(|&name| name.to_owned()).collect(),
            output: vec![output.clone()],
            name,
            op_type: op_type.to_owned(),
            attribute: attributes,
        });
        output
    }

    /// Adds a node with several outputs, and returns their names.
    pub fn node_with_outputs(
        &mut self,
        op_type: &str,
        input: &[&str],
        attributes: Vec<Attribute>,
        outputs: usize,
    ) -> Vec<String> {
        let mut names = vec![self.node(op_type, input, attributes)];
        names.extend((1..outputs).map(|_| self.name(&op_type.to_lowercase())));
        if let Some(node) = self.nodes.last_mut() {
            node.output.clone_from(&names);
        }
        names
    }

    /// Converts a value to a dtype.
    pub fn cast(&mut self, value: &str, to: DType) -> String {
        self.node("Cast", &[value], vec![int("to", data_type(to).into())])
    }

    /// Slices elements `start..end` of a dimension with a step.
    pub fn slice(&mut self, value: &str, dim: i64, start: i64, end: i64, step: i64) -> Result<String> {
        let starts = self.ints("starts", vec![start])?;
        let ends = self.ints("ends", vec![end])?;
        let axes = self.ints("axes", vec![dim])?;
        let steps = self.ints("steps", vec![step])?;
        Ok(self.node("Slice", &[value, &starts, &ends, &axes, &steps], Vec::new()))
    }

    /// Renames the value `old`, an output of the last node.
    pub fn rename_last(&mut self, old: &str, new: &str) -> bool {
        match self.nodes.last_mut() {
            Some(node) if node.output == [old] => {
                node.output = vec![new.to_owned()];
                true
            }
            _ => false,
        }
    }

    /// Adds a tensor as a constant of the model.
    pub fn constant(&mut self, wanted: &str, tensor: Tensor) -> String {
        let name = self.name(wanted);
        self.constants.push((name.clone(), tensor));
        name
    }

    /// A list of integers as a constant tensor, for operators that take their arguments as inputs.
    pub fn ints(&mut self, wanted: &str, values: Vec<i64>) -> Result<String> {
        let length = values.len();
        let tensor = Tensor::from_vec(values, [length], Device::Cpu)?;
        Ok(self.constant(wanted, tensor))
    }

    /// A number as a constant tensor without dimensions.
    pub fn scalar(&mut self, wanted: &str, value: Scalar, dtype: DType) -> Result<String> {
        let tensor = match value.is_float() {
            true => Tensor::from_vec(vec![value.to_f64()], (), Device::Cpu)?,
            false => Tensor::from_vec(vec![value.to_i64()], (), Device::Cpu)?,
        };
        Ok(self.constant(wanted, tensor.to_dtype(dtype)?))
    }
}

/// The extents of a tensor, from its two runs.
pub(super) fn extents(a: &Tensor, b: &Tensor) -> Result<Vec<Extent>> {
    if a.rank() != b.rank() {
        let (a, b) = (a.shape(), b.shape());
        let message = format!(
            "a tensor has the shape {a} for one batch size and {b} for another; export with `dynamic_batch(false)`"
        );
        return Err(Error::argument("onnx::export", message));
    }
    let extent = |(&a, &b): (&usize, &usize)| if a == b { Extent::Fixed(a) } else { Extent::Open };
    Ok(a.dims().iter().zip(b.dims()).map(extent).collect())
}

fn attribute(name: &str, kind: i32) -> Attribute {
    Attribute { name: name.to_owned(), kind, ..Attribute::default() }
}

pub(super) fn int(name: &str, value: i64) -> Attribute {
    Attribute { i: Some(value), ..attribute(name, kind::INT) }
}

pub(super) fn float(name: &str, value: f64) -> Attribute {
    Attribute { f: Some(value as f32), ..attribute(name, kind::FLOAT) }
}

pub(super) fn ints(name: &str, values: impl Into<Vec<i64>>) -> Attribute {
    Attribute { ints: values.into(), ..attribute(name, kind::INTS) }
}

pub(super) fn text(name: &str, value: &str) -> Attribute {
    Attribute { s: Some(value.as_bytes().to_owned()), ..attribute(name, kind::STRING) }
}

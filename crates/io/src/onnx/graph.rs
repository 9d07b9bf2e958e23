//! A graph while it is built.

use std::collections::HashSet;

use kiln_tensor::{DType, Device, Result, Scalar, Tensor};

use super::proto::{Attribute, Node, attribute_kind as kind};

/// One extent of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    Fixed(usize),
    /// Another one for another batch size.
    Open,
}

/// An input or output.
pub(super) struct Port {
    pub name: String,
    pub dtype: DType,
    pub extents: Vec<Extent>,
}

/// Nodes in their order, and the tensors that they read.
#[derive(Default)]
pub(super) struct Graph {
    pub nodes: Vec<Node>,
    pub constants: Vec<(String, Tensor)>,
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
    names: HashSet<String>,
}

impl Graph {
    /// The name, with a number if it is taken.
    pub fn name(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_owned();
        let mut number = 1;
        while !self.names.insert(name.clone()) {
            name = format!("{wanted}_{number}");
            number += 1;
        }
        name
    }

    /// A node with one output, whose name it gives.
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

    /// Gives the value `old` of the last node another name.
    pub fn rename_last(&mut self, old: &str, new: &str) -> bool {
        match self.nodes.last_mut() {
            Some(node) if node.output == [old] => {
                node.output = vec![new.to_owned()];
                true
            }
            _ => false,
        }
    }

    /// A tensor that is part of the model.
    pub fn constant(&mut self, wanted: &str, tensor: Tensor) -> String {
        let name = self.name(wanted);
        self.constants.push((name.clone(), tensor));
        name
    }

    /// A list of integers as a tensor, for operators that take their arguments so.
    pub fn ints(&mut self, wanted: &str, values: Vec<i64>) -> Result<String> {
        let length = values.len();
        let tensor = Tensor::from_vec(values, [length], Device::Cpu)?;
        Ok(self.constant(wanted, tensor))
    }

    /// A number as a tensor without dimensions.
    pub fn scalar(&mut self, wanted: &str, value: Scalar, dtype: DType) -> Result<String> {
        let tensor = match value.is_float() {
            true => Tensor::from_vec(vec![value.to_f64()], (), Device::Cpu)?,
            false => Tensor::from_vec(vec![value.to_i64()], (), Device::Cpu)?,
        };
        Ok(self.constant(wanted, tensor.to_dtype(dtype)?))
    }
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

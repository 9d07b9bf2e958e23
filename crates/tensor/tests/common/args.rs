//! The keyword arguments of a golden case.

use kiln_tensor::{DType, Scalar, Tensor};
use serde_json::Value;

use super::golden;

/// The keyword arguments of a call, by PyTorch's names.
pub struct Args(pub Value);

impl Args {
    /// The argument, if it was given.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    pub fn int(&self, name: &str) -> Option<i64> {
        self.get(name).map(|value| value.as_i64().unwrap_or_else(|| panic!("{name} is {value}")))
    }

    pub fn float(&self, name: &str) -> Option<f64> {
        self.get(name).map(golden::number)
    }

    pub fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value.as_bool().unwrap())
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(Value::as_str)
    }

    /// A number with its kind: `2` is an integer, `2.0` a float.
    pub fn scalar(&self, name: &str) -> Option<Scalar> {
        self.get(name).map(|value| match value {
            Value::Bool(value) => Scalar::Bool(*value),
            Value::Number(number) if number.is_i64() => Scalar::Int(number.as_i64().unwrap()),
            value => Scalar::Float(golden::number(value)),
        })
    }

    /// A list of integers, or one integer as a list; empty if it was not given.
    pub fn ints(&self, name: &str) -> Vec<i64> {
        match self.get(name) {
            None => Vec::new(),
            Some(Value::Array(values)) => values.iter().map(|value| value.as_i64().unwrap()).collect(),
            Some(value) => vec![value.as_i64().unwrap()],
        }
    }

    /// A shape.
    pub fn sizes(&self, name: &str) -> Vec<i64> {
        self.ints(name)
    }

    pub fn dtype(&self, name: &str) -> Option<DType> {
        self.text(name).and_then(golden::dtype)
    }

    /// The input tensor that an argument names.
    pub fn tensor<'a>(&self, name: &str, inputs: &'a [Tensor]) -> Option<&'a Tensor> {
        self.text(name)?.strip_prefix("in")?.parse::<usize>().ok().and_then(|i| inputs.get(i))
    }
}

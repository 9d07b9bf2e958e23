//! The keyword arguments of a golden case.

use std::{collections::BTreeSet, sync::Mutex};

use kiln_tensor::{DType, Rhs, Scalar, Tensor};
use serde_json::Value;

use super::values;

/// Arguments that change nothing in the values: where they are, how they lie in memory, how they are copied.
const WITHOUT_EFFECT: [&str; 7] =
    ["device", "layout", "memory_format", "pin_memory", "non_blocking", "copy", "requires_grad"];

/// The keyword arguments of a call, by PyTorch's names. They remember which were read, so that none is ignored.
pub struct Args {
    pub values: Value,
    read: Mutex<BTreeSet<String>>,
}

impl Args {
    pub fn new(values: Value) -> Args {
        Args { values, read: Mutex::default() }
    }

    /// The argument, if it was given.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.read.lock().unwrap().insert(name.to_owned());
        self.values.get(name).filter(|value| !value.is_null())
    }

    /// The first argument that nobody read, though it says something. (Tensors are also found among the inputs.)
    pub fn unread(&self) -> Option<String> {
        let read = self.read.lock().unwrap();
        let says = |value: &Value| !value.is_null() && value.as_str().is_none_or(|text| input(text).is_none());
        let known = |name: &str| read.contains(name) || WITHOUT_EFFECT.contains(&name);
        self.values.as_object()?.iter().find(|(name, value)| !known(name) && says(value)).map(|(name, _)| name.clone())
    }

    pub fn int(&self, name: &str) -> Option<i64> {
        self.get(name).map(|value| value.as_i64().unwrap_or_else(|| panic!("{name} is {value}")))
    }

    pub fn float(&self, name: &str) -> Option<f64> {
        self.get(name).map(values::number)
    }

    /// A size, index or count that is not negative.
    pub fn size(&self, name: &str) -> Option<usize> {
        self.int(name).map(|value| usize::try_from(value).unwrap_or(usize::MAX))
    }

    pub fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value.as_bool().unwrap())
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(Value::as_str)
    }

    /// A number with its kind: `2` is an integer, `2.0` a float.
    pub fn scalar(&self, name: &str) -> Option<Scalar> {
        let value = self.get(name)?;
        if value.as_str().is_some_and(|text| input(text).is_some()) {
            return None;
        }
        Some(match value {
            Value::Bool(value) => Scalar::Bool(*value),
            Value::Number(number) if number.is_i64() => Scalar::Int(number.as_i64().unwrap()),
            value => Scalar::Float(values::number(value)),
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
        self.text(name).and_then(values::dtype)
    }

    /// The input tensor that an argument names.
    pub fn tensor<'a>(&self, name: &str, inputs: &'a [Tensor]) -> Option<&'a Tensor> {
        input(self.text(name)?).and_then(|i| inputs.get(i))
    }

    /// A number, or the input tensor that is named.
    pub fn operand(&self, name: &str, inputs: &[Tensor]) -> Option<Rhs> {
        self.tensor(name, inputs).map(Rhs::from).or_else(|| self.scalar(name).map(Rhs::from))
    }
}

/// The number of the input that `"in2"` names.
pub fn input(text: &str) -> Option<usize> {
    text.strip_prefix("in")?.parse().ok()
}

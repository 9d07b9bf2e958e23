//! Dtypes and numbers as the golden files write them.

use kiln_tensor::DType;
use serde_json::Value;

/// The dtype with PyTorch's name.
pub fn dtype(name: &str) -> Option<DType> {
    DType::ALL.into_iter().find(|dtype| dtype.torch_name() == name)
}

/// A number as the golden files write it: infinities and NaN are strings.
pub fn number(value: &Value) -> f64 {
    match value {
        Value::String(text) => text.parse().unwrap(),
        value => value.as_f64().unwrap_or_else(|| panic!("{value} is no number")),
    }
}

//! Reading the golden files, and comparing.
#![allow(dead_code)] // each test file uses its own part

#[path = "../../../../tests/support/checkout.rs"]
pub mod checkout;
#[path = "../../../../tests/support/suite_device.rs"]
mod suite_device;

pub use suite_device::suite_device;

use std::{collections::HashMap, path::PathBuf};

use kiln_nn::optim::{UpdateRule, Value as Place};
use kiln_tensor::{DType, Tensor, no_grad};
use serde_json::Value;

/// A golden file's path.
pub fn path(name: &str) -> PathBuf {
    checkout::path("tests/golden").join(name)
}

/// A golden JSON file.
pub fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(path(name)).unwrap()).unwrap()
}

/// A golden safetensors file: its cases and its tensors.
pub struct Golden {
    pub cases: Vec<Value>,
    tensors: HashMap<String, Tensor>,
}

impl Golden {
    pub fn open(name: &str) -> Golden {
        let bytes = std::fs::read(path(name)).unwrap();
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let cases = serde_json::from_str(&metadata.metadata().as_ref().unwrap()["cases"]).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let tensors = file.iter().map(|(name, view)| (name.to_owned(), tensor(&view))).collect();
        Golden { cases, tensors }
    }

    pub fn find(&self, case: &str, key: &str) -> Option<Tensor> {
        self.tensors.get(&format!("{case}/{key}")).cloned()
    }

    /// All tensors with their names, `case/key`.
    pub fn all(&self) -> impl Iterator<Item = (&String, &Tensor)> {
        self.tensors.iter()
    }

    /// The outputs of a case that has several, `out.0` …, in order.
    pub fn outputs(&self, case: &str) -> Vec<(String, Tensor)> {
        let mut keys: Vec<Vec<usize>> = self
            .tensors
            .keys()
            .filter_map(|key| key.strip_prefix(case)?.strip_prefix("/out."))
            .map(|path| path.split('.').map(|i| i.parse().unwrap()).collect())
            .collect();
        keys.sort_unstable();
        let name = |path: &Vec<usize>| path.iter().fold("out".to_owned(), |name, i| format!("{name}.{i}"));
        keys.iter().map(name).map(|key| (key.clone(), self.get(case, &key))).collect()
    }

    pub fn get(&self, case: &str, key: &str) -> Tensor {
        self.find(case, key).unwrap_or_else(|| panic!("{case}/{key} is not in the golden file"))
    }
}

fn tensor(view: &safetensors::tensor::TensorView<'_>) -> Tensor {
    macro_rules! values {
        ($ty:ty) => {{
            let values = view.data().chunks_exact(size_of::<$ty>());
            let values: Vec<$ty> = values.map(|b| <$ty>::from_le_bytes(b.try_into().unwrap())).collect();
            Tensor::from_vec(values, view.shape().to_vec(), suite_device()).unwrap()
        }};
    }
    match view.dtype() {
        safetensors::Dtype::F32 => values!(f32),
        safetensors::Dtype::F64 => values!(f64),
        safetensors::Dtype::I64 => values!(i64),
        safetensors::Dtype::I32 => values!(i32),
        safetensors::Dtype::U8 => values!(u8),
        other => panic!("a golden file with {other:?}"),
    }
}

/// All values as `f64`.
pub fn values(tensor: &Tensor) -> Vec<f64> {
    no_grad(|| tensor.to_dtype(DType::F64)).unwrap().to_vec().unwrap()
}

/// Asserts equal shapes and dtypes, and values within a few roundings of each other.
#[track_caller]
pub fn assert_close(got: &Tensor, want: &Tensor, what: &str) {
    assert_eq!((got.shape(), got.dtype()), (want.shape(), want.dtype()), "{what}");
    let tolerance = if want.dtype() == DType::F64 { 1e-12 } else { 2e-6 };
    for (i, (g, w)) in values(got).into_iter().zip(values(want)).enumerate() {
        let same = g == w || (g.is_nan() && w.is_nan());
        assert!(same || (g - w).abs() <= tolerance * w.abs().max(1.0), "{what}[{i}]: {g:e}, PyTorch has {w:e}");
    }
}

/// The argument of a case, or the default.
pub fn number(args: &Value, name: &str, default: f64) -> f64 {
    match &args[name] {
        Value::Null => default,
        Value::String(s) if s == "inf" => f64::INFINITY,
        value => value.as_f64().unwrap(),
    }
}

/// Options with what a case names, on top of `options`.
pub fn with_args<O: UpdateRule>(mut options: O, args: &Value) -> O {
    let mut known = vec!["groups"];
    options
        .each(&mut |name, place| {
            known.push(name);
            let value = &args[name];
            match place {
                Place::Number(place) => *place = number(args, name, *place),
                Place::Flag(place) => *place = value.as_bool().unwrap_or(*place),
                Place::Pair(place) if value.is_array() => {
                    *place = (value[0].as_f64().unwrap(), value[1].as_f64().unwrap());
                }
                other => assert!(value.is_null(), "{name}: {other:?}"),
            }
            Ok(())
        })
        .unwrap();
    for name in args.as_object().unwrap().keys() {
        assert!(known.contains(&name.as_str()), "{} has no option {name}", O::NAME);
    }
    options
}

//! Describing a model for a file: the state of the walk through it.

use kiln_tensor::{Error, Result, StateDict, Tensor};
use serde_json::{Map, Value};

use super::path::Path;

/// Collects the tensors of a model that is being described.
#[derive(Default)]
pub struct Describing {
    path: Path,
    tensors: StateDict,
}

impl Describing {
    /// Runs `f`, which describes a part, with the part's name added to the path.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn inside<T>(&mut self, name: &str, f: impl FnOnce(&mut Describing) -> Result<T>) -> Result<T> {
        self.path.push(name);
        let result = f(self);
        self.path.pop();
        result
    }

    /// A module: its type's name, and its fields.
    #[must_use]
    pub fn module(&self, name: &str, fields: Map<String, Value>) -> Value {
        Value::Object([(name.to_owned(), Value::Object(fields))].into_iter().collect())
    }

    /// Adds a tensor under the current path; returns the path of the first occurrence if the tensor was seen before.
    pub fn tensor(&mut self, tensor: &Tensor) -> Option<&str> {
        let same = self.tensors.iter().position(|(_, seen)| seen.is_same(tensor));
        if same.is_none() {
            self.tensors.insert(self.path.text(), tensor.clone());
        }
        same.and_then(|i| self.tensors.get_index(i)).map(|(name, _)| name.as_str())
    }

    /// An error that names the current path.
    pub fn wrong(&self, why: impl std::fmt::Display) -> Error {
        self.path.wrong("save", why)
    }

    pub(super) fn into_tensors(self) -> StateDict {
        self.tensors.into_iter().map(|(name, tensor)| (name, tensor.detach())).collect()
    }
}

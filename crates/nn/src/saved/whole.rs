//! A whole model as data, and back.

use kiln_tensor::{Error, Result, StateDict};
use serde_json::Value;

use super::{
    describing::Describing,
    restoring::{Registry, Restoring},
};
use crate::module::{Module, ModuleTree};

/// The architecture of a model, and its tensors by path: those of the state dict, and buffers that are not in it.
///
/// # Errors
/// If a layer cannot be saved; the message has its path and type.
pub fn describe<M: ModuleTree + ?Sized>(model: &M) -> Result<(Value, StateDict)> {
    let mut at = Describing::default();
    let architecture = model.architecture(&mut at)?;
    Ok((architecture, at.into_tensors()))
}

/// Restores a model from its architecture and its tensors, which it takes over.
///
/// # Errors
/// If the architecture names a type that is not in the registry, or lacks something that a type needs; or if a tensor
/// is missing or left over.
pub fn restore(architecture: &Value, tensors: &StateDict, registry: &Registry) -> Result<Box<dyn Module>> {
    let mut at = Restoring::new(tensors, registry);
    let model = at.any(architecture)?;
    match at.unused() {
        None => Ok(model),
        Some(name) => Err(Error::argument("restore", format!("no layer uses the tensor {name:?}"))),
    }
}

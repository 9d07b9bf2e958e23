//! Whole models in files: the architecture as data, from which the model is made again without the program that
//! made it first. It is what PyTorch does with `torch.save(model)`, without a pickle.
//!
//! `#[derive(Module)]` with `#[module(save)]` makes a struct [`Saved`]: what is written are its fields, by the names
//! that they have in the state dict. So the struct itself is the one place that says how a layer is described. A type
//! with a layout of its own ([`Sequential`](crate::Sequential)) implements [`Saved`] by hand.
//!
//! In a file a module is a JSON object with one key, its type's name, over an object of its fields:
//!
//! | field | in the file |
//! | --- | --- |
//! | a module | `{"Linear": {"weight": …, "bias": …, "training": true}}` |
//! | [`Parameter`] | `{"requires_grad": true}`; its values are the tensor of its path |
//! | [`Buffer`] | `{"persistent": true}`; likewise |
//! | a parameter or buffer that came before | `{"same": "path.of.the.first"}`: the two stay tied |
//! | [`Training`] | `true` or `false` |
//! | `Option`, `Vec`, arrays, tuples, `BTreeMap` | `null` or the value, lists, objects |
//! | numbers, `bool`, strings | themselves; numbers that are not finite as `"inf"`, `"-inf"`, `"nan"` |
//!
//! A type that is not in the [`Registry`], a field too many or too few, and a tensor too many or too few are errors
//! that name it. Values are checked where they are used, as those that a program gives.

mod fields;
mod registry;
mod restoring;

pub use kiln_tensor::Error;
pub use registry::Registry;
pub use restoring::{Describing, Fields, Restoring};
pub use serde_json::{Map, Value};

use kiln_tensor::{Result, StateDict};

use crate::module::{Module, ModuleTree};
#[cfg(doc)]
use crate::parameter::{Buffer, Parameter, Training};

/// A field of a module, or a module, that can be written to a file and made again from it. See [`saved`](self).
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be saved in a file",
    note = "for a struct of layers derive `Module` with `#[module(save)]`",
    note = "`#[module(skip)]` leaves a field out; it is made by `Default` again"
)]
pub trait Saved: Sized {
    /// Its description in a file. Tensors are passed to `at`.
    ///
    /// # Errors
    /// There is a layer in it that cannot be saved.
    fn save(&self, at: &mut Describing) -> Result<Value>;

    /// Makes it again.
    ///
    /// # Errors
    /// The file holds something else, or names a layer that is not known; the message has its path.
    fn restore(value: &Value, at: &mut Restoring<'_>) -> Result<Self>;
}

/// A struct that has a name of its own in files; one that is also a [`Module`] can be in a [`Registry`].
pub trait SavedName: Saved {
    /// The name.
    const TYPE: &'static str;
}

/// The architecture of a model, and its tensors by their paths: those of the state dict, and buffers that are not in it.
///
/// # Errors
/// A layer cannot be saved; the message has its path and type.
pub fn describe<M: ModuleTree + ?Sized>(model: &M) -> Result<(Value, StateDict)> {
    let mut at = Describing::default();
    let architecture = model.architecture(&mut at)?;
    Ok((architecture, at.into_tensors()))
}

/// Makes a model of its architecture and its tensors, which it takes over.
///
/// # Errors
/// The architecture names a type that is not in the registry, or does not say what a type needs; a tensor is missing
/// or left over.
pub fn restore(architecture: &Value, tensors: &StateDict, registry: &Registry) -> Result<Box<dyn Module>> {
    let mut at = Restoring::new(tensors, registry);
    let model = at.any(architecture)?;
    match at.unused() {
        None => Ok(model),
        Some(name) => Err(Error::argument("restore", format!("no layer has the tensor {name:?}"))),
    }
}

//! Saving whole models: the architecture as data, from which the model is restored without the program that created it.
//! This corresponds to PyTorch's `torch.save(model)`, without a pickle.
//!
//! `#[derive(Module)]` with `#[module(save)]` implements [`Saved`] for a struct: its fields are written under the names
//! that they have in the state dict, so the struct itself is the only description of the layer's format. A type with
//! its own format ([`Sequential`](crate::Sequential)) implements [`Saved`] by hand.
//!
//! In a file, a module is a JSON object with its type's name as the only key, and an object of its fields as the value:
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
//! An unknown type (not in the [`Registry`]), a missing or superfluous field, and a missing or superfluous tensor are
//! errors that name it. Values are checked where they are used, like values from a program.

mod describing;
mod fields;
mod path;
mod registry;
mod restoring;
mod whole;

pub use describing::Describing;
pub use kiln_tensor::Error;
pub use restoring::{Fields, Registry, Restoring};
pub use serde_json::{Map, Value};
pub use whole::{describe, restore};

use kiln_tensor::Result;

#[cfg(doc)]
use crate::{
    module::Module,
    parameter::{Buffer, Parameter, Training},
};

/// A module, or a field of one, that can be written to a file and restored from it. See [`saved`](self).
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be saved in a file",
    note = "for a struct of layers derive `Module` with `#[module(save)]`",
    note = "`#[module(skip)]` leaves a field out; it is made by `Default` again"
)]
pub trait Saved: Sized {
    /// Its description in a file. Tensors are passed to `at`.
    ///
    /// # Errors
    /// If a layer in it cannot be saved.
    fn save(&self, at: &mut Describing) -> Result<Value>;

    /// Restores it.
    ///
    /// # Errors
    /// If the file holds something else, or names an unknown layer; the message has its path.
    fn restore(value: &Value, at: &mut Restoring<'_>) -> Result<Self>;
}

/// A struct that has a name in files; one that is also a [`Module`] can be in a [`Registry`].
pub trait SavedName: Saved {
    /// The name.
    const TYPE: &'static str;
}

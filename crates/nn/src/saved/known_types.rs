//! `Registry`: the types of modules that a file may name.

use std::collections::BTreeMap;

use kiln_tensor::Result;

use super::{SavedName, Value, restoring::Restoring};
use crate::module::Module;

/// The types of modules that a file may name, each with its constructor.
///
/// ```
/// use kiln_nn::{Linear, Module, saved::Registry};
/// use kiln_tensor::{Result, Tensor};
///
/// #[derive(Module)]
/// #[module(save)]
/// struct Net {
///     fc: Linear,
/// }
///
/// impl Module for Net {
///     fn forward(&self, x: &Tensor) -> Result<Tensor> {
///         self.fc.forward(x)
///     }
/// }
///
/// let registry = Registry::new().with::<Net>();
/// ```
#[derive(Clone)]
pub struct Registry {
    makers: BTreeMap<&'static str, Maker>,
}

type Maker = fn(&Value, &mut Restoring<'_>) -> Result<Box<dyn Module>>;

fn make<M: SavedName + Module + 'static>(value: &Value, at: &mut Restoring<'_>) -> Result<Box<dyn Module>> {
    Ok(Box::new(M::restore(value, at)?))
}

impl Registry {
    /// A registry without types.
    pub(super) fn empty() -> Registry {
        Registry { makers: BTreeMap::new() }
    }

    /// Adds a type. If two types have the same name, the last one counts.
    #[must_use]
    pub fn with<M: SavedName + Module + 'static>(mut self) -> Registry {
        self.makers.insert(M::TYPE, make::<M>);
        self
    }

    /// The names of the types.
    pub fn types(&self) -> impl Iterator<Item = &'static str> {
        self.makers.keys().copied()
    }

    pub(super) fn maker(&self, name: &str) -> Option<Maker> {
        self.makers.get(name).copied()
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.types()).finish()
    }
}

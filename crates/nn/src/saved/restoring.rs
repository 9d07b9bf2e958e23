//! Restoring a model from its description in a file: the state of the walk through that, and the types of modules that it
//! may name (`Registry`).

use std::collections::{BTreeMap, HashMap, HashSet};

use kiln_tensor::{Error, Result, StateDict, Tensor};

use super::{Map, Saved, SavedName, Value, path::Path};
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

/// The source of a model: the tensors and the registry.
pub struct Restoring<'a> {
    path: Path,
    tensors: &'a StateDict,
    registry: &'a Registry,
    used: HashSet<String>,
    /// Parameters and buffers that have been made, for later ones that are the same.
    made: HashMap<String, Tensor>,
}

impl<'a> Restoring<'a> {
    pub(super) fn new(tensors: &'a StateDict, registry: &'a Registry) -> Restoring<'a> {
        Restoring { path: Path::default(), tensors, registry, used: HashSet::new(), made: HashMap::new() }
    }

    /// Runs `f` with one more name in the path.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn inside<T>(&mut self, name: &str, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.path.push(name);
        let result = f(self);
        self.path.pop();
        result
    }

    /// The fields of a module of this type.
    ///
    /// # Errors
    /// If the value is something else.
    pub fn module<'v>(&self, name: &'static str, value: &'v Value) -> Result<Fields<'v>> {
        let (found, fields) = self.type_of(value)?;
        if found != name {
            return Err(self.wrong(format!("expected a {name}, found a {found:?}")));
        }
        let Value::Object(fields) = fields else {
            return Err(self.wrong(format!("the fields of {name} are not an object")));
        };
        Ok(Fields { of: name, fields, taken: HashSet::new() })
    }

    fn type_of<'v>(&self, value: &'v Value) -> Result<(&'v str, &'v Value)> {
        let object = value.as_object().filter(|object| object.len() == 1);
        let only = object.and_then(|object| object.iter().next());
        only.map(|(name, fields)| (name.as_str(), fields)).ok_or_else(|| self.wrong("expected a module"))
    }

    /// A module of any type in the registry.
    ///
    /// # Errors
    /// Those of [`Saved::restore`]; or if the registry does not have its type.
    pub fn any(&mut self, value: &Value) -> Result<Box<dyn Module>> {
        let (name, _) = self.type_of(value)?;
        let maker = self.registry.maker(name).ok_or_else(|| {
            let known: Vec<_> = self.registry.types().collect();
            let hint = "add a custom type with `Registry::with`";
            self.wrong(format!("the layer {name:?} is not known; {hint}; known are {}", known.join(", ")))
        })?;
        maker(value, self)
    }

    /// The tensor at the current path.
    ///
    /// # Errors
    /// If there is none.
    pub fn tensor(&mut self) -> Result<Tensor> {
        let path = self.path.text();
        let tensor = self.tensors.get(&path).ok_or_else(|| self.wrong("its tensor is missing"))?;
        self.used.insert(path);
        Ok(tensor.clone())
    }

    /// Remembers what was made at the current path, for [`same`](Restoring::same).
    pub fn made(&mut self, tensor: &Tensor) {
        self.made.insert(self.path.text(), tensor.clone());
    }

    /// The parameter or buffer that was made at a path.
    ///
    /// # Errors
    /// If none was.
    pub fn same(&self, path: &str) -> Result<Tensor> {
        self.made
            .get(path)
            .cloned()
            .ok_or_else(|| self.wrong(format!("it refers to {path:?}, which has not been restored yet")))
    }

    /// A tensor that nothing has used.
    pub(super) fn unused(&self) -> Option<&str> {
        self.tensors.keys().map(String::as_str).find(|name| !self.used.contains(*name))
    }

    /// An error that names the current path.
    pub fn wrong(&self, why: impl std::fmt::Display) -> Error {
        self.path.wrong("restore", why)
    }
}

/// The fields of one module in a file.
pub struct Fields<'v> {
    of: &'static str,
    fields: &'v Map<String, Value>,
    taken: HashSet<String>,
}

impl<'v> Fields<'v> {
    /// Restores one field.
    ///
    /// # Errors
    /// Those of [`Saved::restore`]; or if the field is missing.
    pub fn take<T: Saved>(&mut self, name: &str, at: &mut Restoring<'_>) -> Result<T> {
        let missing = || at.wrong(format!("{} has no field {name:?} in the file", self.of));
        let value = self.fields.get(name).ok_or_else(missing)?;
        self.taken.insert(name.to_owned());
        at.inside(name, |at| T::restore(value, at))
    }

    /// The elements of a field that is a list, to restore by hand.
    ///
    /// # Errors
    /// If it is missing, or not a list.
    pub fn list(&mut self, name: &str, at: &Restoring<'_>) -> Result<&'v [Value]> {
        let list = self.fields.get(name).and_then(Value::as_array);
        self.taken.insert(name.to_owned());
        list.map(Vec::as_slice).ok_or_else(|| at.wrong(format!("{} has no list {name:?} in the file", self.of)))
    }

    /// Checks that all fields were taken.
    ///
    /// # Errors
    /// If one was not: the file is from another version of the type.
    pub fn finish(self, at: &Restoring<'_>) -> Result<()> {
        match self.fields.keys().find(|name| !self.taken.contains(name.as_str())) {
            None => Ok(()),
            Some(name) => {
                Err(at.wrong(format!("{} has a field {name:?} in the file that this version does not know", self.of)))
            }
        }
    }
}

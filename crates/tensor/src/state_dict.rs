//! Named tensors: what modules, optimizers and schedulers hand over to be saved, and take back.

use std::{collections::HashMap, fmt};

use crate::Tensor;

/// Tensors by name, in the order in which they were put in, as PyTorch's `state_dict()`.
///
/// It holds handles: a state dict taken from a model changes when the model is trained on. Numbers, such as
/// an optimizer's step count, are tensors without dimensions. Names nest with dots (`features.0.weight`).
///
/// ```
/// # use kiln_tensor::{Device, StateDict, Tensor};
/// let mut state = StateDict::new();
/// state.insert("weight", Tensor::zeros([2, 3], Device::Cpu)?);
/// let whole = StateDict::new().with("fc1", state);
/// assert_eq!(whole.names().collect::<Vec<_>>(), ["fc1.weight"]);
/// assert_eq!(whole.section("fc1").names().collect::<Vec<_>>(), ["weight"]);
/// # Ok::<(), kiln_tensor::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct StateDict {
    entries: Vec<(String, Tensor)>,
    index: HashMap<String, usize>,
}

impl StateDict {
    /// An empty one.
    #[must_use]
    pub fn new() -> StateDict {
        StateDict::default()
    }

    /// Adds a tensor, or replaces the one of that name in its place; returns the replaced one.
    pub fn insert(&mut self, name: impl Into<String>, tensor: Tensor) -> Option<Tensor> {
        let name = name.into();
        if let Some(&i) = self.index.get(&name) {
            return Some(std::mem::replace(&mut self.entries[i].1, tensor));
        }
        self.index.insert(name.clone(), self.entries.len());
        self.entries.push((name, tensor));
        None
    }

    /// The tensor of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.index.get(name).map(|&i| &self.entries[i].1)
    }

    /// Whether there is a tensor of this name.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    /// Takes a tensor out; the others keep their order.
    pub fn remove(&mut self, name: &str) -> Option<Tensor> {
        let i = self.index.remove(name)?;
        let (_, tensor) = self.entries.remove(i);
        for (name, _) in &self.entries[i..] {
            if let Some(place) = self.index.get_mut(name) {
                *place -= 1;
            }
        }
        Some(tensor)
    }

    /// Number of tensors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Names and tensors in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Tensor)> + DoubleEndedIterator {
        self.entries.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The names in order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> + DoubleEndedIterator {
        self.entries.iter().map(|(name, _)| name.as_str())
    }

    /// With another state dict's tensors added under `prefix.`.
    #[must_use]
    pub fn with(mut self, prefix: &str, other: StateDict) -> StateDict {
        self.extend(other.into_iter().map(|(name, tensor)| (format!("{prefix}.{name}"), tensor)));
        self
    }

    /// The tensors whose names start with `prefix.`, without it.
    #[must_use]
    pub fn section(&self, prefix: &str) -> StateDict {
        let inside = |name: &str| Some(name.strip_prefix(prefix)?.strip_prefix('.')?.to_owned());
        self.iter().filter_map(|(name, tensor)| Some((inside(name)?, tensor.clone()))).collect()
    }
}

impl<N: Into<String>> FromIterator<(N, Tensor)> for StateDict {
    fn from_iter<I: IntoIterator<Item = (N, Tensor)>>(entries: I) -> StateDict {
        let mut out = StateDict::new();
        out.extend(entries);
        out
    }
}

impl<N: Into<String>> Extend<(N, Tensor)> for StateDict {
    fn extend<I: IntoIterator<Item = (N, Tensor)>>(&mut self, entries: I) {
        for (name, tensor) in entries {
            self.insert(name, tensor);
        }
    }
}

impl IntoIterator for StateDict {
    type Item = (String, Tensor);
    type IntoIter = std::vec::IntoIter<(String, Tensor)>;
    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

/// Names, dtypes and shapes, without the values.
impl fmt::Debug for StateDict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let describe = |t: &Tensor| format!("{} {}", t.dtype(), t.shape());
        f.debug_map().entries(self.iter().map(|(name, tensor)| (name, describe(tensor)))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;

    #[test]
    fn keeps_order_through_replacing_and_removing() {
        let zero = || Tensor::empty(0, Device::Cpu).unwrap();
        let mut state: StateDict = ["b", "a", "c", "d"].map(|name| (name, zero())).into_iter().collect();
        assert!(state.insert("a", zero()).is_some() && state.insert("e", zero()).is_none());
        assert!(state.remove("b").is_some() && state.remove("b").is_none());
        assert_eq!(state.names().collect::<Vec<_>>(), ["a", "c", "d", "e"]);
        assert!(state.get("e").is_some() && state.contains("c") && !state.contains("b"));
        assert_eq!(state.len(), 4);
    }
}

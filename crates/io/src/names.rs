//! Builds the state dict of a file, with the names of its tensors converted as the options say.

use std::path::Path;

use kiln_derive::located;
use kiln_tensor::{Error, Result, StateDict, Tensor};

use crate::{load_options::LoadOptions, source::out_of_memory};

/// Inserts into a state dict; growing it can fail without aborting the program.
pub(crate) fn insert(state: &mut StateDict, name: String, tensor: Tensor, path: &Path) -> Result<Option<Tensor>> {
    let bytes = (state.len() + 1) * size_of::<(String, Tensor)>();
    state.try_reserve(1).map_err(|_| out_of_memory(path, bytes))?;
    Ok(state.insert(name, tensor))
}

/// The state dict under construction, with the names in the file converted as the options say.
pub(crate) struct Names<'a> {
    path: &'a Path,
    options: &'a LoadOptions,
    state: StateDict,
}

#[located(site)]
impl<'a> Names<'a> {
    pub fn new(path: &'a Path, options: &'a LoadOptions) -> Names<'a> {
        Names { path, options, state: StateDict::new() }
    }

    /// Adds a tensor by its name in the file.
    pub fn insert(&mut self, name: &str, tensor: Tensor) -> Result<()> {
        let prefix = &self.options.prefix;
        let stripped = name.strip_prefix(prefix.as_str()).unwrap_or(name);
        if insert(&mut self.state, stripped.to_owned(), tensor, self.path)?.is_some() {
            let message = format!("without the prefix {prefix:?} two tensors have the name {stripped:?}");
            return Err(Error::file(self.path, message));
        }
        Ok(())
    }

    /// Adds the count 0 to batch normalization layers without a count of batches, as PyTorch does for layers of
    /// versions before 2 (saved before PyTorch 0.4.1). `version` returns the version of the layer with a path, if the
    /// file states it.
    pub fn count_batches(&mut self, version: impl Fn(&str) -> Option<i64>) -> Result<()> {
        let is_old = |layer: &str| {
            let is_layer = layer.is_empty() || layer.ends_with('.');
            let path = format!("{}{layer}", self.options.prefix);
            is_layer
                && self.state.contains_key(&format!("{layer}running_mean"))
                && !self.state.contains_key(&format!("{layer}num_batches_tracked"))
                && version(path.trim_end_matches('.')).is_none_or(|version| version < 2)
        };
        if !self.state.keys().any(|name| name.strip_suffix("running_var").is_some_and(is_old)) {
            return Ok(());
        }
        let mut out = StateDict::new();
        for (name, tensor) in &self.state {
            insert(&mut out, name.clone(), tensor.clone(), self.path)?;
            // Where PyTorch puts it.
            if let Some(layer) = name.strip_suffix("running_var").filter(|layer| is_old(layer)) {
                let count = Tensor::from_vec(vec![0i64], (), self.options.device())?;
                insert(&mut out, format!("{layer}num_batches_tracked"), count, self.path)?;
            }
        }
        self.state = out;
        Ok(())
    }

    pub fn finish(self) -> StateDict {
        self.state
    }
}

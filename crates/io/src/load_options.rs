//! `LoadOptions`: how tensors are loaded.

use std::path::Path;

use kiln_tensor::{DType, Device, Error, Result, Tensor};

/// How tensors are loaded. Converts from a [`Device`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct LoadOptions {
    device: Device,
    dtype: Option<DType>,
    keys: Vec<String>,
    pub(crate) prefix: String,
    memory_limit: Option<usize>,
}

impl Default for LoadOptions {
    /// To the CPU, as they are.
    fn default() -> LoadOptions {
        LoadOptions::new(Device::Cpu)
    }
}

impl LoadOptions {
    /// To this device, as they are.
    pub fn new(device: impl Into<Device>) -> LoadOptions {
        let device = device.into();
        LoadOptions { device, dtype: None, keys: Vec::new(), prefix: String::new(), memory_limit: None }
    }

    /// Tensors of floats become this dtype, one by one as they are loaded; others stay as they are.
    pub fn dtype(self, dtype: DType) -> LoadOptions {
        LoadOptions { dtype: Some(dtype), ..self }
    }

    /// In a file of `torch.save`, the dict under this key; called again, the one under that key inside it.
    /// Without it the dict is found as [`PthFile::state_dict`](crate::PthFile::state_dict) says. Other formats have no dicts in dicts.
    pub fn key(mut self, key: impl Into<String>) -> LoadOptions {
        self.keys.push(key.into());
        self
    }

    /// Names lose this prefix where they have it: `strip_prefix("module.")` for what `DistributedDataParallel` saved,
    /// `"_orig_mod."` for `torch.compile`, `"model."` for Lightning.
    pub fn strip_prefix(self, prefix: impl Into<String>) -> LoadOptions {
        LoadOptions { prefix: prefix.into(), ..self }
    }

    /// The most memory that loading one file may take, in bytes, tensors included. Files that need more are an error:
    /// a small file can be made to name a lot. Without it the limit is ten times the file's length and 64 MiB.
    pub fn memory_limit(self, bytes: usize) -> LoadOptions {
        LoadOptions { memory_limit: Some(bytes), ..self }
    }

    pub(crate) fn device(&self) -> Device {
        self.device
    }

    #[cfg(feature = "pth")]
    pub(crate) fn keys(&self) -> &[String] {
        &self.keys
    }

    pub(crate) fn limit(&self) -> Option<usize> {
        self.memory_limit
    }

    /// The bytes of a tensor when it is loaded.
    pub(crate) fn size_of(&self, dtype: DType, numel: usize) -> usize {
        let loaded = numel.saturating_mul(dtype.size());
        match self.dtype {
            // Both are there while one becomes the other.
            Some(other) if dtype.is_float() && other != dtype => {
                loaded.saturating_add(numel.saturating_mul(other.size()))
            }
            _ => loaded,
        }
    }

    pub(crate) fn converted(&self, tensor: Tensor) -> Result<Tensor> {
        match self.dtype {
            Some(dtype) if tensor.dtype().is_float() => kiln_tensor::no_grad(|| tensor.to_dtype(dtype)),
            _ => Ok(tensor),
        }
    }

    /// An error if options are set that say how tensors change, for a file that is loaded as it is.
    pub(crate) fn changes_nothing(&self, op: &'static str) -> Result<()> {
        let set = [("dtype", self.dtype.is_some()), ("strip_prefix", !self.prefix.is_empty())];
        match set.into_iter().find(|(_, is_set)| *is_set) {
            Some((name, _)) => {
                Err(Error::argument(op, format!("a checkpoint is loaded as it is, without `LoadOptions::{name}`")))
            }
            None => Ok(()),
        }
    }

    /// An error if keys were named for a file that has none.
    pub(crate) fn needs_no_key(&self, path: &Path) -> Result<()> {
        match &self.keys[..] {
            [] => Ok(()),
            keys => {
                Err(Error::file(path, format!("it is no file of torch.save, so there are no dicts {keys:?} in it")))
            }
        }
    }
}

impl From<Device> for LoadOptions {
    fn from(device: Device) -> LoadOptions {
        LoadOptions::new(device)
    }
}

impl From<&Device> for LoadOptions {
    fn from(device: &Device) -> LoadOptions {
        LoadOptions::new(device)
    }
}

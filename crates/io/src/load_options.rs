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
    /// To the CPU, in the dtypes of the file.
    fn default() -> LoadOptions {
        LoadOptions::new(Device::Cpu)
    }
}

impl LoadOptions {
    /// To this device, in the dtypes of the file.
    pub fn new(device: impl Into<Device>) -> LoadOptions {
        let device = device.into();
        LoadOptions { device, dtype: None, keys: Vec::new(), prefix: String::new(), memory_limit: None }
    }

    /// Converts floating-point tensors to this dtype, one by one as they are loaded; others keep theirs.
    pub fn dtype(self, dtype: DType) -> LoadOptions {
        LoadOptions { dtype: Some(dtype), ..self }
    }

    /// In a file of `torch.save`, loads the dict under this key; called again, the one under that key inside it.
    /// Without a key the dict is found as [`PthFile::state_dict`](crate::PthFile::state_dict) says. Other formats have no
    /// nested dicts.
    pub fn key(mut self, key: impl Into<String>) -> LoadOptions {
        self.keys.push(key.into());
        self
    }

    /// Removes this prefix from the names that have it: `strip_prefix("module.")` for a file saved from
    /// `DistributedDataParallel`, `"_orig_mod."` from `torch.compile`, `"model."` from Lightning.
    pub fn strip_prefix(self, prefix: impl Into<String>) -> LoadOptions {
        LoadOptions { prefix: prefix.into(), ..self }
    }

    /// The most memory that loading one file may take, in bytes, tensors included. A file that needs more is an
    /// error: a small malicious file can declare huge contents. By default the limit is ten times the file's length
    /// plus 64 MiB.
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

    /// The peak bytes of loading a tensor.
    pub(crate) fn size_of(&self, dtype: DType, numel: usize) -> usize {
        let loaded = numel.saturating_mul(dtype.size());
        match self.dtype {
            // Both exist during the conversion.
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

    /// Returns an error if options are set that would change tensors, for a file that is loaded unchanged.
    pub(crate) fn changes_nothing(&self, op: &'static str) -> Result<()> {
        let set = [("dtype", self.dtype.is_some()), ("strip_prefix", !self.prefix.is_empty())];
        match set.into_iter().find(|(_, is_set)| *is_set) {
            Some((name, _)) => {
                Err(Error::argument(op, format!("a checkpoint is loaded as it is, without `LoadOptions::{name}`")))
            }
            None => Ok(()),
        }
    }

    /// Returns an error if keys are set for a file of a format without nested dicts.
    pub(crate) fn needs_no_key(&self, path: &Path) -> Result<()> {
        match &self.keys[..] {
            [] => Ok(()),
            keys => Err(Error::file(
                path,
                format!("it is not a torch.save file, so it has no dict under the keys {keys:?}"),
            )),
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

//! Loading named tensors from a file of any known format.

use std::path::Path;

use kiln_derive::located;
use kiln_tensor::{DType, Device, Error, Result, StateDict, Tensor};

#[cfg(feature = "pth")]
use crate::pth::PthFile;
use crate::{
    format::Format,
    sharded::ShardedFile,
    source::{Source, out_of_memory},
    tensor_file::TensorFile,
};

/// How tensors are loaded. Converts from a [`Device`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct LoadOptions {
    device: Device,
    dtype: Option<DType>,
    keys: Vec<String>,
    prefix: String,
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
    /// Without it the dict is found as [`PthFile::state_dict`] says. Other formats have no dicts in dicts.
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

/// Inserts into a state dict that cannot end the program by growing.
pub(crate) fn insert(state: &mut StateDict, name: String, tensor: Tensor, path: &Path) -> Result<Option<Tensor>> {
    let bytes = (state.len() + 1) * size_of::<(String, Tensor)>();
    state.try_reserve(1).map_err(|_| out_of_memory(path, bytes))?;
    Ok(state.insert(name, tensor))
}

/// The state dict that a file becomes, under the names that the options make of the file's.
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

    /// Adds a tensor under its name in the file.
    pub fn insert(&mut self, name: &str, tensor: Tensor) -> Result<()> {
        let prefix = &self.options.prefix;
        let stripped = name.strip_prefix(prefix.as_str()).unwrap_or(name);
        if insert(&mut self.state, stripped.to_owned(), tensor, self.path)?.is_some() {
            let message = format!("without the prefix {prefix:?} two tensors have the name {stripped:?}");
            return Err(Error::file(self.path, message));
        }
        Ok(())
    }

    /// Gives batch normalization without a count of batches the count 0, as PyTorch does when it loads what layers
    /// before version 2 saved (before PyTorch 0.4.1, that is). `version` tells the version of the layer with a path, if
    /// the file does.
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
            // Where PyTorch has it.
            if let Some(layer) = name.strip_suffix("running_var").filter(|layer| is_old(layer)) {
                let count = Tensor::from_vec(vec![0i64], (), self.options.device)?;
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

/// Loads named tensors from a file, whatever it is called. Its contents tell which format it has:
///
/// - a safetensors file, of Kiln ([`save`](crate::save), [`save_model`](crate::save_model)) or of another program
///   ([`TensorFile`]);
/// - the index of a model in several safetensors files, `model.safetensors.index.json` ([`ShardedFile`]);
/// - a file of PyTorch's `torch.save`, `.pth` or `.pt`, of either format ([`PthFile`]), with the feature `pth`.
///
/// Each tensor goes from the file to the device by itself, so that a model larger than the host's memory can be loaded.
/// A checksum is compared where the file has one. Batch normalization that was saved before it counted batches gets
/// `num_batches_tracked` 0, as in PyTorch, so that the state dict loads strictly.
///
/// ```
/// # use kiln_tensor::{DType, Device, StateDict, Tensor};
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("model.safetensors");
/// # kiln_io::save(&path, &StateDict::from([("module.w".to_owned(), Tensor::ones([2], Device::Cpu)?)]))?;
/// use kiln_io::LoadOptions;
/// let state = kiln_io::load(&path, Device::Cpu)?;
/// let halves = kiln_io::load(&path, LoadOptions::new(Device::Cpu).dtype(DType::BF16).strip_prefix("module."))?;
/// assert_eq!(halves["w"].dtype(), DType::BF16);
/// # Ok::<(), kiln_tensor::Error>(())
/// ```
///
/// # Files that change
///
/// Files are read, not mapped, so that no change of a file can end the process. Who replaces a file by renaming, as Kiln
/// does, disturbs nobody. If another program overwrites or cuts the file while it is being loaded, that is an error: by
/// the checksum where there is one, else by the file's length and time of change. What remains: a file without a checksum
/// that is overwritten within one tick of the file system's clock after it was opened (a few milliseconds on Linux) may
/// give a mixture of old and new values.
///
/// # Errors
/// [`ErrorKind::Io`](kiln_tensor::ErrorKind::Io) or [`ErrorKind::File`](kiln_tensor::ErrorKind::File), both
/// with the path: the file cannot be read, is of no known format, is damaged, takes more memory than
/// [`LoadOptions::memory_limit`] allows, or holds a tensor that Kiln cannot represent.
/// [`ErrorKind::OutOfMemory`](kiln_tensor::ErrorKind::OutOfMemory): memory runs out. Or the device is not available.
#[located(site)]
pub fn load(path: impl AsRef<Path>, options: impl Into<LoadOptions>) -> Result<StateDict> {
    load_file(path.as_ref(), options.into())
}

/// [`load`], compiled once for all types of paths and options.
fn load_file(path: &Path, options: LoadOptions) -> Result<StateDict> {
    let source = Source::open(path)?;
    match Format::of(&source)? {
        Format::Zip | Format::Legacy => load_pth(source, options),
        Format::Index => {
            options.needs_no_key(path)?;
            ShardedFile::read(&source, &options)?.state_dict(options)
        }
        Format::Safetensors => {
            options.needs_no_key(path)?;
            TensorFile::read(source, &options)?.state_dict(options)
        }
    }
}

#[cfg(feature = "pth")]
fn load_pth(source: Source, options: LoadOptions) -> Result<StateDict> {
    PthFile::read(source, &options)?.state_dict(options)
}

#[cfg(not(feature = "pth"))]
fn load_pth(source: Source, _: LoadOptions) -> Result<StateDict> {
    let message = "files of torch.save can only be loaded if Kiln is built with its feature `pth`";
    Err(Error::file(source.path(), message))
}

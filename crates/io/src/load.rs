//! Loading named tensors from a file of any known format.

use std::path::Path;

use kiln_tensor::{DType, Device, Error, Result, StateDict, Tensor};

#[cfg(feature = "pth")]
use crate::PthFile;
use crate::{ShardedFile, TensorFile, map::Map, sharded, tensor_file};

/// How tensors are loaded. Converts from a [`Device`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct LoadOptions {
    device: Device,
    dtype: Option<DType>,
    keys: Vec<String>,
}

impl LoadOptions {
    /// To this device, as they are.
    pub fn new(device: impl Into<Device>) -> LoadOptions {
        LoadOptions { device: device.into(), dtype: None, keys: Vec::new() }
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

    pub(crate) fn device(&self) -> Device {
        self.device
    }

    #[cfg(feature = "pth")]
    pub(crate) fn keys(&self) -> &[String] {
        &self.keys
    }

    pub(crate) fn converted(&self, tensor: Tensor) -> Result<Tensor> {
        match self.dtype {
            Some(dtype) if tensor.dtype().is_float() => kiln_tensor::no_grad(|| tensor.to_dtype(dtype)),
            _ => Ok(tensor),
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

/// Loads named tensors from a file, whatever it is called. Its contents tell which format it has:
///
/// - a safetensors file, of Kiln ([`save`](crate::save), [`save_model`](crate::save_model)) or of another program
///   ([`TensorFile`]);
/// - the index of a model in several safetensors files, `model.safetensors.index.json` ([`ShardedFile`]);
/// - a file of PyTorch's `torch.save`, `.pth` or `.pt`, of either format ([`PthFile`]), with the feature `pth`.
///
/// A file is mapped into memory, and each tensor goes from there to the device, so that a model larger than the
/// host's memory can be loaded. A checksum is verified where the file has one.
///
/// ```
/// # use kiln_tensor::{DType, Device, StateDict, Tensor};
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("model.safetensors");
/// # kiln_io::save(&path, &StateDict::from([("w".to_owned(), Tensor::ones([2], Device::Cpu)?)]))?;
/// use kiln_io::LoadOptions;
/// let state = kiln_io::load(&path, Device::Cpu)?;
/// let halves = kiln_io::load(&path, LoadOptions::new(Device::Cpu).dtype(DType::BF16))?;
/// assert_eq!(halves["w"].dtype(), DType::BF16);
/// # Ok::<(), kiln_tensor::Error>(())
/// ```
///
/// # Errors
/// [`ErrorKind::Io`](kiln_tensor::ErrorKind::Io) or [`ErrorKind::File`](kiln_tensor::ErrorKind::File), both
/// with the path: the file cannot be read, is of no known format, is damaged, or holds a tensor that Kiln cannot
/// represent; or the device is not available.
pub fn load(path: impl AsRef<Path>, options: impl Into<LoadOptions>) -> Result<StateDict> {
    let (path, options) = (path.as_ref(), options.into());
    let map = Map::open(path)?;
    if is_zip(&map) || is_legacy(&map) {
        return load_pth(path, map, options);
    }
    options.needs_no_key(path)?;
    if sharded::is_index(&map) {
        return ShardedFile::parse(path, &map)?.state_dict(options);
    }
    if let Some(other) = named(&map) {
        let known = "a safetensors file, the index of several, or a file of torch.save";
        return Err(Error::file(path, format!("it looks like {other}, not like {known}")));
    }
    // What is none of these is told what is wrong with it as a safetensors file.
    let file = TensorFile::mapped(path, map)?;
    file.verify()?;
    file.state_dict(options)
}

#[cfg(feature = "pth")]
fn load_pth(path: &Path, map: Map, options: LoadOptions) -> Result<StateDict> {
    PthFile::mapped(path, map)?.state_dict(options)
}

#[cfg(not(feature = "pth"))]
fn load_pth(path: &Path, _: Map, _: LoadOptions) -> Result<StateDict> {
    Err(Error::file(path, "files of torch.save can only be loaded if Kiln is built with its feature `pth`"))
}

/// The start of a zip archive.
pub(crate) fn is_zip(file: &[u8]) -> bool {
    file.starts_with(b"PK\x03\x04") || file.starts_with(b"PK\x05\x06")
}

/// The start of the older format: the pickle of a certain number.
pub(crate) fn is_legacy(file: &[u8]) -> bool {
    file.starts_with(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19")
}

/// What is often taken for a file of weights.
fn named(file: &[u8]) -> Option<&'static str> {
    let starts: [(&[u8], &str); 7] = [
        (b"version https://git-lfs", "the placeholder of Git LFS, whose file was not fetched (`git lfs pull`)"),
        (b"<!DOCTYPE", "a web page"),
        (b"<html", "a web page"),
        (b"\x1f\x8b", "a file packed by gzip"),
        (b"GGUF", "a GGUF file"),
        (b"\x89HDF", "an HDF5 file"),
        (b"\x80", "a Python pickle"),
    ];
    let found = starts.iter().find(|(start, _)| file.starts_with(start));
    // The same byte begins the length of many headers.
    found.filter(|(start, _)| start.len() > 1 || !tensor_file::has_header(file)).map(|(_, what)| *what)
}

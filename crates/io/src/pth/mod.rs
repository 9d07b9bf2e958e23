//! Files of PyTorch's `torch.save`.

mod archive;
mod classes;
mod read;
mod value;

use std::path::{Path, PathBuf};

use kiln_tensor::{Error, Result, StateDict, Tensor};

pub use value::{PthTensor, PthValue};

use self::{archive::Archive, read::Reading};
use crate::{
    LoadOptions,
    load::{is_legacy, is_zip},
    map::Map,
};

/// An open `.pth` or `.pt` file, as `torch.save` writes it: the zip format of PyTorch 1.6 and later, or the one
/// before. The file is mapped into memory: storages that are not asked for are not read.
///
/// Its pickle is never run. It may build tensors, parameters, dicts, lists, tuples, sets, strings, numbers and
/// NumPy's scalars; any other class, a whole pickled model for one, is an error that names it.
///
/// Tensors that lay on a GPU, with strides, or in a part of a storage are loaded as contiguous tensors on the
/// device that is asked for. Of several tensors that are the same part of one storage (tied weights) the
/// memory is shared, as it was; tensors that overlap in another way are copied.
///
/// ```no_run
/// use kiln_io::{LoadOptions, PthFile};
/// use kiln_tensor::{DType, Device};
///
/// let file = PthFile::open("checkpoint.pth")?;
/// println!("{:?}", file.value().get("epoch"));
/// let weights = file.state_dict(LoadOptions::new(Device::Cpu).key("ema").dtype(DType::F32))?;
/// # Ok::<(), kiln_tensor::Error>(())
/// ```
pub struct PthFile {
    path: PathBuf,
    map: Map,
    archive: Archive,
    value: PthValue,
}

/// Where checkpoints keep the model's state dict, the most telling first.
const USUAL_KEYS: [&str; 9] =
    ["state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params", "module"];

impl PthFile {
    /// Opens a file and reads all of it but the tensors' values.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](kiln_tensor::ErrorKind::Io) or [`ErrorKind::File`](kiln_tensor::ErrorKind::File), both
    /// with the path: the file cannot be read, is damaged, or holds an object of a class that is not data.
    pub fn open(path: impl AsRef<Path>) -> Result<PthFile> {
        let path = path.as_ref();
        PthFile::mapped(path, Map::open(path)?)
    }

    pub(crate) fn mapped(path: &Path, map: Map) -> Result<PthFile> {
        let wrong = |message: String| Error::file(path, message);
        let archive = if is_zip(&map) {
            archive::zipped(&map).map_err(wrong)?
        } else if is_legacy(&map) {
            archive::legacy(&map).map_err(wrong)?
        } else {
            return Err(wrong("it was not written by torch.save".into()));
        };
        let pickle = map.get(archive.pickle.clone()).unwrap_or_default();
        let pickle = kiln_pickle::load(pickle, &classes::allowed).map_err(|e| wrong(explain(&e)))?;
        let value = value::tree(pickle.root()).map_err(wrong)?;
        Ok(PthFile { path: path.to_owned(), map, archive, value })
    }

    /// The file's path, as it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The object that was saved.
    #[must_use]
    pub fn value(&self) -> &PthValue {
        &self.value
    }

    /// The tensors of a dict in the file: of the one that the options [name](LoadOptions::key), else of the one
    /// under the first of the usual names (`state_dict`, `model_state_dict`, `model`, …), else of the object
    /// itself, else of the only dict of tensors in it. Values of that dict that are no tensors are left out.
    ///
    /// # Errors
    /// There is no such dict, or it is not clear which; a tensor is of a dtype that Kiln does not have, or does
    /// not lie inside its storage; its values do not match the checksum that PyTorch wrote; or the device is not
    /// available.
    pub fn state_dict(&self, options: impl Into<LoadOptions>) -> Result<StateDict> {
        let options = options.into();
        let dict = self.choose(options.keys())?;
        let mut reading = self.reading(&options);
        dict.tensors().map(|(name, tensor)| Ok((name.to_owned(), reading.tensor(name, tensor)?))).collect()
    }

    /// Loads one tensor of [`value`](PthFile::value).
    ///
    /// # Errors
    /// As [`state_dict`](PthFile::state_dict).
    pub fn tensor(&self, tensor: &PthTensor, options: impl Into<LoadOptions>) -> Result<Tensor> {
        self.reading(&options.into()).tensor("", tensor)
    }

    fn reading(&self, options: &LoadOptions) -> Reading<'_> {
        Reading::new(&self.path, &self.map, &self.archive, options)
    }

    fn choose(&self, keys: &[String]) -> Result<&PthValue> {
        let names = |value: &PthValue| -> String {
            let names: Vec<String> = value.entries().take(20).map(|(name, _)| format!("{name:?}")).collect();
            if names.is_empty() { "no keys".into() } else { format!("the keys {}", names.join(", ")) }
        };
        let mut at = &self.value;
        for key in keys {
            let missing = || Error::file(&self.path, format!("it has no {key:?} there, but {}", names(at)));
            at = at.get(key).ok_or_else(missing)?;
        }
        let has_tensors = |value: &&PthValue| value.tensors().next().is_some();
        if !keys.is_empty() {
            // An empty state dict is one, too.
            let is_dict = matches!(at, PthValue::Dict(_));
            return if is_dict {
                Ok(at)
            } else {
                Err(Error::file(&self.path, format!("what {keys:?} names is no dict")))
            };
        }
        if let Some(usual) = USUAL_KEYS.iter().filter_map(|key| at.get(key)).find(has_tensors) {
            return Ok(usual);
        }
        let candidates: Vec<_> = at.entries().filter(|(_, value)| has_tensors(value)).collect();
        match candidates[..] {
            _ if has_tensors(&at) => Ok(at),
            [] if matches!(at, PthValue::Dict(pairs) if pairs.is_empty()) => Ok(at),
            [(_, only)] => Ok(only),
            [] => Err(Error::file(
                &self.path,
                format!("there is no dict of tensors in it or one level down: it has {}", names(at)),
            )),
            _ => {
                let found: Vec<_> = candidates.iter().map(|(name, _)| format!("{name:?}")).collect();
                let message =
                    format!("it has several dicts of tensors, {}: name one with `LoadOptions::key`", found.join(", "));
                Err(Error::file(&self.path, message))
            }
        }
    }
}

/// With a hint for the most common refusal.
fn explain(error: &kiln_pickle::Error) -> String {
    match error {
        kiln_pickle::Error::Class { name, .. } if !name.starts_with('_') => format!(
            "{error}. If it is a whole pickled model, save what is in it from Python: torch.save(model.state_dict(), path)"
        ),
        _ => error.to_string(),
    }
}

impl std::fmt::Debug for PthFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PthFile").field("path", &self.path).field("value", &self.value).finish_non_exhaustive()
    }
}

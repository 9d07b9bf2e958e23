//! Reading files of PyTorch's `torch.save` (`.pth`, `.pt`) without running their pickles.

mod archive;
mod classes;
mod optimizer;
mod read;
mod rebuild;
mod tree;
mod value;
mod view;

use std::path::Path;

use kiln_derive::located;
use kiln_tensor::{Error, Result, StateDict, Tensor};

pub use value::{PthDict, PthObject, PthTensor, PthValue};

use self::{archive::Archive, read::Reading};
use crate::{budget::Budget, format::Format, load_options::LoadOptions, names::Names, source::Source};

/// An open `.pth` or `.pt` file, as `torch.save` writes it: in the zip format of PyTorch 1.6 and later, or the older
/// one, with any pickle protocol, including those of Python 2. Storages are read only when a tensor in them is loaded.
///
/// The pickle is parsed but never run. Tensors, parameters, dicts, lists, tuples, sets, strings, numbers and NumPy
/// scalars become values. Objects of other classes become [`PthObject`]s, which have a class name and can be inspected,
/// and which do not prevent loading the tensors beside them. A whole pickled model is such an object; loading it is an
/// error that says what to save instead.
///
/// Tensors that were on a GPU, had strides, or were part of a storage are loaded as contiguous tensors on the requested
/// device. Tensors that are the same part of one storage (tied weights) share memory, as before; tensors that overlap
/// in another way are copied.
///
/// ```no_run
/// use kiln_io::{LoadOptions, PthFile};
/// use kiln_tensor::{DType, Device};
///
/// let file = PthFile::open("checkpoint.pth")?;
/// println!("{:?} {:?}", file.value().get("epoch"), file.value().get("args").and_then(|args| args.get("lr")));
/// let weights = file.state_dict(LoadOptions::new(Device::Cpu).key("ema").dtype(DType::F32))?;
/// # Ok::<(), kiln_tensor::Error>(())
/// ```
pub struct PthFile {
    source: Source,
    archive: Archive,
    value: PthValue,
    budget: Budget,
}

/// Keys under which checkpoints keep the model's state dict, the most specific first.
const USUAL_KEYS: [&str; 9] =
    ["state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params", "module"];

#[located(site)]
impl PthFile {
    /// Opens a file and reads everything but the tensors' values.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](kiln_tensor::ErrorKind::Io) or [`ErrorKind::File`](kiln_tensor::ErrorKind::File), both with
    /// the path, if the file cannot be read, is damaged, or was not written by `torch.save`.
    pub fn open(path: impl AsRef<Path>) -> Result<PthFile> {
        PthFile::open_with(path, LoadOptions::default())
    }

    /// [`open`](PthFile::open) within [`LoadOptions::memory_limit`]; other options are ignored.
    ///
    /// # Errors
    /// Those of [`open`](PthFile::open); or if the file needs more memory than the limit.
    pub fn open_with(path: impl AsRef<Path>, options: impl Into<LoadOptions>) -> Result<PthFile> {
        PthFile::read(Source::open(path.as_ref())?, &options.into())
    }

    pub(crate) fn read(source: Source, options: &LoadOptions) -> Result<PthFile> {
        let mut budget = Budget::new(&source, options);
        let (archive, value) = match Format::of(&source)? {
            Format::Zip => archive::zipped(&source, &mut budget)?,
            Format::Legacy => archive::legacy(&source, &mut budget)?,
            Format::Safetensors | Format::Index => {
                return Err(Error::file(source.path(), "it was not written by torch.save"));
            }
        };
        Ok(PthFile { source, archive, value, budget })
    }

    /// The file's path, as it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// The object that was saved.
    #[must_use]
    pub fn value(&self) -> &PthValue {
        &self.value
    }

    /// The tensors of a dict in the file: of the one that the options [name](LoadOptions::key), else of the one under
    /// the first of the usual keys that exists (`state_dict`, `model_state_dict`, `model`, …), else of the object
    /// itself, else of the only dict of tensors in it. Values of that dict that are not tensors are omitted.
    ///
    /// # Errors
    /// If there is no such dict, or more than one; a tensor has a dtype that Kiln does not have, or does not lie inside
    /// its storage; its values do not match the checksum that PyTorch wrote; another program changed the file; memory
    /// runs out; or the device is not available.
    pub fn state_dict(&self, options: impl Into<LoadOptions>) -> Result<StateDict> {
        let options = options.into();
        let dict = self.choose(options.keys())?;
        let mut reading = self.reading(&options);
        let mut state = Names::new(self.path(), &options);
        for (key, value) in dict.pairs() {
            match (key, value) {
                (PthValue::Str(name), PthValue::Tensor(tensor)) => state.insert(name, reading.tensor(name, tensor)?)?,
                (PthValue::Str(name), PthValue::Object(object)) => {
                    // A tensor that Kiln cannot load must not be left out silently.
                    if let Some(problem) = &object.problem {
                        return Err(Error::file(self.path(), format!("tensor {name:?} {problem}")));
                    }
                }
                _ => {}
            }
        }
        self.source.check_unchanged()?;
        state.count_batches(|layer| layer_version(dict, layer))?;
        Ok(state.finish())
    }

    /// Loads one tensor of [`value`](PthFile::value).
    ///
    /// # Errors
    /// Those of [`state_dict`](PthFile::state_dict).
    pub fn tensor(&self, tensor: &PthTensor, options: impl Into<LoadOptions>) -> Result<Tensor> {
        let loaded = self.reading(&options.into()).tensor("", tensor)?;
        self.source.check_unchanged()?;
        Ok(loaded)
    }

    fn reading<'a>(&'a self, options: &'a LoadOptions) -> Reading<'a> {
        Reading::new(&self.source, &self.archive, options, self.budget.clone())
    }

    fn wrong(&self, message: String) -> Error {
        Error::file(self.path(), message)
    }

    /// The value under a sequence of keys, each inside the value of the one before.
    fn under(&self, keys: &[String]) -> Result<&PthValue> {
        let mut at = &self.value;
        for key in keys {
            let missing = || self.wrong(format!("it has no key {key:?} at that level, but {}", names(at)));
            at = at.get(key).ok_or_else(missing)?;
        }
        Ok(at)
    }

    fn choose(&self, keys: &[String]) -> Result<&PthValue> {
        let at = self.under(keys)?;
        if !keys.is_empty() {
            return match at {
                _ if has_tensors(&at) => Ok(at),
                PthValue::Dict(_) => {
                    Err(self.wrong(format!("the value under {keys:?} is a dict without tensors: it has {}", names(at))))
                }
                PthValue::Object(object) => Err(self.wrong(format!(
                    "the value under {keys:?} is not a dict but an object of class {}{}",
                    object.class(),
                    hint(at)
                ))),
                _ => Err(self.wrong(format!("the value under {keys:?} is not a dict"))),
            };
        }
        if let Some(usual) = USUAL_KEYS.iter().filter_map(|key| at.get(key)).find(has_tensors) {
            return Ok(usual);
        }
        if has_tensors(&at) {
            return Ok(at);
        }
        if let PthValue::Object(object) = at {
            return Err(self.wrong(format!("it holds an object of class {}{}", object.class(), hint(at))));
        }
        let candidates: Vec<_> = at.entries().filter(|(_, value)| has_tensors(value)).collect();
        match candidates[..] {
            [] if matches!(at, PthValue::Dict(dict) if dict.is_empty()) => Ok(at),
            [(_, only)] => Ok(only),
            [] => {
                let models = at.entries().filter(|(_, value)| is_model(value));
                let models: String =
                    models.take(3).map(|(name, value)| format!("; {name:?} is an object{}", hint(value))).collect();
                let names = names(at);
                Err(self.wrong(format!("there is no dict of tensors in it or one level down: it has {names}{models}")))
            }
            _ => {
                let found: Vec<_> = candidates.iter().map(|(name, _)| format!("{name:?}")).collect();
                let found = found.join(", ");
                Err(self.wrong(format!("it has several dicts of tensors, {found}: name one with `LoadOptions::key`")))
            }
        }
    }
}

/// Whether it is a dict with tensors, including tensors that Kiln cannot load.
fn has_tensors(value: &&PthValue) -> bool {
    value.pairs().iter().any(|pair| match pair {
        (PthValue::Str(_), PthValue::Tensor(_)) => true,
        (PthValue::Str(_), PthValue::Object(object)) => object.problem.is_some(),
        _ => false,
    })
}

/// Lists the keys of a dict for a message.
fn names(value: &PthValue) -> String {
    let names: Vec<String> = value.entries().take(20).map(|(name, _)| format!("{name:?}")).collect();
    if names.is_empty() { "no keys".into() } else { format!("the keys {}", names.join(", ")) }
}

/// Whether it is a pickled PyTorch module.
fn is_model(value: &PthValue) -> bool {
    matches!(value, PthValue::Object(object) if object.state().get("_parameters").is_some())
}

/// How a message about an object in place of a dict of tensors ends: what to do about it.
fn hint(value: &PthValue) -> &'static str {
    if is_model(value) {
        ": a whole pickled model, which only the program that made it can load; save what is in it from Python: \
         torch.save(model.state_dict(), path)"
    } else if matches!(value, PthValue::Object(_)) {
        ", which Kiln does not construct; save its tensors from Python in a dict: torch.save({\"name\": tensor}, path)"
    } else {
        ""
    }
}

/// The version of a layer, as stated in the state dict's `_metadata`.
fn layer_version(dict: &PthValue, layer: &str) -> Option<i64> {
    let PthValue::Dict(dict) = dict else { return None };
    match dict.attributes().get("_metadata")?.get(layer)?.get("version")? {
        PthValue::Int(version) => Some(*version),
        _ => None,
    }
}

impl std::fmt::Debug for PthFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PthFile").field("path", &self.path()).field("value", &self.value).finish_non_exhaustive()
    }
}

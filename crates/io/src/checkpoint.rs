//! Training checkpoints: model, optimizer, scheduler, random state and metadata in one file.

use std::path::Path;

use kiln_derive::located;
use kiln_tensor::{Error, Result, StateDict, random_state, set_random_state};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{
    load_options::LoadOptions,
    save::{Metadata, save_with_metadata},
    tensor_file::TensorFile,
};

/// The state of a training run. A run that loads it continues bit for bit as if it had never stopped.
///
/// ```
/// # use kiln_tensor::{Device, StateDict, Tensor};
/// # use kiln_io::Checkpoint;
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("run.ckpt");
/// # let (model, optimizer) = (StateDict::new(), StateDict::new());
/// let mut checkpoint = Checkpoint { model, optimizer, epoch: 3, ..Checkpoint::now() };
/// checkpoint.put("best accuracy", &0.861)?;
/// checkpoint.save(&path)?;
///
/// let checkpoint = Checkpoint::load(&path, Device::Cpu)?;
/// assert_eq!(checkpoint.epoch, 3);
/// assert_eq!(checkpoint.get::<f64>("best accuracy")?, 0.861);
/// // When model, optimizer, scheduler and loader have taken their parts:
/// checkpoint.restore_random_state();
/// # Ok::<(), kiln_tensor::Error>(())
/// ```
///
/// The file is a safetensors file like those of [`save`](crate::save): the tensors' names start with
/// `model.`, `optimizer.`, `scheduler.` and `extra.`, the rest is JSON in the header.
#[derive(Clone, Debug, Default)]
pub struct Checkpoint {
    /// The model's parameters and buffers.
    pub model: StateDict,
    /// The optimizer's state.
    pub optimizer: StateDict,
    /// The learning-rate scheduler's state; empty if there is none.
    pub scheduler: StateDict,
    /// Other tensors that the program wants to keep, e.g. averaged parameters.
    pub extra: StateDict,
    /// Number of finished epochs.
    pub epoch: u64,
    /// The position of the random number generator, as [`random_state`] returns it.
    pub random_state: (u64, u64),
    /// Anything else, as JSON: the data loader's position, options of the run, best accuracy, notes. See
    /// [`put`](Checkpoint::put).
    pub metadata: Map<String, Value>,
}

/// The version of the layout that this Kiln writes; it reads no newer one.
const VERSION: u64 = 1;
/// The metadata key of [`State`].
const KEY: &str = "kiln.checkpoint";

/// Everything but the tensors.
#[derive(Serialize, Deserialize)]
struct State {
    version: u64,
    epoch: u64,
    random_state: (u64, u64),
    metadata: Map<String, Value>,
}

#[located(site)]
impl Checkpoint {
    /// A checkpoint with the current state of the random number generator and nothing else.
    #[must_use]
    pub fn now() -> Checkpoint {
        Checkpoint { random_state: random_state(), ..Checkpoint::default() }
    }

    /// Writes the checkpoint to a file, atomically.
    ///
    /// # Errors
    /// If the file cannot be written, or a tensor cannot be read from its device.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.save_file(path.as_ref())
    }

    fn save_file(&self, path: &Path) -> Result<()> {
        let state = State {
            version: VERSION,
            epoch: self.epoch,
            random_state: self.random_state,
            metadata: self.metadata.clone(),
        };
        let state = serde_json::to_string(&state).map_err(Error::other)?;
        let full_name = |section, name| format!("{section}.{name}");
        let tensors: StateDict = self
            .sections()
            .flat_map(|(section, state)| state.iter().map(move |(name, t)| (full_name(section, name), t.clone())))
            .collect();
        save_with_metadata(path, &tensors, &Metadata::from([(KEY.into(), state)]))
    }

    /// Reads a checkpoint and places its tensors on the options' device, within their [memory
    /// limit](LoadOptions::memory_limit).
    ///
    /// # Errors
    /// With the path: if the file cannot be read, is damaged, takes more memory than the limit, is not a checkpoint, or
    /// was written by a newer version of Kiln. If memory runs out. If options are set that would change tensors.
    pub fn load(path: impl AsRef<Path>, options: impl Into<LoadOptions>) -> Result<Checkpoint> {
        Checkpoint::load_file(path.as_ref(), options.into())
    }

    fn load_file(path: &Path, options: LoadOptions) -> Result<Checkpoint> {
        options.changes_nothing("Checkpoint::load")?;
        let file = TensorFile::open_with(path, options.clone())?;
        let wrong = |message: String| Error::file(path, message);
        let text = file.metadata().get(KEY);
        let text = text.ok_or_else(|| wrong("it holds tensors, but is not a training checkpoint".into()))?;
        file.check_json(text)?;
        let state: Value = serde_json::from_str(text).map_err(|e| wrong(format!("its {KEY:?} is not JSON: {e}")))?;
        // Before the rest, whose layout depends on the version.
        match state.get("version").and_then(Value::as_u64) {
            Some(VERSION) => {}
            Some(version) => {
                let message = format!("checkpoint version {version}; this Kiln reads version {VERSION}");
                return Err(wrong(message));
            }
            None => return Err(wrong(format!("its {KEY:?} states no version"))),
        }
        let state: State = serde_json::from_value(state).map_err(|e| wrong(format!("its {KEY:?} is wrong: {e}")))?;
        let tensors = file.state_dict(options)?;
        file.check_names()?;
        let State { version: _, epoch, random_state, metadata } = state;
        let section = |section: &str| -> StateDict {
            let inside = |name: &String| Some(name.strip_prefix(section)?.strip_prefix('.')?.to_owned());
            tensors.iter().filter_map(|(name, tensor)| Some((inside(name)?, tensor.clone()))).collect()
        };
        let [model, optimizer, scheduler, extra] = SECTIONS.map(section);
        Ok(Checkpoint { model, optimizer, scheduler, extra, epoch, random_state, metadata })
    }

    /// Keeps a value under a name, e.g. the data loader's state.
    ///
    /// # Errors
    /// If it cannot be written as JSON.
    pub fn put<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<()> {
        let wrong = |e| Error::argument("checkpoint", format!("{name:?} cannot be written as JSON: {e}"));
        self.metadata.insert(name.to_owned(), serde_json::to_value(value).map_err(wrong)?);
        Ok(())
    }

    /// A value that was [`put`](Checkpoint::put).
    ///
    /// # Errors
    /// If there is no value of this name, or it has another type.
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let wrong = |why: String| Error::argument("checkpoint", format!("{name:?} {why}"));
        let value = self.metadata.get(name).ok_or_else(|| wrong("is not in the checkpoint".into()))?;
        T::deserialize(value).map_err(|e| wrong(format!("has another type: {e}")))
    }

    /// Restores the state of the random number generator. Do it last: creating a model draws random numbers too.
    pub fn restore_random_state(&self) {
        set_random_state(self.random_state);
    }

    fn sections(&self) -> impl Iterator<Item = (&'static str, &StateDict)> {
        SECTIONS.into_iter().zip([&self.model, &self.optimizer, &self.scheduler, &self.extra])
    }
}

const SECTIONS: [&str; 4] = ["model", "optimizer", "scheduler", "extra"];

//! Whole models: architecture and weights in one file.

use std::path::Path;

use kiln_derive::located;
use kiln_nn::{
    Module, ModuleTree,
    saved::{self, Registry},
};
use kiln_tensor::{Error, Result, StateDict};
use serde_json::{Value, json};

use crate::{
    load_options::LoadOptions,
    save::{Metadata, save_with_metadata},
    source::Source,
    tensor_file::TensorFile,
};

/// The version of the layout that this Kiln writes; it reads no newer one.
const VERSION: u64 = 1;
/// The metadata key of the architecture.
const KEY: &str = "kiln.model";

/// Saves a model with its architecture, so that it can be loaded without the program that created it: PyTorch's
/// `torch.save(model, path)`. All settings of layers are saved, and also which parameters are frozen or tied, and the
/// mode of each module.
///
/// A user's own struct needs `#[module(save)]`, and is loaded with [`load_model_with`].
///
/// ```
/// # fn main() -> kiln_tensor::Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("model.kiln");
/// use kiln_nn::{Linear, Module, ReLU, seq};
/// use kiln_tensor::{Device, Tensor};
///
/// kiln_io::save_model(&path, &seq![Linear::new(4, 8)?, ReLU::new(), Linear::new(8, 2)?])?;
///
/// let model = kiln_io::load_model(&path, Device::Cpu)?;
/// println!("{model}");
/// assert_eq!(model.forward(&Tensor::zeros([3, 4], Device::Cpu)?)?.dims(), [3, 2]);
/// # Ok(())
/// # }
/// ```
///
/// # The file
///
/// It is a safetensors file as [`save`](crate::save) writes it, whose tensors have the names of the state dict (so
/// that [`load`](crate::load) returns the state dict), and whose metadata has a JSON text under the key `kiln.model`:
/// `{"version": 1, "kiln": "0.1.0", "architecture": …}`. [`kiln_nn::saved`] describes the architecture. Nothing in it
/// is executable.
///
/// # Errors
/// If a layer cannot be saved (the message has its path and type), or the file cannot be written.
#[located(site)]
pub fn save_model<M: ModuleTree + ?Sized>(path: impl AsRef<Path>, model: &M) -> Result<()> {
    let (architecture, tensors) = saved::describe(model)?;
    save_described(path.as_ref(), architecture, &tensors)
}

fn save_described(path: &Path, architecture: Value, tensors: &StateDict) -> Result<()> {
    let text = json!({ "version": VERSION, "kiln": env!("CARGO_PKG_VERSION"), "architecture": architecture });
    save_with_metadata(path, tensors, &Metadata::from([(KEY.to_owned(), text.to_string())]))
}

/// Loads a model that [`save_model`] saved, made of Kiln's layers and models.
///
/// # Errors
/// With the path: if the file cannot be read, is damaged, was written by a newer version of Kiln, holds no
/// architecture, or names an unknown type; or if the device is not available.
#[located(site)]
pub fn load_model(path: impl AsRef<Path>, options: impl Into<LoadOptions>) -> Result<Box<dyn Module>> {
    load_model_with(path, options, &registry())
}

/// [`load_model`] with a user's own types: `&kiln_io::registry().with::<Net>()`.
///
/// # Errors
/// Those of [`load_model`].
#[located(site)]
pub fn load_model_with(
    path: impl AsRef<Path>,
    options: impl Into<LoadOptions>,
    registry: &Registry,
) -> Result<Box<dyn Module>> {
    load_file(path.as_ref(), options.into(), registry)
}

fn load_file(path: &Path, options: LoadOptions, registry: &Registry) -> Result<Box<dyn Module>> {
    let file = TensorFile::read(Source::open(path)?, &options)?;
    let wrong = |message: String| Error::file(path, message);
    let text = file.metadata().get(KEY).ok_or_else(|| {
        wrong("it holds tensors, but no architecture: create the model, and load them with `io::load`".into())
    })?;
    file.check_json(text)?;
    let text: Value = serde_json::from_str(text).map_err(|e| wrong(format!("its {KEY:?} is not JSON: {e}")))?;
    // Before the rest, whose layout depends on the version.
    match text.get("version").and_then(Value::as_u64) {
        Some(VERSION) => {}
        Some(version) => return Err(wrong(format!("model version {version}; this Kiln reads version {VERSION}"))),
        None => return Err(wrong(format!("its {KEY:?} states no version"))),
    }
    let architecture = text.get("architecture").ok_or_else(|| wrong(format!("its {KEY:?} has no architecture")))?;
    let tensors = file.state_dict(options)?;
    saved::restore(architecture, &tensors, registry).map_err(|e| wrong(e.to_string()))
}

/// The types that [`load_model`] knows: the layers of `kiln-nn` and the models of `kiln-models`.
#[must_use]
pub fn registry() -> Registry {
    kiln_models::registry()
}

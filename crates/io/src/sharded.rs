//! Models in several safetensors files.

use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
};

use indexmap::IndexMap;
use kiln_tensor::{Error, Result, StateDict};
use serde::Deserialize;

use crate::{LoadOptions, TensorFile, map::Map, tensor_file};

/// The index of a model that lies in several safetensors files, as `model.safetensors.index.json` of the Hugging
/// Face hub: a JSON object whose `weight_map` says for each tensor in which file beside the index it is.
#[derive(Clone, Debug)]
pub struct ShardedFile {
    path: PathBuf,
    /// The tensors of each file.
    shards: BTreeMap<String, Vec<String>>,
    /// In the order of the index.
    names: Vec<String>,
}

/// The part of the file that says anything to Kiln.
#[derive(Deserialize)]
struct Index {
    /// In the order of the file.
    weight_map: IndexMap<String, String>,
}

/// Whether a file can be an index: JSON, and no safetensors file whose length happens to begin so.
pub(crate) fn is_index(file: &[u8]) -> bool {
    file.trim_ascii_start().first() == Some(&b'{') && !tensor_file::has_header(file)
}

impl ShardedFile {
    /// Opens an index; the files that it names are not looked at.
    ///
    /// # Errors
    /// With the path: the file cannot be read, is no index, or names a file that does not lie beside it.
    pub fn open(path: impl AsRef<Path>) -> Result<ShardedFile> {
        let path = path.as_ref();
        ShardedFile::parse(path, &Map::open(path)?)
    }

    pub(crate) fn parse(path: &Path, text: &[u8]) -> Result<ShardedFile> {
        let wrong = |message: String| Error::file(path, message);
        let index: Index =
            serde_json::from_slice(text).map_err(|e| wrong(format!("not an index of safetensors files: {e}")))?;
        let mut out = ShardedFile { path: path.to_owned(), shards: BTreeMap::new(), names: Vec::new() };
        for (name, file) in index.weight_map {
            let mut parts = Path::new(&file).components();
            // The index may come from anywhere, so it must not point anywhere.
            if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
                return Err(wrong(format!("{name:?} is said to be in {file:?}, which is no file beside the index")));
            }
            out.shards.entry(file).or_default().push(name.clone());
            out.names.push(name);
        }
        Ok(out)
    }

    /// The names of the tensors, in the order of the index.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// The paths of the files.
    pub fn shards(&self) -> impl ExactSizeIterator<Item = PathBuf> {
        self.shards.keys().map(|name| self.path.with_file_name(name))
    }

    /// Loads all tensors that the index names.
    ///
    /// # Errors
    /// With the path of the file that is wrong: it cannot be read, is damaged, or lacks a tensor; or the device is
    /// not available.
    pub fn state_dict(&self, options: impl Into<LoadOptions>) -> Result<StateDict> {
        let options = options.into();
        options.needs_no_key(&self.path)?;
        let mut found = StateDict::new();
        for (file, names) in &self.shards {
            let shard = TensorFile::open(self.path.with_file_name(file))?;
            shard.verify()?;
            for name in names {
                found.insert(name.clone(), shard.tensor(name, options.clone())?);
            }
        }
        Ok(self.names.iter().filter_map(|name| found.swap_remove_entry(name)).collect())
    }
}

//! Loads models stored in several safetensors files, which are found by a JSON index.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Component, Path, PathBuf},
};

use indexmap::IndexMap;
use kiln_derive::located;
use kiln_tensor::{Error, Result, StateDict};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};

use crate::{
    budget::Budget,
    load_options::LoadOptions,
    names::{Names, insert},
    source::Source,
    tensor_file::TensorFile,
};

/// The index of a model stored in several safetensors files, such as `model.safetensors.index.json` of the Hugging Face
/// hub: a JSON object whose `weight_map` says for each tensor which file beside the index it is in.
#[derive(Clone, Debug)]
pub struct ShardedFile {
    path: PathBuf,
    /// The names of the tensors in each file.
    shards: BTreeMap<String, Vec<String>>,
    /// In the order of the index.
    names: Vec<String>,
}

#[located(site)]
impl ShardedFile {
    /// Opens an index. The files that it names are not opened.
    ///
    /// # Errors
    /// With the path: if the file cannot be read, is not an index, or names a file that is not beside it.
    pub fn open(path: impl AsRef<Path>) -> Result<ShardedFile> {
        ShardedFile::open_with(path, LoadOptions::default())
    }

    /// [`open`](ShardedFile::open) within [`LoadOptions::memory_limit`]; other options are ignored.
    ///
    /// # Errors
    /// Those of [`open`](ShardedFile::open); or if the index needs more memory than the limit.
    pub fn open_with(path: impl AsRef<Path>, options: impl Into<LoadOptions>) -> Result<ShardedFile> {
        ShardedFile::read(&Source::open(path.as_ref())?, &options.into())
    }

    pub(crate) fn read(source: &Source, options: &LoadOptions) -> Result<ShardedFile> {
        let (path, mut budget) = (source.path(), Budget::new(source, options));
        budget.spend(source.len())?;
        let text = source.prefix(source.len())?;
        // Names are kept twice: in the order of the index, and by file.
        budget.json(&text)?;
        // The parser assembles a string with escapes in a buffer that grows by doubling.
        budget.look_for(if text.contains(&b'\\') { text.len().saturating_mul(3) } else { 0 })?;
        let wrong = |message: String| Error::file(path, message);
        let index: Index =
            serde_json::from_slice(&text).map_err(|e| wrong(format!("not an index of safetensors files: {e}")))?;
        let mut out = ShardedFile { path: path.to_owned(), shards: BTreeMap::new(), names: Vec::new() };
        for (name, file) in index.weight_map.0 {
            let mut parts = Path::new(&file).components();
            // The index may come from anywhere, so it must not point outside its own folder.
            if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
                return Err(wrong(format!("{name:?} is said to be in {file:?}, which is not a file beside the index")));
            }
            budget.entry(2 * size_of::<(String, Vec<String>)>() + name.len())?;
            budget.push(out.shards.entry(file).or_default(), name.clone())?;
            budget.push(&mut out.names, name)?;
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
    /// With the path of the file at fault: if it cannot be read, is damaged, or lacks a tensor; or if the device is not
    /// available.
    pub fn state_dict(&self, options: impl Into<LoadOptions>) -> Result<StateDict> {
        let options = options.into();
        options.needs_no_key(&self.path)?;
        let as_named = options.clone().strip_prefix("");
        let mut found = StateDict::new();
        for (file, names) in &self.shards {
            let path = self.path.with_file_name(file);
            let shard = TensorFile::read(Source::open(&path)?, &options)?;
            shard.verify()?;
            for name in names {
                insert(&mut found, name.clone(), shard.tensor(name, as_named.clone())?, &path)?;
            }
        }
        let mut state = Names::new(&self.path, &options);
        for name in &self.names {
            if let Some(tensor) = found.swap_remove(name) {
                state.insert(name, tensor)?;
            }
        }
        state.count_batches(|_| None)?;
        Ok(state.finish())
    }
}

/// The part of the index that Kiln reads.
#[derive(Deserialize)]
struct Index {
    weight_map: WeightMap,
}

/// The file of each tensor, in the order of the index.
struct WeightMap(IndexMap<String, String>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<WeightMap, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = WeightMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of file names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WeightMap, A::Error> {
                let mut out = IndexMap::new();
                while let Some((name, file)) = map.next_entry::<String, String>()? {
                    if out.contains_key(&name) {
                        return Err(A::Error::custom(format!("tensor {name:?} appears twice")));
                    }
                    out.try_reserve(1).map_err(|_| A::Error::custom("out of memory"))?;
                    out.insert(name, file);
                }
                Ok(WeightMap(out))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

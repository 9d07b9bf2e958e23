//! Reading safetensors files.

use std::{collections::HashMap, path::Path};

use indexmap::IndexMap;
use kiln_derive::located;
use kiln_tensor::{Error, Result, StateDict, Tensor};

use crate::{
    budget::{self, Budget},
    checksum::Checksum,
    header::{Header, TensorInfo, header_length},
    load_options::LoadOptions,
    names::Names,
    source::Source,
};

/// An open safetensors file, for inspecting it before loading, or for loading single tensors: only what is requested is
/// read.
///
/// If another program overwrites or truncates the file while it is open, reading it is an error (see
/// [`load`](crate::load)). If the file is replaced by renaming, as Kiln does, the old contents are read.
pub struct TensorFile {
    source: Source,
    /// Offset of the first value.
    data: usize,
    metadata: HashMap<String, String>,
    /// In the order of the values in the file.
    tensors: IndexMap<String, TensorInfo>,
    budget: Budget,
}

#[located(site)]
impl TensorFile {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// Those of [`load`](crate::load), except that the values are not read.
    pub fn open(path: impl AsRef<Path>) -> Result<TensorFile> {
        TensorFile::open_with(path, LoadOptions::default())
    }

    /// [`open`](TensorFile::open) within [`LoadOptions::memory_limit`], which also applies to tensors loaded from the
    /// file; other options are ignored.
    ///
    /// # Errors
    /// Those of [`open`](TensorFile::open); or if the header needs more memory than the limit.
    pub fn open_with(path: impl AsRef<Path>, options: impl Into<LoadOptions>) -> Result<TensorFile> {
        TensorFile::read(Source::open(path.as_ref())?, &options.into())
    }

    pub(crate) fn read(source: Source, options: &LoadOptions) -> Result<TensorFile> {
        let mut budget = Budget::new(&source, options);
        let wrong = |message: String| Error::file(source.path(), message);
        let length = header_length(&source.prefix(8)?, source.len()).map_err(wrong)?;
        budget.spend(length)?;
        let text = source.read(8, length)?;
        let data = 8 + length;
        let Header { metadata, tensors } = Header::parse(&text, source.len() - data, &mut budget)?;
        budget.give_back(length);
        Ok(TensorFile { source, data, metadata, tensors, budget })
    }

    /// The path that the file was opened with.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// The text entries of the file's header.
    #[must_use]
    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.metadata
    }

    /// Names, dtypes and shapes, in the order of the file.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = (&str, &TensorInfo)> {
        self.tensors.iter().map(|(name, info)| (name.as_str(), info))
    }

    /// Loads one tensor.
    ///
    /// # Errors
    /// If there is no tensor of this name, another program changed the file, memory runs out, or the device is not
    /// available.
    pub fn tensor(&self, name: &str, options: impl Into<LoadOptions>) -> Result<Tensor> {
        let options = options.into();
        options.needs_no_key(self.path())?;
        let info = self.tensors.get(name);
        let info = info.ok_or_else(|| Error::file(self.path(), format!("it has no tensor {name:?}")))?;
        let bytes = budget::TENSOR + options.size_of(info.dtype, info.shape.numel());
        self.budget.clone().spend(bytes)?;
        let tensor = self.read_tensor(info, &options, |_| {})?;
        self.source.check_unchanged()?;
        Ok(tensor)
    }

    /// Loads all tensors. If Kiln wrote the file, its checksum is verified.
    ///
    /// # Errors
    /// If the contents do not match the checksum, another program changed the file, memory runs out, or the device is
    /// not available.
    pub fn state_dict(&self, options: impl Into<LoadOptions>) -> Result<StateDict> {
        let options = options.into();
        options.needs_no_key(self.path())?;
        let mut budget = self.budget.clone();
        let mut sum = self.checksum();
        let mut state = Names::new(self.path(), &options);
        for (name, info) in &self.tensors {
            budget.spend(budget::TENSOR + name.len() + options.size_of(info.dtype, info.shape.numel()))?;
            let tensor = self.read_tensor(info, &options, |bytes| {
                if let Some(sum) = &mut sum {
                    sum.add(name, bytes);
                }
            })?;
            state.insert(name, tensor)?;
        }
        self.check(sum)?;
        self.source.check_unchanged()?;
        // A state dict written by Kiln is complete.
        if Checksum::stated(&self.metadata).is_none() {
            state.count_batches(|_| None)?;
        }
        Ok(state.finish())
    }

    /// Returns an error if parsing a JSON text of the metadata may exceed the memory limit, or the available memory.
    pub(crate) fn check_json(&self, text: &str) -> Result<()> {
        self.budget.clone().json(text.as_bytes())
    }

    /// Makes sure that there is memory for another map of all tensors.
    pub(crate) fn check_names(&self) -> Result<()> {
        let mut budget = self.budget.clone();
        let name = |name: &String| 4 * size_of::<(String, Tensor)>() + name.len() + 32;
        budget.look_for(self.tensors.keys().map(name).sum())
    }

    /// Reads the whole file and compares the contents with the checksum that Kiln puts into its files. A file without
    /// one passes.
    ///
    /// # Errors
    /// If they differ, or the file cannot be read.
    pub fn verify(&self) -> Result<()> {
        let Some(mut sum) = self.checksum() else { return Ok(()) };
        for (name, info) in &self.tensors {
            sum.add(name, &self.source.read(self.data + info.bytes.start, info.bytes.len())?);
        }
        self.check(Some(sum))
    }

    /// The checksum of the metadata, to start with; `None` if Kiln did not write the file.
    fn checksum(&self) -> Option<Checksum> {
        Checksum::stated(&self.metadata).map(|_| Checksum::of_metadata(&self.metadata))
    }

    fn check(&self, sum: Option<Checksum>) -> Result<()> {
        let Some(sum) = sum else { return Ok(()) };
        if Checksum::stated(&self.metadata) == Some(sum.text().as_str()) {
            return Ok(());
        }
        let key = crate::checksum::KEY;
        let message = format!(
            "its contents do not match its checksum: it is damaged, or another program changed it and kept \
             the metadata key {key:?}"
        );
        Err(Error::file(self.path(), message))
    }

    /// Reads a tensor's values to the device, and calls `look` with the bytes on the way.
    fn read_tensor(&self, info: &TensorInfo, options: &LoadOptions, look: impl FnOnce(&[u8])) -> Result<Tensor> {
        let tensor = self.source.tensor(info.dtype, info.shape, options.device(), |out| {
            self.source.read_into(self.data + info.bytes.start, out)?;
            look(out);
            Ok(())
        })?;
        options.converted(tensor)
    }
}

impl std::fmt::Debug for TensorFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TensorFile").field("path", &self.path()).field("tensors", &self.tensors).finish_non_exhaustive()
    }
}

//! Reading safetensors files.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use kiln_tensor::{DType, Error, Result, Shape, StateDict, Tensor};

use crate::{LoadOptions, checksum::Checksum, map::Map, save::dtype_of};

/// Longer headers are refused, as by every reader of the format.
const MAX_HEADER: u64 = 100_000_000;

/// An open safetensors file, to look at before loading, or to load single tensors from. The file is mapped
/// into memory: what is not asked for is not read.
///
/// The file must not be changed in place by anybody while it is open: the operating system may end a
/// process whose mapped file is cut short. Files that are replaced by renaming, as Kiln does, are safe.
pub struct TensorFile {
    path: PathBuf,
    map: Map,
    /// Where the values start.
    data: usize,
    metadata: HashMap<String, String>,
    /// In the order of the values in the file.
    tensors: Vec<(String, TensorInfo)>,
    /// Where each name is among them.
    places: HashMap<String, usize>,
}

/// Dtype and shape of a tensor in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The element type.
    pub dtype: DType,
    /// The extents.
    pub shape: Shape,
    /// Where its values are, counted from the end of the header.
    bytes: std::ops::Range<usize>,
}

impl TensorFile {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// As [`load`](crate::load). The values are not looked at.
    pub fn open(path: impl AsRef<Path>) -> Result<TensorFile> {
        let path = path.as_ref();
        TensorFile::mapped(path, Map::open(path)?)
    }

    pub(crate) fn mapped(path: &Path, map: Map) -> Result<TensorFile> {
        let wrong = |message: String| Error::file(path, message);
        let header = header_of(&map).map_err(wrong)?;
        let data = 8 + header.len();
        // `Metadata` checks on its own that shapes, dtypes and offsets agree and leave no gaps; unlike
        // `SafeTensors::deserialize` it adds up no lengths that could overflow.
        let parsed: safetensors::tensor::Metadata =
            serde_json::from_slice(header).map_err(|e| wrong(format!("not a valid safetensors header: {e}")))?;
        let held = map.len() - data;
        if parsed.data_len() != held {
            let declared = parsed.data_len();
            return Err(wrong(format!("its header declares {declared} bytes of values, but it holds {held}")));
        }
        let mut tensors = Vec::new();
        for (name, info) in parsed.tensors() {
            let dtype = dtype_of(info.dtype)
                .ok_or_else(|| wrong(format!("tensor {name:?} has dtype {}, which Kiln does not have", info.dtype)))?;
            let shape = Shape::new(&info.shape).map_err(|e| wrong(format!("tensor {name:?}: {e}")))?;
            tensors.push((name, TensorInfo { dtype, shape, bytes: info.data_offsets.0..info.data_offsets.1 }));
        }
        tensors.sort_by(|(a_name, a), (b_name, b)| {
            (a.bytes.start, a.bytes.end, a_name).cmp(&(b.bytes.start, b.bytes.end, b_name))
        });
        let places = tensors.iter().enumerate().map(|(i, (name, _))| (name.clone(), i)).collect();
        let metadata = parsed.metadata().clone().unwrap_or_default();
        Ok(TensorFile { path: path.to_owned(), map, data, metadata, tensors, places })
    }

    /// The file's path, as it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The text in the file's header.
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
    /// There is none of this name, or the device is not available.
    pub fn tensor(&self, name: &str, options: impl Into<LoadOptions>) -> Result<Tensor> {
        let place = self.places.get(name).and_then(|&place| self.tensors.get(place));
        let (_, info) = place.ok_or_else(|| Error::file(&self.path, format!("it has no tensor {name:?}")))?;
        self.read(info, &options.into())
    }

    /// Loads all tensors.
    ///
    /// # Errors
    /// The device is not available.
    pub fn state_dict(&self, options: impl Into<LoadOptions>) -> Result<StateDict> {
        let options = options.into();
        self.tensors().map(|(name, info)| Ok((name.to_owned(), self.read(info, &options)?))).collect()
    }

    /// Compares the contents with the checksum that Kiln puts into its files; reads the whole file. A file
    /// without one passes.
    ///
    /// # Errors
    /// They differ.
    pub fn verify(&self) -> Result<()> {
        let Some(stated) = Checksum::stated(&self.metadata) else { return Ok(()) };
        let mut sum = Checksum::of_metadata(&self.metadata);
        for (name, info) in self.tensors() {
            sum.add(name, self.bytes(info)?);
        }
        if sum.text() == stated {
            return Ok(());
        }
        let key = crate::checksum::KEY;
        let message = format!(
            "its contents do not match its checksum: it is damaged, or another program changed it and kept \
             the metadata key {key:?}"
        );
        Err(Error::file(&self.path, message))
    }

    fn bytes(&self, info: &TensorInfo) -> Result<&[u8]> {
        let values = self.map.get(self.data..).and_then(|data| data.get(info.bytes.clone()));
        values.ok_or_else(|| Error::file(&self.path, "it is shorter than its header says"))
    }

    /// From the mapped file straight to the device.
    fn read(&self, info: &TensorInfo, options: &LoadOptions) -> Result<Tensor> {
        options.needs_no_key(&self.path)?;
        options.converted(Tensor::from_bytes(self.bytes(info)?, info.dtype, info.shape, options.device())?)
    }
}

impl std::fmt::Debug for TensorFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TensorFile").field("path", &self.path).field("tensors", &self.tensors).finish_non_exhaustive()
    }
}

/// The JSON text at the start of a file.
fn header_of(file: &[u8]) -> Result<&[u8], String> {
    let Some((length, rest)) = file.split_first_chunk::<8>() else {
        return Err(format!("not a safetensors file: it has only {} bytes", file.len()));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        return Err(format!("not a safetensors file: it starts with a header length of {length} bytes"));
    }
    let cut = || format!("its header of {length} bytes is cut off after {}", rest.len());
    usize::try_from(length).ok().and_then(|length| rest.get(..length)).ok_or_else(cut)
}

/// Whether the file begins as one of this format does.
pub(crate) fn has_header(file: &[u8]) -> bool {
    header_of(file).is_ok_and(|header| header.first() == Some(&b'{'))
}

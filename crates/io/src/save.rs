//! Writing safetensors files.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufWriter, Seek, Write},
    path::Path,
};

use kiln_backend::{Element, HostVec, dispatch_dtype};
use kiln_derive::located;
use kiln_tensor::{Error, Result, StateDict, Tensor};
use serde::{Serialize, Serializer};

use crate::{
    atomic,
    checksum::{self, Checksum},
    header::{Description, METADATA, name_of},
};

/// Text entries of a file's header, by key. Keys that start with `kiln.` are reserved for Kiln.
pub type Metadata = BTreeMap<String, String>;

/// Saves named tensors as a safetensors file, atomically: if the program is stopped at any time, the file at `path` is
/// either the old one or the new one.
///
/// The tensors are written in the order of the state dict, except that those with larger elements come first, which
/// keeps all of them aligned.
///
/// # Errors
/// If the file cannot be written, or a tensor cannot be read from its device.
#[located(site)]
pub fn save(path: impl AsRef<Path>, state: &StateDict) -> Result<()> {
    save_with_metadata(path, state, &Metadata::new())
}

/// [`save`] with text entries in the file's header.
///
/// # Errors
/// Those of [`save`]; or if a tensor has the name `__metadata__`, which the format reserves.
#[located(site)]
pub fn save_with_metadata(path: impl AsRef<Path>, state: &StateDict, metadata: &Metadata) -> Result<()> {
    save_file(path.as_ref(), state, metadata)
}

fn save_file(path: &Path, state: &StateDict, metadata: &Metadata) -> Result<()> {
    if state.contains_key(METADATA) {
        return Err(Error::argument("save", format!("a tensor cannot have the name {METADATA:?}")));
    }
    let header = Header::new(state, metadata);
    atomic::write(path, |file| header.write(file, path))
}

/// The header of the file, and the order of the values.
struct Header<'a> {
    metadata: Metadata,
    tensors: Vec<(&'a String, &'a Tensor, Description)>,
}

impl<'a> Header<'a> {
    fn new(state: &'a StateDict, metadata: &Metadata) -> Header<'a> {
        let mut tensors: Vec<_> = state.iter().collect();
        tensors.sort_by_key(|(_, tensor)| std::cmp::Reverse(tensor.dtype().size()));
        let mut end = 0;
        let mut describe = |tensor: &Tensor| {
            let start = end;
            end += tensor.numel() * tensor.dtype().size();
            Description { dtype: name_of(tensor.dtype()), shape: tensor.dims().to_vec(), data_offsets: (start, end) }
        };
        let tensors = tensors.into_iter().map(|(name, tensor)| (name, tensor, describe(tensor))).collect();
        let mut metadata = metadata.clone();
        // A placeholder: the checksum is known once all values have been written.
        metadata.insert(checksum::KEY.into(), Checksum::default().text());
        Header { metadata, tensors }
    }

    fn write(mut self, file: &mut File, path: &Path) -> Result<()> {
        let failed = |e: io::Error| Error::io(path, e);
        let mut out = BufWriter::with_capacity(1 << 20, &mut *file);
        out.write_all(&self.bytes().map_err(failed)?).map_err(failed)?;
        let mut sum = Checksum::of_metadata(&self.metadata);
        for (name, tensor, _) in &self.tensors {
            let values = to_host(tensor)?;
            sum.add(name, values.bytes());
            out.write_all(values.bytes()).map_err(failed)?;
        }
        out.flush().map_err(failed)?;
        drop(out);
        self.metadata.insert(checksum::KEY.into(), sum.text());
        file.rewind().map_err(failed)?;
        file.write_all(&self.bytes().map_err(failed)?).map_err(failed)
    }

    /// The length of the JSON text, then the text, padded with spaces so that the values are aligned.
    fn bytes(&self) -> io::Result<Vec<u8>> {
        let mut text = serde_json::to_vec(self)?;
        text.resize(text.len().next_multiple_of(8), b' ');
        let mut out = (text.len() as u64).to_le_bytes().to_vec();
        out.append(&mut text);
        Ok(out)
    }
}

impl Serialize for Header<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(untagged)]
        enum Entry<'a> {
            Metadata(&'a Metadata),
            Tensor(&'a Description),
        }
        let metadata = std::iter::once((METADATA, Entry::Metadata(&self.metadata)));
        let tensors = self.tensors.iter().map(|(name, _, info)| (name.as_str(), Entry::Tensor(info)));
        serializer.collect_map(metadata.chain(tensors))
    }
}

pub(crate) fn to_host(tensor: &Tensor) -> Result<HostVec> {
    dispatch_dtype!(tensor.dtype(), T => Ok(T::into_host(tensor.to_vec::<T>()?)))
}

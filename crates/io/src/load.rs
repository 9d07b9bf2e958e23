//! Loading named tensors from a file of any supported format.

use std::path::Path;

use kiln_derive::located;
use kiln_tensor::{Result, StateDict};

#[cfg(feature = "pth")]
use crate::pth::PthFile;
use crate::{format::Format, load_options::LoadOptions, sharded::ShardedFile, source::Source, tensor_file::TensorFile};

/// Loads named tensors from a file of any name. The contents determine its format:
///
/// - a safetensors file, of Kiln ([`save`](crate::save), [`save_model`](crate::save_model)) or of another program
///   ([`TensorFile`]);
/// - the index of a model in several safetensors files, `model.safetensors.index.json` ([`ShardedFile`]);
/// - a file of PyTorch's `torch.save`, `.pth` or `.pt`, of either format ([`PthFile`]), with the feature `pth`.
///
/// Each tensor goes from the file to the device by itself, so that a model larger than the host's memory can be
/// loaded. A checksum is verified where the file has one. Batch normalization layers that were saved without
/// `num_batches_tracked` get the value 0, as in PyTorch, so that the state dict loads strictly.
///
/// ```
/// # use kiln_tensor::{DType, Device, StateDict, Tensor};
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("model.safetensors");
/// # kiln_io::save(&path, &StateDict::from([("module.w".to_owned(), Tensor::ones([2], Device::Cpu)?)]))?;
/// use kiln_io::LoadOptions;
/// let state = kiln_io::load(&path, Device::Cpu)?;
/// let halves = kiln_io::load(&path, LoadOptions::new(Device::Cpu).dtype(DType::BF16).strip_prefix("module."))?;
/// assert_eq!(halves["w"].dtype(), DType::BF16);
/// # Ok::<(), kiln_tensor::Error>(())
/// ```
///
/// # Files that change
///
/// Files are read, not memory-mapped, so that no change of a file can kill the process. Replacing a file by renaming,
/// as Kiln does, disturbs no reader. If another program overwrites or truncates the file while it is being loaded, that
/// is an error: detected by the checksum where there is one, else by the file's length and modification time. One case
/// remains: a file without a checksum that is overwritten within one tick of the file system's clock after it was
/// opened (a few milliseconds on Linux) may give a mixture of old and new values.
///
/// # Errors
/// [`ErrorKind::Io`](kiln_tensor::ErrorKind::Io) or [`ErrorKind::File`](kiln_tensor::ErrorKind::File), both with the
/// path, if the file cannot be read, has no known format, is damaged, takes more memory than
/// [`LoadOptions::memory_limit`] allows, or holds a tensor that Kiln cannot represent;
/// [`ErrorKind::OutOfMemory`](kiln_tensor::ErrorKind::OutOfMemory) if memory runs out; or if the device is not
/// available.
#[located(site)]
pub fn load(path: impl AsRef<Path>, options: impl Into<LoadOptions>) -> Result<StateDict> {
    load_file(path.as_ref(), options.into())
}

/// [`load`], compiled once for all types of paths and options.
fn load_file(path: &Path, options: LoadOptions) -> Result<StateDict> {
    let source = Source::open(path)?;
    match Format::of(&source)? {
        Format::Zip | Format::Legacy => load_pth(source, options),
        Format::Index => {
            options.needs_no_key(path)?;
            ShardedFile::read(&source, &options)?.state_dict(options)
        }
        Format::Safetensors => {
            options.needs_no_key(path)?;
            TensorFile::read(source, &options)?.state_dict(options)
        }
    }
}

#[cfg(feature = "pth")]
fn load_pth(source: Source, options: LoadOptions) -> Result<StateDict> {
    PthFile::read(source, &options)?.state_dict(options)
}

#[cfg(not(feature = "pth"))]
fn load_pth(source: Source, _: LoadOptions) -> Result<StateDict> {
    let message = "files of torch.save can only be loaded if Kiln is built with its feature `pth`";
    Err(kiln_tensor::Error::file(source.path(), message))
}

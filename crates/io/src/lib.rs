//! Saving and loading: state dicts as [safetensors](https://huggingface.co/docs/safetensors) files, training
//! [checkpoints](Checkpoint), [whole models](save_model), [files of PyTorch](PthFile), and export to [`onnx`].
//!
//! ```
//! # use kiln_tensor::{Device, StateDict, Tensor};
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("model.safetensors");
//! let state: StateDict = [("weight".to_owned(), Tensor::ones([2, 3], Device::Cpu)?)].into();
//! kiln_io::save(&path, &state)?;
//! let back = kiln_io::load(&path, Device::Cpu)?;
//! assert_eq!(back.keys().collect::<Vec<_>>(), ["weight"]);
//! # Ok::<(), kiln_tensor::Error>(())
//! ```
//!
//! [`load_npy`] and its kin, for NumPy's files, need the feature `npy`; [`PthFile`] and loading files of PyTorch need `pth`, [`onnx`] needs `onnx`, and the feature `download` lets
//! [`hub`] fetch weights.
//!
//! A file is written under a temporary name and renamed when it is complete: a program that is stopped at any
//! moment leaves either the old file or the new one ([`atomic`]). For a damaged file, loading returns an error that
//! names it.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

pub mod atomic;
mod budget;
mod checkpoint;
mod checksum;
mod format;
mod header;
pub mod hub;
mod load;
mod load_options;
mod model;
mod names;
#[cfg(feature = "npy")]
mod npy;
#[cfg(feature = "onnx")]
pub mod onnx;
#[cfg(feature = "pth")]
mod pth;
mod save;
mod sharded;
mod source;
mod tensor_file;
#[cfg(any(feature = "npy", feature = "pth"))]
mod zip;

#[cfg(target_endian = "big")]
compile_error!("safetensors files are little-endian, and kiln-io copies their bytes as they are");

pub use checkpoint::Checkpoint;
pub use header::TensorInfo;
pub use load::load;
pub use load_options::LoadOptions;
pub use model::{load_model, load_model_with, registry, save_model};
#[cfg(feature = "npy")]
pub use npy::{load_npy, load_npz, save_npy, save_npz, save_npz_compressed};
#[cfg(feature = "pth")]
pub use pth::{PthDict, PthFile, PthObject, PthTensor, PthValue};
pub use save::{Metadata, save, save_with_metadata};
pub use sharded::ShardedFile;
pub use tensor_file::TensorFile;

//! Datasets, the order in which they are read, and loaders that make batches of them.
//!
//! ```
//! use kiln_data::{DataLoader, TensorDataset};
//! use kiln_tensor::{Device, Tensor};
//!
//! let x = Tensor::from_vec((0..20).map(|v| v as f32).collect(), [10, 2], Device::Cpu)?;
//! let y = Tensor::from_vec((0..10i64).collect(), 10, Device::Cpu)?;
//! let loader = DataLoader::builder(TensorDataset::new((x, y))?).batch_size(4).shuffle(true).seed(42).build()?;
//! for batch in &loader {
//!     let (x, y) = batch?;
//!     assert_eq!(x.dims()[0], y.dims()[0]);
//! }
//! # Ok::<(), kiln_tensor::Error>(())
//! ```
//!
//! Image files ([`ImageFolder`], [`Image::open`](transforms::Image::open), [`Resize`](transforms::Resize)) need the feature
//! `images`; the data sets with files of their own formats, MNIST's family and CIFAR, do not.
//!
//! Names follow `torch.utils.data` and `torchvision.datasets`; [`transforms`] are those of `torchvision.transforms`.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

mod cifar;
mod collate;
mod dataset;
mod epoch;
#[cfg(feature = "images")]
mod folder;
mod image;
mod loader;
mod memory;
mod mnist;
mod random;
mod sampler;
mod to_device;
pub mod transforms;
mod user_dir;

pub use cifar::{CIFAR10, CIFAR100, CifarBuilder, CifarKind, CifarLike, Hundred, Ten};
pub use collate::{ChannelsLast, Collate};
pub use dataset::{
    ConcatDataset, Dataset, DatasetExt, Fold, Map, Samples, Split, Subset, TensorDataset, TensorTuple,
    WithTargetTransform, WithTransform, k_fold, random_split, stratified_k_fold, stratified_split,
};
pub use epoch::{Epoch, RandomStream};
#[cfg(feature = "images")]
pub use folder::ImageFolder;
#[doc(hidden)]
pub use loader::clock;
pub use loader::{
    Collator, DataLoader, DataLoaderBuilder, DefaultCollate, FnCollate, LoaderIter, LoaderState, MapBatches, OnDevice,
    Progress, ProgressDisplay,
};
pub use mnist::{
    Digits, Fashion, FashionMNIST, KMNIST, Kuzushiji, MNIST, MnistBuilder, MnistKind, MnistLike, Origin, idx,
};
pub use sampler::{
    BatchSampler, Batches, DistributedSampler, RandomSampler, Sampler, SequentialSampler, SubsetRandomSampler,
    WeightedRandomSampler,
};
pub use to_device::ToDevice;

//! Visualization: grids of labeled images, curves of training runs, and event files for TensorBoard.
//!
//! ```
//! use kiln_data::{Dataset, FashionMNIST, transforms::{ToImage, Transform}};
//! use kiln_vis::ImageGrid;
//!
//! // The figure of PyTorch's data tutorial: nine labeled samples.
//! let data = FashionMNIST::test().load()?;
//! let mut figure = ImageGrid::new(3);
//! for index in 0..9 {
//!     let (image, label) = data.get(index)?;
//!     figure.push(ToImage.apply(image)?, data.classes()[label as usize]);
//! }
//! figure.save(std::env::temp_dir().join("samples.png"))?;
//! # Ok::<(), kiln_tensor::Error>(())
//! ```
//!
//! `SummaryWriter`, which writes the event files, needs the feature `tensorboard`.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

mod canvas;
mod curves;
mod grid;
#[cfg(feature = "tensorboard")]
mod tensorboard;

pub use curves::{Curves, Panel, running_mean};
pub use grid::{ImageGrid, save_image_grid};
#[cfg(feature = "tensorboard")]
pub use tensorboard::{HyperParameter, SummaryWriter, events};

//! Ready-made models.

#![forbid(unsafe_code)]

mod lenet;
mod mlp;
mod vgg;

pub use lenet::LeNet;
pub use mlp::Mlp;
pub use vgg::{Vgg, VggDepth, VggOptions, vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn};

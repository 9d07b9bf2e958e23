//! Ready-made models.

#![forbid(unsafe_code)]

mod imagenet;
mod lenet;
mod mlp;
mod vgg;

use kiln_nn::saved::Registry;

pub use imagenet::IMAGENET_CLASSES;
pub use lenet::LeNet;
pub use mlp::Mlp;
pub use vgg::{Vgg, VggDepth, VggOptions, vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn};

/// The layers of `kiln-nn` and the models of this crate, for files that hold whole models.
#[must_use]
pub fn registry() -> Registry {
    Registry::new().with::<LeNet>().with::<Mlp>().with::<Vgg>()
}

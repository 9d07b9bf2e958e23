//! The layers. Each prints as PyTorch's layer of the same name.

mod activation;
mod dropout;
mod linear;
mod sequential;
mod shape;

pub use activation::{GELU, LogSoftmax, ReLU, Sigmoid, Softmax, Tanh};
pub use dropout::Dropout;
pub use linear::{Linear, LinearOptions};
pub use sequential::Sequential;
pub use shape::{Flatten, Identity};

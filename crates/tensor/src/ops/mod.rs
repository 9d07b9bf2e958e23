//! The operations. An element-wise one is a line of a table (`kiln_backend::unary_table!`,
//! `binary_table!`); a structured one has a file here with its docs, shape rule, forward call and gradient.

mod binary;
mod cast;
mod check;
mod class_loss;
mod dropout;
mod inplace;
mod matmul;
mod optimizer;
mod pointwise_loss;
mod reduce;
mod rhs;
mod select;
mod softmax;
mod sort;
mod unary;
mod view;

pub use optimizer::{OptimTensors, optimizer_step};
pub use rhs::Rhs;

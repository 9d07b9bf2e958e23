//! The operations. An element-wise one is a line of a table (`kiln_backend::unary_table!`,
//! `binary_table!`); a structured one has a file here with its docs, shape rule, forward call and gradient.

mod activation;
mod binary;
mod cast;
mod check;
mod clamp;
mod class_loss;
mod cumsum;
mod draw;
mod dropout;
mod einsum;
mod extreme;
mod gather;
mod index;
mod inplace;
mod join;
mod mask;
mod matmul;
mod norm;
mod one_hot;
mod optimizer;
mod pointwise_loss;
mod predicates;
mod products;
mod rearrange;
mod reduce;
mod reorder;
mod rhs;
mod scatter;
mod searchsorted;
mod select;
mod softmax;
mod sort;
mod split;
mod triangle;
mod unary;
mod view;

pub use extreme::OneOrAll;
pub use index::{At, Ellipsis, IndexItem, Indexer, NewAxis, step};
pub use optimizer::{OptimTensors, optimizer_step};
pub use rhs::Rhs;
pub use split::SplitSizes;

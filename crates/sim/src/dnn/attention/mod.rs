//! Scaled dot-product attention and its gradient: graphs of products and element-wise operations that the library computes
//! without a matrix of scores in memory.
pub mod compute;
mod pattern;
pub mod problem;
pub mod work;

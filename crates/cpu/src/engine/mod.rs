//! The loops of the operations: walks over strided layouts (`iter`, `lines`, `image`), the element-wise engine
//! (`elementwise`, on `reader`, `writer` and `tile`), reductions in a fixed order (`fold`), work divided among threads
//! (`par`, `team`), loops compiled for several instruction sets (`simd`), the choice among these (`level`), and how large
//! a cache is (`cache`).

pub(crate) mod cache;
pub(crate) mod elementwise;
pub(crate) mod fold;
pub(crate) mod image;
pub(crate) mod iter;
pub(crate) mod level;
pub(crate) mod lines;
pub(crate) mod par;
pub(crate) mod reader;
pub(crate) mod simd;
pub(crate) mod team;
pub(crate) mod tile;
pub(crate) mod writer;

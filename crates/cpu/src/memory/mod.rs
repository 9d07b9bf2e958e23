//! Memory: the caching allocator, the buffers of tensors, and views checked against them.

pub(crate) mod allocator;
pub(crate) mod buffer;
pub(crate) mod erased;
pub(crate) mod view;

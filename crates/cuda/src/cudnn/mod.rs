//! cuDNN's graph API, for convolutions (`conv`) and attention: `descriptor` wraps the library's descriptors, `plan` its proposals
//! for a graph, and `handle` is what plans are executed with.

pub(crate) mod descriptor;
pub(crate) mod handle;
pub(crate) mod plan;

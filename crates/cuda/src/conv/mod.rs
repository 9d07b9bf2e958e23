//! Convolutions by cuDNN's graph API: from layouts to problems that the library takes (`problem`), to an operation
//! graph (`graph`), to its plans (`plan`), and the cached plans of a device (`dnn`). `descriptor` wraps the library's
//! descriptors.

pub(crate) mod descriptor;
pub(crate) mod dnn;
mod graph;
pub(crate) mod plan;
pub(crate) mod problem;

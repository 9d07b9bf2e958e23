//! Convolutions by cuDNN's graph API: from layouts to problems that the library takes (`problem`), to an operation
//! graph (`graph`), and the cached plans of a device (`dnn`).

pub(crate) mod dnn;
mod graph;
pub(crate) mod problem;

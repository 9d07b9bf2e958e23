//! Convolutions by cuDNN's graph API: from layouts to problems that the library takes (`problem`), to an operation
//! graph (`graph`), the cached plans of a device (`dnn`), and which problems are padded (`padded_channels`).

pub(crate) mod dnn;
mod graph;
pub(crate) mod padded_channels;
pub(crate) mod problem;

//! Convolutions by cuDNN's graph API: from layouts to what the library takes (`problem`), from there to an operation graph
//! (`graph`) and its plans (`plan`), and the plans of a device (`dnn`). `descriptor` wraps the library's.

pub(crate) mod described;
mod descriptor;
pub(crate) mod dnn;
mod graph;
mod plan;
pub(crate) mod problem;

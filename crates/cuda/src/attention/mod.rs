//! Attention by cuDNN's graph API, without a matrix of scores in memory: from operands to problems that the library takes
//! (`problem`), to an operation graph (`graph`), and the plans of a device (`plans`).

pub(crate) mod graph;
pub(crate) mod plans;
pub(crate) mod problem;

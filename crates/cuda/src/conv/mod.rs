//! Convolutions for cuDNN: from layouts to what the library takes (`problem`), and its calls (`dnn`).

pub(crate) mod dnn;
pub(crate) mod problem;

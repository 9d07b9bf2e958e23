//! Creating tensors: constants, sequences, random numbers, and host data.

mod extents;
mod fill;
mod host;
mod options;
mod random;
mod triangles;
mod windows;

pub use extents::{ExtentList, Extents};
pub use host::Nested;
pub use options::TensorOptions;
pub(crate) use random::advance_random_state;
pub(crate) use random::take;
pub use random::{manual_seed, random_state, set_random_state, take_random_seed};
pub use windows::WindowFunction;

//! Python's pickles as data: read, never run.
//!
//! A pickle is a program for a small stack machine that may import and call anything. This reader follows the
//! program but calls nothing: where Python would import a class or call a function, a [`Node`] says which one
//! and with what arguments, and only if the caller allows that name. Any other class, and any opcode that
//! needs what is not in the pickle, is an error that names it. All protocols (0 to 5) are read
//! (<https://docs.python.org/3/library/pickletools.html>).
//!
//! ```
//! // pickle.dumps({"labels": [1, 2]}, protocol=2)
//! let bytes = b"\x80\x02}q\x00X\x06\x00\x00\x00labelsq\x01]q\x02(K\x01K\x02es.";
//! let pickle = kiln_pickle::load(bytes, &|_module, _name| false)?;
//! let labels = pickle.root().get("labels").unwrap();
//! assert_eq!(labels.items().unwrap().map(|x| x.int().unwrap()).collect::<Vec<_>>(), [1, 2]);
//! # Ok::<(), kiln_pickle::Error>(())
//! ```
//!
//! Hostile bytes give an error. Memory stays within a limit ([`load_within`]; strings are borrowed from the input), an
//! allocation that fails is an error, and nothing recurses. A pickle can refer to one value from many places and even to
//! itself: who walks it must bound the walk.

#![forbid(unsafe_code)]

mod machine;
mod memo;
mod meter;
mod numpy;
mod opcode;
mod read;
mod text;
mod value;

pub use machine::{default_memory_limit, load, load_within};
pub use numpy::{NUMPY, NumpyArray};
pub use value::{Id, Node, Object, Pickle, Value};

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a pickle was refused. `at` counts bytes from its start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the fields are what the messages say
pub enum Error {
    #[error("the pickle is cut off at byte {at}")]
    Cut { at: usize },
    #[error("the pickle has the opcode {code:#04x} at byte {at}, which plain data does not need; it is not followed")]
    Opcode { code: u8, at: usize },
    #[error(
        "the pickle needs the Python class or function {module}.{name} (byte {at}), which is not plain data; nothing is ever run"
    )]
    Class { module: String, name: String, at: usize },
    #[error("the pickle is malformed at byte {at}: {what}")]
    Malformed { at: usize, what: String },
    #[error("reading the pickle takes more than {limit} bytes of memory")]
    MemoryLimit { limit: usize },
    #[error("out of memory: {bytes} bytes requested")]
    OutOfMemory { bytes: usize },
}

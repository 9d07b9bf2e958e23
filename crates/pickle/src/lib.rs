//! Reads Python's pickles as data, without running them.
//!
//! A pickle is a program for a small stack machine that may import and call anything. This reader interprets the
//! program but calls nothing: where Python would import a class or call a function, the result has a [`Node`] with its
//! name and arguments, and only if the caller allows that name. Any other class, and any opcode that needs something
//! outside the pickle, is an error that names it. All protocols (0 to 5) are supported
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
//! Malicious bytes give an error. Memory stays within a limit ([`load_within`]; strings are borrowed from the input), a
//! failed allocation is an error, and nothing recurses. A pickle can refer to one value from many places, and values
//! can contain themselves: a traversal must be bounded by the caller.

#![forbid(unsafe_code)]

mod error;
mod machine;
mod memo;
mod meter;
mod numpy;
mod opcode;
mod read;
mod text;
mod value;

pub use error::{Error, Result};
pub use machine::{default_memory_limit, load, load_within};
pub use numpy::{NUMPY, NumpyArray};
pub use value::{Id, Node, Object, Pickle, Value};

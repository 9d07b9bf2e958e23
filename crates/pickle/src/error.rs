//! The error of a pickle that was refused.

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a pickle was refused. `at` counts bytes from its start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the fields are what the messages say
pub enum Error {
    #[error("the pickle is cut off at byte {at}")]
    Cut { at: usize },
    #[error("the pickle has the opcode {code:#04x} at byte {at}, which plain data does not need; it is not executed")]
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

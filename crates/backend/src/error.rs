//! The one error type of Kiln.

use std::{fmt, path::PathBuf};

use crate::{DType, Shape};

/// `Result` with Kiln's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong. One pointer wide, so that `Result<Tensor>` stays small; [`kind`](Error::kind) gives the
/// details to match on.
pub struct Error(Box<ErrorKind>);

/// The cases of [`Error`]. `op` is the operation's name as the user called it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the fields are what the messages say
pub enum ErrorKind {
    #[error("{op}: shapes {lhs} and {rhs} do not broadcast; aligned at the right, extents must be equal or 1")]
    Broadcast { op: &'static str, lhs: Shape, rhs: Shape },
    #[error("{op}: shapes {lhs} and {rhs} do not fit: {expected}")]
    ShapeMismatch { op: &'static str, lhs: Shape, rhs: Shape, expected: String },
    #[error("{op}: expected {expected}, got a tensor of shape {got}")]
    Shape { op: &'static str, expected: String, got: Shape },
    #[error("{op}: dimension {dim} is out of range for a tensor with {rank} dimensions")]
    DimOutOfRange { op: &'static str, dim: i64, rank: usize },
    #[error("{op}: index {index} is out of range for {what} of size {size}")]
    IndexOutOfRange { op: &'static str, index: i64, size: usize, what: String },
    #[error("{op}: operands have different dtypes, {lhs} and {rhs}; convert one with `to_dtype`")]
    DTypeMismatch { op: &'static str, lhs: DType, rhs: DType },
    #[error("{op}: dtype {dtype} is not supported; {expected}")]
    DType { op: &'static str, dtype: DType, expected: String },
    #[error("{op}: operands are on different devices, {lhs} and {rhs}; move one with `to_device`")]
    DeviceMismatch { op: &'static str, lhs: String, rhs: String },
    #[error("{op}: {message}")]
    Argument { op: &'static str, message: String },
    #[error("{op}: {message}")]
    Autograd { op: String, message: String },
    #[error("{op}: {device} cannot do this: {reason}")]
    Unsupported { op: &'static str, device: String, reason: String },
    #[error("device {device} is not available: {reason}")]
    DeviceUnavailable { device: String, reason: String },
    #[error("out of memory on {device}: {requested} bytes asked for; {detail}")]
    OutOfMemory { device: String, requested: usize, detail: String },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{}: {message}", path.display())]
    File { path: PathBuf, message: String },
    #[error("{message}")]
    StateDict { missing: Vec<String>, unexpected: Vec<String>, message: String },
    #[error("{0}")]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// The case and its details.
    #[must_use]
    pub fn kind(&self) -> &ErrorKind {
        &self.0
    }

    /// Shapes that do not broadcast.
    #[must_use]
    pub fn broadcast(op: &'static str, lhs: &Shape, rhs: &Shape) -> Error {
        ErrorKind::Broadcast { op, lhs: *lhs, rhs: *rhs }.into()
    }

    /// Two shapes that do not fit together; `expected` says the rule.
    #[must_use]
    pub fn shapes(op: &'static str, lhs: &Shape, rhs: &Shape, expected: impl Into<String>) -> Error {
        ErrorKind::ShapeMismatch { op, lhs: *lhs, rhs: *rhs, expected: expected.into() }.into()
    }

    /// A shape that the operation does not take; `expected` says which it takes.
    #[must_use]
    pub fn shape(op: &'static str, expected: impl Into<String>, got: &Shape) -> Error {
        ErrorKind::Shape { op, expected: expected.into(), got: *got }.into()
    }

    /// A dimension that the tensor does not have.
    #[must_use]
    pub fn dim(op: &'static str, dim: i64, rank: usize) -> Error {
        ErrorKind::DimOutOfRange { op, dim, rank }.into()
    }

    /// An index past the end of `what` (e.g. `"dimension 1"`, `"the 10 classes"`).
    #[must_use]
    pub fn index(op: &'static str, index: i64, size: usize, what: impl Into<String>) -> Error {
        ErrorKind::IndexOutOfRange { op, index, size, what: what.into() }.into()
    }

    /// Operands of different element types.
    #[must_use]
    pub fn dtypes(op: &'static str, lhs: DType, rhs: DType) -> Error {
        ErrorKind::DTypeMismatch { op, lhs, rhs }.into()
    }

    /// An element type that the operation does not take; `expected` says which it takes.
    #[must_use]
    pub fn dtype(op: &'static str, dtype: DType, expected: impl Into<String>) -> Error {
        ErrorKind::DType { op, dtype, expected: expected.into() }.into()
    }

    /// Operands on different devices.
    #[must_use]
    pub fn devices(op: &'static str, lhs: impl fmt::Display, rhs: impl fmt::Display) -> Error {
        ErrorKind::DeviceMismatch { op, lhs: lhs.to_string(), rhs: rhs.to_string() }.into()
    }

    /// An operation that a device has no implementation of, or lacks a library for.
    #[must_use]
    pub fn unsupported(op: &'static str, device: impl fmt::Display, reason: impl Into<String>) -> Error {
        ErrorKind::Unsupported { op, device: device.to_string(), reason: reason.into() }.into()
    }

    /// Any other argument that the operation does not take.
    #[must_use]
    pub fn argument(op: &'static str, message: impl Into<String>) -> Error {
        ErrorKind::Argument { op, message: message.into() }.into()
    }

    /// A misuse of autograd, e.g. a second backward on a freed graph.
    #[must_use]
    pub fn autograd(op: impl Into<String>, message: impl Into<String>) -> Error {
        ErrorKind::Autograd { op: op.into(), message: message.into() }.into()
    }

    /// A failure of the operating system on a file.
    #[must_use]
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Error {
        ErrorKind::Io { path: path.into(), source }.into()
    }

    /// A file whose contents are not what they should be.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>, message: impl Into<String>) -> Error {
        ErrorKind::File { path: path.into(), message: message.into() }.into()
    }

    /// Any other error, e.g. one from a user's own dataset or autograd function.
    #[must_use]
    pub fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        ErrorKind::Other(error.into()).into()
    }
}

impl From<ErrorKind> for Error {
    fn from(kind: ErrorKind) -> Error {
        Error(Box::new(kind))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The same text as `Display`: what `unwrap` and `main() -> Result<()>` print should be readable.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &*self.0 {
            ErrorKind::Io { source, .. } => Some(source),
            ErrorKind::Other(error) => Some(&**error),
            _ => None,
        }
    }
}

//! Kiln's error type: what failed, with which shapes and dtypes, and on which line of the user's program.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    fmt,
    panic::Location,
    path::PathBuf,
};

use crate::{dtype::DType, shape::Shape};

/// `Result` with Kiln's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, and where. One pointer wide, so that `Result<Tensor>` stays small.
///
/// `Display` is the message, in one line. `Debug`, which `fn main() -> kiln::Result<()>` and `unwrap` print, adds the line
/// of the program that called Kiln, the layer that failed, and a backtrace if `RUST_BACKTRACE` asks for one:
///
/// ```text
/// Error: conv2d: shapes [8, 28, 28] and [6, 1, 5, 5] do not fit: …
///   in features.0: Conv2d(1, 6, kernel_size=(5, 5), stride=(1, 1))
///   at src/main.rs:42:26
///      let x = self.features.forward(x)?;
/// ```
pub struct Error(Box<Details>);

struct Details {
    kind: ErrorKind,
    /// The line that called the outermost Kiln function that the error has left so far.
    location: Option<&'static Location<'static>>,
    /// Whether the message names the public function that failed, so that a public function that called it can put its
    /// own name.
    names_function: bool,
    layer: Option<FailedLayer>,
    sample: Option<FailedSample>,
    backtrace: Backtrace,
}

/// The sample of a dataset that could not be read or transformed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FailedSample {
    /// Its index and the name of its dataset, if they are known.
    pub of: Option<(usize, String)>,
    /// The transform that failed, if one did.
    pub transform: Option<String>,
}

impl fmt::Display for FailedSample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        if let Some((index, dataset)) = &self.of {
            write!(f, "sample {index} of {dataset}")?;
            separator = ", ";
        }
        match &self.transform {
            Some(transform) => write!(f, "{separator}transform {transform}"),
            None => Ok(()),
        }
    }
}

/// The layer of a model in which an error arose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedLayer {
    /// Its path in the model, as in parameter names (`features.3`); empty if unknown.
    pub path: String,
    /// Whether the path begins at the model, or at a container whose own path is not known.
    pub is_whole_path: bool,
    /// How the layer prints: `Conv2d(1, 6, kernel_size=(5, 5), stride=(1, 1))`.
    pub description: String,
}

impl fmt::Display for FailedLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.description)
        } else {
            write!(f, "{}: {}", self.path, self.description)
        }
    }
}

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
    /// A matrix that has no such inverse, factorization or solution.
    #[error("{op}: {message}")]
    LinAlg { op: &'static str, message: String },
    #[error("{op}: {message}")]
    Autograd { op: String, message: String },
    #[error("{op}: {device} cannot do this: {reason}")]
    Unsupported { op: &'static str, device: String, reason: String },
    /// Found by anomaly mode: `op` is the operation that the user called, or the node of the tape whose rule ran.
    #[error("{op}: {message}")]
    Anomaly { op: String, message: String },
    /// The work of a thread was being captured, to be launched again and again.
    #[error("{op}: cannot be captured: {reason}")]
    Capture { op: &'static str, reason: String },
    #[error("device {device} is not available: {reason}")]
    DeviceUnavailable { device: String, reason: String },
    /// `requested` is 0 if Kiln did not make the request: a library or a driver needs memory of its own.
    #[error("out of memory on {device}: {}{detail}", asked_for(*requested))]
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
    /// The kind of error, with its details.
    #[must_use]
    pub fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// The line of the program that called Kiln, if the error has left a function that records it. If a module of the
    /// program failed inside a Kiln container, it is the line in that module.
    #[must_use]
    pub fn location(&self) -> Option<&'static Location<'static>> {
        self.0.location
    }

    /// The innermost layer of Kiln that failed, if one did.
    #[must_use]
    pub fn layer(&self) -> Option<&FailedLayer> {
        self.0.layer.as_ref()
    }

    /// Where the error arose, captured if `RUST_BACKTRACE` or `RUST_LIB_BACKTRACE` asked for it.
    pub fn backtrace(&self) -> &Backtrace {
        &self.0.backtrace
    }

    /// Called as the error leaves a public function (`#[located]`), which `caller` called. `file` is where the function
    /// is defined, so that lines outside Kiln replace lines inside it. If `operation` failed because a public function
    /// that it calls failed, the message names `operation`.
    #[doc(hidden)]
    #[must_use]
    pub fn called_from(
        mut self,
        caller: &'static Location<'static>,
        file: &str,
        operation: Option<&'static str>,
    ) -> Error {
        let details = &mut *self.0;
        match details.location {
            Some(location) if !same_crate(location.file(), file) => {}
            Some(_) => {
                details.location = Some(caller);
                if let (true, Some(operation)) = (details.names_function, operation) {
                    details.kind.set_operation(operation);
                }
            }
            None => {
                details.location = Some(caller);
                details.names_function = operation.is_some() && details.kind.operation() == operation;
            }
        }
        self
    }

    /// For operations that run on another view of the user's tensor: where the error names the view's shape, it now
    /// names the tensor's.
    #[doc(hidden)]
    #[must_use]
    pub fn with_shape(mut self, view: &Shape, tensor: &Shape) -> Error {
        let shapes = match &mut self.0.kind {
            ErrorKind::Broadcast { lhs, rhs, .. } | ErrorKind::ShapeMismatch { lhs, rhs, .. } => [Some(lhs), Some(rhs)],
            ErrorKind::Shape { got, .. } => [Some(got), None],
            _ => [None, None],
        };
        for shape in shapes.into_iter().flatten().filter(|shape| *shape == view) {
            *shape = *tensor;
        }
        self
    }

    /// Called as the error leaves a layer: records the layer, unless one inside it is recorded already.
    #[doc(hidden)]
    #[must_use]
    pub fn in_layer(mut self, layer: impl FnOnce() -> FailedLayer) -> Error {
        self.0.layer.get_or_insert_with(layer);
        self
    }

    /// Called as the error leaves a container of layers: completes the path of the recorded layer. `container` is the
    /// container's own path, if known.
    #[doc(hidden)]
    #[must_use]
    pub fn in_container(mut self, child: &str, container: Option<&str>) -> Error {
        if let Some(layer) = self.0.layer.as_mut().filter(|layer| !layer.is_whole_path) {
            let parts = [container.unwrap_or(""), child, &layer.path];
            layer.path = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(".");
            layer.is_whole_path = container.is_some();
        }
        self
    }

    /// The sample of a dataset that failed, if one did. The message names it as well.
    #[must_use]
    pub fn sample(&self) -> Option<&FailedSample> {
        self.0.sample.as_ref()
    }

    /// Called as the error leaves a dataset: records the sample, unless that of an inner dataset is recorded already.
    #[doc(hidden)]
    #[must_use]
    pub fn in_sample(mut self, index: usize, dataset: impl FnOnce() -> String) -> Error {
        self.0.sample.get_or_insert_default().of.get_or_insert_with(|| (index, dataset()));
        self
    }

    /// Called as the error leaves a transform: records its name, unless that of an inner transform is recorded already.
    #[doc(hidden)]
    #[must_use]
    pub fn in_transform(mut self, transform: impl FnOnce() -> String) -> Error {
        self.0.sample.get_or_insert_default().transform.get_or_insert_with(transform);
        self
    }

    /// The same error with another operation's name: the one that the user called, where a primitive of another name
    /// does its work.
    #[must_use]
    pub fn of_op(mut self, name: &'static str) -> Error {
        self.0.kind.set_operation(name);
        self
    }

    /// Shapes that do not broadcast.
    #[must_use]
    pub fn broadcast(op: &'static str, lhs: &Shape, rhs: &Shape) -> Error {
        ErrorKind::Broadcast { op, lhs: *lhs, rhs: *rhs }.into()
    }

    /// Two shapes that do not fit together; `expected` states the rule.
    #[must_use]
    pub fn shapes(op: &'static str, lhs: &Shape, rhs: &Shape, expected: impl Into<String>) -> Error {
        ErrorKind::ShapeMismatch { op, lhs: *lhs, rhs: *rhs, expected: expected.into() }.into()
    }

    /// A shape that the operation does not take; `expected` states which it takes.
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

    /// A dtype that the operation does not take; `expected` states which it takes.
    #[must_use]
    pub fn dtype(op: &'static str, dtype: DType, expected: impl Into<String>) -> Error {
        ErrorKind::DType { op, dtype, expected: expected.into() }.into()
    }

    /// Operands on different devices.
    #[must_use]
    pub fn devices(op: &'static str, lhs: impl fmt::Display, rhs: impl fmt::Display) -> Error {
        ErrorKind::DeviceMismatch { op, lhs: lhs.to_string(), rhs: rhs.to_string() }.into()
    }

    /// An operation that a device does not implement, or lacks a library for.
    #[must_use]
    pub fn unsupported(op: &'static str, device: impl fmt::Display, reason: impl Into<String>) -> Error {
        ErrorKind::Unsupported { op, device: device.to_string(), reason: reason.into() }.into()
    }

    /// Any other argument that the operation does not take.
    #[must_use]
    pub fn argument(op: &'static str, message: impl Into<String>) -> Error {
        ErrorKind::Argument { op, message: message.into() }.into()
    }

    /// A matrix that has no such inverse, factorization or solution.
    #[must_use]
    pub fn linalg(op: &'static str, message: impl Into<String>) -> Error {
        ErrorKind::LinAlg { op, message: message.into() }.into()
    }

    /// A misuse of autograd, e.g. a second backward on a freed graph.
    #[must_use]
    pub fn autograd(op: impl Into<String>, message: impl Into<String>) -> Error {
        ErrorKind::Autograd { op: op.into(), message: message.into() }.into()
    }

    /// An operating-system error on a file.
    #[must_use]
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Error {
        ErrorKind::Io { path: path.into(), source }.into()
    }

    /// A file with invalid contents.
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

/// The pattern of the kinds that have the name of an operation, all but `Autograd`, whose name may be a user's.
macro_rules! of_operation {
    ($op:ident) => {
        ErrorKind::Broadcast { op: $op, .. }
            | ErrorKind::ShapeMismatch { op: $op, .. }
            | ErrorKind::Shape { op: $op, .. }
            | ErrorKind::DimOutOfRange { op: $op, .. }
            | ErrorKind::IndexOutOfRange { op: $op, .. }
            | ErrorKind::DTypeMismatch { op: $op, .. }
            | ErrorKind::DType { op: $op, .. }
            | ErrorKind::DeviceMismatch { op: $op, .. }
            | ErrorKind::Argument { op: $op, .. }
            | ErrorKind::LinAlg { op: $op, .. }
            | ErrorKind::Capture { op: $op, .. }
            | ErrorKind::Unsupported { op: $op, .. }
    };
}

impl ErrorKind {
    /// The name of the operation, for the kinds that have one.
    fn operation(&self) -> Option<&str> {
        match self {
            of_operation!(op) => Some(op),
            ErrorKind::Autograd { op, .. } => Some(op),
            _ => None,
        }
    }

    fn set_operation(&mut self, name: &'static str) {
        match self {
            of_operation!(op) => *op = name,
            ErrorKind::Autograd { op, .. } => *op = name.into(),
            _ => {}
        }
    }
}

/// The start of the message of [`ErrorKind::OutOfMemory`].
fn asked_for(requested: usize) -> String {
    if requested == 0 { String::new() } else { format!("{requested} bytes requested; ") }
}

/// Whether two source files belong to the same crate: they are below the same `src` folder.
pub(crate) fn same_crate(a: &str, b: &str) -> bool {
    fn root(file: &str) -> Option<&str> {
        ["/src/", "\\src\\"].iter().filter_map(|src| file.rfind(src)).max().map(|at| &file[..at])
    }
    root(a).is_some_and(|root_of_a| root(b) == Some(root_of_a))
}

impl From<ErrorKind> for Error {
    fn from(kind: ErrorKind) -> Error {
        let (location, names_function, layer, sample) = (None, false, None, None);
        Error(Box::new(Details { kind, location, names_function, layer, sample, backtrace: Backtrace::capture() }))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.kind, f)?;
        match self.sample() {
            Some(sample) => write!(f, " ({sample})"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        if let Some(layer) = self.layer() {
            write!(f, "\n  in {layer}")?;
        }
        if let Some(location) = self.location() {
            write!(f, "\n  at {location}")?;
            if let Some(line) = source_line(location) {
                write!(f, "\n     {line}")?;
            }
        }
        if self.0.backtrace.status() == BacktraceStatus::Captured {
            write!(f, "\n{}", self.0.backtrace)?;
        }
        Ok(())
    }
}

/// The text of a source line of the program, if the file can be read. Paths are relative to the workspace's root, which
/// is the current folder, the folder of the package that Cargo runs, or a parent of one of these.
fn source_line(location: &Location<'_>) -> Option<String> {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let folders: Vec<PathBuf> = [std::env::current_dir().ok(), package].into_iter().flatten().collect();
    let mut files = folders.iter().flat_map(|folder| folder.ancestors()).map(|folder| folder.join(location.file()));
    let text = files.find_map(|file| std::fs::read_to_string(file).ok())?;
    let line = text.lines().nth(location.line().checked_sub(1)? as usize)?.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0.kind {
            ErrorKind::Io { source, .. } => Some(source),
            ErrorKind::Other(error) => Some(&**error),
            _ => None,
        }
    }
}

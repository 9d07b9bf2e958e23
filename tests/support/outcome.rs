//! The outcome of comparing Kiln with a sample of PyTorch's own tests.

use std::fmt;

use kiln_tensor::Error;

/// The result of a comparison.
pub enum Outcome {
    Agrees,
    Differs(String),
    Refused(Error),
    Lacks(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Agrees => write!(f, "agrees"),
            Outcome::Differs(how) => write!(f, "{how}"),
            Outcome::Refused(error) => write!(f, "refused: {error}"),
            Outcome::Lacks(what) => write!(f, "not expressible: {what}"),
        }
    }
}

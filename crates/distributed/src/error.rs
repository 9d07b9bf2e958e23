//! Errors of process groups.

use std::time::Duration;

use kiln_tensor::Error;

/// An error of a process group, contained in an [`Error`] of kind [`ErrorKind::Other`](kiln_tensor::ErrorKind::Other).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the fields are what the messages say
pub enum DistributedError {
    /// A library is missing, too old, or does not start.
    #[error("{engine} is not usable: {reason}")]
    Unavailable { engine: &'static str, reason: String },
    /// The environment variables of the launcher are incomplete or contradict each other.
    #[error("the process cannot join a group: {0}")]
    Rendezvous(String),
    /// A collective did not complete in time.
    #[error("rank {rank} of {size}: {collective} was not done within {} s{others}", timeout.as_secs_f64())]
    Timeout { rank: usize, size: usize, collective: String, timeout: Duration, others: String },
    /// Ranks called different collectives, or the same one with different shapes.
    #[error("rank {rank} of {size}: ranks call different collectives: {calls}")]
    Mismatch { rank: usize, size: usize, calls: String },
    /// Another rank failed, or left the group.
    #[error("rank {rank} of {size}: {collective} cannot be done: {reason}")]
    Peer { rank: usize, size: usize, collective: String, reason: String },
    /// The library reported an error.
    #[error("rank {rank} of {size}: {collective} failed: {reason}")]
    Library { rank: usize, size: usize, collective: String, reason: String },
    /// The group was aborted, here or by an earlier error.
    #[error("rank {rank} of {size}: {collective} is not done, since the process group has failed: {reason}")]
    Aborted { rank: usize, size: usize, collective: String, reason: String },
}

impl From<DistributedError> for Error {
    fn from(error: DistributedError) -> Error {
        Error::other(error)
    }
}

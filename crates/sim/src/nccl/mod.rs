//! The simulated NCCL: communicators whose ranks are devices of this process or of other processes on this machine.
pub mod compute;
pub mod link;
pub mod progress;
pub mod root;
pub mod wire;
pub mod work;

use std::collections::HashMap;
use std::sync::Arc;

use crate::clock::{Clock, Moment};
use crate::stream_id::StreamId;
use link::Link;

/// A `ncclResult_t`.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NcclStatus(pub i32);

#[allow(missing_docs, reason = "the library's names for its codes")]
impl NcclStatus {
    pub const SUCCESS: NcclStatus = NcclStatus(0);
    pub const UNHANDLED_CUDA_ERROR: NcclStatus = NcclStatus(1);
    pub const SYSTEM_ERROR: NcclStatus = NcclStatus(2);
    pub const INTERNAL_ERROR: NcclStatus = NcclStatus(3);
    pub const INVALID_ARGUMENT: NcclStatus = NcclStatus(4);
    pub const INVALID_USAGE: NcclStatus = NcclStatus(5);
    pub const REMOTE_ERROR: NcclStatus = NcclStatus(6);
}

/// The version that it says it is: 2.30.7.
pub const VERSION: i32 = 23007;

/// A communicator: one rank.
pub struct Comm {
    pub link: Arc<Link>,
    pub device: usize,
    /// The stream of its latest collective, and what is ordered after it: collectives of a communicator run one after the
    /// other, in whatever streams they are.
    pub latest: Option<(StreamId, Moment, Clock)>,
}

/// All communicators of the process.
#[derive(Default)]
pub struct Nccl {
    pub comms: HashMap<usize, Comm>,
}

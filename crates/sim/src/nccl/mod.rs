//! The simulated NCCL: communicators whose ranks are devices of this process or of other processes on this machine.
pub mod call;
pub mod compute;
pub mod link;
pub mod progress;
pub mod root;
pub mod status;
pub mod wire;
pub mod work;

use std::collections::HashMap;
use std::sync::Arc;

use crate::clock::{Clock, Moment};
use crate::stream_id::StreamId;
use link::Link;

/// The version that it reports: 2.30.7.
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

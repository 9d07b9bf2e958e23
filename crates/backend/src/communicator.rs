//! Communication between devices: collectives that a library of the devices' vendor performs in their own queues.

use std::fmt;

use crate::{
    error::{Error, Result},
    view::{View, ViewMut},
};

/// How elements of different ranks are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CollectiveOp {
    /// The sum.
    Sum,
    /// The sum divided by the number of ranks.
    Mean,
    /// The minimum; of NaN and a number either may be the result.
    Min,
    /// The maximum, likewise.
    Max,
}

/// A collective on dense memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceCollective {
    /// All ranks receive the combination of all inputs.
    AllReduce(CollectiveOp),
    /// All ranks receive the values of this rank.
    Broadcast {
        /// The rank whose values are sent.
        root: usize,
    },
    /// All ranks receive all inputs, in rank order.
    AllGather,
    /// Rank `i` receives the combination of the `i`-th parts of all inputs.
    ReduceScatter(CollectiveOp),
}

/// Devices that communicate.
pub trait CommunicatorBackend {
    /// Name and version of the library that these devices communicate by.
    ///
    /// # Errors
    /// If there is none; the message has the names and places that were tried, and the fix.
    fn communicator_library(&self) -> Result<String> {
        Err(Error::unsupported("communicator_library", "this device", "it has no library for collectives"))
    }

    /// The id of a new group, which one rank makes and all join by.
    ///
    /// # Errors
    /// If there is no library for it on this device, or it fails.
    fn communicator_id(&self) -> Result<Vec<u8>> {
        Err(Error::unsupported("communicator_id", "this device", "it has no library for collectives"))
    }

    /// Joins the group with this id as rank `rank` of `size`, and waits for the others.
    ///
    /// # Errors
    /// If there is no library for it on this device, or it fails.
    fn join(&self, id: &[u8], rank: usize, size: usize) -> Result<Box<dyn Communicator>> {
        let _ = (id, rank, size);
        Err(Error::unsupported("join", "this device", "it has no library for collectives"))
    }

    /// Collectives were aborted, so what the device has computed since is undefined: from now on it is an error, with this
    /// reason, to read its memory.
    fn distrust(&self, reason: &str) {
        let _ = reason;
    }
}

/// One rank of a group of devices. When it is dropped, it is aborted, unless it was left before.
pub trait Communicator: Send + Sync + fmt::Debug {
    /// Name and version of the library.
    fn library(&self) -> String;

    /// Queues a collective after the work that is queued on the device, and beside the work that is queued later. Both
    /// operands are contiguous; without an input, the output is both. Their memory must not be used, nor given back,
    /// before [`Transfer::wait`].
    ///
    /// # Errors
    /// If the operands do not fit, the dtype cannot be combined, the communicator was aborted, or the library fails.
    fn start(&self, call: DeviceCollective, input: Option<View<'_>>, output: ViewMut<'_>) -> Result<Box<dyn Transfer>>;

    /// Marks the work that is queued on the device so far, as if it were a collective.
    ///
    /// # Errors
    /// If the driver fails.
    fn mark(&self) -> Result<Box<dyn Transfer>>;

    /// The failure that the library has reported since, if there is one.
    fn failure(&self) -> Option<String>;

    /// Ends all collectives at once, with undefined results.
    fn abort(&self);

    /// Ends this rank's part in order: waits for what is queued, and for the other ranks to leave, too.
    fn leave(&self);
}

/// A collective in a device's queue.
pub trait Transfer: Send + Sync {
    /// Whether it is done, without waiting.
    ///
    /// # Errors
    /// If the device has failed.
    fn is_done(&self) -> Result<bool>;

    /// Makes the work that is queued on the device from now on wait for it. The host does not wait.
    ///
    /// # Errors
    /// If the driver fails.
    fn wait(&self) -> Result<()>;
}

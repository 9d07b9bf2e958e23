//! Identifiers of streams: handles, and small numbers for the default streams.

/// A stream's handle, or a small number for a stream that always exists.
pub type StreamId = usize;

/// Handles are larger than the numbers of default streams.
pub const FIRST_HANDLE: StreamId = 1 << 16;

/// The default stream of a device, which synchronizes with all its streams that are not non-blocking.
pub fn legacy(device: usize) -> StreamId {
    4 * device
}

/// The stream that stands for a thread's own default stream.
pub fn per_thread(device: usize) -> StreamId {
    4 * device + 2
}

/// Whether it is the default stream of a device.
pub fn is_legacy(id: StreamId) -> bool {
    id < FIRST_HANDLE && id.is_multiple_of(4)
}

//! `Source`: where the caching allocator gets its memory, which is the driver, or a model of it in tests.

use kiln_backend::Result;

/// The source of segments.
pub(crate) trait Source {
    /// Allocates `bytes` bytes (not 0), aligned to at least 256 as the driver's are; `None` if there is not enough
    /// memory.
    ///
    /// # Errors
    /// A failure that freeing memory does not cure.
    fn take(&mut self, bytes: usize) -> Result<Option<u64>>;
    /// Returns a segment to the source. Queued work may still use the memory; this waits for it.
    fn give(&mut self, address: u64);
    /// Allocates exactly `bytes` bytes for work queued from now on; `None` if there is not enough memory.
    ///
    /// # Errors
    /// Those of [`take`](Self::take).
    fn take_in_order(&mut self, bytes: usize) -> Result<Option<u64>>;
    /// Frees such memory in stream order, without waiting for the queued work.
    fn give_in_order(&mut self, address: u64);
    /// Free and total memory according to the system, if it reports them.
    fn system(&self) -> Option<(usize, usize)>;
    /// The device's name for errors.
    fn device(&self) -> String;
}

//! Events without timing, which order the work of streams and tell whether it is done.

use cudarc::driver::sys::{CUevent, CUstream};
use kiln_backend::Result;

use crate::context::Context;

/// `CU_EVENT_DISABLE_TIMING`: only to be waited for.
const NO_TIMING: u32 = 2;
/// `CUDA_ERROR_NOT_READY`
const NOT_READY: u32 = 600;

/// An event without timing. It is never destroyed, as its device is not, so its owner reuses it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark(CUevent);

// SAFETY: an event may be used from any thread.
unsafe impl Send for Mark {}
// SAFETY: as above.
unsafe impl Sync for Mark {}

impl Mark {
    pub(crate) fn new(context: &Context) -> Result<Mark> {
        context.bind()?;
        let mut event = std::ptr::null_mut();
        // SAFETY: writes the handle.
        let code = unsafe { (context.driver.event_create)(&raw mut event, NO_TIMING) };
        context.check("cuEventCreate", code)?;
        Ok(Mark(event))
    }

    pub(crate) fn raw(self) -> CUevent {
        self.0
    }

    /// Marks what is queued in a stream of the context so far.
    pub(crate) fn record(self, context: &Context, stream: CUstream) -> Result<()> {
        context.bind()?;
        // SAFETY: stream and event of the current context.
        context.check("cuEventRecord", unsafe { (context.driver.event_record)(self.0, stream) })
    }

    /// Makes what is queued in a stream from now on wait for what was marked.
    ///
    /// # Safety
    /// The event and the stream are of the context, which is current.
    pub(crate) unsafe fn awaited_by(self, context: &Context, stream: CUstream) -> Result<()> {
        // SAFETY: by this function's contract.
        let code = unsafe { (context.driver.stream_wait_event)(stream, self.0, 0) };
        context.check("cuStreamWaitEvent", code)
    }

    /// Whether what was marked is done.
    pub(crate) fn is_done(self, context: &Context) -> Result<bool> {
        context.bind()?;
        // SAFETY: an event of the current context.
        match unsafe { (context.driver.event_query)(self.0) } {
            NOT_READY => Ok(false),
            code => context.check("cuEventQuery", code).map(|()| true),
        }
    }
}

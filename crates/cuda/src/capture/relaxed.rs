//! Calls of the driver that a thread may make while it captures although no stream orders them.

use cudarc::driver::sys::CUstreamCaptureMode as Mode;
use kiln_backend::is_capturing;

use crate::context::Context;

/// While it lives, the thread may allocate memory and load modules, also if it is capturing. (Otherwise the driver refuses such
/// calls, and the capture becomes invalid.)
pub(crate) struct Relaxed<'a>(Option<(&'a Context, Mode)>);

impl Relaxed<'_> {
    pub(crate) fn new(context: &Context) -> Relaxed<'_> {
        if !is_capturing() {
            return Relaxed(None);
        }
        let mut mode = Mode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: exchanges the mode of this thread.
        let code = unsafe { (context.driver.thread_exchange_stream_capture_mode)(&raw mut mode) };
        Relaxed((code == 0).then_some((context, mode)))
    }
}

impl Drop for Relaxed<'_> {
    fn drop(&mut self) {
        if let Some((context, mode)) = &mut self.0 {
            // SAFETY: as above.
            unsafe { (context.driver.thread_exchange_stream_capture_mode)(mode) };
        }
    }
}

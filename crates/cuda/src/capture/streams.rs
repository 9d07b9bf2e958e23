//! Streams that are used only for captures.

use cudarc::driver::sys::CUstream;
use kiln_backend::Result;
use parking_lot::Mutex;

use crate::context::Context;

/// A stream of a capture.
#[derive(Clone, Copy, Debug)]
pub(super) struct CaptureStream(pub CUstream);

// SAFETY: a stream may be used from any thread; only one thread at a time uses this one.
unsafe impl Send for CaptureStream {}

/// The capture streams of a device that no thread is using.
#[derive(Debug, Default)]
pub(crate) struct CaptureStreams(Mutex<Vec<CaptureStream>>);

impl CaptureStreams {
    pub(super) fn take(&self, context: &Context) -> Result<CaptureStream> {
        if let Some(stream) = self.0.lock().pop() {
            return Ok(stream);
        }
        context.new_stream().map(CaptureStream)
    }

    pub(super) fn put_back(&self, stream: CaptureStream) {
        self.0.lock().push(stream);
    }
}

//! Capture: the work of a thread is recorded once and then launched as a whole, as often as it is needed.

use std::{
    any::Any,
    cell::{Cell, RefCell},
};

use crate::{
    error::{Error, ErrorKind, Result},
    ops::RandomState,
    view::{View, ViewMut},
};

thread_local! {
    static ACTIVE: Cell<bool> = const { Cell::new(false) };
    /// The first operation that could not be captured.
    static REFUSED: RefCell<Option<(&'static str, String)>> = const { RefCell::new(None) };
}

/// Whether the work of this thread is being captured.
#[must_use]
#[inline]
pub fn is_capturing() -> bool {
    ACTIVE.get()
}

/// Begins or ends a capture on this thread, as far as [`is_capturing`] tells. Returns the first operation that could not be
/// captured, with the reason: what was captured is not the whole work then.
pub fn set_capturing(active: bool) -> Option<Error> {
    ACTIVE.set(active);
    let refused = REFUSED.take();
    refused.map(|(op, reason)| ErrorKind::Capture { op, reason }.into())
}

/// The error of an operation that cannot be captured. The capture fails, whatever becomes of the error.
#[must_use]
pub fn refuse_capture(op: &'static str, reason: impl Into<String>) -> Error {
    let reason = reason.into();
    REFUSED.with_borrow_mut(|refused| {
        refused.get_or_insert_with(|| (op, reason.clone()));
    });
    ErrorKind::Capture { op, reason }.into()
}

/// An error if this thread captures: `op` cannot be captured, for this reason.
///
/// # Errors
/// [`ErrorKind::Capture`].
#[inline]
pub fn unless_capturing(op: &'static str, reason: &str) -> Result<()> {
    if is_capturing() { Err(refuse_capture(op, reason)) } else { Ok(()) }
}

/// Capture of work.
pub trait CaptureBackend {
    /// Whether work can be captured. Where it cannot, whoever wants to launch it again does it again.
    fn can_capture(&self) -> bool {
        false
    }

    /// Begins to capture the work of the calling thread: it is not done, and nothing may wait for it. Random numbers are drawn
    /// from `state` on.
    ///
    /// # Errors
    /// The device does not capture, or the driver fails.
    fn begin_capture(&self, state: RandomState) -> Result<()> {
        let _ = state;
        Err(Error::unsupported("begin_capture", "this device", "work cannot be captured"))
    }

    /// Ends the capture of the calling thread. Before the work, each launch copies its inputs into the first tensors, and
    /// after it the second ones into its outputs; these are dense and outlive the capture.
    ///
    /// Whatever happens, the thread does not capture any more.
    ///
    /// # Errors
    /// The thread does not capture, something was done that cannot be captured, or the driver fails.
    fn end_capture(&self, inputs: &[View<'_>], outputs: &[View<'_>]) -> Result<Box<dyn CapturedWork>> {
        let _ = (inputs, outputs);
        Err(Error::unsupported("end_capture", "this device", "work cannot be captured"))
    }

    /// Ends the capture of the calling thread, if there is one, and drops what was captured.
    fn cancel_capture(&self) {}
}

/// Work that was captured. All memory that it uses is kept for as long as it lives.
pub trait CapturedWork: Any + Send {
    /// Queues the whole work, on inputs and for outputs of the layouts that it was captured with, with random numbers drawn
    /// from `state` on.
    ///
    /// # Errors
    /// An input or output has another size or device than that of the capture, or the driver fails.
    fn launch(&mut self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>], state: RandomState) -> Result<()>;
}

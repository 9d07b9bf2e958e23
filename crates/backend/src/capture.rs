//! Capture of a thread's work as a graph, which is then launched as a whole, as often as needed: `CaptureBackend`.

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

/// Sets what [`is_capturing`] returns on this thread. Returns the first operation since the last call that could not be
/// captured, with the reason: if there is one, the captured work is incomplete.
pub fn set_capturing(active: bool) -> Option<Error> {
    ACTIVE.set(active);
    let refused = REFUSED.take();
    refused.map(|(op, reason)| ErrorKind::Capture { op, reason }.into())
}

/// The error of an operation that cannot be captured. The capture fails even if the error is ignored.
#[must_use]
pub fn refuse_capture(op: &'static str, reason: impl Into<String>) -> Error {
    let reason = reason.into();
    REFUSED.with_borrow_mut(|refused| {
        refused.get_or_insert_with(|| (op, reason.clone()));
    });
    ErrorKind::Capture { op, reason }.into()
}

/// Refuses `op`, for this reason, if this thread captures.
///
/// # Errors
/// [`ErrorKind::Capture`].
#[inline]
pub fn unless_capturing(op: &'static str, reason: &str) -> Result<()> {
    if is_capturing() { Err(refuse_capture(op, reason)) } else { Ok(()) }
}

/// Capture of work.
pub trait CaptureBackend {
    /// Whether the device can capture work. If not, callers repeat the work instead of launching it.
    fn can_capture(&self) -> bool {
        false
    }

    /// Begins to capture the work of the calling thread: from now on it is recorded, not executed, and nothing may wait for it.
    /// Random numbers are drawn from `state` on.
    ///
    /// # Errors
    /// If the device cannot capture, or the driver fails.
    fn begin_capture(&self, state: RandomState) -> Result<()> {
        let _ = state;
        Err(Error::unsupported("begin_capture", "this device", "work cannot be captured"))
    }

    /// Ends the capture of the calling thread, also if it returns an error. Each launch will copy its inputs into the tensors
    /// `inputs`, do the work, and copy the tensors `outputs` into its outputs. These tensors are dense and outlive the captured
    /// work.
    ///
    /// # Errors
    /// If the thread is not capturing, something was done that cannot be captured, or the driver fails.
    fn end_capture(&self, inputs: &[View<'_>], outputs: &[View<'_>]) -> Result<Box<dyn CapturedWork>> {
        let _ = (inputs, outputs);
        Err(Error::unsupported("end_capture", "this device", "work cannot be captured"))
    }

    /// Ends the capture of the calling thread, if there is one, and discards the captured work.
    fn cancel_capture(&self) {}
}

/// Captured work, which keeps all memory that it uses.
pub trait CapturedWork: Any + Send {
    /// Queues all of the work, with inputs and outputs of the layouts of the capture, and random numbers from `state` on.
    ///
    /// # Errors
    /// If an input or output has another size or device than in the capture, or the driver fails.
    fn launch(&mut self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>], state: RandomState) -> Result<()>;
}

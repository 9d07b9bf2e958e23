//! The state of a thread's capture: its stream, the memory that the captured work uses, the writers of the status record, and
//! the positions of the random number generator.

use std::cell::RefCell;

use cudarc::driver::sys::CUstream;
use kiln_backend::{RandomState, Result, is_capturing, refuse_capture};
use rustc_hash::FxHashSet;

use super::streams::CaptureStream;
use crate::{alloc::Pool, positions::Positions};

/// The capture of a thread.
pub(super) struct Recording {
    /// The index of its device.
    pub device: usize,
    pub stream: CaptureStream,
    /// The pool that its memory comes from.
    pub pool: Pool,
    /// The addresses of memory from other pools that the work uses.
    pub held: FxHashSet<u64>,
    /// Operations that may write the status record, each with the code that it writes.
    pub writers: Vec<(u32, &'static str)>,
    /// The generator's position at the beginning.
    pub start: RandomState,
    pub positions: Positions,
}

thread_local! {
    static RECORDING: RefCell<Option<Recording>> = const { RefCell::new(None) };
}

/// Begins the recording of this thread.
pub(super) fn begin(recording: Recording) {
    RECORDING.set(Some(recording));
}

/// Ends the recording of this thread, if it records work of this device.
pub(super) fn end(device: usize) -> Option<Recording> {
    RECORDING.with_borrow_mut(|recording| recording.take_if(|recording| recording.device == device))
}

/// Calls `body` with this thread's recording, if it captures work of this device.
fn with<R>(device: usize, body: impl FnOnce(&mut Recording) -> R) -> Option<R> {
    if !is_capturing() {
        return None;
    }
    RECORDING.with_borrow_mut(|recording| recording.as_mut().filter(|one| one.device == device).map(body))
}

/// The stream to which this thread's work for a device goes, if it is captured.
pub(crate) fn stream(device: usize) -> Option<CUstream> {
    with(device, |recording| recording.stream.0)
}

/// The pool from which this thread allocates on a device.
pub(crate) fn pool(device: usize) -> Pool {
    with(device, |recording| recording.pool).unwrap_or_default()
}

/// If this thread captures, calls `hold` with the capture's pool and the addresses that it holds already. `hold` adds the
/// address of memory that the work uses.
pub(crate) fn hold(device: usize, hold: impl FnOnce(Pool, &mut FxHashSet<u64>)) {
    with(device, |recording| hold(recording.pool, &mut recording.held));
}

/// Notes a launch that may write the status record; `false` if it is not captured.
pub(crate) fn writes_status(device: usize, writer: (u32, &'static str)) -> bool {
    let noted = with(device, |recording| {
        if !recording.writers.contains(&writer) {
            recording.writers.push(writer);
        }
    });
    noted.is_some()
}

/// The generator's positions after the work captured so far, and its position at the beginning.
pub(crate) fn positions(device: usize) -> Option<(Positions, RandomState)> {
    with(device, |recording| (recording.positions, recording.start))
}

/// Sets the generator's positions after the work captured so far.
pub(crate) fn set_positions(device: usize, positions: Positions) {
    with(device, |recording| recording.positions = positions);
}

/// Call after queuing an operation on a thread that captures.
///
/// # Errors
/// If the operation was not captured, because its device is not that of the capture.
pub(crate) fn check_device(device: usize, operation: &'static str) -> Result<()> {
    match with(device, |_| ()) {
        Some(()) => Ok(()),
        None => Err(refuse_capture(
            operation,
            format!(
                "it ran on cuda:{device}, which is not the device of the capture: launches of the graph would not repeat it"
            ),
        )),
    }
}

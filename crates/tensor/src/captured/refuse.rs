//! Refuses calls that cannot be part of a captured step: reading values, uploading values of the host, and work on another
//! device. They return an error, and the capture fails.

use std::cell::Cell;

use kiln_backend::{Result, is_capturing, refuse_capture, unless_capturing};

use crate::device::Device;

thread_local! {
    /// The device whose work this thread captures.
    static CAPTURED: Cell<Option<Device>> = const { Cell::new(None) };
    /// Whether work on other devices is allowed for now.
    static ON_HOST: Cell<bool> = const { Cell::new(false) };
}

/// Sets the device whose work this thread captures.
pub(super) fn set_device(device: Option<Device>) {
    CAPTURED.set(device);
}

/// Call before computing on a device: an error if this thread captures the work of another one.
pub(crate) fn refuse_elsewhere(device: Device, op: &'static str) -> Result<()> {
    if !is_capturing() || ON_HOST.get() || CAPTURED.get().is_none_or(|captured| captured == device) {
        return Ok(());
    }
    Err(refuse_capture(op, format!("on {device} it would run now, and not whenever the step is launched")))
}

/// Call before reading values of a tensor: an error if they are only being captured, and so are not computed yet.
pub(crate) fn refuse_read(device: Device, op: &'static str) -> Result<()> {
    if device.is_cuda() {
        unless_capturing(op, "it reads values, and captured work has not been computed yet")?;
    }
    Ok(())
}

/// Call before uploading values of the host: an error during a capture, because every launch would use the same values.
pub(crate) fn refuse_upload(device: Device, op: &'static str) -> Result<()> {
    refuse_elsewhere(device, op)?;
    if device.is_cuda() {
        unless_capturing(op, "every launch of the step would use the values of the capture")?;
    }
    Ok(())
}

/// Calls `body`, whose work on other devices happens once, now, although this thread captures a step.
pub fn on_host<T>(body: impl FnOnce() -> T) -> T {
    /// Restores the value, also if `body` panics.
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            ON_HOST.set(self.0);
        }
    }
    let _restore = Restore(ON_HOST.replace(true));
    body()
}

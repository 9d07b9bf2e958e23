//! Events that time the work of a device on its own clock, as `torch.cuda.Event(enable_timing=True)` does. For those that
//! only order it see `mark.rs`.

use cudarc::driver::sys::CUevent;
use kiln_backend::{Result, unless_capturing};

use crate::{
    device::{CudaBackend, Device},
    stream::WAITS,
};

/// `CU_EVENT_DEFAULT`: with timing.
const WITH_TIMING: u32 = 0;

/// A moment in the work that is queued on a device.
pub struct Event {
    device: &'static Device,
    raw: CUevent,
}

// SAFETY: the driver may be called with an event from any thread.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// An event that marks nothing yet.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn new(device: &CudaBackend) -> Result<Event> {
        let device = device.0;
        let context = &device.stream.context;
        context.bind()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: writes the handle.
        context.check("cuEventCreate", unsafe { (context.driver.event_create)(&raw mut raw, WITH_TIMING) })?;
        Ok(Event { device, raw })
    }

    /// Marks the moment at which the device will have done all work queued so far.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn record(&self) -> Result<()> {
        unless_capturing("record", WAITS)?;
        let context = &self.device.stream.context;
        context.bind()?;
        // SAFETY: an event and a stream of the current context.
        let code = unsafe { (context.driver.event_record)(self.raw, self.device.stream.raw()) };
        context.check("cuEventRecord", code)
    }

    /// The milliseconds from this event to a later one of the same device; waits for the later one.
    /// # Errors
    /// If one of them was not recorded, they are of different devices, or work before them failed.
    pub fn elapsed_time(&self, end: &Event) -> Result<f32> {
        unless_capturing("elapsed_time", WAITS)?;
        let context = &self.device.stream.context;
        context.bind()?;
        let mut milliseconds = 0.0;
        // SAFETY: events that live as long as their owners; the second call writes one number.
        unsafe {
            context.check("cuEventSynchronize", (context.driver.event_synchronize)(end.raw))?;
            let code = (context.driver.event_elapsed_time)(&raw mut milliseconds, self.raw, end.raw);
            context.check("cuEventElapsedTime", code)?;
        }
        Ok(milliseconds)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let context = &self.device.stream.context;
        if context.bind().is_ok() {
            // SAFETY: nobody uses it after this. The driver frees an event that was recorded but not yet reached once
            // it is reached. A failure here means that the device has failed, which the next call reports.
            unsafe { (context.driver.event_destroy)(self.raw) };
        }
    }
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Event(cuda:{})", self.device.index())
    }
}

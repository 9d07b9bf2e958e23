//! The compute stream of a device, on which all its work is queued in order.

use std::{collections::VecDeque, ffi::c_void};

use cudarc::driver::sys::{CUevent, CUfunction, CUstream};
use kiln_backend::{Error, Result, is_capturing, unless_capturing};
use parking_lot::Mutex;

use crate::{
    capture::recording,
    context::{Context, OUT_OF_MEMORY},
    error::CudaError,
};

/// Why nothing that waits for the device can be captured.
pub(crate) const WAITS: &str = "it waits for the device, and captured work has not been computed yet";
/// How many operations an error names at most.
const REMEMBERED: usize = 8;

#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) context: Context,
    raw: CUstream,
    /// Whether a thread that captures queues this stream's work on the stream of its capture, as for the compute stream.
    is_captured: bool,
    /// Wait for each operation before queuing the next.
    blocking: bool,
    /// The last operations queued that are not known to be done.
    recent: Mutex<VecDeque<&'static str>>,
}

// SAFETY: a stream may be used from any thread; the driver orders the calls.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

/// One kernel of a loaded module, with its name for errors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel {
    pub(crate) raw: CUfunction,
    pub(crate) name: &'static str,
}

impl Stream {
    /// The compute stream of a device.
    pub(crate) fn new(context: Context) -> Result<Stream> {
        Stream::made(context, true)
    }

    /// A stream whose work is never captured.
    pub(crate) fn beside(context: Context) -> Result<Stream> {
        Stream::made(context, false)
    }

    fn made(context: Context, is_captured: bool) -> Result<Stream> {
        let raw = context.new_stream()?;
        let blocking =
            std::env::var_os("KILN_CUDA_LAUNCH_BLOCKING").is_some_and(|value| value != "0" && !value.is_empty());
        Ok(Stream { context, raw, is_captured, blocking, recent: Mutex::new(VecDeque::with_capacity(REMEMBERED)) })
    }

    /// The stream on which this thread queues work: that of its capture, if it captures.
    pub(crate) fn raw(&self) -> CUstream {
        if self.is_captured && is_capturing() {
            return recording::stream(self.context.index).unwrap_or(self.raw);
        }
        self.raw
    }

    /// The stream itself, even if this thread captures.
    pub(crate) fn own(&self) -> CUstream {
        self.raw
    }

    /// Records that `operation` has been queued, and waits for it if `blocking` is set.
    pub(crate) fn queued(&self, operation: &'static str) -> Result<()> {
        if self.is_captured && is_capturing() {
            return recording::check_device(self.context.index, operation);
        }
        {
            let mut recent = self.recent.lock();
            if recent.len() == REMEMBERED {
                recent.pop_front();
            }
            recent.push_back(operation);
        }
        if self.blocking { self.wait(true) } else { Ok(()) }
    }

    /// Queues a kernel.
    ///
    /// # Safety
    /// `params` are pointers to values of the types that the kernel takes, in order, and the memory that these point to
    /// holds what the kernel reads and writes once earlier work on the stream is done.
    pub(crate) unsafe fn launch(
        &self,
        kernel: Kernel,
        grid: [u32; 3],
        block: [u32; 3],
        params: &mut [*mut c_void],
    ) -> Result<()> {
        self.context.bind()?;
        let driver = self.context.driver;
        // SAFETY: the caller vouches for the parameters, which the driver copies before it returns.
        let code = unsafe {
            (driver.launch_kernel)(
                kernel.raw,
                grid[0],
                grid[1],
                grid[2],
                block[0],
                block[1],
                block[2],
                0,
                self.raw(),
                params.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        if code == OUT_OF_MEMORY {
            // The driver loads a kernel at its first launch.
            return Err(self.context.lacks_memory(kernel.name));
        }
        if code != 0 {
            let (device, kernel, status) = (self.context.index, kernel.name, driver.describe(code));
            return Err(CudaError::Launch { device, kernel, grid, block, status }.into());
        }
        self.queued(kernel.name)
    }

    /// Returns an error if earlier work has failed, after which the context is unusable; does not wait. After a failed
    /// call, this tells whether that call is to blame.
    pub(crate) fn check_health(&self) -> Result<()> {
        const NOT_READY: u32 = 600;
        if is_capturing() {
            // The driver refuses the query on a thread that captures. The first launch reports earlier failures.
            return Ok(());
        }
        self.context.bind()?;
        // SAFETY: a stream of the current context.
        match unsafe { (self.context.driver.stream_query)(self.raw) } {
            0 | NOT_READY => Ok(()),
            code => Err(self.asynchronous(code, false)),
        }
    }

    fn asynchronous(&self, code: u32, exact: bool) -> Error {
        let operations = self.recent.lock().iter().copied().collect();
        let status = self.context.driver.describe(code);
        CudaError::Asynchronous { device: self.context.index, operations, exact, status }.into()
    }

    /// Waits until all queued work is done.
    ///
    /// # Errors
    /// If work queued earlier has failed. The context is unusable then.
    pub(crate) fn synchronize(&self) -> Result<()> {
        self.wait(false)
    }

    fn wait(&self, exact: bool) -> Result<()> {
        unless_capturing("synchronize", WAITS)?;
        self.context.bind()?;
        let driver = self.context.driver;
        // SAFETY: a stream of the current context.
        match unsafe { (driver.stream_synchronize)(self.raw) } {
            0 => {
                self.recent.lock().clear();
                Ok(())
            }
            code => Err(self.asynchronous(code, exact)),
        }
    }

    /// Queues a copy from the host.
    ///
    /// # Safety
    /// `from` is readable, and `to` writable, for `bytes` bytes until the copy is done.
    pub(crate) unsafe fn upload(&self, to: u64, from: *const c_void, bytes: usize) -> Result<()> {
        self.context.bind()?;
        // SAFETY: by this function's contract.
        let code = unsafe { (self.context.driver.memcpy_htod_async)(to, from, bytes, self.raw()) };
        self.context.check("cuMemcpyHtoDAsync", code)?;
        self.queued("upload")
    }

    /// Queues a copy to the host.
    ///
    /// # Safety
    /// As for [`upload`](Self::upload), the other way.
    pub(crate) unsafe fn download(&self, to: *mut c_void, from: u64, bytes: usize) -> Result<()> {
        self.context.bind()?;
        // SAFETY: by this function's contract.
        let code = unsafe { (self.context.driver.memcpy_dtoh_async)(to, from, bytes, self.raw) };
        self.context.check("cuMemcpyDtoHAsync", code)?;
        self.queued("download")
    }

    /// Queues filling memory with a byte.
    ///
    /// # Safety
    /// `to` is writable for `bytes` bytes (not 0).
    pub(crate) unsafe fn fill_bytes(&self, to: u64, byte: u8, bytes: usize) -> Result<()> {
        self.context.bind()?;
        // SAFETY: by this function's contract.
        let code = unsafe { (self.context.driver.memset_d8_async)(to, byte, bytes, self.raw()) };
        self.context.check("cuMemsetD8Async", code)?;
        self.queued("fill")
    }
}

/// Two events on a stream, and the time between them by the device's clock.
pub(crate) struct Timer<'a> {
    stream: &'a Stream,
    events: [CUevent; 2],
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        for event in self.events.into_iter().filter(|event| !event.is_null()) {
            // SAFETY: made by `new` and not used after this; the driver keeps what it still needs.
            unsafe { (self.stream.context.driver.event_destroy)(event) };
        }
    }
}

impl<'a> Timer<'a> {
    pub(crate) fn new(stream: &'a Stream) -> Result<Timer<'a>> {
        unless_capturing("convolution_benchmark", WAITS)?;
        let mut timer = Timer { stream, events: [std::ptr::null_mut(); 2] };
        for event in &mut timer.events {
            // SAFETY: writes the handle. No flags: with timing.
            let code = unsafe { (stream.context.driver.event_create)(event, 0) };
            stream.context.check("cuEventCreate", code)?;
        }
        Ok(timer)
    }

    fn record(&self, event: CUevent) -> Result<()> {
        let Stream { context, raw, .. } = self.stream;
        // SAFETY: an event and a stream of the current context.
        context.check("cuEventRecord", unsafe { (context.driver.event_record)(event, *raw) })
    }

    pub(crate) fn start(&self) -> Result<()> {
        self.record(self.events[0])
    }

    /// Waits for the end, and returns the milliseconds since the start.
    pub(crate) fn stop(&self) -> Result<f32> {
        let [start, end] = self.events;
        self.record(end)?;
        let (context, mut time) = (&self.stream.context, 0.0);
        // SAFETY: both events are recorded in the current context; one number is written.
        unsafe {
            context.check("cuEventSynchronize", (context.driver.event_synchronize)(end))?;
            context.check("cuEventElapsedTime", (context.driver.event_elapsed_time)(&raw mut time, start, end))?;
        }
        Ok(time)
    }
}

//! Copies from the host on a stream of their own, so that the next batch travels while the device computes.
//!
//! The compute stream waits for a copy before the work that is queued after it; the copy waits for the last work that
//! used the memory which it overwrites. That is why this memory is not handed out by the allocator's rule, under which a
//! freed block may be in use still by work that is queued: a copy would have to wait for all of it. Instead, memory that
//! copies arrived in is kept here with an event that marks its last use, and used for the next copies of its size.
//! After a few batches a training loop has what it needs, and its copies wait for nothing but the batch before last.

use cudarc::driver::sys::CUevent;
use kiln_backend::{Error, ErrorKind, Result};

use crate::{
    alloc::{Allocation, DeviceAllocator},
    context::Context,
    pinned::Uploads,
    stream::Stream,
};

/// Smaller copies stay on the compute stream: they take no time worth hiding.
pub(crate) const MIN_COPY_STREAM_BYTES: usize = 64 << 10;
/// Pieces of idle memory that are kept: images and labels of a few batches.
const MAX_IDLE: usize = 8;
/// An event that is only waited for.
const NO_TIMING: u32 = 2;

/// The stream of copies with the memory that they arrive in.
pub(crate) struct Copies {
    stream: Stream,
    uploads: Uploads,
    idle: Vec<Idle>,
    /// Events that mark nothing now.
    spare: Vec<Event>,
}

/// Memory that no tensor owns any more.
struct Idle {
    allocation: Allocation,
    /// Recorded on the compute stream behind the last work that used it.
    unused: Event,
}

/// An event without timing. It lives as long as the process, as its device does.
#[derive(Clone, Copy, Debug)]
struct Event(CUevent);

// SAFETY: an event may be used from any thread.
unsafe impl Send for Event {}

impl Event {
    fn new(context: &Context) -> Result<Event> {
        context.bind()?;
        let mut event = std::ptr::null_mut();
        // SAFETY: writes the handle.
        let code = unsafe { (context.driver.event_create)(&raw mut event, NO_TIMING) };
        context.check("cuEventCreate", code)?;
        Ok(Event(event))
    }
}

/// Makes `later` wait for what is queued on `earlier` now.
fn order(earlier: &Stream, later: &Stream, by: Event) -> Result<()> {
    let Context { driver, .. } = earlier.context;
    earlier.context.bind()?;
    // SAFETY: streams and event of the current context. The wait is for what the event marks now; the event may be
    // recorded anew at once.
    unsafe {
        earlier.context.check("cuEventRecord", (driver.event_record)(by.0, earlier.raw()))?;
        wait(later, by)
    }
}

/// # Safety
/// The event is of the stream's context, which is current.
unsafe fn wait(stream: &Stream, event: Event) -> Result<()> {
    // SAFETY: by this function's contract.
    let code = unsafe { (stream.context.driver.stream_wait_event)(stream.raw(), event.0, 0) };
    stream.context.check("cuStreamWaitEvent", code)
}

impl Copies {
    pub(crate) fn new(context: Context) -> Result<Copies> {
        Ok(Copies { stream: Stream::new(context)?, uploads: Uploads::large(), idle: Vec::new(), spare: Vec::new() })
    }

    fn event(&mut self) -> Result<Event> {
        self.spare.pop().map_or_else(|| Event::new(&self.stream.context), Ok)
    }

    /// Queues a copy of `bytes` into memory of its own, which work queued on the compute stream from now on may use. The
    /// bytes are not read after the return: they have been copied aside, or, if they are page-locked (`direct`), have
    /// arrived.
    pub(crate) fn send(
        &mut self,
        compute: &Stream,
        allocator: &DeviceAllocator,
        bytes: &[u8],
        direct: bool,
    ) -> Result<Allocation> {
        // Made before anything is queued, so that nothing can fail between a copy and what marks its end.
        let event = self.event()?;
        let (allocation, unused) = match self.memory(allocator, bytes.len()) {
            Ok(memory) => memory,
            Err(error) => {
                self.spare.push(event);
                return Err(error);
            }
        };
        // SAFETY: the memory has at least as many bytes, and was handed out for this.
        let copied = unsafe { self.copy(compute, bytes, direct, allocation.address, unused, event) };
        self.spare.extend([Some(event), unused].into_iter().flatten());
        if let Err(error) = copied {
            // A copy may be under way all the same, from bytes that are the caller's again and into memory that the next
            // owner writes. Where even waiting fails the context is lost, and with it what was queued.
            let _ = self.stream.synchronize();
            allocator.lock().free(allocation);
            return Err(error);
        }
        Ok(allocation)
    }

    /// Queues the copy between a wait for the last use of the memory (which `unused` marks, if it is not the allocator's)
    /// and an event for which the compute stream waits.
    ///
    /// # Safety
    /// `to` is the address of as many bytes, which nobody but the work that is queued uses.
    unsafe fn copy(
        &mut self,
        compute: &Stream,
        bytes: &[u8],
        direct: bool,
        to: u64,
        unused: Option<Event>,
        event: Event,
    ) -> Result<()> {
        let Copies { stream, uploads, .. } = self;
        let context = &stream.context;
        context.bind()?;
        match unused {
            // SAFETY: the context is the current one.
            Some(unused) => unsafe { wait(stream, unused)? },
            // Work that is queued may use it still.
            None => order(compute, stream, event)?,
        }
        // SAFETY: by this function's contract; the copy stream waits for the last use. Bytes that the device reads itself
        // are borrowed until it has, which is waited for here or by the caller.
        unsafe {
            if direct {
                stream.upload(to, bytes.as_ptr().cast(), bytes.len())?;
            } else {
                uploads.send(stream, bytes, to)?;
            }
        }
        order(stream, compute, event)?;
        if direct {
            // SAFETY: an event of the current context.
            context.check("cuEventSynchronize", unsafe { (context.driver.event_synchronize)(event.0) })?;
        }
        Ok(())
    }

    /// Memory for a copy, and the event behind its last use, if it is not the allocator's.
    fn memory(&mut self, allocator: &DeviceAllocator, bytes: usize) -> Result<(Allocation, Option<Event>)> {
        // The oldest that fits: its last use is the likeliest to be over. None that is twice as large as need be.
        if let Some(i) = self.idle.iter().position(|Idle { allocation: a, .. }| a.size >= bytes && a.size / 2 <= bytes)
        {
            let Idle { allocation, unused } = self.idle.remove(i);
            allocator.lock().take_up(&allocation);
            return Ok((allocation, Some(unused)));
        }
        let result = allocator.lock().alloc(bytes);
        let out_of_memory = |error: &Error| matches!(error.kind(), ErrorKind::OutOfMemory { .. });
        match result {
            Err(error) if out_of_memory(&error) && self.give_back(allocator) => allocator.lock().alloc(bytes),
            result => result,
        }
        .map(|allocation| (allocation, None))
    }

    /// Takes back what [`send`](Copies::send) gave, after the last work that uses it has been queued on the compute
    /// stream, which has waited for the copy into it.
    pub(crate) fn release(&mut self, compute: &Stream, allocator: &DeviceAllocator, allocation: Allocation) {
        if !allocator.lock().caching() {
            return allocator.lock().free(allocation);
        }
        let marked = self.event().and_then(|unused| {
            let Stream { context, .. } = compute;
            context.bind()?;
            // SAFETY: event and stream of the current context.
            let code = unsafe { (context.driver.event_record)(unused.0, compute.raw()) };
            context.check("cuEventRecord", code).map(|()| unused)
        });
        let mut allocator = allocator.lock();
        let Ok(unused) = marked else { return allocator.free(allocation) };
        allocator.set_aside(&allocation);
        self.idle.push(Idle { allocation, unused });
        if self.idle.len() > MAX_IDLE {
            let oldest = self.idle.remove(0);
            self.spare.push(oldest.unused);
            allocator.free_aside(oldest.allocation);
        }
    }

    /// Gives everything that is idle to the allocator, and says whether there was something.
    pub(crate) fn give_back(&mut self, allocator: &DeviceAllocator) -> bool {
        let idle = std::mem::take(&mut self.idle);
        let mut allocator = allocator.lock();
        let some = !idle.is_empty();
        for Idle { allocation, unused } in idle {
            self.spare.push(unused);
            allocator.free_aside(allocation);
        }
        some
    }
}

//! Copies from the host on a stream of their own, so that the next batch travels while the device computes.
//!
//! The compute stream waits for a copy before the work that is queued after it; the copy waits for the last work that
//! used the memory which it overwrites. That is why this memory is not handed out by the allocator's rule, under which a
//! freed block may be in use still by work that is queued: a copy would have to wait for all of it. Instead, memory that
//! copies arrived in is kept here with an event that marks its last use, and used for the next copies of its size.
//! After a few batches a training loop has what it needs, and its copies wait for nothing but the batch before last.

use cudarc::driver::sys::CUevent;
use kiln_backend::Result;

use crate::{alloc::Allocation, context::Context, pinned::Uploads, stream::Stream};

/// Smaller copies stay on the compute stream: they take no time worth hiding.
pub(crate) const LEAST: usize = 64 << 10;
/// Pieces of idle memory that are kept: images and labels of a few batches.
const MOST_IDLE: usize = 8;
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

    /// Queues a copy of `bytes` into memory of its own, which work queued on `compute` from now on may use. The bytes
    /// are not read after the return: they have been copied aside, or, if they are page-locked (`direct`), have arrived.
    /// `alloc` is the allocator's, whose memory work that is queued may use still.
    pub(crate) fn send(
        &mut self,
        compute: &Stream,
        bytes: &[u8],
        direct: bool,
        alloc: impl FnOnce(&mut Copies) -> Result<Allocation>,
    ) -> Result<Allocation> {
        let allocation = self.memory(compute, bytes.len(), alloc)?;
        // Should a call below fail, the memory is lost: a copy into it may be queued. The device is in trouble then.
        let Copies { stream, uploads, .. } = self;
        // SAFETY: the memory has at least as many bytes, and the copy stream waits for its last use. Bytes that the
        // device reads itself are borrowed until it has, which is waited for below.
        unsafe {
            if direct {
                stream.upload(allocation.address, bytes.as_ptr().cast(), bytes.len())?;
            } else {
                uploads.send(stream, bytes, allocation.address)?;
            }
        }
        let event = self.event()?;
        order(&self.stream, compute, event)?;
        if direct {
            let context = &self.stream.context;
            // SAFETY: an event of the current context.
            context.check("cuEventSynchronize", unsafe { (context.driver.event_synchronize)(event.0) })?;
        }
        self.spare.push(event);
        Ok(allocation)
    }

    /// Memory that the copy stream may write.
    fn memory(
        &mut self,
        compute: &Stream,
        bytes: usize,
        alloc: impl FnOnce(&mut Copies) -> Result<Allocation>,
    ) -> Result<Allocation> {
        self.stream.context.bind()?;
        // The oldest that fits: its last use is the likeliest to be over. None that is twice as large as need be.
        if let Some(i) = self.idle.iter().position(|Idle { allocation: a, .. }| a.size >= bytes && a.size / 2 <= bytes)
        {
            let Idle { allocation, unused } = self.idle.remove(i);
            self.spare.push(unused);
            // SAFETY: the context has been made the current one.
            unsafe { wait(&self.stream, unused)? };
            return Ok(allocation);
        }
        let event = self.event()?;
        let allocation = alloc(self)?;
        order(compute, &self.stream, event)?;
        self.spare.push(event);
        Ok(allocation)
    }

    /// Takes back what [`send`](Copies::send) gave, after the last work that uses it has been queued on `compute`.
    /// Returns what shall go back to the allocator, if anything: the compute stream has waited for every copy into it.
    pub(crate) fn release(&mut self, compute: &Stream, allocation: Allocation) -> Option<Allocation> {
        let Ok(unused) = self.event() else { return Some(allocation) };
        let marked = compute.context.bind().and_then(|()| {
            // SAFETY: event and stream of the current context.
            let code = unsafe { (compute.context.driver.event_record)(unused.0, compute.raw()) };
            compute.context.check("cuEventRecord", code)
        });
        if marked.is_err() {
            return Some(allocation);
        }
        self.idle.push(Idle { allocation, unused });
        if self.idle.len() <= MOST_IDLE {
            return None;
        }
        let oldest = self.idle.remove(0);
        self.spare.push(oldest.unused);
        Some(oldest.allocation)
    }

    /// Everything that is idle, for the allocator.
    pub(crate) fn release_all(&mut self) -> Vec<Allocation> {
        let idle = std::mem::take(&mut self.idle);
        self.spare.extend(idle.iter().map(|idle| idle.unused));
        idle.into_iter().map(|idle| idle.allocation).collect()
    }

    /// Bytes that no tensor owns.
    pub(crate) fn idle_bytes(&self) -> usize {
        self.idle.iter().map(|idle| idle.allocation.size).sum()
    }
}

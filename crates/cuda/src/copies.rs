//! Copies from the host on a stream of their own, so that the next batch is uploaded while the device computes.
//!
//! The compute stream waits for a copy when its destination is first used ([`Arrival`]), so work queued for the
//! previous batch still runs; the copy waits for the last work that used the memory that it overwrites. Therefore the
//! memory cannot come from the allocator, whose freed blocks may still be in use by queued work: a copy would have to
//! wait for all of it. Instead, destinations of copies are kept here, each with an event that marks its last use, and
//! are reused for later copies of the same size. After a few batches a training loop has all it needs, and its copies
//! wait for nothing but the batch before last.
//!
//! Threads share all of this. No lock is held while bytes are copied or waited for, so the computing thread can drop a
//! batch while a worker uploads another.

use std::sync::atomic::{AtomicBool, Ordering};

use kiln_backend::{Error, ErrorKind, Result};
use parking_lot::Mutex;

use crate::{
    alloc::{Allocation, DeviceAllocator},
    context::Context,
    mark::Mark,
    pinned::Uploads,
    stream::Stream,
};

/// Smaller copies stay on the compute stream: they are too short to be worth hiding.
pub(crate) const MIN_COPY_STREAM_BYTES: usize = 64 << 10;
/// Maximum number of idle blocks kept: images and labels of a few batches.
const MAX_IDLE: usize = 8;

/// The copy stream, with the memory that its copies go to.
pub(crate) struct Copies {
    stream: Stream,
    uploads: Uploads,
    idle: Mutex<Vec<Idle>>,
    /// Events that are not in use.
    spare: Mutex<Vec<Mark>>,
}

/// Memory that no tensor owns any more.
struct Idle {
    allocation: Allocation,
    /// Recorded on the compute stream after the last work that used it, if any did.
    unused: Option<Mark>,
    /// Recorded after the copy into it, if the compute stream has not waited for that.
    copied: Option<Mark>,
}

/// The end of a copy into memory, for which the compute stream waits before the first work that uses it.
pub(crate) struct Arrival {
    copied: Mark,
    /// Whether the compute stream waits already.
    awaited: AtomicBool,
}

impl Arrival {
    /// Makes work queued from now on wait for the copy. Costs a comparison if it already does.
    pub(crate) fn wait(&self, compute: &Stream) -> Result<()> {
        if self.awaited.load(Ordering::Acquire) {
            return Ok(());
        }
        compute.context.bind()?;
        // Threads that race here wait twice, which does no harm. SAFETY: an event of the context, which is current.
        unsafe { self.copied.awaited_by(&compute.context, compute.own())? };
        self.awaited.store(true, Ordering::Release);
        Ok(())
    }
}

impl Copies {
    pub(crate) fn new(context: Context) -> Result<Copies> {
        let stream = Stream::beside(context)?;
        Ok(Copies { stream, uploads: Uploads::large(), idle: Mutex::default(), spare: Mutex::default() })
    }

    fn event(&self) -> Result<Mark> {
        let spare = self.spare.lock().pop();
        spare.map_or_else(|| Mark::new(&self.stream.context), Ok)
    }

    fn keep(&self, events: impl IntoIterator<Item = Option<Mark>>) {
        self.spare.lock().extend(events.into_iter().flatten());
    }

    /// Queues a copy of `bytes` into memory of its own, which work that is queued after [`Arrival::wait`] may use. The
    /// bytes are not read after the return: they have been staged, or, if they are page-locked (`direct`), have
    /// arrived.
    pub(crate) fn send(
        &self,
        compute: &Stream,
        allocator: &DeviceAllocator,
        bytes: &[u8],
        direct: bool,
    ) -> Result<(Allocation, Arrival)> {
        // Created before anything is queued, so that nothing can fail between a copy and the event that marks its end.
        let copied = self.event()?;
        let (allocation, used) = match self.memory(compute, allocator, bytes.len()) {
            Ok(memory) => memory,
            Err(error) => {
                self.keep([Some(copied)]);
                return Err(error);
            }
        };
        // SAFETY: the memory has at least as many bytes, and was handed out for this.
        let sent = unsafe { self.copy(compute, bytes, direct, allocation.address, used, copied) };
        if let Used::Until(unused) = used {
            self.keep([unused]);
        }
        if let Err(error) = sent {
            // The copy may be under way all the same, from bytes that the caller owns again and into memory that the
            // next owner writes. If even waiting fails, the context is lost, and with it all that was queued.
            let _ = self.stream.synchronize();
            self.keep([Some(copied)]);
            allocator.lock().free(allocation);
            return Err(error);
        }
        // Page-locked bytes have arrived.
        Ok((allocation, Arrival { copied, awaited: AtomicBool::new(direct) }))
    }

    /// Queues the copy between a wait for the last use of the memory and an event that marks its end.
    ///
    /// # Safety
    /// `to` is the address of as many bytes, which only the queued work uses.
    unsafe fn copy(
        &self,
        compute: &Stream,
        bytes: &[u8],
        direct: bool,
        to: u64,
        used: Used,
        copied: Mark,
    ) -> Result<()> {
        let Copies { stream, uploads, .. } = self;
        let context = &stream.context;
        context.bind()?;
        match used {
            // SAFETY: the context is the current one.
            Used::Until(Some(unused)) => unsafe { unused.awaited_by(context, stream.own())? },
            Used::Until(None) => {}
            Used::ByAnyone => {
                copied.record(context, compute.own())?;
                // SAFETY: as above. The wait is for the event's current record; the event may be recorded again at
                // once.
                unsafe { copied.awaited_by(context, stream.own())? };
            }
        }
        // SAFETY: by this function's contract; the copy stream waits for the last use. Bytes that the device reads
        // directly stay borrowed until it has read them, which this function or its caller waits for.
        unsafe {
            if direct {
                stream.upload(to, bytes.as_ptr().cast(), bytes.len())?;
            } else {
                uploads.send(stream, bytes, to)?;
            }
        }
        copied.record(context, stream.own())?;
        if direct {
            // SAFETY: an event of the current context.
            context.check("cuEventSynchronize", unsafe { (context.driver.event_synchronize)(copied.raw()) })?;
        }
        Ok(())
    }

    /// Memory for a copy, and the work that may still use it.
    fn memory(&self, compute: &Stream, allocator: &DeviceAllocator, bytes: usize) -> Result<(Allocation, Used)> {
        // The oldest that fits, since its last use is the likeliest to be over. None that is more than twice as large
        // as needed.
        let fits = |idle: &Idle| idle.allocation.size >= bytes && idle.allocation.size / 2 <= bytes;
        let found = {
            let mut idle = self.idle.lock();
            idle.iter().position(fits).map(|i| idle.remove(i))
        };
        if let Some(Idle { allocation, unused, copied }) = found {
            // Needs no wait: the next copy is on the same stream as the one that this marks.
            self.keep([copied]);
            allocator.lock().take_up(&allocation);
            return Ok((allocation, Used::Until(unused)));
        }
        let result = allocator.lock().alloc(bytes);
        let out_of_memory = |error: &Error| matches!(error.kind(), ErrorKind::OutOfMemory { .. });
        match result {
            Err(error) if out_of_memory(&error) && self.give_back(compute, allocator) => allocator.lock().alloc(bytes),
            result => result,
        }
        .map(|allocation| (allocation, Used::ByAnyone))
    }

    /// Takes back memory from [`send`](Copies::send), after the last work that uses it was queued on the compute
    /// stream.
    pub(crate) fn release(
        &self,
        compute: &Stream,
        allocator: &DeviceAllocator,
        allocation: Allocation,
        Arrival { copied, awaited }: Arrival,
    ) {
        // If the compute stream has not waited for the copy, none of its work has used the memory.
        let mut idle = Idle { allocation, unused: None, copied: (!awaited.into_inner()).then_some(copied) };
        if idle.copied.is_none() {
            self.keep([Some(copied)]);
        }
        let mut kept = allocator.lock().caching();
        if kept && idle.copied.is_none() {
            let marked = self.event().and_then(|unused| {
                // If the event cannot be recorded, the context is lost, and the memory is not used again.
                unused.record(&compute.context, compute.own()).map(|()| unused)
            });
            kept = marked.is_ok();
            idle.unused = marked.ok();
        }
        allocator.lock().set_aside(&idle.allocation);
        if !kept {
            return self.free(compute, allocator, idle);
        }
        let oldest = {
            let mut all = self.idle.lock();
            all.push(idle);
            (all.len() > MAX_IDLE).then(|| all.remove(0))
        };
        if let Some(oldest) = oldest {
            self.free(compute, allocator, oldest);
        }
    }

    /// Passes idle memory to the allocator, whose blocks are ordered by the compute stream.
    fn free(&self, compute: &Stream, allocator: &DeviceAllocator, Idle { allocation, unused, copied }: Idle) {
        if let Some(copied) = copied
            && compute.context.bind().is_ok()
        {
            // If this fails the context is lost, and nothing writes to the memory any more. SAFETY: an event of the
            // current context.
            let _ = unsafe { copied.awaited_by(&compute.context, compute.own()) };
        }
        self.keep([unused, copied]);
        allocator.lock().free_aside(allocation);
    }

    /// Passes all idle memory to the allocator, and returns whether there was any.
    pub(crate) fn give_back(&self, compute: &Stream, allocator: &DeviceAllocator) -> bool {
        let idle = std::mem::take(&mut *self.idle.lock());
        let some = !idle.is_empty();
        for idle in idle {
            self.free(compute, allocator, idle);
        }
        some
    }
}

/// What may still use the memory for a copy.
#[derive(Clone, Copy)]
enum Used {
    /// Work of the compute stream up to this event, or nothing; the memory is not the allocator's.
    Until(Option<Mark>),
    /// Any work that is queued on the compute stream.
    ByAnyone,
}

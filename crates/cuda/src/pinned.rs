//! Staging buffers in pinned host memory, through which copies between the device and ordinary memory go.
//!
//! With ordinary memory, the driver would either read it at some later time or make the caller wait. So uploads are
//! first copied into one of a few pinned chunks, which the device reads while the host goes on; the caller's memory is
//! free at once. Threads share the chunks: each takes one, waits until the device has read it, fills it, queues its
//! copy and puts it back, with no lock held meanwhile.

use std::{collections::VecDeque, ffi::c_void};

use cudarc::driver::sys::CUevent;
use kiln_backend::Result;
use parking_lot::{Condvar, Mutex};

use crate::{capture::relaxed::Relaxed, context::Context, stream::Stream};

/// Bytes of a chunk for large copies: enough to reach the bus's full speed.
const CHUNK: usize = 4 << 20;
/// Bytes after the download chunk, for a record.
const ROOM: usize = 64;
/// `CUDA_ERROR_NOT_READY`
const NOT_READY: u32 = 600;
/// An event without timing, only to be waited for.
const NO_TIMING: u32 = 2;

/// Page-locked memory, readable and writable by the host and owned like a `Box<[u8]>`. It lives as long as the process,
/// as its device does, unless [`free`](Self::free) is called.
#[derive(Debug)]
pub(crate) struct Pinned {
    memory: *mut u8,
    len: usize,
}

// SAFETY: it is plain memory that its owner uses exclusively.
unsafe impl Send for Pinned {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for Pinned {}

impl Pinned {
    pub(crate) fn new(context: &Context, bytes: usize) -> Result<Pinned> {
        context.bind()?;
        let _relaxed = Relaxed::new(context);
        let mut memory = std::ptr::null_mut::<c_void>();
        // SAFETY: writes the pointer. Flag 0: cached by the host, which reads from it too.
        let code = unsafe { (context.driver.mem_host_alloc)(&raw mut memory, bytes, 0) };
        context.check("cuMemHostAlloc", code)?;
        // SAFETY: the memory has this many bytes; afterwards all of it is initialized.
        unsafe { memory.cast::<u8>().write_bytes(0, bytes) };
        Ok(Pinned { memory: memory.cast(), len: bytes })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: initialized memory of this length, borrowed with `self`. The device only reads it, or is waited for
        // before the host looks at what it wrote.
        unsafe { std::slice::from_raw_parts(self.memory, self.len) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and borrowed exclusively with `self`.
        unsafe { std::slice::from_raw_parts_mut(self.memory, self.len) }
    }

    /// Unlocks and frees the memory. Copies from it must be done.
    pub(crate) fn free(self, context: &Context) {
        if context.bind().is_ok() {
            let _relaxed = Relaxed::new(context);
            // SAFETY: made by `new` in this context, and nothing else refers to it. A failure is that of earlier work,
            // which the next call reports too.
            unsafe { (context.driver.mem_free_host)(self.memory.cast()) };
        }
    }
}

/// A chunk, and the event that marks the end of its copy.
#[derive(Debug)]
struct Slot {
    memory: Pinned,
    /// Recorded after the last copy from the chunk.
    done: CUevent,
}

// SAFETY: an event may be used from any thread.
unsafe impl Send for Slot {}

/// The chunks for uploads, used in rotation. A new one is made only while the device has not yet read the existing ones,
/// so a loop that synchronizes now and then soon allocates none.
#[derive(Debug)]
pub(crate) struct Uploads {
    slots: Mutex<Slots>,
    /// Signaled when a slot has been put back, or could not be made.
    changed: Condvar,
    /// Bytes of a chunk.
    chunk: usize,
    /// Maximum number of chunks, which limits how far the host may run ahead of the device.
    most: usize,
}

#[derive(Debug, Default)]
struct Slots {
    /// The slots that no thread is filling, in the order in which their copies were queued.
    free: VecDeque<Slot>,
    /// How many exist.
    made: usize,
}

impl Uploads {
    /// For copies of images and weights.
    pub(crate) fn large() -> Uploads {
        Uploads::new(CHUNK, 4)
    }

    /// For copies of labels and the like.
    pub(crate) fn small() -> Uploads {
        Uploads::new(64 << 10, 16)
    }

    fn new(chunk: usize, most: usize) -> Uploads {
        Uploads { slots: Mutex::default(), changed: Condvar::new(), chunk, most }
    }

    /// Queues a copy of `bytes` to `to`; the bytes are not read after the return.
    ///
    /// # Safety
    /// `to` is the address of as many bytes that may be written once the work queued before is done.
    pub(crate) unsafe fn send(&self, stream: &Stream, bytes: &[u8], to: u64) -> Result<()> {
        for (i, part) in bytes.chunks(self.chunk).enumerate() {
            let (slot, read) = self.take(&stream.context)?;
            // SAFETY: the part is no longer than a chunk. The copy stays inside the destination by this function's contract.
            let sent = unsafe { fill(&slot, read, stream, part, to + (i * self.chunk) as u64) };
            self.slots.lock().free.push_back(slot);
            self.changed.notify_one();
            sent?;
        }
        Ok(())
    }

    /// A chunk that no other thread is filling, and whether the device has read its previous contents: the one whose copy
    /// was queued first if that is done; else a new one; else, at the limit, the first one, whose copy the caller awaits.
    fn take(&self, context: &Context) -> Result<(Slot, bool)> {
        context.bind()?;
        let mut slots = self.slots.lock();
        loop {
            let read = slots.free.front().map(|slot| slot.is_read(context)).transpose()?;
            if read != Some(true) && slots.made < self.most {
                slots.made += 1;
                break;
            }
            if let (Some(read), Some(slot)) = (read, slots.free.pop_front()) {
                return Ok((slot, read));
            }
            self.changed.wait(&mut slots);
        }
        drop(slots);
        let new = Slot::new(context, self.chunk).inspect_err(|_| {
            self.slots.lock().made -= 1;
            self.changed.notify_one();
        })?;
        Ok((new, true))
    }
}

impl Slot {
    fn new(context: &Context, bytes: usize) -> Result<Slot> {
        let (memory, mut done) = (Pinned::new(context, bytes)?, std::ptr::null_mut());
        // SAFETY: writes the handle.
        let code = unsafe { (context.driver.event_create)(&raw mut done, NO_TIMING) };
        if let Err(error) = context.check("cuEventCreate", code) {
            memory.free(context);
            return Err(error);
        }
        Ok(Slot { memory, done })
    }

    /// Whether the device has read the previous contents of the chunk. The context is current.
    fn is_read(&self, context: &Context) -> Result<bool> {
        // SAFETY: an event of this context.
        let code = unsafe { (context.driver.event_query)(self.done) };
        if code == NOT_READY {
            return Ok(false);
        }
        context.check("cuEventQuery", code).map(|()| true)
    }

    /// Waits until the device has read the previous contents of the chunk.
    fn wait(&self, context: &Context) -> Result<()> {
        context.bind()?;
        // SAFETY: an event of this context.
        context.check("cuEventSynchronize", unsafe { (context.driver.event_synchronize)(self.done) })
    }
}

/// Copies `part` into a chunk once that may be written (at once if the device has `read` it), and queues the copy to the
/// device.
///
/// # Safety
/// The part is no longer than the chunk, and `to` the address of as many bytes that may be written once the work queued
/// before is done.
unsafe fn fill(slot: &Slot, read: bool, stream: &Stream, part: &[u8], to: u64) -> Result<()> {
    let context = &stream.context;
    if !read {
        slot.wait(context)?;
    }
    // SAFETY: the device has read the previous contents of the slot, which this thread owns; the rest is this
    // function's contract.
    unsafe {
        std::ptr::copy_nonoverlapping(part.as_ptr(), slot.memory.memory, part.len());
        stream.upload(to, slot.memory.memory.cast(), part.len())?;
        let code = (context.driver.event_record)(slot.done, stream.raw());
        if let Err(error) = context.check("cuEventRecord", code) {
            // Nothing marks when the chunk may be written again, so wait for the copy.
            let _ = stream.synchronize();
            return Err(error);
        }
    }
    Ok(())
}

/// The download direction: one chunk, and after it room for a record that is downloaded together with the data.
#[derive(Debug, Default)]
pub(crate) struct Downloads {
    chunk: Option<Pinned>,
}

/// A record of the device that is read with the next download: its address and its bytes.
pub(crate) type Record<const N: usize> = (u64, [u8; N]);

impl Downloads {
    /// Waits for the work queued before, and copies from the device. A single wait covers the data (if they fit a
    /// chunk) and the record.
    ///
    /// # Safety
    /// `from` is the address of `bytes.len()` bytes, and the record's address is that of `N` bytes.
    pub(crate) unsafe fn receive<const N: usize>(
        &mut self,
        stream: &Stream,
        from: u64,
        bytes: &mut [u8],
        mut record: Option<&mut Record<N>>,
    ) -> Result<()> {
        const { assert!(N <= ROOM) };
        let memory = match &self.chunk {
            Some(chunk) => chunk.memory,
            None => self.chunk.insert(Pinned::new(&stream.context, CHUNK + ROOM)?).memory,
        };
        if let Some((address, _)) = &record {
            // SAFETY: there is room for the record after the chunk.
            unsafe { stream.download(memory.add(CHUNK).cast(), *address, N)? };
        }
        if bytes.is_empty() {
            stream.synchronize()?;
        }
        for (i, part) in bytes.chunks_mut(CHUNK).enumerate() {
            // SAFETY: the source is inside the caller's range and the part no longer than the chunk, which is read
            // when the copy is done.
            unsafe {
                stream.download(memory.cast(), from + (i * CHUNK) as u64, part.len())?;
                stream.synchronize()?;
                std::ptr::copy_nonoverlapping(memory, part.as_mut_ptr(), part.len());
            }
        }
        if let Some((_, bytes)) = &mut record {
            // SAFETY: the record has arrived after the chunk: its copy was queued before the last wait.
            unsafe { std::ptr::copy_nonoverlapping(memory.add(CHUNK), bytes.as_mut_ptr(), N) };
        }
        Ok(())
    }
}

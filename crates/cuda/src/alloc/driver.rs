//! The driver as the source of the allocator's memory.

use kiln_backend::Result;

use super::source::Source;
use crate::{capture::relaxed::Relaxed, context::OUT_OF_MEMORY, stream::Stream};

/// `cuMemAlloc`, which works on every device (memory pools do not), for segments; `cuMemAllocAsync` on the compute
/// stream for blocks without caching.
#[derive(Debug)]
pub(crate) struct DriverMemory(pub(crate) &'static Stream);

impl DriverMemory {
    /// The address of a new allocation, or `None` if the driver is out of memory.
    fn checked(&self, call: &'static str, code: u32, address: u64) -> Result<Option<u64>> {
        match code {
            OUT_OF_MEMORY => Ok(None),
            code => self.0.context.check(call, code).map(|()| Some(address)),
        }
    }
}

impl Source for DriverMemory {
    fn take(&mut self, bytes: usize) -> Result<Option<u64>> {
        self.0.context.bind()?;
        let _relaxed = Relaxed::new(&self.0.context);
        let mut address = 0;
        // SAFETY: writes the address.
        let code = unsafe { (self.0.context.driver.mem_alloc)(&raw mut address, bytes) };
        self.checked("cuMemAlloc", code, address)
    }

    fn give(&mut self, address: u64) {
        let context = self.0.context;
        if context.bind().is_ok() {
            // Errors here are those of earlier work, which the next call reports too. SAFETY: no block refers to the
            // segment any more, nor does any queued work once the device is idle.
            unsafe {
                (context.driver.ctx_synchronize)();
                (context.driver.mem_free)(address);
            }
        }
    }

    fn take_in_order(&mut self, bytes: usize) -> Result<Option<u64>> {
        self.0.context.bind()?;
        let mut address = 0;
        // SAFETY: writes the address; the stream is one of the current context.
        let code = unsafe { (self.0.context.driver.mem_alloc_async)(&raw mut address, bytes, self.0.own()) };
        self.checked("cuMemAllocAsync", code, address)
    }

    fn give_in_order(&mut self, address: u64) {
        let context = self.0.context;
        if context.bind().is_ok() {
            // Errors here are those of earlier work, which the next call reports too. SAFETY: only work queued on this
            // stream uses the allocation.
            unsafe { (context.driver.mem_free_async)(address, self.0.own()) };
        }
    }

    fn system(&self) -> Option<(usize, usize)> {
        let (mut free, mut total) = (0, 0);
        self.0.context.bind().ok()?;
        // SAFETY: writes two numbers.
        let code = unsafe { (self.0.context.driver.mem_get_info)(&raw mut free, &raw mut total) };
        (code == 0).then_some((free, total))
    }

    fn device(&self) -> String {
        format!("cuda:{}", self.0.context.index)
    }
}

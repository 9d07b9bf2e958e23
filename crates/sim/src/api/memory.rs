//! The driver's functions for allocations: device memory, memory pools, pinned host memory.
use super::stream::known;
use super::{driver, put};
use crate::memory::Home;
use crate::status::Status;
use crate::stream_id::StreamId;
use crate::work::Work;
use crate::world::World;

/// The handle of a device's memory pool.
pub fn pool_of(device: usize) -> usize {
    0x0b00_0100 + 16 * device
}

fn allocate(world: &mut World, bytes: usize) -> Result<u64, Status> {
    if bytes == 0 {
        return Err(Status::INVALID_VALUE);
    }
    world.report.counts.allocations += 1;
    if world.profile.faults.allocation.fails() {
        return Err(Status::OUT_OF_MEMORY);
    }
    take(world, bytes, Home::Device)
}

fn take(world: &mut World, bytes: usize, home: Home) -> Result<u64, Status> {
    let address = world.memory.allocate(bytes, home, world.device).ok_or(Status::OUT_OF_MEMORY)?;
    if world.profile.leaks {
        world.sites.note(address);
    }
    Ok(address)
}

fn pool(world: &World, pool: usize) -> Result<(), Status> {
    if !world.profile.pools {
        return Err(Status::NOT_SUPPORTED);
    }
    // Pools of other devices would need access rights, which are not simulated.
    if pool == pool_of(world.device) { Ok(()) } else { Err(Status::INVALID_VALUE) }
}

/// Nodes that allocate and free memory are not simulated.
fn no_node(world: &mut World, stream: StreamId) -> Result<(), Status> {
    world.not_captured(stream).map_err(|_| Status::NOT_SUPPORTED)
}

/// Stream-ordered allocation: the memory is available when the stream reaches it.
fn allocate_in(world: &mut World, bytes: usize, stream: usize) -> Result<u64, Status> {
    let stream = known(world, stream)?;
    no_node(world, stream)?;
    let address = allocate(world, bytes)?;
    world.submit(stream, "cuMemAllocAsync", None, Work::Allocate(address));
    Ok(address)
}

driver! {
    Context fn cuMemAlloc_v2(world, out: *mut u64, bytes: usize) {
        if out.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        world.potentially_unsafe()?;
        put(out, allocate(world, bytes)?)
    }

    Context fn cuMemFree_v2(world, address: u64) {
        if address == 0 {
            return Ok(());
        }
        world.potentially_unsafe()?;
        match world.memory.starting(address) {
            Some(allocation) if allocation.home == Home::Device => world.free(address),
            _ => Err(Status::INVALID_VALUE),
        }
    }

    Context fn cuMemGetInfo_v2(world, free: *mut usize, total: *mut usize) {
        put(free, world.memory.capacity() - world.memory.used(world.device))?;
        put(total, world.memory.capacity())
    }

    Context fn cuMemGetAddressRange_v2(world, base: *mut u64, size: *mut usize, address: u64) {
        let allocation = world.memory.find(address, 1).ok_or(Status::NOT_FOUND)?;
        if !base.is_null() {
            put(base, allocation.begin)?;
        }
        if size.is_null() { Ok(()) } else { put(size, allocation.bytes) }
    }

    Context fn cuMemAllocAsync(world, out: *mut u64, bytes: usize, stream: usize) {
        if out.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        pool(world, pool_of(world.device))?;
        put(out, allocate_in(world, bytes, stream)?)
    }

    Context fn cuMemAllocFromPoolAsync(world, out: *mut u64, bytes: usize, from: usize, stream: usize) {
        if out.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        pool(world, from)?;
        put(out, allocate_in(world, bytes, stream)?)
    }

    Context fn cuMemFreeAsync(world, address: u64, stream: usize) {
        pool(world, pool_of(world.device))?;
        let stream = known(world, stream)?;
        no_node(world, stream)?;
        if world.memory.starting(address).is_none_or(|allocation| allocation.home != Home::Device) {
            return Err(Status::INVALID_VALUE);
        }
        world.submit(stream, "cuMemFreeAsync", None, Work::Free(address));
        Ok(())
    }

    Context fn cuMemPoolGetAttribute(world, from: usize, attribute: i32, out: *mut u64) {
        pool(world, from)?;
        let used = world.memory.used(world.device) as u64;
        match attribute {
            // Reuse policies, which are 32 bits wide.
            1..=3 => put(out.cast::<i32>(), 1),
            4 => put(out, world.pool_threshold),
            5..=8 => put(out, used),
            _ => Err(Status::INVALID_VALUE),
        }
    }

    Context fn cuMemPoolSetAttribute(world, from: usize, attribute: i32, value: *const u64) {
        pool(world, from)?;
        if value.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        match attribute {
            1..=3 | 6 | 8 => Ok(()),
            4 => {
                world.pool_threshold = value.read();
                Ok(())
            }
            _ => Err(Status::INVALID_VALUE),
        }
    }

    Context fn cuMemPoolTrimTo(world, from: usize, _keep: usize) {
        pool(world, from)
    }

    Context fn cuMemHostAlloc(world, out: *mut u64, bytes: usize, flags: u32) {
        // Portable, mapped, write-combined.
        if out.is_null() || bytes == 0 || flags & !7 != 0 {
            return Err(Status::INVALID_VALUE);
        }
        world.potentially_unsafe()?;
        world.report.counts.pinned += 1;
        put(out, take(world, bytes, Home::Pinned)?)
    }

    Context fn cuMemAllocHost_v2(world, out: *mut u64, bytes: usize) {
        if out.is_null() || bytes == 0 {
            return Err(Status::INVALID_VALUE);
        }
        world.potentially_unsafe()?;
        world.report.counts.pinned += 1;
        put(out, take(world, bytes, Home::Pinned)?)
    }

    Context fn cuMemFreeHost(world, address: u64) {
        world.potentially_unsafe()?;
        match world.memory.starting(address) {
            Some(allocation) if allocation.home == Home::Pinned => world.free(address),
            _ => Err(Status::INVALID_VALUE),
        }
    }

    Context fn cuMemHostGetDevicePointer_v2(world, out: *mut u64, address: u64, flags: u32) {
        let pinned = world.memory.find(address, 1).is_some_and(|allocation| allocation.home == Home::Pinned);
        if flags != 0 || !pinned {
            return Err(Status::INVALID_VALUE);
        }
        put(out, address)
    }

    Context fn cuMemHostGetFlags(world, out: *mut u32, address: u64) {
        if world.memory.find(address, 1).is_none_or(|allocation| allocation.home != Home::Pinned) {
            return Err(Status::INVALID_VALUE);
        }
        put(out, 2)
    }
}

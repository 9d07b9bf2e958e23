//! The driver's functions for copies and fills.
use super::driver;
use super::stream::known;
use crate::memory::Home;
use crate::status::Status;
use crate::work::{Place, Work};
use crate::world::World;

/// The handle of the default stream.
const LEGACY: usize = 0;

/// The whole range must lie in one live allocation.
fn device(world: &World, address: u64, bytes: usize) -> Result<Place, Status> {
    world.memory.find(address, bytes).map(|_| Place::Arena(address)).ok_or(Status::INVALID_VALUE)
}

/// Pinned memory is recognized by its address; all other memory is pageable.
fn host(world: &World, address: usize, bytes: usize) -> Result<Place, Status> {
    if address == 0 {
        return Err(Status::INVALID_VALUE);
    }
    if world.memory.find(address as u64, 1).is_some() {
        return device(world, address as u64, bytes);
    }
    Ok(Place::Pageable(address))
}

/// Whether memory is pageable host memory, for which copies have stricter rules.
fn pageable(place: &Place) -> bool {
    matches!(place, Place::Pageable(_))
}

/// Queues a copy; with `wait`, the call returns when it is done.
fn copy(
    world: &mut World,
    name: &str,
    (from, to, bytes): (Place, Place, usize),
    stream: usize,
    wait: bool,
) -> Result<(), Status> {
    let stream = known(world, stream)?;
    if wait {
        world.potentially_unsafe()?;
    }
    world.taking(stream)?;
    let captured = world.captures.has(stream);
    if captured && (pageable(&from) || pageable(&to)) {
        // A graph would access this memory at every launch.
        return world.not_captured(stream);
    }
    if captured {
        world.submit(stream, name, None, Work::Copy { from, to, bytes });
        return Ok(());
    }
    if wait || pageable(&to) {
        // Before the copy is queued, since a call that waits for other ranks is made again.
        world.finish_waiting(stream)?;
    }
    world.report.counts.copies += 1;
    // Pageable host memory is read, or written, before the call returns.
    let into_host = pageable(&to);
    let from = match from {
        Place::Pageable(address) => {
            world.report.counts.to_device += bytes as u64;
            // SAFETY: the caller of a copy promises that this memory can be read.
            Place::Staged(unsafe { std::slice::from_raw_parts(address as *const u8, bytes) }.to_vec())
        }
        other => other,
    };
    let pinned = |world: &World, place: &Place| match place {
        Place::Arena(address) => world.memory.find(*address, 1).is_some_and(|one| one.home == Home::Pinned),
        Place::Pageable(_) | Place::Staged(_) => false,
    };
    if pinned(world, &from) {
        world.report.counts.to_device += bytes as u64;
    }
    if into_host || pinned(world, &to) {
        world.report.counts.to_host += bytes as u64;
    }
    world.submit(stream, name, None, Work::Copy { from, to, bytes });
    if wait || into_host {
        world.report.counts.synchronizations += 1;
        return world.wait_stream(stream);
    }
    Ok(())
}

/// Queues a fill of `count` elements.
fn fill(world: &mut World, to: u64, (pattern, width): (u32, usize), count: usize, stream: usize) -> Result<(), Status> {
    let stream = known(world, stream)?;
    let bytes = count.checked_mul(width).ok_or(Status::INVALID_VALUE)?;
    if !to.is_multiple_of(width as u64) {
        return Err(Status::INVALID_VALUE);
    }
    if count == 0 {
        return Ok(());
    }
    device(world, to, bytes)?;
    world.taking(stream)?;
    if !world.captures.has(stream) {
        world.report.counts.fills += 1;
    }
    world.submit(stream, "cuMemset", None, Work::Fill { to, pattern: pattern.to_le_bytes(), width, bytes });
    Ok(())
}

driver! {
    Context fn cuMemcpyHtoD_v2(world, to: u64, from: usize, bytes: usize) {
        if bytes == 0 {
            return Ok(());
        }
        let sides = (host(world, from, bytes)?, device(world, to, bytes)?, bytes);
        // From pageable memory the call may return once the data is staged; from pinned memory it returns when the copy
        // is done.
        let wait = !pageable(&sides.0);
        copy(world, "cuMemcpyHtoD", sides, LEGACY, wait)
    }

    Context fn cuMemcpyHtoDAsync_v2(world, to: u64, from: usize, bytes: usize, stream: usize) {
        if bytes == 0 {
            return known(world, stream).map(|_| ());
        }
        let sides = (host(world, from, bytes)?, device(world, to, bytes)?, bytes);
        copy(world, "cuMemcpyHtoDAsync", sides, stream, false)
    }

    Context fn cuMemcpyDtoH_v2(world, to: usize, from: u64, bytes: usize) {
        if bytes == 0 {
            return Ok(());
        }
        let sides = (device(world, from, bytes)?, host(world, to, bytes)?, bytes);
        copy(world, "cuMemcpyDtoH", sides, LEGACY, true)
    }

    Context fn cuMemcpyDtoHAsync_v2(world, to: usize, from: u64, bytes: usize, stream: usize) {
        if bytes == 0 {
            return known(world, stream).map(|_| ());
        }
        let sides = (device(world, from, bytes)?, host(world, to, bytes)?, bytes);
        copy(world, "cuMemcpyDtoHAsync", sides, stream, false)
    }

    Context fn cuMemcpyDtoD_v2(world, to: u64, from: u64, bytes: usize) {
        if bytes == 0 {
            return Ok(());
        }
        let sides = (device(world, from, bytes)?, device(world, to, bytes)?, bytes);
        // The host does not wait for a copy inside the device.
        copy(world, "cuMemcpyDtoD", sides, LEGACY, false)
    }

    Context fn cuMemcpyDtoDAsync_v2(world, to: u64, from: u64, bytes: usize, stream: usize) {
        if bytes == 0 {
            return known(world, stream).map(|_| ());
        }
        let sides = (device(world, from, bytes)?, device(world, to, bytes)?, bytes);
        copy(world, "cuMemcpyDtoDAsync", sides, stream, false)
    }

    Context fn cuMemsetD8_v2(world, to: u64, value: u8, count: usize) {
        fill(world, to, (value.into(), 1), count, LEGACY)
    }

    Context fn cuMemsetD16_v2(world, to: u64, value: u16, count: usize) {
        fill(world, to, (value.into(), 2), count, LEGACY)
    }

    Context fn cuMemsetD32_v2(world, to: u64, value: u32, count: usize) {
        fill(world, to, (value, 4), count, LEGACY)
    }

    Context fn cuMemsetD8Async(world, to: u64, value: u8, count: usize, stream: usize) {
        fill(world, to, (value.into(), 1), count, stream)
    }

    Context fn cuMemsetD16Async(world, to: u64, value: u16, count: usize, stream: usize) {
        fill(world, to, (value.into(), 2), count, stream)
    }

    Context fn cuMemsetD32Async(world, to: u64, value: u32, count: usize, stream: usize) {
        fill(world, to, (value, 4), count, stream)
    }
}

//! The driver's functions for kernel launches and occupancy.
use std::ffi::c_void;

use super::stream::own;
use super::{driver, put};
use crate::status::Status;
use crate::work::{KernelWork, Work};
use crate::world::World;

/// How many blocks of `threads` threads and `dynamic` bytes of shared memory fit on a multiprocessor.
fn resident(world: &World, handle: usize, threads: i32, dynamic: usize) -> Result<i32, Status> {
    let function = world.functions.get(&handle).ok_or(Status::INVALID_HANDLE)?;
    if threads <= 0 {
        return Err(Status::INVALID_VALUE);
    }
    let profile = &world.profile;
    let most = function.entry.max_threads.unwrap_or(1024) as i32;
    if threads > most || dynamic > function.dynamic_limit as usize {
        return Ok(0);
    }
    let by_threads = profile.resident_threads() / (threads as u32).next_multiple_of(32) as i32;
    // 32 registers per thread, of 65536.
    let by_registers = 65536 / (32 * (threads as u32).next_multiple_of(32) as i32);
    // The driver reserves one kilobyte per block.
    let shared = dynamic + function.entry.shared as usize + 1024;
    let by_shared = ((profile.shared_opt_in() + 1024) / shared) as i32;
    let slots = profile.attribute(106).unwrap_or(16);
    Ok(by_threads.min(by_registers).min(by_shared).min(slots))
}

/// The block size that fills a multiprocessor best (the largest on a tie), and the number of such blocks that fill the
/// device.
fn best(world: &World, handle: usize, dynamic: usize, limit: i32) -> Result<(i32, i32), Status> {
    let function = world.functions.get(&handle).ok_or(Status::INVALID_HANDLE)?;
    let most = function.entry.max_threads.unwrap_or(1024) as i32;
    let most = if limit > 0 { most.min(limit) } else { most };
    let mut found = (0, 0, 0);
    for threads in (1..=most / 32).rev().map(|warps| warps * 32) {
        let blocks = resident(world, handle, threads, dynamic)?;
        if blocks * threads > found.0 {
            found = (blocks * threads, blocks, threads);
        }
    }
    Ok((found.1 * world.profile.processors(), found.2))
}

driver! {
    Context fn cuLaunchKernel(
        world, handle: usize, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
        dynamic: u32, stream: usize, parameters: *mut *mut c_void, extra: *mut *mut c_void
    ) {
        let stream = own(world, stream)?;
        world.taking(stream)?;
        let function = world.functions.get(&handle).ok_or(Status::INVALID_HANDLE)?;
        if world.modules.get(&function.module).is_none_or(|module| module.device != world.device) {
            return Err(Status::INVALID_HANDLE);
        }
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        if grid.contains(&0) || block.contains(&0) {
            return Err(Status::INVALID_VALUE);
        }
        if grid_x > i32::MAX as u32 || grid_y > 65535 || grid_z > 65535 {
            return Err(Status::INVALID_VALUE);
        }
        let threads = block.iter().map(|extent| u64::from(*extent)).product::<u64>();
        let most = function.entry.max_threads.unwrap_or(1024);
        if threads > 1024 || threads > u64::from(most) || block_z > 64 {
            return Err(Status::INVALID_VALUE);
        }
        if dynamic > function.dynamic_limit {
            return Err(Status::INVALID_VALUE);
        }
        if !extra.is_null() {
            // Arguments in one buffer: not simulated.
            return Err(Status::NOT_SUPPORTED);
        }
        let sizes = function.kernel.sizes();
        if !sizes.is_empty() {
            if parameters.is_null() {
                return Err(Status::INVALID_VALUE);
            }
            let given = std::slice::from_raw_parts(parameters, sizes.len());
            if given.iter().any(|pointer| pointer.is_null()) {
                return Err(Status::INVALID_VALUE);
            }
        }
        let work = KernelWork {
            kernel: function.kernel,
            grid,
            block,
            dynamic_shared: dynamic,
            shared_limit: dynamic + function.entry.shared,
            arguments: KernelWork::pack(function.kernel, parameters.cast_const().cast()),
        };
        let name = function.name.clone();
        // A kernel is loaded at its first launch.
        if !world.lazy_memory(&name) {
            return Err(Status::OUT_OF_MEMORY);
        }
        if world.profile.faults.launch.fails() {
            return Err(Status::LAUNCH_OUT_OF_RESOURCES);
        }
        if !world.captures.has(stream) {
            world.report.counts.launches += 1;
            world.report.launched(&work.arguments);
        }
        world.submit(stream, &name, None, Work::Kernel(Box::new(work)));
        Ok(())
    }

    Context fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        world, out: *mut i32, handle: usize, threads: i32, dynamic: usize
    ) {
        put(out, resident(world, handle, threads, dynamic)?)
    }

    Context fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        world, out: *mut i32, handle: usize, threads: i32, dynamic: usize, flags: u32
    ) {
        if flags > 1 {
            return Err(Status::INVALID_VALUE);
        }
        put(out, resident(world, handle, threads, dynamic)?)
    }

    Context fn cuOccupancyMaxPotentialBlockSize(
        world, grid: *mut i32, block: *mut i32, handle: usize,
        size: Option<unsafe extern "C" fn(i32) -> usize>, dynamic: usize, limit: i32
    ) {
        // A callback for the block size is called here with the lock held, so it must not call the driver.
        let dynamic = size.map_or(dynamic, |size| size(limit.max(32)));
        let (blocks, threads) = best(world, handle, dynamic, limit)?;
        put(grid, blocks)?;
        put(block, threads)
    }
}

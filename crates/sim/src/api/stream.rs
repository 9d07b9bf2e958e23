//! The driver's functions for streams.
use std::ffi::c_void;

use super::{driver, put};
use crate::status::Status;
use crate::stream_id::{FIRST_HANDLE, StreamId, legacy, per_thread};
use crate::work::Work;
use crate::world::{self, World};

/// The stream for a handle: null and 1 are the legacy default stream of the thread's device, 2 is the per-thread
/// default stream, for which the simulator has one ordinary stream per device.
pub fn known(world: &mut World, handle: usize) -> Result<StreamId, Status> {
    match handle {
        0 | 1 => world.legacy_is_usable(world.device).map(|()| legacy(world.device)),
        2 => {
            let own = per_thread(world.device);
            if world.streams.get(own).is_none() {
                world.streams.add(own, world.device, true, 0);
            }
            Ok(own)
        }
        other if other < FIRST_HANDLE => Err(Status::INVALID_HANDLE),
        other => world.streams.get(other).map(|_| other).ok_or(Status::INVALID_HANDLE),
    }
}

/// [`known`], for work that must go to a stream of the thread's device: launches and event records.
pub fn own(world: &mut World, handle: usize) -> Result<StreamId, Status> {
    let stream = known(world, handle)?;
    if world.streams.device(stream) == world.device { Ok(stream) } else { Err(Status::INVALID_HANDLE) }
}

fn create(world: &mut World, out: *mut usize, flags: u32, priority: i32) -> Result<(), Status> {
    if flags > 1 {
        return Err(Status::INVALID_VALUE);
    }
    let handle = world.handle();
    // SAFETY: the caller of the driver's function promises that null or writable memory is there.
    unsafe { put(out, handle) }?;
    world.streams.add(handle, world.device, flags == 0, priority.clamp(-5, 0));
    Ok(())
}

driver! {
    Context fn cuStreamCreate(world, out: *mut usize, flags: u32) {
        create(world, out, flags, 0)
    }

    Context fn cuStreamCreateWithPriority(world, out: *mut usize, flags: u32, priority: i32) {
        create(world, out, flags, priority)
    }

    Context fn cuStreamDestroy_v2(world, stream: usize) {
        if stream < FIRST_HANDLE || world.streams.get(stream).is_none() {
            return Err(Status::INVALID_HANDLE);
        }
        world.not_captured(stream)?;
        // What is queued still runs; the host does not wait for it.
        world.run_until(world.streams.tail(stream))?;
        world.streams.remove(stream);
        Ok(())
    }

    Context fn cuStreamSynchronize(world, stream: usize) {
        world.report.counts.synchronizations += 1;
        let stream = known(world, stream)?;
        world.not_captured(stream)?;
        world.potentially_unsafe()?;
        world.wait_stream(stream)
    }

    Context fn cuStreamQuery(world, stream: usize) {
        let stream = known(world, stream)?;
        world.not_captured(stream)?;
        world.potentially_unsafe()?;
        let tail = world.streams.tail(stream);
        if world.streams.is_done(tail) {
            return world.wait_stream(stream);
        }
        // A program that polls makes progress, one operation at a time.
        world.nudge(tail);
        world.healthy()?;
        Err(Status::NOT_READY)
    }

    Context fn cuStreamGetFlags(world, stream: usize, out: *mut u32) {
        let stream = known(world, stream)?;
        put(out, u32::from(world.streams.get(stream).is_some_and(|stream| !stream.blocking)))
    }

    Context fn cuStreamGetPriority(world, stream: usize, out: *mut i32) {
        let stream = known(world, stream)?;
        put(out, world.streams.get(stream).map_or(0, |stream| stream.priority))
    }

    Context fn cuStreamGetCtx(world, stream: usize, out: *mut usize) {
        let stream = known(world, stream)?;
        put(out, world::context(world.streams.device(stream)))
    }

    Context fn cuStreamWaitEvent(world, stream: usize, event: usize, flags: u32) {
        let stream = known(world, stream)?;
        if flags > 1 {
            return Err(Status::INVALID_VALUE);
        }
        world.taking(stream)?;
        if world.wait_in_capture(stream, event)? {
            return Ok(());
        }
        let recorded = world.events.get(&event).ok_or(Status::INVALID_HANDLE)?.recorded.clone();
        // Waiting for an event that was never recorded is a no-op.
        if let Some(recorded) = recorded {
            world.submit(stream, "cuStreamWaitEvent", Some(&recorded), Work::Mark(None));
        }
        Ok(())
    }

    Context fn cuLaunchHostFunc(world, stream: usize, function: Option<unsafe extern "C" fn(*mut c_void)>, data: usize) {
        let stream = known(world, stream)?;
        let function = function.ok_or(Status::INVALID_VALUE)?;
        world.taking(stream)?;
        world.submit(stream, "cuLaunchHostFunc", None, Work::Call { function, data });
        Ok(())
    }
}

//! The driver's functions for events.
use super::stream::own;
use super::{driver, put};
use crate::clock::{Clock, Moment};
use crate::status::Status;
use crate::stream::Event;
use crate::work::Work;
use crate::world::World;

fn event(world: &World, event: usize) -> Result<&Event, Status> {
    world.events.get(&event).ok_or(Status::INVALID_HANDLE)
}

/// An event that may be waited for: not one recorded in a capture, which never happens outside the graph.
fn waitable(world: &mut World, handle: usize) -> Result<Option<(Moment, Clock)>, Status> {
    let event = event(world, handle)?;
    if event.captured.is_some() {
        return Err(Status::CAPTURED_EVENT);
    }
    let recorded = event.recorded.clone();
    world.potentially_unsafe()?;
    Ok(recorded)
}

fn elapsed(world: &World, start: usize, end: usize) -> Result<f32, Status> {
    let (start, end) = (event(world, start)?, event(world, end)?);
    if start.captured.is_some() || end.captured.is_some() {
        return Err(Status::CAPTURED_EVENT);
    }
    if !start.timing || !end.timing || start.recorded.is_none() || end.recorded.is_none() {
        return Err(Status::INVALID_HANDLE);
    }
    match (start.ran_at, end.ran_at) {
        // The simulator's clock counts microseconds.
        (Some(start), Some(end)) => Ok((end as f32 - start as f32) / 1000.0),
        _ => Err(Status::NOT_READY),
    }
}

driver! {
    Context fn cuEventCreate(world, out: *mut usize, flags: u32) {
        // Flags: blocking synchronization 1, no timing 2, interprocess 4, which requires 2 and is not simulated.
        if flags & !3 != 0 {
            return Err(Status::INVALID_VALUE);
        }
        let handle = world.handle();
        put(out, handle)?;
        world.events.insert(handle, Event { device: world.device, timing: flags & 2 == 0, ..Event::default() });
        Ok(())
    }

    Context fn cuEventDestroy_v2(world, event: usize) {
        world.events.remove(&event).map(|_| ()).ok_or(Status::INVALID_HANDLE)
    }

    Context fn cuEventRecord(world, handle: usize, stream: usize) {
        let stream = own(world, stream)?;
        if event(world, handle)?.device != world.device {
            return Err(Status::INVALID_HANDLE);
        }
        if world.profile.faults.record.fails() {
            return Err(Status::LAUNCH_OUT_OF_RESOURCES);
        }
        world.taking(stream)?;
        if let Some(mark) = world.captures.mark(stream) {
            if let Some(event) = world.events.get_mut(&handle) {
                (event.captured, event.recorded, event.ran_at) = (Some(mark), None, None);
            }
            return Ok(());
        }
        let moment = world.submit(stream, "cuEventRecord", None, Work::Mark(Some(handle)));
        let clock = world.streams.clock(stream);
        if let Some(event) = world.events.get_mut(&handle) {
            event.captured = None;
            event.recorded = Some((moment, clock));
            event.ran_at = None;
        }
        Ok(())
    }

    Context fn cuEventSynchronize(world, handle: usize) {
        world.report.counts.event_waits += 1;
        if let Some((moment, clock)) = waitable(world, handle)? {
            world.run_until(moment)?;
            world.learn(&clock);
        }
        world.healthy()
    }

    Context fn cuEventQuery(world, handle: usize) {
        let Some((moment, clock)) = waitable(world, handle)? else { return Ok(()) };
        if world.streams.is_done(moment) {
            world.learn(&clock);
            return world.healthy();
        }
        world.nudge(moment);
        world.healthy()?;
        Err(Status::NOT_READY)
    }

    Context fn cuEventElapsedTime(world, out: *mut f32, start: usize, end: usize) {
        put(out, elapsed(world, start, end)?)
    }

    Context fn cuEventElapsedTime_v2(world, out: *mut f32, start: usize, end: usize) {
        put(out, elapsed(world, start, end)?)
    }
}

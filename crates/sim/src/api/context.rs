//! The driver's functions for contexts: the primary ones, and which one is current on a thread.
use super::{driver, put};
use crate::status::Status;
use crate::world::{self, CURRENT};

driver! {
    Init fn cuDevicePrimaryCtxRetain(world, out: *mut usize, ordinal: i32) {
        let device = world.ordinal(ordinal)?;
        put(out, world::context(device))?;
        world.retained[device] += 1;
        Ok(())
    }

    Init fn cuDevicePrimaryCtxRelease_v2(world, ordinal: i32) {
        let device = world.ordinal(ordinal)?;
        if world.retained[device] == 0 {
            return Err(Status::INVALID_CONTEXT);
        }
        world.retained[device] -= 1;
        if world.retained[device] == 0 {
            let _ = world.wait_all(device);
            world.reset(device);
        }
        Ok(())
    }

    Init fn cuDevicePrimaryCtxReset_v2(world, ordinal: i32) {
        let device = world.ordinal(ordinal)?;
        world.reset(device);
        Ok(())
    }

    Init fn cuDevicePrimaryCtxGetState(world, ordinal: i32, flags: *mut u32, active: *mut i32) {
        let device = world.ordinal(ordinal)?;
        put(flags, world.flags)?;
        put(active, i32::from(world.retained[device] > 0))
    }

    Init fn cuDevicePrimaryCtxSetFlags_v2(world, ordinal: i32, flags: u32) {
        world.ordinal(ordinal)?;
        world.flags = flags;
        Ok(())
    }

    Init fn cuCtxGetCurrent(_world, out: *mut usize) {
        put(out, CURRENT.with_borrow(|stack| stack.last().copied().unwrap_or(0)))
    }

    Init fn cuCtxSetCurrent(world, context: usize) {
        if context != 0 {
            world.context_of(context)?;
        }
        CURRENT.with_borrow_mut(|stack| {
            stack.pop();
            if context != 0 {
                stack.push(context);
            }
        });
        Ok(())
    }

    Init fn cuCtxPushCurrent_v2(world, context: usize) {
        world.context_of(context)?;
        CURRENT.with_borrow_mut(|stack| stack.push(context));
        Ok(())
    }

    Init fn cuCtxPopCurrent_v2(_world, out: *mut usize) {
        let context = CURRENT.with_borrow_mut(Vec::pop).ok_or(Status::INVALID_CONTEXT)?;
        if out.is_null() { Ok(()) } else { put(out, context) }
    }

    Context fn cuCtxGetDevice(world, out: *mut i32) {
        put(out, world.device as i32)
    }

    Context fn cuCtxSetFlags(world, flags: u32) {
        world.flags = flags;
        Ok(())
    }

    Context fn cuCtxGetFlags(world, out: *mut u32) {
        put(out, world.flags)
    }

    Context fn cuCtxSynchronize(world) {
        world.report.counts.synchronizations += 1;
        world.none_captured(world.device)?;
        world.potentially_unsafe()?;
        world.wait_all(world.device)
    }

    Context fn cuCtxSetLimit(world, limit: i32, value: usize) {
        world.limits.insert(limit, value);
        Ok(())
    }

    Context fn cuCtxGetLimit(world, out: *mut usize, limit: i32) {
        // Stack, printf buffer, heap: the real driver's defaults.
        let standard = match limit {
            0 => 1024,
            1 => 1 << 20,
            2 => 8 << 20,
            _ => return Err(Status::INVALID_VALUE),
        };
        put(out, world.limits.get(&limit).copied().unwrap_or(standard))
    }

    Context fn cuCtxGetCacheConfig(_world, out: *mut i32) {
        put(out, 0)
    }

    Context fn cuCtxSetCacheConfig(_world, config: i32) {
        if (0..=3).contains(&config) { Ok(()) } else { Err(Status::INVALID_VALUE) }
    }

    Context fn cuCtxGetStreamPriorityRange(_world, least: *mut i32, greatest: *mut i32) {
        if !least.is_null() {
            put(least, 0)?;
        }
        if greatest.is_null() { Ok(()) } else { put(greatest, -5) }
    }

    Init fn cuProfilerStart(world) {
        world.report.open_window();
        Ok(())
    }

    Init fn cuProfilerStop(world) {
        world.report.close_window();
        Ok(())
    }
}

//! The driver's functions for initialization, devices and their attributes.
use std::ffi::c_char;

use super::{driver, put};
use crate::status::Status;

driver! {
    Nothing fn cuInit(world, flags: u32) {
        if flags != 0 {
            return Err(Status::INVALID_VALUE);
        }
        if world.profile.faults.init != 0 {
            return Err(Status(world.profile.faults.init));
        }
        world.initialized = true;
        Ok(())
    }

    Nothing fn cuDriverGetVersion(world, out: *mut i32) {
        put(out, world.profile.driver)
    }

    Init fn cuDeviceGetCount(world, out: *mut i32) {
        put(out, world.profile.devices as i32)
    }

    Init fn cuDeviceGet(world, out: *mut i32, ordinal: i32) {
        world.ordinal(ordinal)?;
        put(out, ordinal)
    }

    Init fn cuDeviceGetName(world, out: *mut c_char, length: i32, ordinal: i32) {
        world.ordinal(ordinal)?;
        let room = usize::try_from(length).map_err(|_| Status::INVALID_VALUE)?;
        if out.is_null() || room == 0 {
            return Err(Status::INVALID_VALUE);
        }
        let name = world.profile.name();
        let count = name.len().min(room - 1);
        std::ptr::copy_nonoverlapping(name.as_ptr().cast(), out, count);
        put(out.add(count), 0)
    }

    Init fn cuDeviceGetUuid_v2(world, out: *mut [u8; 16], ordinal: i32) {
        let mut id = *b"kiln-simulated-a";
        id[15] += world.ordinal(ordinal)? as u8;
        put(out, id)
    }

    Init fn cuDeviceTotalMem_v2(world, out: *mut usize, ordinal: i32) {
        world.ordinal(ordinal)?;
        put(out, world.profile.memory)
    }

    Init fn cuDeviceGetAttribute(world, out: *mut i32, attribute: i32, ordinal: i32) {
        world.ordinal(ordinal)?;
        put(out, world.profile.attribute(attribute).ok_or(Status::INVALID_VALUE)?)
    }

    Init fn cuDeviceGetDefaultMemPool(world, out: *mut usize, ordinal: i32) {
        let device = world.ordinal(ordinal)?;
        if !world.profile.pools {
            return Err(Status::NOT_SUPPORTED);
        }
        put(out, super::memory::pool_of(device))
    }

    Init fn cuDeviceGetMemPool(world, out: *mut usize, ordinal: i32) {
        let device = world.ordinal(ordinal)?;
        if !world.profile.pools {
            return Err(Status::NOT_SUPPORTED);
        }
        put(out, super::memory::pool_of(device))
    }
}

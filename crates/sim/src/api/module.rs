//! The driver's functions for modules, kernels and their attributes.
use std::ffi::{CStr, c_char, c_void};

use super::{driver, put};
use crate::cubin;
use crate::module::{self, Function};
use crate::status::Status;
use crate::world::World;

fn text(pointer: *const c_char) -> Result<String, Status> {
    if pointer.is_null() {
        return Err(Status::INVALID_VALUE);
    }
    // SAFETY: the driver requires zero-terminated text of its caller.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str().map(str::to_string).map_err(|_| Status::INVALID_IMAGE)
}

fn load(world: &mut World, out: *mut usize, image: *const c_char) -> Result<(), Status> {
    if image.is_null() {
        return Err(Status::INVALID_VALUE);
    }
    world.potentially_unsafe()?;
    // SAFETY: the driver requires zero-terminated text, or a whole ELF file, of its caller.
    let module = unsafe {
        if cubin::is_elf(image.cast()) {
            let file = cubin::bytes(image.cast()).map_err(|cubin::Invalid| Status::INVALID_IMAGE)?;
            module::load_cubin(file, &world.profile, world.device)?
        } else {
            module::load_ptx(&text(image)?, &world.profile, world.device, &mut world.report)?
        }
    };
    let handle = world.handle();
    if !world.lazy_memory(&format!("module {handle}")) {
        return Err(Status::OUT_OF_MEMORY);
    }
    // SAFETY: the caller of the driver's function promises that null or writable memory is there.
    unsafe { put(out, handle) }?;
    world.report.loaded(&module.image);
    world.modules.insert(handle, module);
    Ok(())
}

fn function(world: &World, handle: usize) -> Result<&Function, Status> {
    world.functions.get(&handle).ok_or(Status::INVALID_HANDLE)
}

driver! {
    Context fn cuModuleLoadData(world, out: *mut usize, image: *const c_char) {
        load(world, out, image)
    }

    Context fn cuModuleLoadDataEx(
        world, out: *mut usize, image: *const c_char, _count: u32, _options: *mut i32, _values: *mut *mut c_void
    ) {
        load(world, out, image)
    }

    Context fn cuModuleUnload(world, module: usize) {
        world.modules.remove(&module).ok_or(Status::INVALID_HANDLE)?;
        world.functions.retain(|_, function| function.module != module);
        Ok(())
    }

    Context fn cuModuleGetFunction(world, out: *mut usize, module: usize, name: *const c_char) {
        let name = text(name)?;
        let handle = world.handle();
        let entry = world.modules.get_mut(&module).ok_or(Status::INVALID_HANDLE)?;
        if let Some(known) = entry.known(&name) {
            return put(out, known);
        }
        let function = entry.find(&name, module, handle, &mut world.report)?;
        put(out, handle)?;
        world.functions.insert(handle, function);
        Ok(())
    }

    Context fn cuFuncGetAttribute(world, out: *mut i32, attribute: i32, handle: usize) {
        let function = function(world, handle)?;
        put(out, match attribute {
            0 => function.entry.max_threads.unwrap_or(1024) as i32,
            1 => function.entry.shared as i32,
            // Constant memory, local memory, caching of loads.
            2 | 3 | 7 => 0,
            // Registers: a typical number.
            4 => 32,
            5 => function.ptx_version as i32,
            6 => function.binary_version as i32,
            8 => function.dynamic_limit as i32,
            9 => -1,
            _ => return Err(Status::INVALID_VALUE),
        })
    }

    Context fn cuFuncSetAttribute(world, handle: usize, attribute: i32, value: i32) {
        let most = world.profile.shared_opt_in();
        let function = world.functions.get_mut(&handle).ok_or(Status::INVALID_HANDLE)?;
        match attribute {
            8 => {
                let value = u32::try_from(value).map_err(|_| Status::INVALID_VALUE)?;
                if (value + function.entry.shared) as usize > most {
                    return Err(Status::INVALID_VALUE);
                }
                function.dynamic_limit = value;
                Ok(())
            }
            9 if (-1..=100).contains(&value) => Ok(()),
            _ => Err(Status::INVALID_VALUE),
        }
    }

    Context fn cuFuncSetCacheConfig(world, handle: usize, config: i32) {
        function(world, handle)?;
        if (0..=3).contains(&config) { Ok(()) } else { Err(Status::INVALID_VALUE) }
    }
}

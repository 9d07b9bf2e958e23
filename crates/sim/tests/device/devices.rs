//! Two devices in one process: each has its own context, streams, modules and memory.
use kiln_sim::api::context::{cuCtxGetDevice, cuCtxSetCurrent, cuCtxSynchronize, cuDevicePrimaryCtxRetain};
use kiln_sim::api::device::{cuDeviceGet, cuDeviceGetCount};
use kiln_sim::api::event::cuEventRecord;
use kiln_sim::api::memory::cuMemGetInfo_v2;
use kiln_sim::api::module::cuModuleLoadData;
use kiln_sim::api::transfer::cuMemcpyDtoD_v2;
use kiln_sim::{Kind, Profile, Status};

use crate::common::{Program, arg, ok, ptx};

/// A program on device 0 of two, and the contexts of both.
fn program() -> (Program, [usize; 2]) {
    let program = Program::new(Profile { devices: 2, memory: 1 << 20, ..Profile::default() });
    let (mut contexts, mut count, mut number) = ([0; 2], 0, 0);
    // SAFETY: every pointer is to a variable of its type.
    unsafe {
        ok(cuDeviceGetCount(&raw mut count));
        assert_eq!(count, 2);
        assert_eq!(cuDeviceGet(&raw mut number, 2), Status::INVALID_DEVICE);
        for (ordinal, context) in contexts.iter_mut().enumerate() {
            ok(cuDevicePrimaryCtxRetain(context, ordinal as i32));
        }
    }
    assert_ne!(contexts[0], contexts[1]);
    (program, contexts)
}

/// Makes a context the thread's.
fn enter(context: usize, number: i32) {
    let mut current = -1;
    // SAFETY: as above.
    unsafe {
        ok(cuCtxSetCurrent(context));
        ok(cuCtxGetDevice(&raw mut current));
    }
    assert_eq!(current, number);
}

fn free() -> usize {
    let (mut free, mut total) = (0, 0);
    // SAFETY: as above.
    ok(unsafe { cuMemGetInfo_v2(&raw mut free, &raw mut total) });
    free
}

/// Loads the kernels of the tests for the thread's device.
fn load(program: &mut Program) {
    // SAFETY: as above.
    ok(unsafe { cuModuleLoadData(&raw mut program.module, ptx("7.0", 75).as_ptr()) });
}

#[test]
fn each_has_its_own() {
    let (mut program, contexts) = program();
    let first = program.upload(&[1.0f32, 2.0, 3.0]);
    let (stream, event, function) = (program.stream(1), program.event(0), program.function(c"t_double"));
    let left = free();
    // Nothing else orders what one device does and what the other does later.
    // SAFETY: it takes nothing.
    ok(unsafe { cuCtxSynchronize() });
    enter(contexts[1], 1);
    assert_eq!(free(), left + 12);
    let second = program.alloc(12);
    // Functions, streams and events of the other device are refused.
    let arguments = [arg(second), arg(second), arg(3u64)];
    let shape = ([1; 3], [32, 1, 1], 0);
    assert_eq!(program.try_launch(function, shape, 0, &arguments), Status::INVALID_HANDLE);
    load(&mut program);
    assert_eq!(program.try_launch(program.function(c"t_double"), shape, stream, &arguments), Status::INVALID_HANDLE);
    // SAFETY: it takes no pointers.
    assert_eq!(unsafe { cuEventRecord(event, 0) }, Status::INVALID_HANDLE);
    // Copies go from one to the other.
    // SAFETY: as above.
    ok(unsafe { cuMemcpyDtoD_v2(second, first, 12) });
    program.launch(c"t_double", (1, 32, 0), 0, &[arg(second), arg(second), arg(3u64)]);
    assert_eq!(program.download::<f32>(second, 3), [2.0, 4.0, 6.0]);
    enter(contexts[0], 0);
    assert_eq!(program.download::<f32>(first, 3), [1.0, 2.0, 3.0]);
    program.silent();
}

#[test]
fn kernels_cannot_read_the_memory_of_the_other() {
    let (mut program, contexts) = program();
    let first = program.upload(&[1.0f32; 8]);
    enter(contexts[1], 1);
    load(&mut program);
    let out = program.alloc(32);
    program.launch(c"t_double", (1, 32, 0), 0, &[arg(first), arg(out), arg(8u64)]);
    // SAFETY: it takes nothing.
    assert_eq!(unsafe { cuCtxSynchronize() }, Status::ILLEGAL_ADDRESS);
    program.found(Kind::IllegalAddress, &["t_double", "memory of another device"]);
    // The first device's context is as good as before.
    enter(contexts[0], 0);
    assert_eq!(program.download::<f32>(first, 8), [1.0; 8]);
}

//! The driver's rules: which calls it refuses, and with which status.
use std::ffi::CStr;
use std::ptr::{null, null_mut};

use kiln_sim::api::context::*;
use kiln_sim::api::device::*;
use kiln_sim::api::error::{cuGetErrorName, cuGetErrorString};
use kiln_sim::api::event::*;
use kiln_sim::api::launch::cuLaunchKernel;
use kiln_sim::api::memory::*;
use kiln_sim::api::module::*;
use kiln_sim::api::stream::*;
use kiln_sim::api::transfer::*;
use kiln_sim::{Jit, Kind, Profile, Session, Status};

use crate::common::{Program, arg, ok, ptx};

#[test]
fn nothing_works_before_init_and_without_a_context() {
    let _session = Session::new(Profile::default());
    let (mut count, mut address, mut context, mut other) = (0, 0, 0, 0);
    // SAFETY: every pointer is to a variable of its type.
    unsafe {
        assert_eq!(cuDeviceGetCount(&raw mut count), Status::NOT_INITIALIZED);
        assert_eq!(cuInit(1), Status::INVALID_VALUE);
        ok(cuInit(0));
        ok(cuDeviceGetCount(&raw mut count));
        assert_eq!(count, 1);
        assert_eq!(cuDeviceGet(&raw mut count, 1), Status::INVALID_DEVICE);
        assert_eq!(cuMemAlloc_v2(&raw mut address, 16), Status::INVALID_CONTEXT);
        ok(cuDevicePrimaryCtxRetain(&raw mut context, 0));
        assert_eq!(cuMemAlloc_v2(&raw mut address, 16), Status::INVALID_CONTEXT);
        ok(cuCtxPushCurrent_v2(context));
        ok(cuMemAlloc_v2(&raw mut address, 16));
        ok(cuCtxGetCurrent(&raw mut other));
        assert_eq!(other, context);
        ok(cuCtxPopCurrent_v2(&raw mut other));
        ok(cuCtxGetCurrent(&raw mut other));
        assert_eq!(other, 0);
        ok(cuDevicePrimaryCtxRelease_v2(0));
        assert_eq!(cuDevicePrimaryCtxRelease_v2(0), Status::INVALID_CONTEXT);
        ok(cuCtxSetCurrent(context));
        assert_eq!(cuMemAlloc_v2(&raw mut address, 16), Status::CONTEXT_IS_DESTROYED);
        assert_eq!(cuCtxSetCurrent(context + 1), Status::INVALID_CONTEXT);
    }
}

#[test]
fn profiles_show_in_the_attributes() {
    let attribute = |number| {
        let mut value = -1;
        // SAFETY: the pointer is to a variable of its type.
        ok(unsafe { cuDeviceGetAttribute(&raw mut value, number, 0) });
        value
    };
    for (arch, opt_in) in [(75, 65536), (80, 166_912), (90, 232_448)] {
        let _session =
            Session::new(Profile { arch, driver: 12080, memory: 1 << 30, pools: false, ..Profile::default() });
        let (mut version, mut bytes, mut pool) = (0, 0, 0);
        // SAFETY: every pointer is to a variable of its type.
        unsafe {
            ok(cuInit(0));
            ok(cuDriverGetVersion(&raw mut version));
            ok(cuDeviceTotalMem_v2(&raw mut bytes, 0));
            assert_eq!(cuDeviceGetDefaultMemPool(&raw mut pool, 0), Status::NOT_SUPPORTED);
            assert_eq!(cuDeviceGetAttribute(&raw mut version, 9999, 0), Status::INVALID_VALUE);
        }
        assert_eq!((version, bytes), (12080, 1 << 30));
        assert_eq!((attribute(75) * 10 + attribute(76), attribute(97), attribute(115)), (arch as i32, opt_in, 0));
    }
}

#[test]
fn memory_has_sizes_and_owners() {
    let program = Program::new(Profile { memory: 1 << 20, ..Profile::default() });
    let (mut address, mut free, mut total) = (0, 0, 0);
    // SAFETY: every pointer is to a variable of its type.
    unsafe {
        assert_eq!(cuMemAlloc_v2(&raw mut address, 0), Status::INVALID_VALUE);
        assert_eq!(cuMemAlloc_v2(null_mut(), 16), Status::INVALID_VALUE);
        assert_eq!(cuMemAlloc_v2(&raw mut address, (1 << 20) + 1), Status::OUT_OF_MEMORY);
        ok(cuMemAlloc_v2(&raw mut address, 1 << 19));
        assert_eq!(address % 512, 0);
        ok(cuMemGetInfo_v2(&raw mut free, &raw mut total));
        assert_eq!((free, total), (1 << 19, 1 << 20));
        assert_eq!(cuMemFree_v2(address + 8), Status::INVALID_VALUE);
        assert_eq!(cuMemFreeHost(address), Status::INVALID_VALUE);
        assert!(program.download::<f32>(address, 100).iter().all(|value| value.is_nan()), "fresh memory is poisoned");
        ok(cuMemFree_v2(address));
        assert_eq!(cuMemFree_v2(address), Status::INVALID_VALUE);
        ok(cuMemFree_v2(0));
        assert_eq!(cuMemHostAlloc(&raw mut address, 0, 0), Status::INVALID_VALUE);
        assert_eq!(cuMemHostAlloc(&raw mut address, 8, 8), Status::INVALID_VALUE);
        ok(cuMemHostAlloc(&raw mut address, 8, 1));
        assert_eq!(cuMemFree_v2(address), Status::INVALID_VALUE);
        ok(cuMemFreeHost(address));
    }
    assert_eq!(program.session.counts().live, 0);
    program.found(Kind::Uninitialized, &["cuMemcpyDtoH", "byte 0 of an allocation of 524288 bytes"]);
}

#[test]
fn pools_can_be_absent() {
    for pools in [true, false] {
        let program = Program::new(Profile { pools, ..Profile::default() });
        let mut address = 0;
        // SAFETY: the pointer is to a variable of its type.
        unsafe {
            let status = cuMemAllocAsync(&raw mut address, 16, 0);
            assert_eq!(status, if pools { Status::SUCCESS } else { Status::NOT_SUPPORTED });
            if pools {
                ok(cuMemFreeAsync(address, 0));
                ok(cuStreamSynchronize(0));
                assert_eq!(cuMemFreeAsync(address, 0), Status::INVALID_VALUE);
            }
        }
        program.silent();
    }
}

#[test]
fn copies_and_fills_stay_inside_allocations() {
    let program = Program::new(Profile::default());
    let (from, to) = (program.upload(&[1u8, 2, 3, 4]), program.alloc(8));
    let mut host = [0u8; 16];
    // SAFETY: the array has room for what is asked.
    unsafe {
        assert_eq!(cuMemcpyDtoH_v2(host.as_mut_ptr() as usize, from, 5), Status::INVALID_VALUE);
        assert_eq!(cuMemcpyHtoD_v2(to, 0, 4), Status::INVALID_VALUE);
        assert_eq!(cuMemcpyDtoH_v2(host.as_mut_ptr() as usize, host.as_ptr() as u64, 4), Status::INVALID_VALUE);
        ok(cuMemsetD8_v2(to, 7, 8));
        assert_eq!(cuMemsetD32_v2(to + 2, 0, 1), Status::INVALID_VALUE);
        ok(cuMemsetD32_v2(to + 4, 0x0102_0304, 1));
        ok(cuMemcpyDtoD_v2(to, from, 2));
        assert_eq!(cuMemsetD8_v2(to, 0, 9), Status::INVALID_VALUE);
    }
    assert_eq!(program.download::<u8>(to, 8), [1, 2, 7, 7, 4, 3, 2, 1]);
    let counts = program.session.counts();
    assert_eq!((counts.to_device, counts.to_host, counts.fills), (4, 8, 2));
    program.silent();
}

#[test]
fn launches_have_limits() {
    let program = Program::new(Profile::default());
    let function = program.function(c"t_reverse_f32");
    let (x, out) = (program.upload(&[0.0f32; 1024]), program.alloc(4096));
    let arguments = [arg(x), arg(out)];
    let launch = |grid, block, shared| program.try_launch(function, (grid, block, shared), 0, &arguments);
    assert_eq!(launch([0, 1, 1], [32, 1, 1], 128), Status::INVALID_VALUE);
    assert_eq!(launch([1, 1, 1], [32, 0, 1], 128), Status::INVALID_VALUE);
    assert_eq!(launch([1, 1, 1], [1025, 1, 1], 4100), Status::INVALID_VALUE);
    assert_eq!(launch([1, 1, 1], [32, 33, 1], 4100), Status::INVALID_VALUE);
    assert_eq!(launch([1, 1, 1], [1, 1, 65], 4100), Status::INVALID_VALUE);
    assert_eq!(launch([1, 65536, 1], [32, 1, 1], 128), Status::INVALID_VALUE);
    assert_eq!(launch([1, 1, 1], [1024, 1, 1], 49153), Status::INVALID_VALUE);
    let mut limit = 0;
    // SAFETY: every pointer is to a variable of its type, or null on purpose.
    unsafe {
        ok(cuFuncGetAttribute(&raw mut limit, 8, function));
        assert_eq!(limit, 49152);
        assert_eq!(cuFuncSetAttribute(function, 8, 232_449), Status::INVALID_VALUE);
        ok(cuFuncSetAttribute(function, 8, 49153));
        let status = cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 128, 0, null_mut(), null_mut());
        assert_eq!(status, Status::INVALID_VALUE);
        assert_eq!(cuFuncGetAttribute(&raw mut limit, 8, 1), Status::INVALID_HANDLE);
    }
    ok(launch([1, 1, 1], [1024, 1, 1], 49153));
    assert_eq!(program.try_launch(function, ([1; 3], [1; 3], 4), 12345, &arguments), Status::INVALID_HANDLE);
    program.silent();
}

#[test]
fn modules_are_read_by_the_driver_of_the_profile() {
    let _session = Program::new(Profile { arch: 80, driver: 12000, ..Profile::default() });
    let mut module = 0;
    let mut function = 0;
    // SAFETY: every pointer is to a variable of its type, or null on purpose.
    unsafe {
        ok(cuModuleLoadData(&raw mut module, ptx("8.0", 80).as_ptr()));
        assert_eq!(cuModuleLoadData(&raw mut module, ptx("8.1", 80).as_ptr()), Status::UNSUPPORTED_PTX_VERSION);
        assert_eq!(cuModuleLoadData(&raw mut module, ptx("8.0", 90).as_ptr()), Status::INVALID_PTX);
        assert_eq!(cuModuleLoadData(&raw mut module, c"nonsense".as_ptr()), Status::INVALID_IMAGE);
        assert_eq!(cuModuleLoadData(&raw mut module, null()), Status::INVALID_VALUE);
        assert_eq!(cuModuleGetFunction(&raw mut function, module, c"no_such".as_ptr()), Status::NOT_FOUND);
        ok(cuModuleGetFunction(&raw mut function, module, c"t_votes".as_ptr()));
        let mut again = 0;
        ok(cuModuleGetFunction(&raw mut again, module, c"t_votes".as_ptr()));
        assert_eq!(again, function);
        ok(cuModuleUnload(module));
        assert_eq!(cuModuleUnload(module), Status::INVALID_HANDLE);
        assert_eq!(cuFuncGetAttribute(null_mut(), 0, function), Status::INVALID_HANDLE);
    }
}

#[test]
fn a_kernel_that_only_the_ptx_has_is_named() {
    let program = Program::new(Profile::default());
    let mut function = 0;
    // SAFETY: the pointer is to a variable of its type.
    let status = unsafe { cuModuleGetFunction(&raw mut function, program.module, c"t_wrong".as_ptr()) };
    assert_eq!(status, Status::NOT_FOUND);
    program.found(Kind::Signature, &["t_wrong", "not built for the simulator"]);
}

#[test]
fn parameters_are_compared_with_the_source() {
    let program = Program::new(Profile::default());
    let text = c".version 7.0\n.target sm_75\n.visible .entry t_votes(.param .u32 x)\n{\nret;\n}\n";
    let (mut module, mut function) = (0, 0);
    // SAFETY: every pointer is to a variable of its type.
    unsafe {
        ok(cuModuleLoadData(&raw mut module, text.as_ptr()));
        assert_eq!(cuModuleGetFunction(&raw mut function, module, c"t_votes".as_ptr()), Status::INVALID_IMAGE);
    }
    program.found(Kind::Signature, &["t_votes", "[4] bytes in the module", "[8] in the simulator"]);
}

const SM_80_CUDA_12: &[u8] = include_bytes!("../cubins/sm_80.cuda12.cubin");
const SM_80: &[u8] = include_bytes!("../cubins/sm_80.cuda13.cubin");
const SM_90: &[u8] = include_bytes!("../cubins/sm_90.cuda13.cubin");

/// What a device says of an image.
fn load(profile: Profile, image: &[u8]) -> Status {
    let program = Program::new(profile);
    let mut module = 0;
    // SAFETY: a whole file, or text with a zero at its end.
    let status = unsafe { cuModuleLoadData(&raw mut module, image.as_ptr().cast()) };
    program.silent();
    status
}

#[test]
fn machine_code_is_for_one_major_architecture_and_no_older_driver() {
    let device = |arch, driver| Profile { arch, driver, ..Profile::default() };
    for (arch, driver, image, status) in [
        (80, 13000, SM_80, Status::SUCCESS),
        (86, 13000, SM_80, Status::SUCCESS),
        (90, 13000, SM_80, Status::NO_BINARY_FOR_GPU),
        (90, 13000, SM_90, Status::SUCCESS),
        (80, 13000, SM_90, Status::NO_BINARY_FOR_GPU),
        (120, 13000, SM_90, Status::NO_BINARY_FOR_GPU),
        // An earlier minor release of the driver loads it, an earlier major one does not.
        (90, 12080, SM_90, Status::INVALID_IMAGE),
        (80, 12000, SM_80_CUDA_12, Status::SUCCESS),
        (80, 13000, SM_80_CUDA_12, Status::SUCCESS),
        (80, 11080, SM_80_CUDA_12, Status::INVALID_IMAGE),
        (
            80,
            13000,
            b"\x7fELF of another machine, which has enough bytes for a header of its own, and zeros\0\0\0",
            Status::INVALID_IMAGE,
        ),
    ] {
        assert_eq!(load(device(arch, driver), image), status, "{} bytes for {arch}, {driver}", image.len());
    }
    assert_eq!(load(Profile { arch: 80, no_sass: true, ..Profile::default() }, SM_80), Status::INVALID_IMAGE);
}

#[test]
fn kernels_of_machine_code_run() {
    let program = Program::new(Profile::default());
    let (mut module, mut function) = (0, 0);
    // SAFETY: every pointer is to a variable of its type, and the image is whole.
    unsafe {
        ok(cuModuleLoadData(&raw mut module, SM_90.as_ptr().cast()));
        ok(cuModuleGetFunction(&raw mut function, module, c"t_fill_f32".as_ptr()));
        let mut value = 0;
        for (attribute, want) in [(0, 1024), (1, 0), (6, 90)] {
            ok(cuFuncGetAttribute(&raw mut value, attribute, function));
            assert_eq!(value, want, "attribute {attribute}");
        }
        let out = program.alloc(40);
        ok(program.try_launch(function, ([1; 3], [32, 1, 1], 0), 0, &[arg(out), arg(2.5f32), arg(10u64)]));
        assert_eq!(program.download::<f32>(out, 10), [2.5; 10]);
        // What launch bounds and shared variables are there, too.
        ok(cuModuleGetFunction(&raw mut function, module, c"t_reverse_f32".as_ptr()));
        for (attribute, want) in [(0, 64), (1, 256)] {
            ok(cuFuncGetAttribute(&raw mut value, attribute, function));
            assert_eq!(value, want, "attribute {attribute}");
        }
    }
    program.silent();
}

#[test]
fn the_compiler_for_ptx_may_be_missing_and_keeps_what_it_made() {
    let text = ptx("7.0", 80);
    let device = |jit| {
        let session = Session::new(Profile { jit, ..Profile::default() });
        let (mut context, mut module) = (0, 0);
        // SAFETY: every pointer is to a variable of its type.
        let status = unsafe {
            ok(cuInit(0));
            ok(cuDevicePrimaryCtxRetain(&raw mut context, 0));
            ok(cuCtxSetCurrent(context));
            cuModuleLoadData(&raw mut module, text.as_ptr())
        };
        drop(session);
        status
    };
    assert_eq!(device(Jit::Missing), Status::JIT_COMPILER_NOT_FOUND);
    assert_eq!(device(Jit::Disabled), Status::JIT_COMPILATION_DISABLED);
    assert_eq!(device(Jit::Works), Status::SUCCESS);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    // In a folder, and where there can be none.
    for (cache, compiled) in [(folder.path().join("cache"), [1, 0]), (file.join("cache"), [1, 1])] {
        for compiled in compiled {
            // The program loads one module.
            let program = Program::new(Profile { jit_cache: Some(cache.clone()), ..Profile::default() });
            let counts = program.session.counts();
            assert_eq!((counts.modules, counts.compiled, counts.cached), (1, compiled, 1 - compiled));
        }
    }
}

#[test]
fn errors_have_names_and_texts() {
    let mut text = null();
    // SAFETY: the pointer is to a variable of its type, and what it points to then lives as long as the program.
    unsafe {
        ok(cuGetErrorName(700, &raw mut text));
        assert_eq!(CStr::from_ptr(text), c"CUDA_ERROR_ILLEGAL_ADDRESS");
        ok(cuGetErrorString(2, &raw mut text));
        assert_eq!(CStr::from_ptr(text), c"out of memory");
        assert_eq!(cuGetErrorName(98765, &raw mut text), Status::INVALID_VALUE);
        assert!(text.is_null());
    }
}

#[test]
fn streams_and_events_have_life_cycles() {
    let program = Program::new(Profile::default());
    let stream = program.stream(1);
    let event = program.event(stream);
    let (mut flags, mut milliseconds, mut other) = (0, 0.0, 0);
    // SAFETY: every pointer is to a variable of its type.
    unsafe {
        assert_eq!(cuStreamCreate(&raw mut other, 2), Status::INVALID_VALUE);
        ok(cuStreamGetFlags(stream, &raw mut flags));
        assert_eq!(flags, 1);
        assert_eq!(cuEventQuery(event), Status::NOT_READY);
        assert_eq!(cuEventQuery(event), Status::SUCCESS);
        assert_eq!(cuEventElapsedTime(&raw mut milliseconds, event, event), Status::INVALID_HANDLE);
        ok(cuEventCreate(&raw mut other, 0));
        ok(cuEventQuery(other));
        ok(cuEventRecord(other, stream));
        assert_eq!(cuEventElapsedTime(&raw mut milliseconds, other, other), Status::NOT_READY);
        ok(cuEventSynchronize(other));
        ok(cuEventElapsedTime(&raw mut milliseconds, other, other));
        ok(cuEventDestroy_v2(event));
        assert_eq!(cuEventDestroy_v2(event), Status::INVALID_HANDLE);
        assert_eq!(cuStreamWaitEvent(stream, event, 0), Status::INVALID_HANDLE);
        ok(cuStreamDestroy_v2(stream));
        assert_eq!(cuStreamSynchronize(stream), Status::INVALID_HANDLE);
        assert_eq!(cuStreamDestroy_v2(0), Status::INVALID_HANDLE);
    }
    program.silent();
}

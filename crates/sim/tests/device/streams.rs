//! Streams run late, in any order that is not forbidden, and unordered accesses are reported.
use kiln_sim::api::context::cuCtxSynchronize;
use kiln_sim::api::event::{cuEventRecord, cuEventSynchronize};
use kiln_sim::api::memory::{cuMemFree_v2, cuMemFreeAsync, cuMemFreeHost};
use kiln_sim::api::stream::{cuStreamDestroy_v2, cuStreamQuery, cuStreamSynchronize, cuStreamWaitEvent};
use kiln_sim::api::transfer::{cuMemcpyDtoHAsync_v2, cuMemcpyHtoDAsync_v2, cuMemsetD32Async};
use kiln_sim::{Kind, Order, Profile, Status};

use crate::common::{Program, arg, ok};

fn program() -> Program {
    Program::new(Profile::default())
}

/// Writes `value` into 64 floats.
fn fill(program: &Program, out: u64, value: f32, stream: usize) {
    program.launch(c"t_fill_f32", (1, 64, 0), stream, &[arg(out), arg(value), arg(64u64)]);
}

fn synchronize(stream: usize) {
    // SAFETY: it takes no pointers.
    ok(unsafe { cuStreamSynchronize(stream) });
}

#[test]
fn work_waits_until_somebody_needs_it() {
    let program = program();
    let stream = program.stream(1);
    let (device, host) = (program.alloc(256), program.pinned(256));
    fill(&program, device, 3.0, stream);
    // SAFETY: the pinned memory has so many bytes.
    ok(unsafe { cuMemcpyDtoHAsync_v2(host as usize, device, 256, stream) });
    synchronize(stream);
    // SAFETY: 64 floats, which the copy has written.
    assert_eq!(unsafe { std::slice::from_raw_parts(host as *const f32, 64) }, [3.0; 64]);
    program.silent();
}

#[test]
fn reading_pinned_memory_before_the_copy_is_done() {
    let program = program();
    let stream = program.stream(1);
    let (device, host) = (program.alloc(4096), program.pinned(4096));
    // SAFETY: the pinned memory has so many bytes.
    ok(unsafe { cuMemcpyDtoHAsync_v2(host as usize, device, 4096, stream) });
    // SAFETY: this memory is the program's.
    let early = unsafe { (host as *const u32).read_volatile() };
    assert_eq!(early, u32::MAX, "what fresh memory holds");
    program.found(Kind::HostTooEarly, &["cuMemcpyDtoHAsync", "before it has waited"]);
    synchronize(stream);
}

#[test]
fn pinned_memory_may_be_read_but_not_written_while_it_is_uploaded() {
    for write in [false, true] {
        let program = program();
        let stream = program.stream(1);
        let (device, host) = (program.alloc(8192), program.pinned(8192));
        // SAFETY: this memory is the program's, and has so many bytes.
        unsafe {
            (host as *mut u32).write_bytes(0, 2048);
            ok(cuMemcpyHtoDAsync_v2(device, host as usize, 8192, stream));
            assert_eq!((host as *const u32).read_volatile(), 0);
            if write {
                (host as *mut u32).add(1500).write_volatile(1);
            }
        }
        if write {
            program.found(Kind::HostTooEarly, &["cuMemcpyHtoDAsync"]);
        } else {
            program.silent();
        }
        synchronize(stream);
        // The copy ran late, so it shows.
        assert_eq!(program.download::<u32>(device, 2048)[1500], u32::from(write));
    }
}

#[test]
fn ordinary_memory_is_read_at_the_call() {
    let program = program();
    let stream = program.stream(1);
    let device = program.alloc(16);
    let mut host = [1u32, 2, 3, 4];
    // SAFETY: the array has so many bytes.
    ok(unsafe { cuMemcpyHtoDAsync_v2(device, host.as_ptr() as usize, 16, stream) });
    host = [0; 4];
    // SAFETY: as above.
    ok(unsafe { cuMemcpyDtoHAsync_v2(host.as_mut_ptr() as usize, device, 16, stream) });
    assert_eq!(host, [1, 2, 3, 4]);
    program.silent();
}

#[test]
fn a_missing_event_is_named_and_its_twin_is_silent() {
    for (order, seed) in [(Order::Forward, 0), (Order::Reversed, 0), (Order::Random, 3)] {
        for ordered in [true, false] {
            let program = Program::new(Profile { order, seed, ..Profile::default() });
            let (first, second) = (program.stream(1), program.stream(1));
            let (device, other) = (program.alloc(256), program.alloc(256));
            fill(&program, device, 1.0, first);
            if ordered {
                let event = program.event(first);
                // SAFETY: it takes no pointers.
                ok(unsafe { cuStreamWaitEvent(second, event, 0) });
            }
            program.launch(c"t_reverse_f32", (1, 64, 256), second, &[arg(device), arg(other)]);
            // SAFETY: it takes no pointers.
            ok(unsafe { cuCtxSynchronize() });
            if ordered {
                program.silent();
                assert_eq!(program.download::<f32>(other, 64), [1.0; 64]);
            } else {
                program.found(Kind::Unordered, &["t_reverse_f32", "t_fill_f32", "nothing orders"]);
            }
        }
    }
}

#[test]
fn without_an_event_the_data_is_wrong() {
    let program = program();
    let (first, second) = (program.stream(1), program.stream(1));
    let (device, other) = (program.alloc(256), program.alloc(256));
    fill(&program, device, 1.0, first);
    program.launch(c"t_reverse_f32", (1, 64, 256), second, &[arg(device), arg(other)]);
    synchronize(second);
    assert!(program.download::<f32>(other, 64)[0].is_nan(), "the first stream had no reason to run");
}

#[test]
fn parts_of_one_allocation_are_not_a_conflict() {
    let program = program();
    let (first, second) = (program.stream(1), program.stream(1));
    let device = program.alloc(512);
    fill(&program, device, 1.0, first);
    fill(&program, device + 256, 2.0, second);
    // SAFETY: it takes no pointers.
    ok(unsafe { cuCtxSynchronize() });
    program.silent();
    // After the host has waited, everything is ordered.
    fill(&program, device, 3.0, second);
    synchronize(second);
    assert_eq!(program.download::<f32>(device, 128)[63..65], [3.0, 2.0]);
    program.silent();
}

#[test]
fn the_default_stream_orders_itself_against_blocking_streams() {
    for flags in [0, 1] {
        let program = program();
        let stream = program.stream(flags);
        let device = program.alloc(256);
        fill(&program, device, 1.0, stream);
        fill(&program, device, 2.0, 0);
        // SAFETY: it takes no pointers.
        ok(unsafe { cuCtxSynchronize() });
        if flags == 0 {
            program.silent();
            assert_eq!(program.download::<f32>(device, 64), [2.0; 64]);
        } else {
            program.found(Kind::Unordered, &["t_fill_f32", "stream 0x0"]);
        }
    }
}

#[test]
fn waiting_for_an_event_orders_the_host_and_what_it_does_next() {
    let program = program();
    let (first, second) = (program.stream(1), program.stream(1));
    let device = program.alloc(256);
    fill(&program, device, 1.0, first);
    let event = program.event(first);
    // SAFETY: it takes no pointers.
    ok(unsafe { cuEventSynchronize(event) });
    fill(&program, device, 2.0, second);
    synchronize(second);
    program.silent();
    // An event that is recorded again means the later moment.
    // SAFETY: as above.
    unsafe {
        ok(cuMemsetD32Async(device, 0, 64, first));
        ok(cuEventRecord(event, first));
        ok(cuStreamWaitEvent(second, event, 0));
    }
    fill(&program, device, 4.0, second);
    synchronize(second);
    program.silent();
    assert_eq!(program.download::<f32>(device, 64), [4.0; 64]);
}

#[test]
fn freeing_what_is_in_use() {
    for wait in [true, false] {
        let program = program();
        let stream = program.stream(1);
        let device = program.alloc(256);
        fill(&program, device, 1.0, stream);
        if wait {
            synchronize(stream);
        }
        // SAFETY: it takes no pointers.
        ok(unsafe { cuMemFree_v2(device) });
        if wait {
            program.silent();
        } else {
            program.found(Kind::FreeInUse, &["256 bytes", "t_fill_f32"]);
        }
    }
}

#[test]
fn freeing_pinned_memory_that_is_in_use() {
    let program = program();
    let stream = program.stream(1);
    let (device, host) = (program.upload(&[0u8; 64]), program.pinned(64));
    // SAFETY: it takes nothing.
    ok(unsafe { cuCtxSynchronize() });
    // SAFETY: both have so many bytes.
    unsafe {
        ok(cuMemcpyDtoHAsync_v2(host as usize, device, 64, stream));
        ok(cuMemFreeHost(host));
    }
    program.found(Kind::FreeInUse, &["cuMemcpyDtoHAsync"]);
}

#[test]
fn use_after_free() {
    let program = program();
    let stream = program.stream(1);
    let device = program.alloc(256);
    // SAFETY: it takes no pointers.
    ok(unsafe { cuMemFreeAsync(device, stream) });
    fill(&program, device, 1.0, stream);
    // SAFETY: as above.
    assert_eq!(unsafe { cuStreamSynchronize(stream) }, Status::ILLEGAL_ADDRESS);
    program.found(Kind::IllegalAddress, &["t_fill_f32", "no live allocation"]);
}

#[test]
fn polling_gets_there() {
    let program = program();
    let stream = program.stream(1);
    let device = program.alloc(256);
    fill(&program, device, 1.0, stream);
    fill(&program, device, 2.0, stream);
    // SAFETY: it takes no pointers.
    let polls = (0..).take_while(|_| unsafe { cuStreamQuery(stream) } == Status::NOT_READY).count();
    assert_eq!(polls, 2);
    // SAFETY: as above.
    ok(unsafe { cuStreamDestroy_v2(stream) });
    program.silent();
}

#[test]
fn every_seed_gives_the_same_ordered_result() {
    for seed in 0..10 {
        let program = Program::new(Profile { order: Order::Random, seed, ..Profile::default() });
        let streams: Vec<usize> = (0..4).map(|_| program.stream(1)).collect();
        let device = program.alloc(256);
        for (round, stream) in streams.iter().cycle().take(12).enumerate() {
            fill(&program, device, round as f32, *stream);
            let event = program.event(*stream);
            let next = streams[(round + 1) % streams.len()];
            // SAFETY: it takes no pointers.
            ok(unsafe { cuStreamWaitEvent(next, event, 0) });
        }
        synchronize(streams[0]);
        assert_eq!(program.download::<f32>(device, 64), [11.0; 64]);
        program.silent();
    }
}

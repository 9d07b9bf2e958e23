//! Stream capture: what the driver refuses while a stream is captured, and with which status.
use std::thread;

use kiln_sim::Status;
use kiln_sim::api::context::{cuCtxSetCurrent, cuCtxSynchronize};
use kiln_sim::api::event::{cuEventElapsedTime, cuEventQuery, cuEventRecord, cuEventSynchronize};
use kiln_sim::api::graph::*;
use kiln_sim::api::memory::{cuMemAlloc_v2, cuMemAllocAsync, cuMemFree_v2, cuMemFreeAsync, cuMemHostAlloc};
use kiln_sim::api::module::cuModuleLoadData;
use kiln_sim::api::stream::{cuStreamDestroy_v2, cuStreamQuery, cuStreamSynchronize, cuStreamWaitEvent};
use kiln_sim::api::transfer::*;

use crate::common::{Program, arg, ok, ptx};
use crate::graphs::{THREAD_LOCAL, begin, end, event, fill, instantiate, is_capturing, launch, program, synchronize};

const GLOBAL: i32 = 0;
const RELAXED: i32 = 2;

/// Calls that a capture does not survive, with what they are refused with.
#[test]
fn what_may_not_happen_while_a_stream_is_captured() {
    type Call = fn(&Program, usize, [usize; 2]) -> Status;
    let (mut address, mut host) = (0u64, [0u32; 4]);
    let out = &raw mut address as usize;
    let data = host.as_mut_ptr() as usize;
    // The program, its capturing stream, and an address of device memory with an event or a place for an answer.
    // SAFETY: the pointers of all are to variables that are there until the end, with as many bytes.
    let calls: &[(&str, Call, Status, [usize; 2])] = unsafe {
        &[
            (
                "cuMemAlloc",
                |_, _, [_, out]| cuMemAlloc_v2(out as *mut u64, 64),
                Status::STREAM_CAPTURE_UNSUPPORTED,
                [0, out],
            ),
            (
                "cuMemHostAlloc",
                |_, _, [_, out]| cuMemHostAlloc(out as *mut u64, 64, 0),
                Status::STREAM_CAPTURE_UNSUPPORTED,
                [0, out],
            ),
            ("cuMemFree", |_, _, [at, _]| cuMemFree_v2(at as u64), Status::STREAM_CAPTURE_UNSUPPORTED, [1, 0]),
            (
                "cuMemAllocAsync",
                |_, stream, [_, out]| cuMemAllocAsync(out as *mut u64, 64, stream),
                Status::NOT_SUPPORTED,
                [0, out],
            ),
            ("cuMemFreeAsync", |_, stream, [at, _]| cuMemFreeAsync(at as u64, stream), Status::NOT_SUPPORTED, [1, 0]),
            (
                "cuStreamSynchronize",
                |_, stream, _| cuStreamSynchronize(stream),
                Status::STREAM_CAPTURE_UNSUPPORTED,
                [0, 0],
            ),
            ("cuStreamQuery", |_, stream, _| cuStreamQuery(stream), Status::STREAM_CAPTURE_UNSUPPORTED, [0, 0]),
            ("cuStreamDestroy", |_, stream, _| cuStreamDestroy_v2(stream), Status::STREAM_CAPTURE_UNSUPPORTED, [0, 0]),
            (
                "another stream",
                |program, _, _| cuStreamSynchronize(program.stream(1)),
                Status::STREAM_CAPTURE_UNSUPPORTED,
                [0, 0],
            ),
            ("cuCtxSynchronize", |_, _, _| cuCtxSynchronize(), Status::STREAM_CAPTURE_UNSUPPORTED, [0, 0]),
            ("an event of before", |_, _, [_, event]| cuEventQuery(event), Status::STREAM_CAPTURE_UNSUPPORTED, [0, 1]),
            (
                "waiting for it",
                |_, _, [_, event]| cuEventSynchronize(event),
                Status::STREAM_CAPTURE_UNSUPPORTED,
                [0, 1],
            ),
            (
                "letting the stream wait for it",
                |_, stream, [_, event]| cuStreamWaitEvent(stream, event, 0),
                Status::STREAM_CAPTURE_ISOLATION,
                [0, 1],
            ),
            (
                "from ordinary memory",
                |_, stream, [at, from]| cuMemcpyHtoDAsync_v2(at as u64, from, 16, stream),
                Status::STREAM_CAPTURE_UNSUPPORTED,
                [1, data],
            ),
            (
                "to ordinary memory",
                |_, stream, [at, to]| cuMemcpyDtoHAsync_v2(to, at as u64, 16, stream),
                Status::STREAM_CAPTURE_UNSUPPORTED,
                [1, data],
            ),
            (
                "a copy that waits",
                |_, _, [at, to]| cuMemcpyDtoH_v2(to, at as u64, 16),
                Status::STREAM_CAPTURE_UNSUPPORTED,
                [1, data],
            ),
            (
                "a module",
                |_, _, [_, out]| cuModuleLoadData(out as *mut usize, ptx("7.0", 75).as_ptr()),
                Status::STREAM_CAPTURE_UNSUPPORTED,
                [0, out],
            ),
        ]
    };
    for &(name, call, status, arguments) in calls {
        let program = program();
        let (stream, x) = (program.stream(1), program.alloc(256));
        // 1 stands for what this program has of a sort.
        let recorded = program.event(program.stream(1));
        let arguments = [[arguments[0], x as usize], [arguments[1], recorded]]
            .map(|[given, own]| if given == 1 { own } else { given });
        ok(begin(stream, THREAD_LOCAL));
        fill(&program, x, 1.0, stream);
        assert_eq!(call(&program, stream, arguments), status, "{name}");
        assert_eq!(is_capturing(stream), 2, "{name}");
        let after = program.try_launch(
            program.function(c"t_fill_f32"),
            ([1; 3], [64, 1, 1], 0),
            stream,
            &[arg(x), arg(0f32), arg(64u64)],
        );
        assert_eq!(after, Status::STREAM_CAPTURE_INVALIDATED, "{name}");
        assert_eq!(end(stream).0, Status::STREAM_CAPTURE_INVALIDATED, "{name}");
        // The stream is what it was.
        fill(&program, x, 2.0, stream);
        synchronize(stream);
        assert_eq!(program.download::<f32>(x, 64), [2.0; 64], "{name}");
        program.silent();
    }
}

#[test]
fn what_is_refused_without_harm() {
    let program = program();
    let (stream, blocking, x) = (program.stream(1), program.stream(0), program.alloc(256));
    let mark = event();
    assert_eq!(begin(0, THREAD_LOCAL), Status::STREAM_CAPTURE_UNSUPPORTED);
    assert_eq!(begin(stream, 3), Status::INVALID_VALUE);
    assert_eq!(end(stream).0, Status::ILLEGAL_STATE);
    ok(begin(stream, THREAD_LOCAL));
    assert_eq!(begin(stream, THREAD_LOCAL), Status::ILLEGAL_STATE);
    fill(&program, x, 4.0, stream);
    let mut time = 0.0;
    // SAFETY: a pointer to a variable of its type.
    unsafe {
        ok(cuEventRecord(mark, stream));
        assert_eq!(cuEventQuery(mark), Status::CAPTURED_EVENT);
        assert_eq!(cuEventSynchronize(mark), Status::CAPTURED_EVENT);
        assert_eq!(cuEventElapsedTime(&raw mut time, mark, mark), Status::CAPTURED_EVENT);
        // An event that was never recorded is no dependency.
        ok(cuStreamWaitEvent(stream, event(), 0));
    }
    let (status, graph) = end(stream);
    ok(status);
    // The legacy stream would wait for a blocking stream that is captured.
    ok(begin(blocking, THREAD_LOCAL));
    let (mut answer, fills) = (0, program.function(c"t_fill_f32"));
    // SAFETY: as above.
    unsafe {
        assert_eq!(cuStreamIsCapturing(0, &raw mut answer), Status::STREAM_CAPTURE_IMPLICIT);
        assert_eq!(cuMemsetD32_v2(x, 0, 4), Status::STREAM_CAPTURE_IMPLICIT);
    }
    assert_eq!(
        program.try_launch(fills, ([1; 3], [64, 1, 1], 0), 0, &[arg(x), arg(0f32), arg(64u64)]),
        Status::STREAM_CAPTURE_IMPLICIT
    );
    ok(end(blocking).0);
    // An event of a capture that is over is one still, until it is recorded anew.
    // SAFETY: as above.
    unsafe {
        assert_eq!(cuStreamWaitEvent(blocking, mark, 0), Status::CAPTURED_EVENT);
        ok(cuEventRecord(mark, stream));
        ok(cuEventSynchronize(mark));
    }
    launch(instantiate(graph), stream);
    synchronize(stream);
    assert_eq!(program.download::<f32>(x, 64), [4.0; 64]);
    program.silent();
}

#[test]
fn sequences_stay_apart() {
    let program = program();
    let [a, b, c] = [program.stream(1), program.stream(1), program.stream(1)];
    ok(begin(a, THREAD_LOCAL));
    ok(begin(b, THREAD_LOCAL));
    let mark = program.event(a);
    // SAFETY: they take no pointers.
    unsafe {
        ok(cuStreamWaitEvent(c, mark, 0));
        assert_eq!(is_capturing(c), 1);
        assert_eq!(cuStreamWaitEvent(b, mark, 0), Status::STREAM_CAPTURE_MERGE);
    }
    for stream in [a, b] {
        assert_eq!(end(stream).0, Status::STREAM_CAPTURE_INVALIDATED);
    }
    assert_eq!([a, b, c].map(is_capturing), [0; 3]);
}

#[test]
fn other_threads_go_on_unless_a_capture_is_global() {
    for mode in [GLOBAL, THREAD_LOCAL] {
        let program = program();
        let (stream, other, x) = (program.stream(1), program.stream(1), program.alloc(256));
        ok(begin(stream, mode));
        fill(&program, x, 1.0, stream);
        let (allocated, waited, ended) = thread::scope(|scope| {
            let work = scope.spawn(|| {
                let mut address = 0;
                // SAFETY: pointers to variables of their types.
                unsafe {
                    ok(cuCtxSetCurrent(context(0) as usize));
                    let allocated = cuMemAlloc_v2(&raw mut address, 64);
                    (allocated, cuStreamSynchronize(other), end(stream).0)
                }
            });
            work.join().unwrap()
        });
        assert_eq!(ended, Status::STREAM_CAPTURE_WRONG_THREAD);
        if mode == GLOBAL {
            assert_eq!((allocated, waited), (Status::STREAM_CAPTURE_UNSUPPORTED, Status::STREAM_CAPTURE_UNSUPPORTED));
            assert_eq!(end(stream).0, Status::STREAM_CAPTURE_INVALIDATED);
        } else {
            ok(allocated);
            ok(waited);
            ok(end(stream).0);
        }
        program.silent();
    }
}

#[test]
fn a_thread_may_say_that_it_knows_what_it_does() {
    let program = program();
    let stream = program.stream(1);
    ok(begin(stream, THREAD_LOCAL));
    let (mut mode, mut address) = (RELAXED, 0);
    // SAFETY: pointers to variables of their types.
    unsafe {
        ok(cuThreadExchangeStreamCaptureMode(&raw mut mode));
        assert_eq!(mode, GLOBAL);
        ok(cuMemAlloc_v2(&raw mut address, 256));
        assert_eq!(cuStreamQuery(program.stream(1)), Status::SUCCESS, "a stream that is not captured");
        ok(cuThreadExchangeStreamCaptureMode(&raw mut mode));
        assert_eq!(mode, RELAXED);
        mode = 7;
        assert_eq!(cuThreadExchangeStreamCaptureMode(&raw mut mode), Status::INVALID_VALUE);
    }
    fill(&program, address, 1.0, stream);
    let (status, graph) = end(stream);
    ok(status);
    launch(instantiate(graph), stream);
    synchronize(stream);
    assert_eq!(program.download::<f32>(address, 64), [1.0; 64]);
    program.silent();
}

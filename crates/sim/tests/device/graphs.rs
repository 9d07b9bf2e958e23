//! Graphs: captured work runs when the graph is launched, with the addresses and arguments of the capture and the
//! contents of memory at that time.

use kiln_sim::api::context::cuCtxSynchronize;
use kiln_sim::api::dnn::cudnnSetStream;
use kiln_sim::api::event::{cuEventCreate, cuEventRecord};
use kiln_sim::api::graph::*;
use kiln_sim::api::memory::cuMemFree_v2;
use kiln_sim::api::stream::{cuStreamSynchronize, cuStreamWaitEvent};
use kiln_sim::api::transfer::*;
use kiln_sim::{Kind, Order, Profile, Status};

use crate::common::{Program, arg, ok};
use crate::{convolution, products};

pub const THREAD_LOCAL: i32 = 1;

const ORDERS: [(Order, u64); 3] = [(Order::Forward, 0), (Order::Reversed, 0), (Order::Random, 5)];

pub fn program() -> Program {
    Program::new(Profile::default())
}

pub fn begin(stream: usize, mode: i32) -> Status {
    // SAFETY: it takes no pointers.
    unsafe { cuStreamBeginCapture_v2(stream, mode) }
}

/// Ends a capture: the status, and the graph.
pub fn end(stream: usize) -> (Status, usize) {
    let mut graph = 1;
    // SAFETY: a pointer to a variable of its type.
    let status = unsafe { cuStreamEndCapture(stream, &raw mut graph) };
    assert_eq!(status == Status::SUCCESS, graph != 0, "a capture that fails has no graph");
    (status, graph)
}

pub fn instantiate(graph: usize) -> usize {
    let mut exec = 0;
    // SAFETY: as above.
    ok(unsafe { cuGraphInstantiateWithFlags(&raw mut exec, graph, 0) });
    exec
}

/// What `body` asks of a stream, as a graph that can be launched.
fn captured(stream: usize, body: impl FnOnce()) -> usize {
    ok(begin(stream, THREAD_LOCAL));
    body();
    let (status, graph) = end(stream);
    ok(status);
    let exec = instantiate(graph);
    // SAFETY: it takes no pointers. The graph is not needed any more.
    ok(unsafe { cuGraphDestroy(graph) });
    exec
}

pub fn launch(exec: usize, stream: usize) {
    // SAFETY: it takes no pointers.
    ok(unsafe { cuGraphLaunch(exec, stream) });
}

pub fn synchronize(stream: usize) {
    // SAFETY: it takes no pointers.
    ok(unsafe { cuStreamSynchronize(stream) });
}

pub fn is_capturing(stream: usize) -> i32 {
    let mut status = -1;
    // SAFETY: a pointer to a variable of its type.
    ok(unsafe { cuStreamIsCapturing(stream, &raw mut status) });
    status
}

/// Memory that the device has, whatever stream asks.
fn upload(program: &Program, data: &[f32]) -> u64 {
    let address = program.upload(data);
    // SAFETY: it takes nothing.
    ok(unsafe { cuCtxSynchronize() });
    address
}

pub fn fill(program: &Program, out: u64, value: f32, stream: usize) {
    program.launch(c"t_fill_f32", (1, 64, 0), stream, &[arg(out), arg(value), arg(64u64)]);
}

/// `y += a * x` of 64 elements.
fn axpy(program: &Program, x: u64, y: u64, a: f32, stream: usize) {
    program.launch(c"t_axpy_f32", (1, 64, 0), stream, &[arg(x), arg(y), arg(a), arg([64u64, 1, 1])]);
}

/// An event that is recorded nowhere.
pub fn event() -> usize {
    let mut event = 0;
    // SAFETY: as above.
    ok(unsafe { cuEventCreate(&raw mut event, 2) });
    event
}

fn order(first: usize, second: usize) {
    let event = event();
    // SAFETY: they take no pointers.
    unsafe {
        ok(cuEventRecord(event, first));
        ok(cuStreamWaitEvent(second, event, 0));
    }
}

#[test]
fn a_launch_does_what_was_captured_with_what_memory_holds_then() {
    for (order, seed) in ORDERS {
        let program = Program::new(Profile { order, seed, ..Profile::default() });
        let stream = program.stream(1);
        let (x, y) = (upload(&program, &[1f32; 64]), upload(&program, &[0f32; 64]));
        // SAFETY: it takes nothing.
        ok(unsafe { cuCtxSynchronize() });
        let before = program.session.counts();
        let exec = captured(stream, || {
            assert_eq!(is_capturing(stream), 1);
            axpy(&program, x, y, 2.0, stream);
            axpy(&program, y, x, 1.0, stream);
        });
        assert_eq!(is_capturing(stream), 0);
        synchronize(stream);
        assert_eq!(program.download::<f32>(y, 64), [0.0; 64], "nothing has run");
        let counts = program.session.counts();
        assert_eq!((counts.launches, counts.captured), (before.launches, 2));
        // y = 2 and x = 3; y = 8 and x = 11.
        launch(exec, stream);
        launch(exec, stream);
        synchronize(stream);
        assert_eq!((program.download(y, 64), program.download(x, 64)), (vec![8f32; 64], vec![11f32; 64]));
        fill(&program, x, 0.5, stream);
        launch(exec, stream);
        synchronize(stream);
        assert_eq!(program.download::<f32>(y, 64), [9.0; 64], "what is there then");
        let counts = program.session.counts();
        assert_eq!((counts.launches, counts.graph_launches), (before.launches + 1, 3), "and the fill");
        // SAFETY: it takes no pointers.
        unsafe {
            launch(exec, stream);
            ok(cuGraphExecDestroy(exec));
            assert_eq!(cuGraphLaunch(exec, stream), Status::INVALID_VALUE);
        }
        synchronize(stream);
        assert_eq!(program.download::<f32>(y, 64), [28.0; 64], "what was launched before the end still runs");
        program.silent();
    }
}

#[test]
fn an_argument_is_that_of_the_capture() {
    let program = program();
    let stream = program.stream(1);
    let (rate, y) = (upload(&program, &[1f32; 64]), upload(&program, &[0f32; 64]));
    let mut scalar = 1.0;
    let baked = captured(stream, || axpy(&program, rate, y, scalar, stream));
    launch(baked, stream);
    synchronize(stream);
    scalar += 1.0;
    fill(&program, rate, 10.0, stream);
    launch(baked, stream);
    synchronize(stream);
    assert_eq!(program.download::<f32>(y, 64), [1.0 + 10.0; 64], "memory is read, and {scalar} is nowhere");
    program.silent();
}

/// Two branches that are joined, or not.
fn fork(program: &Program, [first, second]: [usize; 2], [a, b, out]: [u64; 3], joined: bool) {
    order(first, second);
    fill(program, a, 1.0, first);
    fill(program, b, 2.0, second);
    if joined {
        order(second, first);
        program.launch(c"t_reverse_f32", (1, 64, 256), first, &[arg(b), arg(out)]);
        axpy(program, a, out, 1.0, first);
    }
}

#[test]
fn branches_run_in_any_order_and_have_to_be_joined() {
    for (order, seed) in ORDERS {
        let program = Program::new(Profile { order, seed, ..Profile::default() });
        let streams = [program.stream(1), program.stream(1)];
        let at = [program.alloc(256), program.alloc(256), program.alloc(256)];
        let exec = captured(streams[0], || fork(&program, streams, at, true));
        assert_eq!(streams.map(is_capturing), [0; 2]);
        for _ in 0..3 {
            launch(exec, streams[0]);
        }
        synchronize(streams[0]);
        assert_eq!(program.download::<f32>(at[2], 64), [3.0; 64]);
        ok(begin(streams[0], THREAD_LOCAL));
        fork(&program, streams, at, false);
        assert_eq!(streams.map(is_capturing), [1; 2]);
        assert_eq!(end(streams[1]).0, Status::STREAM_CAPTURE_UNMATCHED);
        assert_eq!(end(streams[0]).0, Status::STREAM_CAPTURE_INVALIDATED);
        ok(begin(streams[0], THREAD_LOCAL));
        fork(&program, streams, at, false);
        assert_eq!(end(streams[0]).0, Status::STREAM_CAPTURE_UNJOINED);
        assert_eq!(streams.map(is_capturing), [0; 2]);
        program.silent();
    }
}

#[test]
fn a_launch_is_ordered_as_any_other_work() {
    for ordered in [true, false] {
        let program = program();
        let (first, second) = (program.stream(1), program.stream(1));
        let (a, b) = (program.alloc(256), program.alloc(256));
        let exec = captured(first, || fill(&program, a, 1.0, first));
        launch(exec, first);
        if ordered {
            order(first, second);
        }
        program.launch(c"t_reverse_f32", (1, 64, 256), second, &[arg(a), arg(b)]);
        // SAFETY: it takes nothing.
        ok(unsafe { cuCtxSynchronize() });
        if ordered {
            program.silent();
            assert_eq!(program.download::<f32>(b, 64), [1.0; 64]);
        } else {
            program.found(Kind::Unordered, &["t_reverse_f32", "t_fill_f32"]);
        }
    }
}

#[test]
fn pinned_memory_is_read_when_the_graph_runs() {
    for wait in [true, false] {
        let program = program();
        let stream = program.stream(1);
        let (slot, device) = (program.pinned(4096), program.alloc(4096));
        let write = |value: u32| {
            // SAFETY: this memory is the program's, and has so many bytes.
            unsafe { (0..1024).for_each(|i| (slot as *mut u32).add(i).write_volatile(value)) };
        };
        write(1);
        let exec = captured(stream, || {
            // SAFETY: both have so many bytes.
            ok(unsafe { cuMemcpyHtoDAsync_v2(device, slot as usize, 4096, stream) });
        });
        write(2);
        launch(exec, stream);
        if wait {
            synchronize(stream);
            assert_eq!(program.download::<u32>(device, 1024), [2; 1024], "what the slot holds then");
        }
        write(3);
        if wait {
            program.silent();
        } else {
            program.found(Kind::HostTooEarly, &["cuMemcpyHtoDAsync"]);
        }
        synchronize(stream);
    }
}

#[test]
fn memory_that_was_freed_since_the_capture_is_named() {
    for freed in [true, false] {
        let program = program();
        let stream = program.stream(1);
        let (x, y) = (upload(&program, &[1f32; 64]), upload(&program, &[0f32; 64]));
        let exec = captured(stream, || axpy(&program, x, y, 1.0, stream));
        launch(exec, stream);
        synchronize(stream);
        if freed {
            // SAFETY: it takes no pointers.
            ok(unsafe { cuMemFree_v2(x) });
            // Whatever is allocated next is not what the graph reads.
            upload(&program, &[5f32; 64]);
        }
        launch(exec, stream);
        // SAFETY: it takes nothing.
        let status = unsafe { cuCtxSynchronize() };
        if freed {
            assert_eq!(status, Status::ILLEGAL_ADDRESS);
            let findings = program.findings();
            assert_eq!(findings[0].kind, Kind::StaleGraph, "{findings:?}");
            let text = &findings[0].text;
            assert!(text.contains("`t_axpy_f32` uses 256 bytes") && text.contains("freed since"), "{text}");
            assert_eq!(findings[1].kind, Kind::IllegalAddress, "{findings:?}");
        } else {
            ok(status);
            program.silent();
        }
    }
}

#[test]
fn a_batch_that_does_not_fill_what_the_graph_reads_is_found() {
    for count in [64, 40] {
        let program = program();
        let stream = program.stream(1);
        let (batch, slot, sum) = (program.alloc(256), program.pinned(256), program.alloc(4));
        // SAFETY: this memory is the program's, and has so many bytes.
        unsafe { (slot as *mut f32).write_bytes(0, 64) };
        let exec = captured(stream, || {
            program.launch(c"t_sum_f32", (1, 256, 0), stream, &[arg(batch), arg(sum), arg(64u64)]);
        });
        // SAFETY: both have so many bytes.
        ok(unsafe { cuMemcpyHtoDAsync_v2(batch, slot as usize, 4 * count, stream) });
        launch(exec, stream);
        synchronize(stream);
        if count == 64 {
            program.silent();
        } else {
            program.found(Kind::Uninitialized, &["t_sum_f32", "byte 160"]);
        }
    }
}

/// A copy of some bytes within the device.
fn between(from: u64, to: u64, bytes: usize) -> Memcpy3d {
    // SAFETY: all of it are numbers.
    let none: Memcpy3d = unsafe { std::mem::zeroed() };
    Memcpy3d { src_type: 2, src_device: from, dst_type: 2, dst_device: to, width: bytes, height: 1, depth: 1, ..none }
}

#[test]
fn copies_around_a_graph_take_other_addresses() {
    for (order, seed) in ORDERS {
        let program = Program::new(Profile { order, seed, ..Profile::default() });
        let stream = program.stream(1);
        let (input, output) = (upload(&program, &[0f32; 64]), upload(&program, &[0f32; 64]));
        let (first, second) = (upload(&program, &[1f32; 64]), upload(&program, &[2f32; 64]));
        let results = [program.alloc(256), program.alloc(256)];
        ok(begin(stream, THREAD_LOCAL));
        axpy(&program, input, output, 1.0, stream);
        let (status, inner) = end(stream);
        ok(status);
        let (mut graph, mut before, mut child, mut after, mut count) = (0, 0, 0, 0, 9);
        let mut nodes = [1; 9];
        let context = context(0) as usize;
        // SAFETY: pointers to variables of their types, and as many handles as are said.
        unsafe {
            ok(cuGraphCreate(&raw mut graph, 0));
            let params = between(first, input, 256);
            ok(cuGraphAddMemcpyNode(&raw mut before, graph, std::ptr::null(), 0, &raw const params, context));
            ok(cuGraphAddChildGraphNode(&raw mut child, graph, &raw const before, 1, inner));
            let params = between(output, results[0], 256);
            ok(cuGraphAddMemcpyNode(&raw mut after, graph, &raw const child, 1, &raw const params, context));
            ok(cuGraphGetNodes(graph, nodes.as_mut_ptr(), &raw mut count));
        }
        assert_eq!((nodes[..4].to_vec(), count), (vec![before, child, after, 0], 3));
        let exec = instantiate(graph);
        // SAFETY: as above.
        let set = |node: usize, params: Memcpy3d| unsafe {
            cuGraphExecMemcpyNodeSetParams(exec, node, &raw const params, context)
        };
        // SAFETY: it takes no pointers.
        ok(unsafe { cuGraphUpload(exec, stream) });
        launch(exec, stream);
        ok(set(before, between(second, input, 256)));
        ok(set(after, between(output, results[1], 256)));
        launch(exec, stream);
        synchronize(stream);
        assert_eq!(program.download::<f32>(results[0], 64), [1.0; 64], "a launch keeps what it was launched with");
        assert_eq!(program.download::<f32>(results[1], 64), [3.0; 64]);
        assert_eq!(set(child, between(second, input, 256)), Status::INVALID_VALUE, "no copy");
        assert_eq!(set(before, between(second, input, 0)), Status::INVALID_VALUE);
        assert_eq!(set(before, Memcpy3d { height: 2, ..between(second, input, 64) }), Status::INVALID_VALUE);
        assert_eq!(set(before, between(second, 64, 64)), Status::INVALID_VALUE, "no memory");
        program.silent();
    }
}

#[test]
fn a_graph_takes_the_arguments_of_another_one_of_its_shape() {
    let program = program();
    let stream = program.stream(1);
    let (x, y) = (upload(&program, &[1f32; 64]), upload(&program, &[0f32; 64]));
    let graph = |body: &dyn Fn()| {
        ok(begin(stream, THREAD_LOCAL));
        body();
        let (status, graph) = end(stream);
        ok(status);
        graph
    };
    let exec = instantiate(graph(&|| axpy(&program, x, y, 1.0, stream)));
    let update = |graph: usize| {
        let mut info = UpdateResult { result: -1, error_node: 0, error_from_node: 0 };
        // SAFETY: a pointer to a variable of its type.
        (unsafe { cuGraphExecUpdate_v2(exec, graph, &raw mut info) }, info.result)
    };
    launch(exec, stream);
    assert_eq!(update(graph(&|| axpy(&program, x, y, 10.0, stream))), (Status::SUCCESS, 0));
    launch(exec, stream);
    let two = graph(&|| (0..2).for_each(|_| axpy(&program, x, y, 1.0, stream)));
    assert_eq!(update(two), (Status::GRAPH_EXEC_UPDATE_FAILURE, 2));
    // SAFETY: it takes no pointers.
    let filled = graph(&|| ok(unsafe { cuMemsetD32Async(y, 0, 64, stream) }));
    assert_eq!(update(filled), (Status::GRAPH_EXEC_UPDATE_FAILURE, 3));
    launch(exec, stream);
    synchronize(stream);
    assert_eq!(program.download::<f32>(y, 64), [21.0; 64]);
    program.silent();
}

#[test]
fn products_and_convolutions_are_captured() {
    let mut call = products::Call::small();
    products::done(call.run());
    let want = call.output(8);
    call.stream = call.program.stream(1);
    let exec = captured(call.stream, || products::done(call.run()));
    // SAFETY: it has so many bytes.
    ok(unsafe { cuMemsetD32_v2(call.at[3], 0, 8) });
    ok(call.synchronize());
    launch(exec, call.stream);
    ok(call.synchronize());
    assert_eq!(call.output(8), want);
    call.program.silent();
    drop(call);

    let made = convolution::SMALL.made();
    convolution::done(made.run());
    let want = made.output();
    let stream = made.program.stream(1);
    // SAFETY: they take no pointers.
    convolution::done(unsafe { cudnnSetStream(made.handle, stream) });
    let exec = captured(stream, || convolution::done(made.run()));
    // SAFETY: as above.
    unsafe {
        ok(cuMemsetD32_v2(made.at[2], 0, want.len()));
        ok(cuCtxSynchronize());
    }
    assert_ne!(made.output(), want);
    launch(exec, stream);
    synchronize(stream);
    assert_eq!(made.output(), want);
    made.program.silent();
}

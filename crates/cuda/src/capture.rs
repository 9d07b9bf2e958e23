//! Capture of a thread's work into a CUDA graph, and the launch of such graphs.
//!
//! A thread that captures queues its work on a stream of its own, in the mode `THREAD_LOCAL`: what other threads queue on the
//! compute stream, the copies of their batches and the events that they record are not captured, and none of it waits. What
//! the thread allocates comes from a pool that only this capture uses, and memory from elsewhere that its work uses is held
//! when its owner gives it up, so that the addresses in the graph stay those of its own memory as long as it lives.
//!
//! Around what was captured, the graph has copies: of its inputs to where the captured ones were, and of its results to where
//! they are wanted. Each launch gives them other addresses, so that a launch is one call of the driver, and one more for each
//! tensor that has moved.
//!
//! What the host counts is not in the graph. A launch tells the generator how far the work has drawn, and the status record
//! who may have written it.

use std::{cell::RefCell, ptr};

use cudarc::driver::sys::{
    CUDA_MEMCPY3D, CUgraph, CUgraphExec, CUgraphNode, CUmemorytype, CUstream, CUstreamCaptureMode as Mode,
};
use kiln_backend::{
    CaptureBackend, CapturedWork, Error, RandomState, Result, View, ViewMut, is_capturing, refuse_capture,
    set_capturing,
};
use parking_lot::Mutex;
use rustc_hash::FxHashSet;

use crate::{
    alloc::Pool,
    context::Context,
    device::{CudaBackend, Device},
    generator::{Advance, Positions},
    memory::Block,
    stream::Stream,
    view::Access,
};

const OP: &str = "capture";

/// The capture of a thread.
struct Recording {
    device: &'static Device,
    stream: CaptureStream,
    pool: Pool,
    /// The addresses of memory from elsewhere that the work uses.
    held: FxHashSet<u64>,
    /// Operations that may write the status record, with their codes.
    writers: Vec<(u32, &'static str)>,
    start: RandomState,
    positions: Positions,
}

thread_local! {
    static RECORDING: RefCell<Option<Recording>> = const { RefCell::new(None) };
}

/// A stream that is used for nothing but captures.
#[derive(Clone, Copy, Debug)]
struct CaptureStream(CUstream);

// SAFETY: a stream may be used from any thread; this one is one thread's at a time.
unsafe impl Send for CaptureStream {}

/// The streams for captures of a device that no thread uses now.
#[derive(Debug, Default)]
pub(crate) struct CaptureStreams(Mutex<Vec<CaptureStream>>);

impl CaptureStreams {
    fn take(&self, context: &Context) -> Result<CaptureStream> {
        if let Some(stream) = self.0.lock().pop() {
            return Ok(stream);
        }
        Ok(CaptureStream(Stream::create(context)?))
    }

    fn put_back(&self, stream: CaptureStream) {
        self.0.lock().push(stream);
    }
}

/// What this thread's capture on a device answers, if there is one.
fn with<R>(device: usize, body: impl FnOnce(&mut Recording) -> R) -> Option<R> {
    if !is_capturing() {
        return None;
    }
    RECORDING.with_borrow_mut(|recording| recording.as_mut().filter(|one| one.device.index() == device).map(body))
}

/// The stream that takes this thread's work for a device, if it is captured.
pub(crate) fn stream(device: usize) -> Option<CUstream> {
    with(device, |recording| recording.stream.0)
}

/// The pool that this thread's memory on a device comes from.
pub(crate) fn pool(device: usize) -> Pool {
    with(device, |recording| recording.pool).unwrap_or_default()
}

/// Captured work uses this block.
pub(crate) fn uses(block: &Block) {
    let device = block.device_index();
    with(device, |recording| {
        if block.hold_for(recording.pool, &recording.held) {
            recording.held.insert(block.address());
        }
    });
}

/// Whether a launch that may write the status record was captured, and not queued.
pub(crate) fn writes_status(device: usize, writer: (u32, &'static str)) -> bool {
    let noted = with(device, |recording| {
        if !recording.writers.contains(&writer) {
            recording.writers.push(writer);
        }
    });
    noted.is_some()
}

/// The generator's positions as captured work has moved them, and where it began.
pub(crate) fn positions(device: usize) -> Option<(Positions, RandomState)> {
    with(device, |recording| (recording.positions, recording.start))
}

/// Captured work has moved the generator's positions.
pub(crate) fn set_positions(device: usize, positions: Positions) {
    with(device, |recording| recording.positions = positions);
}

/// After an operation was queued: an error if it was not captured although this thread captures.
pub(crate) fn check_device(device: usize, operation: &'static str) -> Result<()> {
    match with(device, |_| ()) {
        Some(()) => Ok(()),
        None => Err(refuse_capture(
            operation,
            format!(
                "cuda:{device} is not the device of the capture, so it would run now, and not when the graph is launched"
            ),
        )),
    }
}

/// Lets the thread do, while it captures, what no stream orders: take memory, load a module. Until it is dropped.
pub(crate) struct Relaxed<'a>(Option<(&'a Context, Mode)>);

impl Relaxed<'_> {
    pub(crate) fn new(context: &Context) -> Relaxed<'_> {
        if !is_capturing() {
            return Relaxed(None);
        }
        let mut mode = Mode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: swaps the mode of this thread.
        let code = unsafe { (context.driver.thread_exchange_stream_capture_mode)(&raw mut mode) };
        Relaxed((code == 0).then_some((context, mode)))
    }
}

impl Drop for Relaxed<'_> {
    fn drop(&mut self) {
        if let Some((context, mode)) = &mut self.0 {
            // SAFETY: as above.
            unsafe { (context.driver.thread_exchange_stream_capture_mode)(mode) };
        }
    }
}

impl CaptureBackend for CudaBackend {
    fn can_capture(&self) -> bool {
        true
    }

    fn begin_capture(&self, state: RandomState) -> Result<()> {
        let device = self.0;
        if is_capturing() {
            return Err(Error::argument(OP, "this thread captures already"));
        }
        let context = &device.stream.context;
        context.bind()?;
        let stream = device.capture_streams.take(context)?;
        let pool = device.memory.begin_capture();
        let mode = Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: a stream of the current context that nobody else uses.
        let code = unsafe { (context.driver.stream_begin_capture)(stream.0, mode) };
        if let Err(error) = context.check("cuStreamBeginCapture", code) {
            device.memory.end_capture();
            device.memory.release(pool, &FxHashSet::default());
            device.capture_streams.put_back(stream);
            return Err(error);
        }
        let (held, writers, positions) = (FxHashSet::default(), Vec::new(), Positions::at(state));
        let recording = Recording { device, stream, pool, held, writers, start: state, positions };
        RECORDING.set(Some(recording));
        set_capturing(true);
        Ok(())
    }

    fn end_capture(&self, inputs: &[View<'_>], outputs: &[View<'_>]) -> Result<Box<dyn CapturedWork>> {
        let places =
            |views: &[View<'_>]| -> Result<Vec<Place>> { views.iter().map(|view| Place::new(self.0, view)).collect() };
        // While it still captures, so that the memory is held.
        let places = places(inputs).and_then(|inputs| Ok((inputs, places(outputs)?)));
        let (recording, graph) = end()?;
        // From here on what there is gives itself back when it is dropped.
        let Recording { device, pool, held, writers, start, positions, .. } = recording;
        let mut graph = CudaGraph {
            device,
            captured: graph,
            graph: ptr::null_mut(),
            exec: ptr::null_mut(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            pool,
            held,
            writers,
            drawn: positions.since(start),
        };
        (graph.inputs, graph.outputs) = places?;
        graph.instantiate()?;
        Ok(Box::new(graph))
    }

    fn cancel_capture(&self) {
        if let Ok((recording, graph)) = end() {
            let driver = recording.device.stream.context.driver;
            // SAFETY: a graph that nobody else has.
            unsafe { (driver.graph_destroy)(graph) };
            recording.device.memory.release(recording.pool, &recording.held);
        }
    }
}

/// Ends the capture of this thread.
fn end() -> Result<(Recording, CUgraph)> {
    let Some(recording) = RECORDING.take() else {
        return Err(Error::argument(OP, "this thread does not capture"));
    };
    let refused = set_capturing(false);
    let Recording { device, stream, pool, held, .. } = &recording;
    let context = &device.stream.context;
    let mut graph = ptr::null_mut();
    let ended = context.bind().and_then(|()| {
        // SAFETY: the stream that the capture of this thread began on; writes the handle.
        let code = unsafe { (context.driver.stream_end_capture)(stream.0, &raw mut graph) };
        context.check("cuStreamEndCapture", code)
    });
    device.capture_streams.put_back(*stream);
    device.memory.end_capture();
    let ended = match refused {
        Some(refused) => Err(refused),
        None => ended,
    };
    if let Err(error) = ended {
        if !graph.is_null() {
            // SAFETY: a graph that nobody else has.
            unsafe { (context.driver.graph_destroy)(graph) };
        }
        device.memory.release(*pool, held);
        return Err(error);
    }
    Ok((recording, graph))
}

/// Where an input or a result of the captured work lies, and the node that copies it.
struct Place {
    address: u64,
    bytes: usize,
    node: CUgraphNode,
    /// The other side of the copy.
    other: u64,
}

impl Place {
    fn new(device: &Device, view: &View<'_>) -> Result<Place> {
        let (address, bytes) = dense(device, view)?;
        Ok(Place { address, bytes, node: ptr::null_mut(), other: address })
    }
}

/// Address and bytes of a tensor whose elements lie side by side, in whatever order.
fn dense(device: &Device, view: &View<'_>) -> Result<(u64, usize)> {
    let tensor = Access { device, op: OP }.read(*view)?;
    let (numel, layout) = (view.layout.numel(), view.layout);
    let span = layout.span().map_or(0, |span| span.len());
    if span != numel || layout.may_overlap() || layout.strides().iter().any(|&stride| stride < 0) {
        return Err(Error::argument(OP, format!("{layout:?} has gaps")));
    }
    Ok((tensor.address, numel * view.dtype().size()))
}

/// A graph that can be launched, with all that it needs.
struct CudaGraph {
    device: &'static Device,
    /// What was captured.
    captured: CUgraph,
    /// The same between copies.
    graph: CUgraph,
    exec: CUgraphExec,
    inputs: Vec<Place>,
    outputs: Vec<Place>,
    pool: Pool,
    held: FxHashSet<u64>,
    writers: Vec<(u32, &'static str)>,
    drawn: Advance,
}

// SAFETY: graphs are handles that one thread at a time may use, as their owner does.
unsafe impl Send for CudaGraph {}

/// A copy within the device.
fn copy(from: u64, to: u64, bytes: usize) -> CUDA_MEMCPY3D {
    CUDA_MEMCPY3D {
        srcXInBytes: 0,
        srcY: 0,
        srcZ: 0,
        srcLOD: 0,
        srcMemoryType: CUmemorytype::CU_MEMORYTYPE_DEVICE,
        srcHost: ptr::null(),
        srcDevice: from,
        srcArray: ptr::null_mut(),
        reserved0: ptr::null_mut(),
        srcPitch: 0,
        srcHeight: 0,
        dstXInBytes: 0,
        dstY: 0,
        dstZ: 0,
        dstLOD: 0,
        dstMemoryType: CUmemorytype::CU_MEMORYTYPE_DEVICE,
        dstHost: ptr::null_mut(),
        dstDevice: to,
        dstArray: ptr::null_mut(),
        reserved1: ptr::null_mut(),
        dstPitch: 0,
        dstHeight: 0,
        WidthInBytes: bytes,
        Height: 1,
        Depth: 1,
    }
}

impl CudaGraph {
    /// Puts the captured work between its copies, which at first go nowhere, and makes it ready to be launched.
    fn instantiate(&mut self) -> Result<()> {
        let context = &self.device.stream.context;
        let driver = context.driver;
        context.bind()?;
        let (raw, stream) = (context.raw(), self.device.stream.own());
        // SAFETY: handles that were made here, in the current context, and pointers to variables or to as many nodes as are
        // said.
        unsafe {
            context.check("cuGraphCreate", (driver.graph_create)(&raw mut self.graph, 0))?;
            let mut before = Vec::with_capacity(self.inputs.len());
            for place in self.inputs.iter_mut().filter(|place| place.bytes > 0) {
                let params = copy(place.other, place.address, place.bytes);
                let (node, none) = (&raw mut place.node, ptr::null());
                let code = (driver.graph_add_memcpy_node)(node, self.graph, none, 0, &raw const params, raw);
                context.check("cuGraphAddMemcpyNode", code)?;
                before.push(place.node);
            }
            let mut work = ptr::null_mut();
            let code = (driver.graph_add_child_graph_node)(
                &raw mut work,
                self.graph,
                before.as_ptr(),
                before.len(),
                self.captured,
            );
            context.check("cuGraphAddChildGraphNode", code)?;
            for place in self.outputs.iter_mut().filter(|place| place.bytes > 0) {
                let params = copy(place.address, place.other, place.bytes);
                let (node, work) = (&raw mut place.node, &raw const work);
                let code = (driver.graph_add_memcpy_node)(node, self.graph, work, 1, &raw const params, raw);
                context.check("cuGraphAddMemcpyNode", code)?;
            }
            let code = (driver.graph_instantiate)(&raw mut self.exec, self.graph, 0);
            context.check("cuGraphInstantiate", code)?;
            // The first launch need not do it then.
            context.check("cuGraphUpload", (driver.graph_upload)(self.exec, stream))
        }
    }

    /// Lets the copies go between these places and the captured ones.
    fn connect(&mut self, others: &[(u64, usize)], outputs: bool) -> Result<()> {
        let context = &self.device.stream.context;
        let (exec, places) = (self.exec, if outputs { &mut self.outputs } else { &mut self.inputs });
        if others.len() != places.len() {
            let message = format!("{} tensors for a graph that was captured with {}", others.len(), places.len());
            return Err(Error::argument(OP, message));
        }
        for (place, &(other, bytes)) in places.iter_mut().zip(others) {
            if bytes != place.bytes {
                let message = format!("{bytes} bytes for a graph that was captured with {}", place.bytes);
                return Err(Error::argument(OP, message));
            }
            if other == place.other || bytes == 0 {
                continue;
            }
            let (from, to) = if outputs { (place.address, other) } else { (other, place.address) };
            let params = copy(from, to, bytes);
            // SAFETY: a node of the graph that was instantiated, and memory of this device on both sides, of as many bytes,
            // as before.
            let code = unsafe {
                (context.driver.graph_exec_memcpy_node_set_params)(exec, place.node, &raw const params, context.raw())
            };
            context.check("cuGraphExecMemcpyNodeSetParams", code)?;
            place.other = other;
        }
        Ok(())
    }
}

impl CapturedWork for CudaGraph {
    fn launch(&mut self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>], state: RandomState) -> Result<()> {
        let device = self.device;
        let context = &device.stream.context;
        kiln_backend::unless_capturing(OP, "a captured step inside another one")?;
        context.bind()?;
        let inputs = inputs.iter().map(|view| dense(device, view)).collect::<Result<Vec<_>>>()?;
        let outputs = outputs.iter().map(|view| dense(device, &view.as_view())).collect::<Result<Vec<_>>>()?;
        self.connect(&inputs, false)?;
        self.connect(&outputs, true)?;
        let exec = self.exec;
        device.generator.launch(device.stream, &device.uploads, state, self.drawn, || {
            // SAFETY: the graph uses memory that it holds, and copies from and to memory of the device whose owners give it
            // back in the order of the stream.
            let code = unsafe { (context.driver.graph_launch)(exec, device.stream.own()) };
            context.check("cuGraphLaunch", code)
        })?;
        for &(code, op) in &self.writers {
            device.status(code, op);
        }
        device.stream.queued("a captured step")
    }
}

impl Drop for CudaGraph {
    fn drop(&mut self) {
        let context = &self.device.stream.context;
        if context.bind().is_ok() {
            let driver = context.driver;
            // A launch that is under way ends first. Errors are those of earlier work, which the next call reports too.
            // SAFETY: handles that nobody else has.
            unsafe {
                if !self.exec.is_null() {
                    (driver.graph_exec_destroy)(self.exec);
                }
                for graph in [self.graph, self.captured].into_iter().filter(|graph| !graph.is_null()) {
                    (driver.graph_destroy)(graph);
                }
            }
        }
        self.device.memory.release(self.pool, &self.held);
    }
}

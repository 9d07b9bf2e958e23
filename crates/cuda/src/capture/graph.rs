//! A captured graph that can be launched again and again, on other inputs and for other outputs.
//!
//! The captured work is a child of a graph in which copies precede it, one for each input, and follow it, one for each
//! output. A launch changes the other ends of these copies, so that it costs one call of the driver, and one more for each
//! tensor that has moved.

use std::ptr;

use cudarc::driver::sys::{CUDA_MEMCPY3D, CUgraph, CUgraphExec, CUgraphNode, CUmemorytype};
use kiln_backend::{CapturedWork, Error, RandomState, Result, View, ViewMut, unless_capturing};
use rustc_hash::FxHashSet;

use super::recording::Recording;
use crate::{alloc::Pool, device::Device, positions::Advance, view::Access};

/// The name for errors.
pub(super) const OP: &str = "capture";

/// Where the captured work reads an input or writes an output, and the node that copies it.
pub(super) struct Place {
    address: u64,
    bytes: usize,
    node: CUgraphNode,
    /// The other end of the copy.
    other: u64,
}

impl Place {
    pub fn new(device: &Device, view: &View<'_>) -> Result<Place> {
        let (address, bytes) = dense(device, view)?;
        Ok(Place { address, bytes, node: ptr::null_mut(), other: address })
    }
}

/// Address and size in bytes of a tensor without gaps between its elements, in any order of dimensions.
fn dense(device: &Device, view: &View<'_>) -> Result<(u64, usize)> {
    let tensor = Access { device, op: OP }.read(*view)?;
    let (numel, layout) = (view.layout.numel(), view.layout);
    let span = layout.span().map_or(0, |span| span.len());
    if span != numel || layout.may_overlap() || layout.strides().iter().any(|&stride| stride < 0) {
        return Err(Error::argument(OP, format!("{layout:?} has gaps")));
    }
    Ok((tensor.address, numel * view.dtype().size()))
}

/// A graph, and the memory that it uses.
pub(super) struct CudaGraph {
    device: &'static Device,
    /// The captured work.
    captured: CUgraph,
    /// The captured work between the copies of its inputs and outputs.
    graph: CUgraph,
    exec: CUgraphExec,
    pub inputs: Vec<Place>,
    pub outputs: Vec<Place>,
    pool: Pool,
    /// The addresses of memory from other pools that the work uses.
    held: FxHashSet<u64>,
    /// Operations that may write the status record, each with the code that it writes.
    writers: Vec<(u32, &'static str)>,
    drawn: Advance,
}

// SAFETY: a graph's handles may be used by one thread at a time, as an owner does.
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
    /// A graph without copies. It owns `captured` and what the recording holds.
    pub fn new(device: &'static Device, captured: CUgraph, recording: Recording) -> CudaGraph {
        let Recording { pool, held, writers, start, positions, .. } = recording;
        CudaGraph {
            device,
            captured,
            graph: ptr::null_mut(),
            exec: ptr::null_mut(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            pool,
            held,
            writers,
            drawn: positions.since(start),
        }
    }

    /// Adds the copies, which at first copy memory to itself, and makes the graph ready to be launched.
    pub fn instantiate(&mut self) -> Result<()> {
        let context = &self.device.stream.context;
        let driver = context.driver;
        context.bind()?;
        let (raw, stream) = (context.raw(), self.device.stream.own());
        // SAFETY: handles that were made here, in the current context, and pointers to variables, or to as many nodes as the
        // call is told.
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
            // Otherwise the first launch would upload it.
            context.check("cuGraphUpload", (driver.graph_upload)(self.exec, stream))
        }
    }

    /// Sets the other ends of the copies: addresses and sizes of the launch's inputs, or outputs.
    fn connect(&mut self, others: &[(u64, usize)], outputs: bool) -> Result<()> {
        let context = &self.device.stream.context;
        let (exec, places) = (self.exec, if outputs { &mut self.outputs } else { &mut self.inputs });
        if others.len() != places.len() {
            let message = format!("{} tensors for a graph captured with {}", others.len(), places.len());
            return Err(Error::argument(OP, message));
        }
        for (place, &(other, bytes)) in places.iter_mut().zip(others) {
            if bytes != place.bytes {
                let message = format!("{bytes} bytes for a graph captured with {}", place.bytes);
                return Err(Error::argument(OP, message));
            }
            if other == place.other || bytes == 0 {
                continue;
            }
            let (from, to) = if outputs { (place.address, other) } else { (other, place.address) };
            let params = copy(from, to, bytes);
            // SAFETY: a node of the instantiated graph; both ends are memory of this device, of the size that the node was
            // made with.
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
        unless_capturing(OP, "a captured step inside another one")?;
        context.bind()?;
        let inputs = inputs.iter().map(|view| dense(device, view)).collect::<Result<Vec<_>>>()?;
        let outputs = outputs.iter().map(|view| dense(device, &view.as_view())).collect::<Result<Vec<_>>>()?;
        self.connect(&inputs, false)?;
        self.connect(&outputs, true)?;
        let exec = self.exec;
        device.generator.launch(device.stream, &device.uploads, state, self.drawn, || {
            // SAFETY: the graph holds the memory that it uses. Its copies use memory whose owners free it in stream order.
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
            // The driver lets a launch in progress finish first. Errors are those of earlier work, which the next call reports
            // too. SAFETY: handles to which nothing else refers.
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

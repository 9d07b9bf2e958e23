//! The driver's functions for stream capture and graphs.
use std::ffi::c_void;

use super::stream::{known, own};
use super::{driver, put};
use crate::captures::{Mode, THREAD_MODE};
use crate::graphs::{Graph, Node, NodeWork};
use crate::status::Status;
use crate::stream_id::is_legacy;
use crate::work::{Place, Work};
use crate::world::{self, World};

/// `CUDA_MEMCPY3D`: a copy between memory of the host and of devices.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the driver's names say it")]
pub struct Memcpy3d {
    pub src_x: usize,
    pub src_y: usize,
    pub src_z: usize,
    pub src_lod: usize,
    pub src_type: u32,
    pub src_host: usize,
    pub src_device: u64,
    pub src_array: usize,
    pub reserved0: usize,
    pub src_pitch: usize,
    pub src_height: usize,
    pub dst_x: usize,
    pub dst_y: usize,
    pub dst_z: usize,
    pub dst_lod: usize,
    pub dst_type: u32,
    pub dst_host: usize,
    pub dst_device: u64,
    pub dst_array: usize,
    pub reserved1: usize,
    pub dst_pitch: usize,
    pub dst_height: usize,
    pub width: usize,
    pub height: usize,
    pub depth: usize,
}

/// `CUgraphExecUpdateResultInfo`.
#[repr(C)]
#[allow(missing_docs, reason = "the driver's names say it")]
pub struct UpdateResult {
    pub result: i32,
    pub error_node: usize,
    pub error_from_node: usize,
}

/// The work of a one-dimensional copy.
fn copy(world: &World, params: &Memcpy3d) -> Result<Work, Status> {
    const HOST: u32 = 1;
    const DEVICE: u32 = 2;
    const UNIFIED: u32 = 4;
    let bytes = params.width;
    if bytes == 0 || params.height > 1 || params.depth > 1 || params.reserved0 != 0 || params.reserved1 != 0 {
        return Err(Status::INVALID_VALUE);
    }
    let place = |kind: u32, host: usize, device: u64, x: usize| {
        let address = match kind {
            HOST => host as u64,
            DEVICE | UNIFIED => device,
            _ => return Err(Status::INVALID_VALUE),
        };
        // Pageable host memory is not simulated here: a graph would access it at every launch.
        let address = address + x as u64;
        world.memory.find(address, bytes).map(|_| Place::Arena(address)).ok_or(Status::INVALID_VALUE)
    };
    let from = place(params.src_type, params.src_host, params.src_device, params.src_x)?;
    let to = place(params.dst_type, params.dst_host, params.dst_device, params.dst_x)?;
    Ok(Work::Copy { from, to, bytes })
}

impl World {
    /// Adds a node that depends on other nodes of the same graph.
    ///
    /// # Safety
    /// `before` points to `count` handles, or `count` is 0.
    unsafe fn add_node(
        &mut self,
        out: *mut usize,
        graph: usize,
        (before, count): (*const usize, usize),
        (name, work): (&str, NodeWork),
    ) -> Result<(), Status> {
        let handle = self.handle();
        let graph = self.graphs.graphs.get_mut(&graph).ok_or(Status::INVALID_VALUE)?;
        // SAFETY: the caller's promise.
        let before: &[usize] = if count == 0 { &[] } else { unsafe { std::slice::from_raw_parts(before, count) } };
        let place = |one: &usize| graph.nodes.iter().position(|node| node.handle == *one).ok_or(Status::INVALID_VALUE);
        let needs = before.iter().map(place).collect::<Result<Vec<_>, _>>()?;
        // SAFETY: the driver asks of its caller that this is null or can be written.
        unsafe { put(out, handle) }?;
        graph.nodes.push(Node { handle, name: name.into(), work, needs });
        Ok(())
    }
}

driver! {
    Context fn cuStreamBeginCapture_v2(world, stream: usize, mode: i32) {
        let stream = known(world, stream)?;
        let mode = Mode::of(mode)?;
        if is_legacy(stream) {
            return Err(Status::STREAM_CAPTURE_UNSUPPORTED);
        }
        world.begin_capture(stream, mode)
    }

    Context fn cuStreamEndCapture(world, stream: usize, out: *mut usize) {
        let stream = known(world, stream)?;
        put(out, 0)?;
        let nodes = world.end_capture(stream)?;
        let (handle, device) = (world.handle(), world.device);
        world.graphs.graphs.insert(handle, Graph { device, nodes });
        put(out, handle)
    }

    Context fn cuStreamIsCapturing(world, stream: usize, out: *mut i32) {
        let stream = known(world, stream)?;
        put(out, world.captures.status(stream))
    }

    Init fn cuThreadExchangeStreamCaptureMode(_world, mode: *mut i32) {
        if mode.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        let old = THREAD_MODE.replace(Mode::of(mode.read())?);
        put(mode, old as i32)
    }

    Context fn cuGraphCreate(world, out: *mut usize, flags: u32) {
        if flags != 0 {
            return Err(Status::INVALID_VALUE);
        }
        let (handle, device) = (world.handle(), world.device);
        put(out, handle)?;
        world.graphs.graphs.insert(handle, Graph { device, nodes: Vec::new() });
        Ok(())
    }

    Context fn cuGraphDestroy(world, graph: usize) {
        world.graphs.graphs.remove(&graph).map(|_| ()).ok_or(Status::INVALID_VALUE)
    }

    Context fn cuGraphGetNodes(world, graph: usize, nodes: *mut usize, count: *mut usize) {
        let graph = world.graphs.graphs.get(&graph).ok_or(Status::INVALID_VALUE)?;
        if count.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        if nodes.is_null() {
            return put(count, graph.nodes.len());
        }
        // Entries beyond the nodes are filled with null, and the count is set to the number of nodes written.
        for at in 0..count.read() {
            nodes.add(at).write(graph.nodes.get(at).map_or(0, |node| node.handle));
        }
        put(count, count.read().min(graph.nodes.len()))
    }

    Context fn cuGraphAddMemcpyNode(
        world, out: *mut usize, graph: usize, before: *const usize, count: usize, params: *const Memcpy3d, context: usize
    ) {
        world.context_of(context)?;
        let params = params.as_ref().ok_or(Status::INVALID_VALUE)?;
        let work = copy(world, params)?;
        world.add_node(out, graph, (before, count), ("cuGraphAddMemcpyNode", NodeWork::Queued(work)))
    }

    Context fn cuGraphAddChildGraphNode(
        world, out: *mut usize, graph: usize, before: *const usize, count: usize, child: usize
    ) {
        let child = world.graphs.graphs.get(&child).ok_or(Status::INVALID_VALUE)?.nodes.clone();
        world.add_node(out, graph, (before, count), ("cuGraphAddChildGraphNode", NodeWork::Child(child)))
    }

    Context fn cuGraphInstantiateWithFlags(world, out: *mut usize, graph: usize, flags: u64) {
        // The flags: free the graph's allocations at the next launch 1, upload 2, launch from the device 4, priorities
        // of nodes 8.
        if flags & !15 != 0 {
            return Err(Status::INVALID_VALUE);
        }
        if flags & 4 != 0 {
            return Err(Status::NOT_SUPPORTED);
        }
        let exec = world.instantiate(graph)?;
        let handle = world.handle();
        put(out, handle)?;
        world.graphs.execs.insert(handle, exec);
        Ok(())
    }

    Context fn cuGraphExecUpdate_v2(world, exec: usize, graph: usize, info: *mut UpdateResult) {
        let result = world.update_exec(exec, graph)?;
        world.report.counts.graph_updates += 1;
        if !info.is_null() {
            info.write(UpdateResult { result, error_node: 0, error_from_node: 0 });
        }
        if result == 0 { Ok(()) } else { Err(Status::GRAPH_EXEC_UPDATE_FAILURE) }
    }

    Context fn cuGraphExecMemcpyNodeSetParams(
        world, exec: usize, node: usize, params: *const Memcpy3d, context: usize
    ) {
        world.context_of(context)?;
        let params = params.as_ref().ok_or(Status::INVALID_VALUE)?;
        let work = copy(world, params)?;
        world.report.counts.graph_updates += 1;
        world.set_copy(exec, node, work)
    }

    Context fn cuGraphUpload(world, exec: usize, stream: usize) {
        let stream = own(world, stream)?;
        world.not_captured(stream)?;
        world.graphs.execs.get(&exec).map(|_| ()).ok_or(Status::INVALID_VALUE)
    }

    Context fn cuGraphLaunch(world, exec: usize, stream: usize) {
        let stream = own(world, stream)?;
        world.taking(stream)?;
        if world.profile.faults.launch.fails() {
            return Err(Status::LAUNCH_OUT_OF_RESOURCES);
        }
        world.launch_graph(exec, stream)
    }

    Context fn cuGraphExecDestroy(world, exec: usize) {
        // Work of it that is queued still runs.
        world.graphs.execs.remove(&exec).map(|_| ()).ok_or(Status::INVALID_VALUE)
    }
}

/// A pointer that test programs can pass as `CUcontext`.
pub fn context(device: usize) -> *mut c_void {
    world::context(device) as *mut c_void
}

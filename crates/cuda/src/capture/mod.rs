//! Capture of a thread's work as a CUDA graph ([`graph`] launches it).
//!
//! A thread that captures queues its work on a stream of its own, in the mode `THREAD_LOCAL`. So what other threads do
//! meanwhile (work on the compute stream, copies of batches, events) is neither captured nor delayed. The thread allocates
//! from a pool that only this capture uses. Memory from other pools that its work uses is held: if its owner frees it, it is
//! kept until the graph is destroyed. So all addresses in the graph stay valid as long as the graph lives.
//!
//! What the host counts is not in the graph: a launch tells the generator how many random numbers the work draws, and the
//! status record which operations may have written it.

mod graph;
pub(crate) mod recording;
pub(crate) mod relaxed;
pub(crate) mod streams;

use std::ptr;

use cudarc::driver::sys::{CUgraph, CUstreamCaptureMode as Mode};
use kiln_backend::{CaptureBackend, CapturedWork, Error, RandomState, Result, View, is_capturing, set_capturing};
use rustc_hash::FxHashSet;

use self::{
    graph::{CudaGraph, OP, Place},
    recording::Recording,
};
use crate::{
    device::{CudaBackend, Device},
    positions::Positions,
};

impl CaptureBackend for CudaBackend {
    fn can_capture(&self) -> bool {
        true
    }

    fn begin_capture(&self, state: RandomState) -> Result<()> {
        let device = self.0;
        if is_capturing() {
            return Err(Error::argument(OP, "this thread is already capturing"));
        }
        let context = &device.stream.context;
        context.bind()?;
        let stream = device.capture_streams.take(context)?;
        let pool = device.memory.begin_capture();
        let mode = Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: a stream of the current context that nothing else uses.
        let code = unsafe { (context.driver.stream_begin_capture)(stream.0, mode) };
        if let Err(error) = context.check("cuStreamBeginCapture", code) {
            device.memory.end_capture();
            device.memory.release(pool, &FxHashSet::default());
            device.capture_streams.put_back(stream);
            return Err(error);
        }
        recording::begin(Recording {
            device: device.index(),
            stream,
            pool,
            held: FxHashSet::default(),
            writers: Vec::new(),
            start: state,
            positions: Positions::at(state),
        });
        set_capturing(true);
        Ok(())
    }

    fn end_capture(&self, inputs: &[View<'_>], outputs: &[View<'_>]) -> Result<Box<dyn CapturedWork>> {
        let device = self.0;
        let places =
            |views: &[View<'_>]| -> Result<Vec<Place>> { views.iter().map(|view| Place::new(device, view)).collect() };
        // Looked up while the thread still captures, so that the memory is held.
        let places = places(inputs).and_then(|inputs| Ok((inputs, places(outputs)?)));
        let (recording, captured) = end(device)?;
        // From here on, dropping `graph` releases everything.
        let mut graph = CudaGraph::new(device, captured, recording);
        (graph.inputs, graph.outputs) = places?;
        graph.instantiate()?;
        Ok(Box::new(graph))
    }

    fn cancel_capture(&self) {
        let device = self.0;
        if let Ok((recording, graph)) = end(device) {
            // SAFETY: a graph to which nothing else refers.
            unsafe { (device.stream.context.driver.graph_destroy)(graph) };
            device.memory.release(recording.pool, &recording.held);
        }
    }
}

/// Ends the capture of this thread.
fn end(device: &Device) -> Result<(Recording, CUgraph)> {
    let Some(recording) = recording::end(device.index()) else {
        return Err(Error::argument(OP, "this thread is not capturing work of this device"));
    };
    let refused = set_capturing(false);
    let Recording { stream, pool, held, .. } = &recording;
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
            // SAFETY: a graph to which nothing else refers.
            unsafe { (context.driver.graph_destroy)(graph) };
        }
        device.memory.release(*pool, held);
        return Err(error);
    }
    Ok((recording, graph))
}

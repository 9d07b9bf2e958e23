//! Stream capture: the operations of streams that are being captured become the nodes of a graph, under the driver's
//! rules for what may happen during a capture.
use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::thread::{self, ThreadId};

use crate::graph::{Node, NodeWork};
use crate::status::Status;
use crate::stream_id::StreamId;
use crate::work::Work;
use crate::world::World;

/// How a capture, or a thread, treats potentially unsafe calls during captures: `CUstreamCaptureMode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Global,
    ThreadLocal,
    Relaxed,
}

impl Mode {
    pub fn of(number: i32) -> Result<Mode, Status> {
        match number {
            0 => Ok(Mode::Global),
            1 => Ok(Mode::ThreadLocal),
            2 => Ok(Mode::Relaxed),
            _ => Err(Status::INVALID_VALUE),
        }
    }
}

thread_local! {
    /// The calling thread's mode.
    pub static THREAD_MODE: Cell<Mode> = const { Cell::new(Mode::Global) };
}

/// A capture sequence.
struct Capture {
    id: u64,
    device: usize,
    /// The stream in which it began and must end.
    origin: StreamId,
    thread: ThreadId,
    mode: Mode,
    invalid: bool,
    nodes: Vec<Node>,
    /// The participating streams, each with the nodes that its next operation depends on.
    streams: HashMap<StreamId, Vec<usize>>,
}

impl Capture {
    /// Whether the end of the origin stream depends on every captured node.
    fn is_joined(&self) -> bool {
        let mut before: BTreeSet<usize> = BTreeSet::new();
        let mut open = self.streams.get(&self.origin).cloned().unwrap_or_default();
        while let Some(node) = open.pop() {
            if before.insert(node) {
                open.extend(&self.nodes[node].needs);
            }
        }
        // A stream that joined the capture without any work needs no join.
        before.len() == self.nodes.len()
    }
}

/// All capture sequences in progress.
#[derive(Default)]
pub struct Captures {
    all: Vec<Capture>,
    made: u64,
}

impl Captures {
    /// Removes the captures of a device whose context ends.
    pub fn reset(&mut self, device: usize) {
        self.all.retain(|capture| capture.device != device);
    }

    fn of(&mut self, stream: StreamId) -> Option<&mut Capture> {
        self.all.iter_mut().find(|capture| capture.streams.contains_key(&stream))
    }

    fn numbered(&mut self, id: u64) -> Option<&mut Capture> {
        self.all.iter_mut().find(|capture| capture.id == id)
    }

    /// Whether a stream is being captured; the sequence may have been invalidated.
    pub fn has(&self, stream: StreamId) -> bool {
        self.all.iter().any(|capture| capture.streams.contains_key(&stream))
    }

    /// `CUstreamCaptureStatus`: none, active, invalidated.
    pub fn status(&mut self, stream: StreamId) -> i32 {
        self.of(stream).map_or(0, |capture| 1 + i32::from(capture.invalid))
    }

    /// The id of the sequence that captures a stream.
    pub fn id(&mut self, stream: StreamId) -> Option<u64> {
        self.of(stream).map(|capture| capture.id)
    }

    /// If a stream is being captured, captures an operation as a node with this handle.
    pub fn add(&mut self, stream: StreamId, name: &str, work: &Work, handle: usize) -> bool {
        self.of(stream).is_some_and(|capture| {
            capture.push(stream, name, NodeWork::Queued(work.clone()), handle);
            true
        })
    }

    /// Captures the launch of a graph.
    pub fn add_graph(&mut self, stream: StreamId, nodes: Vec<Node>, handle: usize) {
        if let Some(capture) = self.of(stream) {
            capture.push(stream, "cuGraphLaunch", NodeWork::Child(nodes), handle);
        }
    }

    /// The nodes that the next operation of a captured stream depends on, for an event.
    pub fn mark(&mut self, stream: StreamId) -> Option<(u64, Vec<usize>)> {
        self.of(stream).map(|capture| (capture.id, capture.streams.get(&stream).cloned().unwrap_or_default()))
    }
}

impl Capture {
    fn push(&mut self, stream: StreamId, name: &str, work: NodeWork, handle: usize) {
        let at = self.nodes.len();
        let needs = self.streams.insert(stream, vec![at]).unwrap_or_default();
        self.nodes.push(Node { handle, name: name.into(), work, needs });
    }
}

impl World {
    fn invalidate(&mut self, which: impl Fn(&Capture) -> bool) {
        self.captures.all.iter_mut().filter(|capture| which(capture)).for_each(|capture| capture.invalid = true);
    }

    /// Checks that a stream can take an operation: not if the sequence that captures it has been invalidated.
    pub fn taking(&mut self, stream: StreamId) -> Result<(), Status> {
        match self.captures.status(stream) {
            2 => Err(Status::STREAM_CAPTURE_INVALIDATED),
            _ => Ok(()),
        }
    }

    /// Checks that a stream is not being captured, for a call that is prohibited during a capture in any mode.
    pub fn not_captured(&mut self, stream: StreamId) -> Result<(), Status> {
        if !self.captures.has(stream) {
            return Ok(());
        }
        self.invalidate(|capture| capture.streams.contains_key(&stream));
        Err(Status::STREAM_CAPTURE_UNSUPPORTED)
    }

    /// Checks that no stream of a device is being captured, for a call that concerns the whole device.
    pub fn none_captured(&mut self, device: usize) -> Result<(), Status> {
        if !self.captures.all.iter().any(|capture| capture.device == device) {
            return Ok(());
        }
        self.invalidate(|capture| capture.device == device);
        Err(Status::STREAM_CAPTURE_UNSUPPORTED)
    }

    /// Checks that a potentially unsafe call is allowed: one that no stream orders, or that waits.
    pub fn potentially_unsafe(&mut self) -> Result<(), Status> {
        let (mode, thread) = (THREAD_MODE.get(), thread::current().id());
        let conflicts = move |capture: &Capture| match mode {
            Mode::Relaxed => false,
            _ if capture.thread == thread => capture.mode != Mode::Relaxed,
            Mode::ThreadLocal => false,
            Mode::Global => capture.mode == Mode::Global,
        };
        if !self.captures.all.iter().any(conflicts) {
            return Ok(());
        }
        self.invalidate(conflicts);
        Err(Status::STREAM_CAPTURE_UNSUPPORTED)
    }

    /// Checks that the legacy stream can be used: it would wait for every blocking stream.
    pub fn legacy_is_usable(&self, device: usize) -> Result<(), Status> {
        let blocking = |stream: &StreamId| self.streams.get(*stream).is_some_and(|stream| stream.blocking);
        let implied = self.captures.all.iter().any(|one| one.device == device && one.streams.keys().any(blocking));
        if implied { Err(Status::STREAM_CAPTURE_IMPLICIT) } else { Ok(()) }
    }

    pub fn begin_capture(&mut self, stream: StreamId, mode: Mode) -> Result<(), Status> {
        if self.captures.has(stream) {
            return Err(Status::ILLEGAL_STATE);
        }
        self.captures.made += 1;
        self.captures.all.push(Capture {
            id: self.captures.made,
            device: self.streams.device(stream),
            origin: stream,
            thread: thread::current().id(),
            mode,
            invalid: false,
            nodes: Vec::new(),
            streams: HashMap::from([(stream, Vec::new())]),
        });
        Ok(())
    }

    /// Ends a capture and returns its nodes. If this stream may end it, the capture is over even if an error is
    /// returned.
    pub fn end_capture(&mut self, stream: StreamId) -> Result<Vec<Node>, Status> {
        let found = self.captures.all.iter().position(|capture| capture.streams.contains_key(&stream));
        let at = found.ok_or(Status::ILLEGAL_STATE)?;
        let capture = &mut self.captures.all[at];
        if capture.mode != Mode::Relaxed && capture.thread != thread::current().id() {
            return Err(Status::STREAM_CAPTURE_WRONG_THREAD);
        }
        if capture.origin != stream {
            capture.invalid = true;
            return Err(Status::STREAM_CAPTURE_UNMATCHED);
        }
        let capture = self.captures.all.remove(at);
        match () {
            () if capture.invalid => Err(Status::STREAM_CAPTURE_INVALIDATED),
            () if !capture.is_joined() => Err(Status::STREAM_CAPTURE_UNJOINED),
            () => Ok(capture.nodes),
        }
    }

    /// Makes a stream wait for an event, if either is part of a capture; `false` if neither is.
    pub fn wait_in_capture(&mut self, stream: StreamId, event: usize) -> Result<bool, Status> {
        let event = self.events.get(&event).ok_or(Status::INVALID_HANDLE)?;
        let (marked, recorded) = (event.captured.clone(), event.recorded.is_some());
        let Some((id, before)) = marked else {
            if !self.captures.has(stream) {
                return Ok(false);
            }
            // An event that was never recorded adds no dependency.
            if recorded {
                self.invalidate(|capture| capture.streams.contains_key(&stream));
                return Err(Status::STREAM_CAPTURE_ISOLATION);
            }
            return Ok(true);
        };
        if self.captures.numbered(id).is_none() {
            return Err(Status::CAPTURED_EVENT);
        }
        if self.captures.id(stream).is_some_and(|own| own != id) {
            self.invalidate(|capture| capture.id == id || capture.streams.contains_key(&stream));
            return Err(Status::STREAM_CAPTURE_MERGE);
        }
        if crate::stream_id::is_legacy(stream) {
            self.invalidate(|capture| capture.id == id);
            return Err(Status::STREAM_CAPTURE_IMPLICIT);
        }
        if let Some(capture) = self.captures.numbered(id) {
            let needs = capture.streams.entry(stream).or_default();
            needs.extend(before.into_iter().filter(|node| !needs.contains(node)).collect::<Vec<_>>());
        }
        Ok(true)
    }
}

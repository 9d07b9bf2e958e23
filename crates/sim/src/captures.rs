//! The captures in progress: for each, its streams and the nodes captured so far.
use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::thread::ThreadId;

use crate::graphs::{Node, NodeWork};
use crate::status::Status;
use crate::stream_id::StreamId;
use crate::work::Work;

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
pub struct Capture {
    pub id: u64,
    pub device: usize,
    /// The stream in which it began and must end.
    pub origin: StreamId,
    pub thread: ThreadId,
    pub mode: Mode,
    pub invalid: bool,
    pub nodes: Vec<Node>,
    /// The participating streams, each with the nodes that its next operation depends on.
    pub streams: HashMap<StreamId, Vec<usize>>,
}

impl Capture {
    /// Whether the end of the origin stream depends on every captured node.
    pub fn is_joined(&self) -> bool {
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
    pub all: Vec<Capture>,
    pub made: u64,
}

impl Captures {
    /// Removes the captures of a device whose context ends.
    pub fn reset(&mut self, device: usize) {
        self.all.retain(|capture| capture.device != device);
    }

    fn of(&mut self, stream: StreamId) -> Option<&mut Capture> {
        self.all.iter_mut().find(|capture| capture.streams.contains_key(&stream))
    }

    pub fn numbered(&mut self, id: u64) -> Option<&mut Capture> {
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

//! Stream capture: the operations of streams that are being captured become the nodes of a graph, under the driver's
//! rules for what may happen during a capture.
use std::collections::HashMap;
use std::thread;

use crate::captures::{Capture, Mode, THREAD_MODE};
use crate::graphs::Node;
use crate::status::Status;
use crate::stream_id::{StreamId, is_legacy};
use crate::world::World;

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
        if is_legacy(stream) {
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

//! Streams: queues of operations, which run as late as possible and in any order that events and the default stream's
//! rules allow.
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use crate::clock::{Clock, Moment};
use crate::profile::Order;
use crate::stream_id::{StreamId, is_legacy, legacy};
use crate::work::Work;

/// An operation queued in a stream.
pub struct Operation {
    pub moment: Moment,
    /// What happens before it.
    pub clock: Clock,
    pub name: Rc<str>,
    pub work: Work,
    needs: Vec<Moment>,
    pub serial: u64,
}

/// One queue.
pub struct Stream {
    pub device: usize,
    pub blocking: bool,
    pub priority: i32,
    /// Number of the latest operation, and of the latest that has run.
    submitted: u64,
    done: u64,
    /// What comes before the next operation.
    clock: Clock,
    queue: VecDeque<Operation>,
}

/// An event: the moment at which it was recorded, and what had happened by then.
#[derive(Default)]
pub struct Event {
    pub device: usize,
    pub recorded: Option<(Moment, Clock)>,
    pub timing: bool,
    /// If it was last recorded in a capture: the id of the sequence, and the nodes that the event completes with.
    pub captured: Option<(u64, Vec<usize>)>,
    /// When it ran, in microseconds of the simulator's clock: one for each operation of the whole device, and more for those
    /// that are asked to be slow.
    pub ran_at: Option<u64>,
}

/// All streams of all devices.
pub struct Streams {
    streams: BTreeMap<StreamId, Stream>,
    /// What the host knows to have happened.
    pub host: Clock,
    serial: u64,
    pub executed: u64,
    /// What operations have taken beyond a microsecond each.
    pub delay: u64,
    random: u64,
}

impl Streams {
    pub fn new(seed: u64, devices: usize) -> Self {
        let mut streams = Streams {
            streams: BTreeMap::new(),
            host: Clock::default(),
            serial: 0,
            executed: 0,
            delay: 0,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        };
        (0..devices).for_each(|device| streams.add(legacy(device), device, true, 0));
        streams
    }

    pub fn add(&mut self, id: StreamId, device: usize, blocking: bool, priority: i32) {
        let (clock, queue) = (Clock::default(), VecDeque::new());
        self.streams.insert(id, Stream { device, blocking, priority, submitted: 0, done: 0, clock, queue });
    }

    /// Removes everything of a device except its default stream, which becomes empty.
    pub fn reset(&mut self, device: usize) {
        self.abandon(device);
        self.streams.retain(|id, stream| stream.device != device || is_legacy(*id));
    }

    /// The device of a stream.
    pub fn device(&self, id: StreamId) -> usize {
        self.streams.get(&id).map_or(0, |stream| stream.device)
    }

    pub fn remove(&mut self, id: StreamId) {
        self.streams.remove(&id);
    }

    pub fn get(&self, id: StreamId) -> Option<&Stream> {
        self.streams.get(&id)
    }

    /// The streams of a device.
    pub fn ids(&self, device: usize) -> Vec<StreamId> {
        self.streams.iter().filter(|(_, stream)| stream.device == device).map(|(id, _)| *id).collect()
    }

    /// The latest operation of a stream.
    pub fn tail(&self, id: StreamId) -> Moment {
        Moment { stream: id, number: self.streams.get(&id).map_or(0, |stream| stream.submitted) }
    }

    /// The clock after everything in a stream has run.
    pub fn clock(&self, id: StreamId) -> Clock {
        self.streams.get(&id).map(|stream| stream.clock.clone()).unwrap_or_default()
    }

    pub fn is_done(&self, moment: Moment) -> bool {
        self.streams.get(&moment.stream).is_none_or(|stream| stream.done >= moment.number)
    }

    /// Operations that have not run.
    pub fn pending(&self) -> impl Iterator<Item = &Operation> {
        self.streams.values().flat_map(|stream| &stream.queue)
    }

    /// What every future operation is ordered after: the host's clock, and that of each stream's next operation.
    pub fn frontier(&self) -> Vec<&Clock> {
        let heads = self.streams.values().filter_map(|stream| Some(&stream.queue.front()?.clock));
        heads.chain([&self.host]).collect()
    }

    /// Queues an operation after what is in its stream, what the host has waited for, and `after`.
    pub fn submit(&mut self, id: StreamId, name: &str, after: Option<&(Moment, Clock)>, work: Work) -> Moment {
        let blocking = self.streams.get(&id).is_some_and(|stream| stream.blocking);
        let device = self.device(id);
        let mut clock = self.clock(id);
        clock.join(&self.host);
        let mut needs: Vec<Moment> = after.iter().map(|(moment, _)| *moment).collect();
        if let Some((moment, before)) = after {
            clock.join(before);
            clock.advance(*moment);
        }
        // The default stream waits for the blocking streams, and they for it.
        let others: Vec<StreamId> = self
            .streams
            .iter()
            .filter(|&(&other, stream)| other != id && stream.device == device && blocking && stream.blocking)
            .filter(|&(&other, _)| is_legacy(id) || is_legacy(other))
            .map(|(other, _)| *other)
            .collect();
        for other in others {
            clock.join(&self.clock(other));
            needs.push(self.tail(other));
        }
        needs.retain(|moment| !self.is_done(*moment));
        self.serial += 1;
        let serial = self.serial;
        let Some(stream) = self.streams.get_mut(&id) else { return Moment { stream: id, number: 0 } };
        stream.submitted += 1;
        let moment = Moment { stream: id, number: stream.submitted };
        clock.advance(moment);
        stream.clock = clock.clone();
        stream.queue.push_back(Operation { moment, clock, name: name.into(), work, needs, serial });
        moment
    }

    /// Takes an operation that may run now and that `target` waits for; in random order also any other one.
    pub fn take(&mut self, target: Moment, order: Order) -> Option<Operation> {
        let ready = |stream: &Stream| {
            stream
                .queue
                .front()
                .is_some_and(|head| !head.work.is_waiting() && head.needs.iter().all(|moment| self.is_done(*moment)))
        };
        let needed = self.needed(target);
        let mut heads: Vec<(u64, StreamId)> = self
            .streams
            .iter()
            .filter(|(id, stream)| (order == Order::Random || needed.contains(id)) && ready(stream))
            .filter_map(|(id, stream)| Some((stream.queue.front()?.serial, *id)))
            .collect();
        heads.sort_unstable();
        let chosen = match order {
            Order::Forward => heads.first(),
            Order::Reversed => heads.last(),
            Order::Random => {
                let at = self.draw() as usize % heads.len().max(1);
                heads.get(at)
            }
        };
        let id = chosen?.1;
        self.streams.get_mut(&id)?.queue.pop_front()
    }

    /// Puts an operation back that was taken and is not over: a collective waits for other ranks.
    pub fn put_back(&mut self, operation: Operation) {
        if let Some(stream) = self.streams.get_mut(&operation.moment.stream) {
            stream.queue.push_front(operation);
        }
    }

    /// Streams with operations that have to run before `target` is done.
    fn needed(&self, target: Moment) -> BTreeSet<StreamId> {
        let mut reached: BTreeMap<StreamId, u64> = BTreeMap::new();
        let mut open = vec![target];
        while let Some(moment) = open.pop() {
            let seen = reached.entry(moment.stream).or_insert(0);
            if *seen >= moment.number {
                continue;
            }
            let before = std::mem::replace(seen, moment.number);
            let queue = self.streams.get(&moment.stream).map(|stream| &stream.queue);
            for operation in queue.into_iter().flatten() {
                if operation.moment.number > before && operation.moment.number <= moment.number {
                    open.extend(operation.needs.iter().filter(|need| !self.is_done(**need)));
                }
            }
        }
        reached.into_keys().collect()
    }

    /// Marks an operation as run.
    pub fn finish(&mut self, moment: Moment) {
        self.executed += 1;
        if let Some(stream) = self.streams.get_mut(&moment.stream) {
            stream.done = moment.number;
        }
    }

    /// Drops everything pending on a device, because it has failed.
    pub fn abandon(&mut self, device: usize) {
        for stream in self.streams.values_mut().filter(|stream| stream.device == device) {
            stream.queue.clear();
            stream.done = stream.submitted;
        }
    }

    pub fn draw(&mut self) -> u64 {
        // xorshift64*
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }
}

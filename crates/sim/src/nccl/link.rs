//! One rank's connection with the others, and what they have sent.
use std::collections::BTreeMap;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

use super::call::Call;
use super::status::NcclStatus;
use super::wire::{Kind, Message};
use crate::arrival;

/// What has arrived of a collective: each rank's call and values.
pub type Arrived = Vec<Option<(Call, Vec<u8>)>>;

#[derive(Default)]
struct State {
    arrived: BTreeMap<u64, Arrived>,
    /// The number of the next collective of this rank.
    next: u64,
    /// A rank that has ended without having said so.
    gone: Option<usize>,
    aborted: bool,
    /// This rank has ended its part.
    left: bool,
    /// All ranks have ended their parts.
    ended: bool,
    /// Collectives whose calls differ: they never end.
    different: Vec<u64>,
}

pub struct Link {
    socket: UnixStream,
    pub rank: usize,
    pub ranks: usize,
    state: Mutex<State>,
    changed: Condvar,
}

impl Link {
    /// Joins the ranks of the communicator whose root listens under this name, and waits for all of them.
    pub fn join(name: &[u8], rank: usize, ranks: usize, device: usize) -> Result<Arc<Link>, NcclStatus> {
        let failed = |_: io::Error| NcclStatus::SYSTEM_ERROR;
        let address = SocketAddr::from_abstract_name(name).map_err(failed)?;
        let socket = UnixStream::connect_addr(&address).map_err(failed)?;
        let mut hello = Message::short(Kind::Hello, rank, ranks as u64);
        hello.call.count = device;
        hello.send(&socket).map_err(failed)?;
        match Message::receive(&socket) {
            Ok(Message { kind: Kind::Ready, .. }) => {}
            Ok(Message { kind: Kind::Refused, number, .. }) => return Err(NcclStatus(number as i32)),
            Ok(_) | Err(_) => return Err(NcclStatus::REMOTE_ERROR),
        }
        let link = Arc::new(Link { socket, rank, ranks, state: Mutex::default(), changed: Condvar::new() });
        let reader = link.clone();
        let spawned = thread::Builder::new().name("kiln-sim-nccl".into()).spawn(move || reader.read());
        spawned.map_err(failed)?;
        Ok(link)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what the others send, until they are gone. Must not wait for the device: they wait for this.
    fn read(&self) {
        loop {
            let message = Message::receive(&self.socket);
            let mut state = self.state();
            match message {
                Ok(Message { kind: Kind::Values, rank, number, call, values }) => {
                    let all = state.arrived.entry(number).or_insert_with(|| vec![None; self.ranks]);
                    all[rank as usize % self.ranks] = Some((call, values));
                }
                Ok(Message { kind: Kind::End, .. }) => state.ended = true,
                Ok(Message { kind: Kind::Gone, rank, .. }) => state.gone = state.gone.or(Some(rank as usize)),
                Ok(_) => {}
                Err(_) => {
                    // The root is in the process of one of the ranks.
                    if !state.ended {
                        state.gone = state.gone.or(Some(0));
                    }
                    state.ended = true;
                    self.changed.notify_all();
                    arrival::wake();
                    return;
                }
            }
            self.changed.notify_all();
            drop(state);
            arrival::wake();
        }
    }

    /// Sends this rank's values for its next collective, and returns the number of that.
    pub fn begin(&self, call: Call, values: Vec<u8>) -> u64 {
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        let all = state.arrived.entry(number).or_insert_with(|| vec![None; self.ranks]);
        all[self.rank] = Some((call, values.clone()));
        drop(state);
        let message = Message { kind: Kind::Values, rank: self.rank as u32, number, call, values };
        // If the others are gone, the reader notices it.
        let _ = message.send(&self.socket);
        number
    }

    /// Whether a collective waits for nothing any more: all values are there and of one call, or it was aborted.
    pub fn may_end(&self, number: u64) -> bool {
        let state = self.state();
        let is_complete = state.arrived.get(&number).is_some_and(|all| all.iter().all(Option::is_some));
        state.aborted || (is_complete && !state.different.contains(&number))
    }

    /// Takes the values of all ranks; `None` if it was aborted. If the calls differ it never ends, and they are the error.
    pub fn end(&self, number: u64) -> Result<Option<Vec<Vec<u8>>>, Vec<Call>> {
        let mut state = self.state();
        if state.aborted {
            return Ok(None);
        }
        let Some(all) = state.arrived.remove(&number) else { return Ok(None) };
        let all: Vec<(Call, Vec<u8>)> = all.into_iter().flatten().collect();
        if all.iter().any(|(call, _)| *call != all[0].0) {
            state.different.push(number);
            return Err(all.into_iter().map(|(call, _)| call).collect());
        }
        Ok(Some(all.into_iter().map(|(_, values)| values).collect()))
    }

    /// Whether others have sent values for a collective that this rank has yet to do.
    pub fn is_awaited(&self) -> bool {
        let state = self.state();
        state.arrived.iter().any(|(number, all)| *number >= state.next || all.iter().all(Option::is_some))
    }

    pub fn gone(&self) -> Option<usize> {
        self.state().gone
    }

    pub fn is_aborted(&self) -> bool {
        self.state().aborted
    }

    /// Whether this rank has ended its part.
    pub fn has_left(&self) -> bool {
        self.state().left
    }

    /// Gives up everything that has begun.
    pub fn abort(&self) {
        self.state().aborted = true;
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        arrival::wake();
    }

    /// Ends this rank's part, and waits for the others to end theirs.
    pub fn leave(&self) {
        /// Longer than a rank takes on a busy machine to do what it has queued.
        const LIMIT: Duration = Duration::from_secs(60);
        let _ = Message::short(Kind::Bye, self.rank, 0).send(&self.socket);
        let started = Instant::now();
        let mut state = self.state();
        state.left = true;
        while !state.ended && started.elapsed() < LIMIT {
            let waited = self.changed.wait_timeout(state, Duration::from_millis(50));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }
}

//! The root of a communicator: a thread of the process that made the id, which all ranks connect to. It passes on what each
//! rank sends to all others, and tells them when one is gone.
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use std::{io, process, thread};

use super::status::NcclStatus;
use super::wire::{Kind, Message};

/// Bytes of an id.
pub const ID: usize = 128;

/// Starts a root, and returns the name that it listens under, which is the id.
pub fn start() -> io::Result<[u8; ID]> {
    static MADE: AtomicU64 = AtomicU64::new(0);
    let nanoseconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    let name = format!("kiln-sim-nccl-{}-{number}-{nanoseconds}", process::id());
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
    thread::Builder::new().name("kiln-sim-nccl-root".into()).spawn(move || gather(&listener))?;
    let mut id = [0; ID];
    id[..name.len()].copy_from_slice(name.as_bytes());
    Ok(id)
}

/// The name in an id.
pub fn name(id: &[u8; ID]) -> &[u8] {
    &id[..id.iter().position(|byte| *byte == 0).unwrap_or(ID)]
}

/// A rank that has joined.
struct Rank {
    socket: UnixStream,
    device: u64,
    /// It has ended its part, or is gone.
    over: bool,
}

/// Waits for all ranks, and then serves each of them.
fn gather(listener: &UnixListener) {
    let mut ranks: Vec<Option<Rank>> = Vec::new();
    while ranks.is_empty() || ranks.iter().any(Option::is_none) {
        let Ok((socket, _)) = listener.accept() else { return };
        let Ok(Message { kind: Kind::Hello, rank, number, call, .. }) = Message::receive(&socket) else { continue };
        if ranks.is_empty() {
            ranks.resize_with(number as usize, || None);
        }
        let device = call.count as u64;
        let twice = ranks.iter().flatten().any(|other| other.device == device);
        let refused = match ranks.get(rank as usize) {
            _ if ranks.len() as u64 != number => Some(NcclStatus::INTERNAL_ERROR),
            Some(None) if twice => Some(NcclStatus::INVALID_USAGE),
            Some(None) => None,
            _ => Some(NcclStatus::INTERNAL_ERROR),
        };
        let here = Rank { socket, device, over: false };
        let Some(code) = refused else {
            ranks[rank as usize] = Some(here);
            continue;
        };
        // All of them fail.
        for rank in ranks.iter().flatten().chain([&here]) {
            let _ = Message::short(Kind::Refused, 0, code.0 as u64).send(&rank.socket);
        }
        return;
    }
    let ranks: Arc<Vec<Mutex<Rank>>> = Arc::new(ranks.into_iter().flatten().map(Mutex::new).collect());
    for at in 0..ranks.len() {
        let (all, _) = (ranks.clone(), send(&ranks, at, &Message::short(Kind::Ready, at, 0)));
        let Ok(socket) = lock(&ranks[at]).socket.try_clone() else { return };
        thread::spawn(move || serve(&all, at, &socket));
    }
}

fn lock(rank: &Mutex<Rank>) -> std::sync::MutexGuard<'_, Rank> {
    rank.lock().unwrap_or_else(PoisonError::into_inner)
}

fn send(ranks: &[Mutex<Rank>], to: usize, message: &Message) {
    // A rank that is gone is noticed by the thread that serves it.
    let _ = message.send(&lock(&ranks[to]).socket);
}

fn serve(ranks: &[Mutex<Rank>], from: usize, socket: &UnixStream) {
    loop {
        let message = Message::receive(socket);
        let others = || (0..ranks.len()).filter(|to| *to != from);
        match message {
            Ok(message) if message.kind == Kind::Values => others().for_each(|to| send(ranks, to, &message)),
            Ok(message) if message.kind == Kind::Bye => over(ranks, from),
            Ok(_) => {}
            Err(_) => {
                if !lock(&ranks[from]).over {
                    let gone = Message::short(Kind::Gone, from, 0);
                    others().for_each(|to| send(ranks, to, &gone));
                    over(ranks, from);
                }
                return;
            }
        }
    }
}

/// A rank's part is over; when that is so of all, they are told.
fn over(ranks: &[Mutex<Rank>], from: usize) {
    lock(&ranks[from]).over = true;
    if ranks.iter().all(|rank| lock(rank).over) {
        (0..ranks.len()).for_each(|to| send(ranks, to, &Message::short(Kind::End, 0, 0)));
    }
}

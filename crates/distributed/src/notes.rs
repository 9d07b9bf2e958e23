//! Notes that ranks send each other beside the collectives: that one has failed or left, and what each is doing. They
//! turn a hang into an error that names the rank.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// The longest note in bytes: short enough that every library sends it immediately.
pub(crate) const NOTE: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The sender has ended its part and makes no more calls.
    Left,
    /// The same of its group on NCCL, whose ranks MPI has connected.
    LeftNccl,
    /// The sender's group has failed; the text says why.
    Failed,
    /// A question: what is the receiver doing?
    Query,
    /// The answer to a query.
    Status,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) kind: Kind,
    /// How many collectives the sender has started.
    pub(crate) calls: u64,
    pub(crate) text: String,
}

const HEADER: usize = 11;

impl Note {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut length = self.text.len().min(NOTE - HEADER);
        while !self.text.is_char_boundary(length) {
            length -= 1;
        }
        let mut bytes = vec![self.kind as u8];
        bytes.extend(self.calls.to_le_bytes());
        bytes.extend((length as u16).to_le_bytes());
        bytes.extend(&self.text.as_bytes()[..length]);
        bytes
    }

    pub(crate) fn read(bytes: &[u8]) -> Option<Note> {
        const KINDS: [Kind; 5] = [Kind::Left, Kind::LeftNccl, Kind::Failed, Kind::Query, Kind::Status];
        let kind = KINDS.into_iter().find(|kind| *kind as u8 == bytes[0])?;
        let calls = u64::from_le_bytes(bytes.get(1..9)?.try_into().ok()?);
        let length = u16::from_le_bytes(bytes.get(9..HEADER)?.try_into().ok()?);
        let text = String::from_utf8_lossy(bytes.get(HEADER..HEADER + usize::from(length))?).into_owned();
        Some(Note { kind, calls, text })
    }
}

/// How long the other ranks have to answer a query.
pub(crate) const ANSWER: Duration = Duration::from_secs(2);

/// What a rank says that it is doing.
pub(crate) type Status = Arc<dyn Fn() -> String + Send + Sync>;

#[derive(Clone, Debug, Default)]
struct Peer {
    /// How many collectives it had started when it left.
    left: Option<u64>,
    left_nccl: Option<u64>,
    failed: Option<String>,
    /// Its answer to the last query.
    status: Option<String>,
}

/// What a rank knows about the others, by their notes.
#[derive(Debug)]
pub(crate) struct Peers {
    rank: usize,
    peers: Mutex<Vec<Peer>>,
}

impl Peers {
    pub(crate) fn new(rank: usize, size: usize) -> Peers {
        Peers { rank, peers: Mutex::new(vec![Peer::default(); size]) }
    }

    pub(crate) fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let (rank, size) = (self.rank, self.peers.lock().len());
        (0..size).filter(move |other| *other != rank)
    }

    /// Takes a note. A query is for the caller to answer.
    pub(crate) fn receive(&self, from: usize, note: Note) {
        let Note { kind, calls, text } = note;
        let mut peers = self.peers.lock();
        let Some(peer) = peers.get_mut(from) else { return };
        match kind {
            Kind::Left => peer.left = Some(calls),
            Kind::LeftNccl => peer.left_nccl = Some(calls),
            // The first reason is kept.
            Kind::Failed => peer.failed = peer.failed.take().or(Some(text)),
            Kind::Status => peer.status = Some(text),
            Kind::Query => {}
        }
    }

    /// Which rank has failed, and why.
    pub(crate) fn failure(&self) -> Option<String> {
        let peers = self.peers.lock();
        let failed = peers.iter().enumerate().find_map(|(rank, peer)| Some((rank, peer.failed.as_ref()?)));
        failed.map(|(rank, reason)| format!("rank {rank} has failed: {reason}"))
    }

    /// The rank that left first, with the number of collectives that it had started.
    pub(crate) fn left(&self, how: Kind) -> Option<(usize, u64)> {
        let peers = self.peers.lock();
        let left = peers.iter().enumerate().filter_map(|(rank, peer)| Some((rank, peer.when_left(how)?)));
        left.min_by_key(|(_, calls)| *calls)
    }

    pub(crate) fn has_left(&self, other: usize) -> bool {
        self.peers.lock()[other].left.is_some()
    }

    /// A rank that has left MPI, but not NCCL.
    pub(crate) fn has_exited(&self) -> Option<usize> {
        self.peers.lock().iter().position(|peer| peer.left.is_some() && peer.left_nccl.is_none())
    }

    pub(crate) fn all_have_left(&self, how: Kind) -> bool {
        let peers = self.peers.lock();
        self.of_others(&peers).all(|peer| peer.when_left(how).is_some())
    }

    /// Whether each of the others has left or failed.
    pub(crate) fn all_are_gone(&self) -> bool {
        let peers = self.peers.lock();
        self.of_others(&peers).all(|peer| peer.left.is_some() || peer.failed.is_some())
    }

    fn of_others<'a>(&self, peers: &'a [Peer]) -> impl Iterator<Item = &'a Peer> + use<'a> {
        let rank = self.rank;
        peers.iter().enumerate().filter(move |(other, _)| *other != rank).map(|(_, peer)| peer)
    }

    /// Asks the others what they are doing: `send` sends the query, and `wait` waits a moment for answers. Returns what each
    /// says, as `; rank 1 …`.
    pub(crate) fn ask(&self, send: impl FnOnce(), mut wait: impl FnMut()) -> String {
        self.peers.lock().iter_mut().for_each(|peer| peer.status = None);
        send();
        let asked = Instant::now();
        while asked.elapsed() < ANSWER && self.of_others(&self.peers.lock()).any(|peer| peer.status.is_none()) {
            wait();
        }
        let say = |other: usize| {
            let status = self.peers.lock()[other].status.clone();
            format!("; rank {other} {}", status.as_deref().unwrap_or("does not answer: it is dead, or stopped"))
        };
        self.others().map(say).collect()
    }
}

impl Peer {
    /// How many collectives it had started on MPI, or on NCCL, when it left.
    fn when_left(&self, how: Kind) -> Option<u64> {
        if how == Kind::LeftNccl { self.left_nccl } else { self.left }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_read_as_they_were_written() {
        for (kind, text) in [(Kind::Failed, "no space ä".to_owned()), (Kind::Status, "ä".repeat(2000))] {
            let note = Note { kind, calls: 1 << 40, text };
            let mut bytes = note.bytes();
            assert!(bytes.len() <= NOTE);
            bytes.resize(NOTE, 7);
            let read = Note::read(&bytes).unwrap();
            assert_eq!((read.kind, read.calls), (note.kind, note.calls));
            assert!(note.text.starts_with(&read.text) && read.text.len() + 20 > NOTE.min(note.text.len()));
        }
        assert_eq!(Note::read(&[9; NOTE]), None);
    }
}

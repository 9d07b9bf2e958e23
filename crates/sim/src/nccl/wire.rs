//! Messages between the ranks of a communicator and its root, over a local socket.
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use super::call::Call;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A rank joins; `number` is the size that it expects, and `call.count` its device.
    Hello,
    /// All ranks have joined.
    Ready,
    /// The root refuses the rank; `number` is the result code.
    Refused,
    /// A rank's values for the collective with this number.
    Values,
    /// A rank has ended its part.
    Bye,
    /// A rank is gone without having said so; `rank` is its number.
    Gone,
    /// All ranks have ended their parts.
    End,
}

const KINDS: [Kind; 7] = [Kind::Hello, Kind::Ready, Kind::Refused, Kind::Values, Kind::Bye, Kind::Gone, Kind::End];
/// Bytes before the values.
const HEADER: usize = 1 + 4 + 8 + 5 * 8 + 8;

#[derive(Clone, Debug)]
pub struct Message {
    pub kind: Kind,
    pub rank: u32,
    pub number: u64,
    pub call: Call,
    pub values: Vec<u8>,
}

impl Message {
    /// A message without values.
    pub fn short(kind: Kind, rank: usize, number: u64) -> Message {
        Message { kind, rank: rank as u32, number, call: Call::default(), values: Vec::new() }
    }

    pub fn send(&self, mut to: &UnixStream) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(HEADER + self.values.len());
        bytes.push(self.kind as u8);
        bytes.extend(self.rank.to_le_bytes());
        bytes.extend(self.number.to_le_bytes());
        self.call.words().iter().for_each(|word| bytes.extend(word.to_le_bytes()));
        bytes.extend((self.values.len() as u64).to_le_bytes());
        bytes.extend(&self.values);
        to.write_all(&bytes)
    }

    pub fn receive(mut from: &UnixStream) -> io::Result<Message> {
        let mut header = [0; HEADER];
        from.read_exact(&mut header)?;
        let word = |at: usize| header[at..at + 8].iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
        let kind = KINDS.into_iter().find(|kind| *kind as u8 == header[0]).ok_or(io::ErrorKind::InvalidData)?;
        let call = Call::from_words(std::array::from_fn(|i| word(13 + 8 * i)));
        let mut values = vec![0; usize::try_from(word(HEADER - 8)).map_err(io::Error::other)?];
        from.read_exact(&mut values)?;
        let rank = header[1..5].iter().rev().fold(0, |sum, &byte| sum << 8 | u32::from(byte));
        Ok(Message { kind, rank, number: word(5), call, values })
    }
}

//! Notes that ranks send each other beside the collectives: that one has failed or left, and what each is doing. They
//! turn a hang into an error that names the rank.

/// The longest note in bytes: short enough that every library sends it immediately.
pub(crate) const NOTE: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The sender has ended its part and makes no more calls.
    Left,
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
        let kind = [Kind::Left, Kind::Failed, Kind::Query, Kind::Status].into_iter().find(|k| *k as u8 == bytes[0])?;
        let calls = u64::from_le_bytes(bytes.get(1..9)?.try_into().ok()?);
        let length = u16::from_le_bytes(bytes.get(9..HEADER)?.try_into().ok()?);
        let text = String::from_utf8_lossy(bytes.get(HEADER..HEADER + usize::from(length))?).into_owned();
        Some(Note { kind, calls, text })
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

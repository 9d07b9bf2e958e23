//! The opcodes of pickles, protocols 0 to 5, under the names that Python's `pickletools` gives them.

macro_rules! opcodes {
    ($($name:ident = $code:literal,)*) => {
        /// One instruction of the stack machine.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(crate) enum Opcode {
            $($name = $code,)*
        }

        impl Opcode {
            /// The opcode with this code.
            pub fn from_byte(code: u8) -> Option<Opcode> {
                match code {
                    $($code => Some(Opcode::$name),)*
                    _ => None,
                }
            }
        }
    };
}

opcodes! {
    Mark = b'(',
    Stop = b'.',
    Pop = b'0',
    PopMark = b'1',
    Dup = b'2',
    Float = b'F',
    Int = b'I',
    BinInt = b'J',
    BinInt1 = b'K',
    Long = b'L',
    BinInt2 = b'M',
    None = b'N',
    PersId = b'P',
    BinPersId = b'Q',
    Reduce = b'R',
    String = b'S',
    BinString = b'T',
    ShortBinString = b'U',
    Unicode = b'V',
    BinUnicode = b'X',
    Append = b'a',
    Build = b'b',
    Global = b'c',
    Dict = b'd',
    EmptyDict = b'}',
    Appends = b'e',
    Get = b'g',
    BinGet = b'h',
    Inst = b'i',
    LongBinGet = b'j',
    List = b'l',
    EmptyList = b']',
    Obj = b'o',
    Put = b'p',
    BinPut = b'q',
    LongBinPut = b'r',
    SetItem = b's',
    Tuple = b't',
    EmptyTuple = b')',
    SetItems = b'u',
    BinFloat = b'G',
    BinBytes = b'B',
    ShortBinBytes = b'C',
    Proto = 0x80,
    NewObj = 0x81,
    Tuple1 = 0x85,
    Tuple2 = 0x86,
    Tuple3 = 0x87,
    NewTrue = 0x88,
    NewFalse = 0x89,
    Long1 = 0x8a,
    Long4 = 0x8b,
    ShortBinUnicode = 0x8c,
    BinUnicode8 = 0x8d,
    BinBytes8 = 0x8e,
    EmptySet = 0x8f,
    AddItems = 0x90,
    FrozenSet = 0x91,
    NewObjEx = 0x92,
    StackGlobal = 0x93,
    Memoize = 0x94,
    Frame = 0x95,
    ByteArray8 = 0x96,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_opcode_is_the_byte_that_it_comes_from() {
        let known: Vec<(u8, Opcode)> = (0..=u8::MAX).filter_map(|b| Some((b, Opcode::from_byte(b)?))).collect();
        assert!(known.iter().all(|&(byte, opcode)| opcode as u8 == byte));
        // Protocol 5 has 68; those that need a registry (EXT1, EXT2, EXT4) or external buffers (NEXT_BUFFER,
        // READONLY_BUFFER) are not data.
        assert_eq!(known.len(), 63);
    }
}

//! Parses text and numbers as the opcodes of protocol 0 write them.

use std::{borrow::Cow, str::Utf8Chunk};

/// A quoted Python string literal, as `repr` writes it.
pub(crate) fn quoted(line: &[u8]) -> Option<Cow<'_, [u8]>> {
    let inside = match line.trim_ascii_end() {
        [b'\'', inside @ .., b'\''] | [b'"', inside @ .., b'"'] => inside,
        _ => return None,
    };
    if !inside.contains(&b'\\') {
        return Some(Cow::Borrowed(inside));
    }
    let mut out = Vec::with_capacity(inside.len());
    let mut rest = inside;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let (&escape, tail) = rest.split_first()?;
        rest = tail;
        match escape {
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'\\' | b'\'' | b'"' => out.push(escape),
            b'x' => {
                out.push(hex(rest, 2)? as u8);
                rest = &rest[2..];
            }
            _ => return None,
        }
    }
    Some(Cow::Owned(out))
}

/// Decodes Python's "raw-unicode-escape": Latin-1, in which `\u` and four or `\U` and eight hexadecimal digits stand
/// for a character. A backslash before anything else stands for itself, and so does the character after it.
pub(crate) fn raw_unicode(line: &[u8]) -> Option<String> {
    // At most three bytes of UTF-8 per byte of input.
    let mut out = String::with_capacity(3 * line.len());
    let mut rest = line;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        let digits = match (byte, rest.first()) {
            (b'\\', Some(b'u')) => 4,
            (b'\\', Some(b'U')) => 8,
            (b'\\', Some(&next)) => {
                out.extend(['\\', char::from(next)]);
                rest = &rest[1..];
                continue;
            }
            _ => {
                out.push(char::from(byte));
                continue;
            }
        };
        // A lone surrogate is not a character.
        out.push(char::from_u32(hex(&rest[1..], digits)?).unwrap_or(char::REPLACEMENT_CHARACTER));
        rest = &rest[1 + digits..];
    }
    Some(out)
}

fn hex(bytes: &[u8], digits: usize) -> Option<u32> {
    let digits = bytes.get(..digits).filter(|d| d.iter().all(u8::is_ascii_hexdigit))?;
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Parses a decimal number, perhaps with the suffix `L` of Python 2's long integers.
pub(crate) fn number<T: std::str::FromStr>(line: &[u8]) -> Option<T> {
    let text = std::str::from_utf8(line).ok()?.trim();
    text.strip_suffix('L').unwrap_or(text).parse().ok()
}

/// Decodes UTF-8; invalid sequences, such as the surrogates that Python writes, become replacement characters.
pub(crate) fn lossy_utf8(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.utf8_chunks().map(lossy_len).sum());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        if !chunk.invalid().is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
    text
}

fn lossy_len(chunk: Utf8Chunk<'_>) -> usize {
    chunk.valid().len() + if chunk.invalid().is_empty() { 0 } else { char::REPLACEMENT_CHARACTER.len_utf8() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals() {
        assert_eq!(quoted(b"'ab'").unwrap(), &b"ab"[..]);
        assert_eq!(quoted(br#""a\'\x00\xff\n\\""#).unwrap(), &b"a'\x00\xff\n\\"[..]);
        for bad in [&b"ab"[..], b"'", b"'ab", br"'\", br"'\x0'", br"'\q'", br"'\x+1'"] {
            assert_eq!(quoted(bad), None, "{bad:?}");
        }
        assert_eq!(raw_unicode(b"a\\u20ac\xe9\\U0001f600\\").unwrap(), "a\u{20ac}\u{e9}\u{1f600}\\");
        // As in Python, the second backslash belongs to the first one.
        assert_eq!(raw_unicode(b"\\\\u0041").unwrap(), "\\\\u0041");
        assert_eq!((raw_unicode(b"\\u20a"), raw_unicode(b"\\ud800").as_deref()), (None, Some("\u{fffd}")));
    }

    #[test]
    fn numbers() {
        assert_eq!(
            (number::<i128>(b"-12L"), number::<f64>(b"1e3"), number::<i128>(b"x")),
            (Some(-12), Some(1e3), None)
        );
    }
}

//! The file of a plan: the key of its problem, and the library's text of the plan, with a checksum.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read, Write},
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

/// The first bytes of the file; the last of them is the version of the format.
const MAGIC: [u8; 16] = *b"kiln cudnn plan1";
/// Bytes of the magic, the checksum of everything after it, and the lengths of key and text.
const HEADER: usize = MAGIC.len() + 8 + 4 + 4;
/// A compiled plan has about 100 KB. A longer file than this is not read.
const MAX_BYTES: u64 = 16 << 20;

/// The FNV-1a hash (Fowler, Noll, Vo) with 64 bits: for names, and to detect damage. It does not authenticate files.
pub(super) const fn fnv1a(seed: u64, bytes: &[u8]) -> u64 {
    let (mut hash, mut i) = (0xcbf2_9ce4_8422_2325 ^ seed, 0);
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        i += 1;
    }
    hash
}

fn encode(key: &str, text: &[u8]) -> Result<Vec<u8>, String> {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).map(u32::to_le_bytes);
    let (Ok(of_key), Ok(of_text)) = (length(key.as_bytes()), length(text)) else {
        return Err("a plan of more than 4 GiB".into());
    };
    let body = [&of_key[..], &of_text, key.as_bytes(), text].concat();
    if (HEADER + body.len()) as u64 > MAX_BYTES {
        return Err(format!("a plan of {} bytes", body.len()));
    }
    Ok([&MAGIC[..], &fnv1a(0, &body).to_le_bytes(), &body].concat())
}

/// The text, if the file is complete and has this key.
fn decode(mut bytes: Vec<u8>, key: &str) -> Result<Vec<u8>, String> {
    let fields: [u8; HEADER] = bytes.get(..HEADER).and_then(|head| head.try_into().ok()).ok_or("it is cut off")?;
    let number = |at: usize| fields[at..].iter().take(4).rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
    if fields[..MAGIC.len()] != MAGIC {
        return Err("it is not a file of this format".into());
    }
    let (of_key, of_text) = (number(24), number(28));
    if bytes.len() as u64 != HEADER as u64 + of_key + of_text {
        return Err("its length is not the one that it states".into());
    }
    if number(16) | number(20) << 32 != fnv1a(0, &bytes[HEADER - 8..]) {
        return Err("its checksum does not match".into());
    }
    if &bytes[HEADER..HEADER + of_key as usize] != key.as_bytes() {
        return Err("it is for another problem".into());
    }
    Ok(bytes.split_off(HEADER + of_key as usize))
}

/// The plan's text; `None` if there is no file.
pub(super) fn read(path: &Path, key: &str) -> Result<Option<Vec<u8>>, String> {
    let told = |error: std::io::Error| error.to_string();
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(told(error)),
        // Reading another kind of file, such as a pipe, might block.
        Ok(found) if !found.is_file() => return Err("it is not a regular file".into()),
        Ok(found) if found.len() > MAX_BYTES => return Err(format!("it has {} bytes", found.len())),
        Ok(_) => {}
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes)).map_err(told)?;
    decode(bytes, key).map(Some)
}

/// Writes a file under a temporary name and renames it, so that readers see the old one or the new one.
pub(super) fn write(path: &Path, key: &str, text: &[u8]) -> Result<(), String> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let bytes = encode(key, text)?;
    let aside = path.with_extension(format!("{}-{}.new", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&aside)
        .and_then(|mut file| file.write_all(&bytes))
        .and_then(|()| fs::rename(&aside, path));
    written.map_err(|error| {
        // It may not exist.
        let _ = fs::remove_file(&aside);
        error.to_string()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_files_are_told_apart_from_whole_ones() {
        let whole = encode("a key", b"the text of a plan").unwrap();
        assert_eq!(decode(whole.clone(), "a key").unwrap(), b"the text of a plan");
        assert!(decode(whole.clone(), "another").unwrap_err().contains("another problem"));
        // Truncated anywhere, too long, and with any bit flipped.
        for length in 0..whole.len() {
            assert!(decode(whole[..length].to_vec(), "a key").is_err(), "{length} bytes");
        }
        assert!(decode([&whole[..], b"x"].concat(), "a key").is_err());
        for bit in 0..8 * whole.len() {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(damaged, "a key").is_err(), "bit {bit}");
        }
        assert_eq!(decode(encode("", b"").unwrap(), "").unwrap(), b"");
        assert!(encode("", &vec![0; MAX_BYTES as usize]).is_err());
    }

    #[test]
    fn what_is_no_plan_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.plan");
        assert_eq!(read(&path, "a key"), Ok(None));
        write(&path, "a key", b"text").unwrap();
        assert_eq!(read(&path, "a key").unwrap().unwrap(), b"text");
        assert!(read(folder.path(), "a key").unwrap_err().contains("not a regular file"));
        // Larger than memory, and a device without an end.
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert!(read(&path, "a key").unwrap_err().contains("1099511627776 bytes"));
        if cfg!(target_os = "linux") {
            assert!(read(Path::new("/dev/zero"), "a key").is_err());
        }
        assert!(write(&folder.path().join("not there").join("a.plan"), "a key", b"text").is_err());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing is left over");
    }

    #[test]
    fn readers_see_whole_files_while_others_write() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.plan");
        let texts: [Vec<u8>; 2] = [vec![b'a'; 50_000], vec![b'b'; 70_000]];
        write(&path, "a key", &texts[0]).unwrap();
        std::thread::scope(|scope| {
            for text in &texts {
                scope.spawn(|| (0..50).for_each(|_| write(&path, "a key", text).unwrap()));
            }
            for _ in 0..200 {
                assert!(texts.contains(&read(&path, "a key").unwrap().unwrap()));
            }
        });
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }
}

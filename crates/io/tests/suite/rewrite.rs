//! Writing a file again and again.

use std::{fs, io, path::Path};

/// Writes a file that may be there already, which is removed: when a file that was emptied and written again is closed, ext4
/// writes it to the disk, which takes longer than reading it does.
pub fn rewrite(path: &Path, bytes: &[u8]) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => panic!("{error}"),
        _ => fs::write(path, bytes).unwrap(),
    }
}

//! Memory for reading files, reserved so that running out of it is an error rather than the end of the program.

use std::{fs::File, io::Read, path::Path};

use kiln_tensor::{Error, ErrorKind, Result};

/// The error for a file that the machine does not have the memory for.
pub(crate) fn out_of_memory(requested: u64, path: &Path) -> Error {
    let requested = usize::try_from(requested).unwrap_or(usize::MAX);
    let detail = format!("to read {}", path.display());
    ErrorKind::OutOfMemory { device: "cpu".into(), requested, detail }.into()
}

/// The contents of a file.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>> {
    let io = |error| Error::io(path, error);
    let mut file = File::open(path).map_err(io)?;
    let len = file.metadata().map_err(io)?.len();
    let mut bytes = Vec::new();
    let reserved = usize::try_from(len).is_ok_and(|len| bytes.try_reserve_exact(len).is_ok());
    if !reserved {
        return Err(out_of_memory(len, path));
    }
    file.read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}

/// Makes room for `more` bytes of a file.
pub(crate) fn reserve(bytes: &mut Vec<u8>, more: usize, path: &Path) -> Result<()> {
    bytes.try_reserve(more).map_err(|_| out_of_memory((bytes.len() + more) as u64, path))
}

//! A file in memory without reading it first.

use std::{fs::File, ops::Deref, path::Path};

use kiln_tensor::{Error, Result};
use memmap2::Mmap;

/// The bytes of a file, mapped read-only: pages come from the disk when they are touched.
///
/// The file must not be changed or cut short by anybody while it is mapped: its bytes would change under
/// the reader, or the operating system would end the process (`SIGBUS`). Kiln itself never does that, it
/// replaces files as a whole ([`atomic`](crate::atomic)).
pub(crate) struct Map(Mmap);

impl Map {
    pub fn open(path: &Path) -> Result<Map> {
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        let kind = file.metadata().map_err(|e| Error::io(path, e))?;
        if !kind.is_file() {
            return Err(Error::file(path, "it is not a regular file"));
        }
        // SAFETY: the map is read-only and lives in this struct, which hands out nothing that outlives it.
        // That nobody changes the file meanwhile cannot be enforced; the limitation is documented above, and
        // bytes are only ever copied out and then validated, never trusted twice.
        #[allow(unsafe_code)]
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
        Ok(Map(map))
    }
}

impl Deref for Map {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

//! Reads a file by position. Bytes are copied, never memory-mapped: if another process truncates a mapped file, reading
//! the mapping kills the process (`SIGBUS`).

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use kiln_backend::{Element, dispatch_dtype};
use kiln_tensor::{DType, Device, Error, ErrorKind, Result, Shape, Tensor};

/// An open regular file.
pub(crate) struct Source {
    path: PathBuf,
    file: File,
    len: usize,
    modified: Option<SystemTime>,
}

impl Source {
    /// Opens a file. Anything but a regular file is refused before opening, since opening a FIFO waits for a writer.
    pub fn open(path: &Path) -> Result<Source> {
        let failed = |e: io::Error| Error::io(path, e);
        let check = |kind: &fs::Metadata| {
            if kind.is_file() { Ok(()) } else { Err(Error::file(path, "it is not a regular file")) }
        };
        check(&fs::metadata(path).map_err(failed)?)?;
        let file = File::open(path).map_err(failed)?;
        let found = file.metadata().map_err(failed)?;
        check(&found)?;
        let len = usize::try_from(found.len()).map_err(|_| Error::file(path, "it is too large for this machine"))?;
        Ok(Source { path: path.to_owned(), file, len, modified: found.modified().ok() })
    }

    /// The path it was opened with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The length in bytes when it was opened.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Fills `out` with the bytes from offset `at` on.
    pub fn read_into(&self, at: usize, out: &mut [u8]) -> Result<()> {
        read_exact_at(&self.file, at as u64, out).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof if at.checked_add(out.len()).is_some_and(|end| end <= self.len) => {
                self.changed()
            }
            io::ErrorKind::UnexpectedEof => Error::file(&self.path, "it is cut off"),
            _ => Error::io(&self.path, e),
        })
    }

    /// `len` bytes from offset `at` on.
    pub fn read(&self, at: usize, len: usize) -> Result<Vec<u8>> {
        if at.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(Error::file(&self.path, "it is cut off"));
        }
        u8::read_vec(len, |out| self.read_into(at, out)).map_err(|e| match e.kind() {
            ErrorKind::OutOfMemory { .. } => self.out_of_memory(len),
            _ => e,
        })
    }

    /// The first `len` bytes, or all if there are fewer.
    pub fn prefix(&self, len: usize) -> Result<Vec<u8>> {
        self.read(0, len.min(self.len))
    }

    /// Creates a tensor whose elements `fill` writes; on the CPU, directly into the tensor's memory.
    pub fn tensor(
        &self,
        dtype: DType,
        shape: Shape,
        device: Device,
        fill: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<Tensor> {
        dispatch_dtype!(dtype, T => Tensor::from_vec(T::read_vec(shape.numel(), fill)?, shape, device))
    }

    /// Returns an error if another program has written to the file since it was opened. A change within one tick of the
    /// file system's clock goes unnoticed.
    pub fn check_unchanged(&self) -> Result<()> {
        let now = self.file.metadata().map_err(|e| Error::io(&self.path, e))?;
        let same = now.len() == self.len as u64 && now.modified().ok() == self.modified;
        if same { Ok(()) } else { Err(self.changed()) }
    }

    fn changed(&self) -> Error {
        Error::file(&self.path, "another program changed it while it was being read")
    }

    /// The error for a failed allocation of this many bytes.
    pub fn out_of_memory(&self, bytes: usize) -> Error {
        out_of_memory(&self.path, bytes)
    }
}

/// The error for an allocation of this many bytes that failed while the file was being read.
pub(crate) fn out_of_memory(path: &Path, bytes: usize) -> Error {
    let detail = format!("while {} was read", path.display());
    ErrorKind::OutOfMemory { device: "cpu".into(), requested: bytes, detail }.into()
}

#[cfg(unix)]
fn read_exact_at(file: &File, at: u64, out: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, at)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut at: u64, mut out: &mut [u8]) -> io::Result<()> {
    while !out.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, out, at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                at += count as u64;
                out = &mut out[count..];
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

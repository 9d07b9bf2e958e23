//! Atomic writes: a file is written under a temporary name and renamed when it is complete.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, TryLockError},
    hash::{BuildHasher, RandomState},
    io,
    path::{Path, PathBuf},
};

use kiln_tensor::{Error, Result};

/// Suffix of the names of files that are being written.
const SUFFIX: &str = ".tmp";
/// How many bytes of a file's name the temporary name repeats, for readers of the folder. File systems allow 255.
const SHOWN: usize = 120;
/// How many temporary names are tried: one may be taken, or another write may remove its file at once.
const MAX_ATTEMPTS: usize = 100;
/// How many symbolic links are followed.
const MAX_LINKS: usize = 40;

/// Writes a file so that whoever reads `path`, at any time and after any crash, finds either the old contents or
/// all of the new ones.
///
/// `fill` writes to a new file in the same folder, which is flushed to the disk and then renamed. If the process is
/// killed meanwhile, that file stays behind (`.NAME.….tmp`); the next write of the same file removes it. An existing
/// file keeps its permissions. If `path` is a symbolic link, the file that it points to is replaced or created, and the
/// link stays.
///
/// # Errors
/// Errors of `fill`; [`ErrorKind::Io`](kiln_tensor::ErrorKind::Io) with the path if the file cannot be written;
/// [`ErrorKind::File`](kiln_tensor::ErrorKind::File) if `path` is not a regular file but a folder, a device or a FIFO,
/// which is never replaced. The old file is then unchanged.
pub fn write(path: impl AsRef<Path>, fill: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let mut fill = Some(fill);
    // `write_with` calls it once.
    write_with(path.as_ref(), &mut |file| fill.take().map_or(Ok(()), |fill| fill(file)))
}

/// [`write()`], compiled once for all closures.
fn write_with(path: &Path, fill: &mut dyn FnMut(&mut File) -> Result<()>) -> Result<()> {
    let failed = |e: io::Error| Error::io(path, e);
    let target = real_path(path).map_err(failed)?;
    let folder = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let existing = match fs::metadata(&target) {
        Ok(found) if !found.is_file() => {
            let what = if found.is_dir() { "a folder" } else { "not a regular file but a device, FIFO or socket" };
            return Err(Error::file(path, format!("it is {what}; a file cannot be saved in its place")));
        }
        Ok(found) => Some(found.permissions()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(failed(e)),
    };
    let prefix = temporary_prefix(target.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?);
    remove_leftovers(folder, &prefix);

    let mut temporary = Temporary::new(folder, &prefix).map_err(failed)?;
    fill(&mut temporary.file)?;
    if let Some(permissions) = existing {
        temporary.file.set_permissions(permissions).map_err(failed)?;
    }
    temporary.file.sync_all().map_err(failed)?;
    temporary.persist(&target).map_err(failed)?;
    sync_folder(folder).map_err(failed)
}

/// The file to replace or create: the target of symbolic links, else the path itself.
fn real_path(path: &Path) -> io::Result<PathBuf> {
    let mut at = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::symlink_metadata(&at) {
            Ok(found) if found.file_type().is_symlink() => {
                let target = fs::read_link(&at)?;
                // A relative link starts at the folder that it is in.
                at = at.parent().unwrap_or(Path::new("")).join(target);
            }
            _ => return Ok(at),
        }
    }
    Err(io::Error::other("too many symbolic links, or links that point to each other"))
}

/// How the names of temporary files for a file begin: as much of its name as fits, and a hash of all of it.
fn temporary_prefix(name: &OsStr) -> OsString {
    let bytes = name.as_encoded_bytes();
    let mut prefix = OsString::from(".");
    match name.to_str() {
        Some(text) => {
            let shown = text.char_indices().take_while(|(at, _)| *at < SHOWN);
            prefix.push(shown.map(|(_, c)| c).collect::<String>());
        }
        None => prefix.push("file"),
    }
    prefix.push(format!(".{:08x}.", crc32fast::hash(bytes)));
    prefix
}

/// A file that is removed unless it gets its final name.
struct Temporary {
    file: File,
    /// `None` once it has its final name.
    path: Option<PathBuf>,
}

impl Temporary {
    /// Creates a new file and locks it, which tells other writes of the same target that this one is in progress.
    /// Some network file systems have no locks; leftovers stay there.
    fn new(folder: &Path, prefix: &OsStr) -> io::Result<Temporary> {
        for _ in 0..MAX_ATTEMPTS {
            let mut name = prefix.to_owned();
            // Each hasher has different keys.
            name.push(format!("{:016x}{SUFFIX}", RandomState::new().hash_one(std::process::id())));
            let path = folder.join(name);
            let file = match File::create_new(&path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                file => file?,
            };
            let temporary = Temporary { file, path: Some(path) };
            // Another write may take it for a leftover before it is locked.
            let is_taken = matches!(temporary.file.try_lock(), Err(TryLockError::WouldBlock));
            if !is_taken && temporary.path.as_ref().is_some_and(|path| path.exists()) {
                return Ok(temporary);
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    /// Gives it its final name, replacing any file of that name.
    fn persist(mut self, target: &Path) -> io::Result<()> {
        if let Some(path) = &self.path {
            fs::rename(path, target)?;
        }
        self.path = None;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // What cannot be removed now is removed by the next write of the same target.
            let _ = fs::remove_file(path);
        }
    }
}

/// Removes the leftovers of earlier writes of the same file whose process was killed. A write in progress holds a
/// lock.
fn remove_leftovers(folder: &Path, prefix: &OsStr) {
    let is_ours = |name: &OsStr| {
        let name = name.as_encoded_bytes();
        name.starts_with(prefix.as_encoded_bytes()) && name.ends_with(SUFFIX.as_bytes())
    };
    // What cannot be read or removed stays: it does no harm.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if !is_ours(&entry.file_name()) || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        let Ok(file) = File::open(entry.path()) else { continue };
        match file.try_lock() {
            Ok(()) => drop(fs::remove_file(entry.path())),
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
        }
    }
}

/// Makes the rename durable: on Unix it is an entry of the folder, which is flushed to the disk separately.
#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // Some network file systems cannot; the rename is done all the same.
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        other => other,
    }
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

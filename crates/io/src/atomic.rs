//! Files that are there whole or not at all.

use std::{
    fs::{self, File, Permissions},
    io,
    path::{Path, PathBuf},
};

use kiln_tensor::{Error, Result};
use tempfile::Builder;

/// Writes a file so that whoever reads `path`, at any time and after any crash, finds the old contents or
/// all of the new ones.
///
/// `fill` writes to a new file in the same folder, which goes to the disk and is then renamed. A process
/// that is killed meanwhile leaves that file behind (`.NAME.….tmp`); it may be deleted. An existing file
/// keeps its permissions, and a symbolic link keeps pointing to the file that is replaced.
///
/// # Errors
/// What `fill` returns, or [`ErrorKind::Io`](kiln_tensor::ErrorKind::Io) with the path; the old file is then
/// as it was.
pub fn write(path: impl AsRef<Path>, fill: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let path = path.as_ref();
    let failed = |e: io::Error| Error::io(path, e);
    let target = real_path(path).map_err(failed)?;
    let folder = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(target.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?);
    prefix.push(".");

    let mut builder = Builder::new();
    builder.prefix(&prefix).suffix(".tmp");
    let permissions = permissions_of(&target).map_err(failed)?;
    if let Some(permissions) = new_file_permissions() {
        builder.permissions(permissions);
    }
    let mut file = builder.tempfile_in(folder).map_err(failed)?;
    fill(file.as_file_mut())?;
    if let Some(permissions) = permissions {
        file.as_file().set_permissions(permissions).map_err(failed)?;
    }
    file.as_file().sync_all().map_err(failed)?;
    file.persist(&target).map_err(|e| failed(e.error))?;
    sync_folder(folder).map_err(failed)
}

/// The file to replace: what a symbolic link points to, else the path itself.
fn real_path(path: &Path) -> io::Result<PathBuf> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_symlink() => fs::canonicalize(path),
        Ok(found) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        _ => Ok(path.to_owned()),
    }
}

/// The permissions of the file to replace, if there is one.
fn permissions_of(path: &Path) -> io::Result<Option<Permissions>> {
    match fs::metadata(path) {
        Ok(found) => Ok(Some(found.permissions())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// What a new file gets: what the process's umask leaves, as for any other file, not the 0600 that
/// temporary files have by default.
#[cfg(unix)]
fn new_file_permissions() -> Option<Permissions> {
    use std::os::unix::fs::PermissionsExt;
    Some(Permissions::from_mode(0o666))
}

#[cfg(not(unix))]
fn new_file_permissions() -> Option<Permissions> {
    None
}

/// Makes the rename last: on Unix it is in the folder, which goes to the disk by itself.
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

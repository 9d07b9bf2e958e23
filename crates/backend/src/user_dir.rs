//! Finds the user's cache directory, where compiled plans and downloads are kept.

use std::path::PathBuf;

/// The folder for files that can be made or fetched again: `$XDG_CACHE_HOME`, by default `~/.cache`; `~/Library/Caches` on
/// macOS; `%LOCALAPPDATA%` on Windows. `None` if the user has no home directory.
#[must_use]
pub fn cache_dir() -> Option<PathBuf> {
    // A path that is not absolute must be ignored (XDG Base Directory Specification).
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = std::env::home_dir().filter(|path| path.is_absolute());
    if cfg!(windows) {
        variable("LOCALAPPDATA")
    } else if cfg!(target_vendor = "apple") {
        home.map(|home| home.join("Library").join("Caches"))
    } else {
        variable("XDG_CACHE_HOME").or_else(|| home.map(|home| home.join(".cache")))
    }
}

//! Finds the user's data directory, where data sets are looked for and downloaded to.

use std::path::PathBuf;

/// Where programs store user data: `$XDG_DATA_HOME`, or `~/.local/share` if it is not set, `~/Library/Application
/// Support` on macOS, `%APPDATA%` on Windows.
pub(crate) fn data_dir() -> Option<PathBuf> {
    // Relative paths must be ignored (XDG Base Directory Specification).
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = std::env::home_dir().filter(|path| path.is_absolute());
    if cfg!(windows) {
        variable("APPDATA")
    } else if cfg!(target_vendor = "apple") {
        home.map(|home| home.join("Library").join("Application Support"))
    } else {
        variable("XDG_DATA_HOME").or_else(|| home.map(|home| home.join(".local").join("share")))
    }
}

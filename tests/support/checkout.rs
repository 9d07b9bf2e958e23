//! Finds the files that tests and benches read (golden values, assets, scripts), wherever the checkout is.

use std::{env, path::PathBuf};

/// A file or folder of the checkout, by its path from the top, as in `checkout::path("tests/golden/ops.safetensors")`.
///
/// It is sought in the folders above the package (`CARGO_MANIFEST_DIR` at run time, which Cargo sets, and a bundle for
/// machines without Cargo as well), above the program, and above the current folder. No path of the machine that compiled
/// the program is in it, so it runs on others.
pub fn path(name: &str) -> PathBuf {
    let package = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let places = [package, env::current_exe().ok(), env::current_dir().ok()];
    let mut files = places.iter().flatten().flat_map(|place| place.ancestors()).map(|folder| folder.join(name));
    let places = || places.iter().flatten().map(|place| place.display().to_string()).collect::<Vec<_>>().join(", ");
    files.find(|file| file.exists()).unwrap_or_else(|| panic!("{name} is in no folder above {}", places()))
}

//! Searches all places for a shared library, and makes the error message if it is not found.

use std::{
    env::consts::OS,
    path::{Path, PathBuf},
};

use crate::places::{Environment, Place, Source, Wanted, dangling, places};

/// A library, and the file names that it may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The vendor's name for it, for messages.
    pub title: &'static str,
    /// How to install it.
    pub fix: String,
    /// The oldest version that has all functions that Kiln calls.
    pub needs: &'static str,
    /// The preferred version first; the unversioned name, which may be any version, last.
    pub names: Vec<String>,
    /// Decides the folders that are relevant.
    pub wanted: Wanted,
}

/// Opens the first library of `spec` that `open` accepts, and returns the name under which it was found. Every place is
/// searched for each name before the next name is tried: the version counts for more than the place, except that a
/// place named in Kiln's own variable comes first.
///
/// # Errors
/// The message: the names, the places, why existing files were rejected, and the fix.
pub fn find<H>(
    spec: &Spec,
    environment: &Environment,
    open: impl Fn(&Path) -> Result<H, String>,
) -> Result<(H, PathBuf), String> {
    let places = places(spec.wanted, environment);
    let is_own = |place: &&Place| matches!(place, Place::Folder(_, source) if source.is_own());
    let own = places.iter().take_while(is_own).count();
    let mut refused: Vec<String> = Vec::new();
    for group in [&places[..own], &places[own..]] {
        for name in &spec.names {
            for place in group {
                let path = match place {
                    Place::Loader => PathBuf::from(name),
                    Place::Folder(folder, _) => folder.join(name),
                };
                if *place != Place::Loader && !path.is_file() {
                    continue;
                }
                match open(&path) {
                    Ok(handle) => return Ok((handle, path)),
                    // That the loader finds none is normal.
                    Err(reason) if *place == Place::Loader && is_absent(name, &reason) => {}
                    Err(reason) => refused.push(format!("{} is not taken: {reason}", path.display())),
                }
            }
        }
    }
    let mut listed: Vec<String> = Vec::new();
    for place in &places {
        listed.push(match place {
            Place::Loader => Source::Loader.to_string(),
            Place::Folder(folder, source) => format!("{} ({source})", folder.display()),
        });
    }
    listed.extend(dangling(spec.wanted, environment).iter().map(|set| format!("{set}, which has no such folder")));
    let mut text = format!(
        "{} was not found under the names {}; searched {}",
        spec.title,
        spec.names.join(", "),
        listed.join(", ")
    );
    for line in refused {
        text.push_str(&format!("; {line}"));
    }
    text.push_str(&format!(". To fix it, {}", spec.fix));
    Err(text)
}

/// Whether the loader's message means that no file has this name, rather than that one exists and cannot be loaded.
fn is_absent(name: &str, reason: &str) -> bool {
    OS != "linux" || reason.starts_with(&format!("{name}: cannot open shared object file: No such file"))
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::{ffi::OsString, fs};

    use super::*;

    fn mpi() -> Spec {
        Spec {
            title: "MPI",
            fix: "`pip install mpich`".into(),
            needs: "the MPI-5 standard ABI",
            names: vec!["libmpi_abi.so.1".into(), "libmpi_abi.so".into()],
            wanted: Wanted::Mpi,
        }
    }

    fn touch(path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }

    /// MPI has search places of its own, other than NVIDIA's; its wheel puts libraries beside Python's own.
    #[test]
    fn mpi_is_sought_in_its_own_places() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        touch(&at("py/bin/python3"));
        let places = [
            ("KILN_MPI_PATH", at("own"), at("own/lib/libmpi_abi.so.1")),
            ("LD_LIBRARY_PATH", at("loader"), at("loader/libmpi_abi.so.1")),
            ("MPI_HOME", at("mpi"), at("mpi/lib/libmpi_abi.so.1")),
            ("VIRTUAL_ENV", at("venv"), at("venv/lib/libmpi_abi.so.1")),
            ("CONDA_PREFIX", at("conda"), at("conda/lib/libmpi_abi.so.1")),
            ("PATH", at("py/bin"), at("py/lib/libmpi_abi.so.1")),
            ("HOME", at("home"), at("home/.local/lib/libmpi_abi.so.1")),
        ];
        let mut variables: Vec<(&str, OsString)> = vec![("KILN_CUDA_PATH", at("cuda").into_os_string())];
        touch(&at("cuda/lib64/libmpi_abi.so.1"));
        for (name, value, file) in &places {
            touch(file);
            variables.push((name, value.clone().into_os_string()));
        }
        let absent = |path: &Path| {
            if path.is_absolute() {
                return Ok(());
            }
            Err(format!("{}: cannot open shared object file: No such file or directory", path.display()))
        };
        for (i, (name, _, file)) in places.iter().enumerate() {
            let left = &variables[i + 1..];
            let variable = |name: &str| left.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone());
            let found = find(&mpi(), &Environment { variable: &variable }, absent).unwrap();
            assert_eq!(&found.1, file, "{name}");
        }
        let nothing = |_: &str| None;
        let text = find(&mpi(), &Environment { variable: &nothing }, absent).unwrap_err();
        for part in ["libmpi_abi.so.1, libmpi_abi.so", "the loader's path", "pip install mpich"] {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
    }
}

//! The search for NVIDIA's shared libraries (loader, wheels, conda, toolkit), and the error when one is missing.

use std::{
    collections::BTreeSet,
    env::consts::OS,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

/// One of the libraries, with the file names that it goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spec {
    /// As NVIDIA calls it, for messages.
    pub(crate) title: &'static str,
    /// How a user gets it.
    pub(crate) fix: &'static str,
    /// The oldest version that has all that Kiln calls.
    pub(crate) needs: &'static str,
    /// On Linux, the preferred version first; the unversioned name, which may be any version, is the last.
    linux: &'static [&'static str],
    windows: &'static [&'static str],
    /// Whether it comes with the display driver and not with the toolkit.
    driver: bool,
}

pub(crate) const DRIVER: Spec = Spec {
    title: "the NVIDIA driver (libcuda)",
    fix: "install the NVIDIA display driver, version 525 (CUDA 12.0) or newer; in a container, start it with GPU \
          access (e.g. `docker run --gpus all`)",
    needs: "CUDA 12.0",
    linux: &["libcuda.so.1", "libcuda.so"],
    windows: &["nvcuda.dll"],
    driver: true,
};

const CUBLAS_LT_FIX: &str = "install the CUDA toolkit, or `pip install nvidia-cublas` (`nvidia-cublas-cu12` for CUDA \
                             12), or set KILN_CUDA_PATH to the folder that holds it";

/// cuBLASLt of either major version. A library of CUDA 13 needs a driver of CUDA 13.
pub(crate) fn cublas_lt(driver_version: i32) -> Spec {
    let spec =
        Spec { title: "cuBLASLt", fix: CUBLAS_LT_FIX, needs: "CUDA 12.0", linux: &[], windows: &[], driver: false };
    if driver_version >= 13_000 {
        Spec {
            linux: &["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"],
            windows: &["cublasLt64_13.dll", "cublasLt64_12.dll"],
            ..spec
        }
    } else {
        Spec { linux: &["libcublasLt.so.12", "libcublasLt.so"], windows: &["cublasLt64_12.dll"], ..spec }
    }
}

pub(crate) const CUDNN: Spec = Spec {
    title: "cuDNN",
    fix: "install cuDNN 9 (<https://developer.nvidia.com/cudnn>), or `pip install nvidia-cudnn-cu13` \
          (`nvidia-cudnn-cu12` for CUDA 12), or set KILN_CUDA_PATH to the folder that holds it",
    needs: "cuDNN 9",
    linux: &["libcudnn.so.9", "libcudnn.so"],
    windows: &["cudnn64_9.dll"],
    driver: false,
};

impl Spec {
    pub(crate) fn names(&self) -> &'static [&'static str] {
        if OS == "windows" { self.windows } else { self.linux }
    }
}

/// What of the process's surroundings the search reads; tests hand in their own.
pub(crate) struct Surroundings<'a> {
    pub(crate) variable: &'a dyn Fn(&str) -> Option<OsString>,
}

/// Of this process.
pub(crate) fn process() -> Surroundings<'static> {
    Surroundings { variable: &|name| std::env::var_os(name) }
}

/// A place to look in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// Wherever the system's loader looks: `LD_LIBRARY_PATH`, the `ld.so` cache, `PATH` on Windows.
    Loader,
    /// A folder, and why it is looked in.
    Folder(PathBuf, &'static str),
}

/// Folders below a toolkit's root that hold libraries.
const TOOLKIT_FOLDERS: &[&str] =
    &["lib64", "lib", "lib/x64", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib", "bin", "bin/x64"];

/// All places, in the order of preference: what the user names, then the loader's, then installations.
pub(crate) fn places(spec: &Spec, around: &Surroundings) -> Vec<Place> {
    let mut places = Vec::new();
    let paths = |name: &str| -> Vec<PathBuf> {
        let list = (around.variable)(name).unwrap_or_default();
        std::env::split_paths(&list).filter(|path| !path.as_os_str().is_empty()).collect()
    };
    for root in paths("KILN_CUDA_PATH") {
        places.push(Place::Folder(root.clone(), "KILN_CUDA_PATH"));
        places.extend(TOOLKIT_FOLDERS.iter().map(|below| Place::Folder(root.join(below), "KILN_CUDA_PATH")));
    }
    places.push(Place::Loader);
    if spec.driver {
        if OS == "linux" {
            places.push(Place::Folder("/usr/lib/wsl/lib".into(), "the Windows subsystem for Linux"));
        }
    } else {
        for name in ["CUDA_HOME", "CUDA_PATH"] {
            for root in paths(name) {
                places.extend(TOOLKIT_FOLDERS.iter().map(|below| Place::Folder(root.join(below), name)));
            }
        }
        if OS == "linux" {
            places.push(Place::Folder("/usr/local/cuda/lib64".into(), "the toolkit's usual place"));
        }
        for folder in wheel_folders(around) {
            places.push(Place::Folder(folder, "NVIDIA's Python packages"));
        }
    }
    places.retain(|place| match place {
        Place::Loader => true,
        // A folder that the user names is listed in the error even if it is not there.
        Place::Folder(path, why) => *why == "KILN_CUDA_PATH" && !is_below_toolkit(path) || path.is_dir(),
    });
    places
}

fn is_below_toolkit(path: &Path) -> bool {
    TOOLKIT_FOLDERS.iter().any(|below| path.ends_with(below))
}

/// The library folders of NVIDIA's wheels in the active Python environment: a virtual environment, conda, or
/// the `python3` that is first on the path. One level of folders is listed, so the wheels' layout
/// (`nvidia/cu13/lib`, `nvidia/cublas/lib`, `bin` on Windows) may change.
fn wheel_folders(around: &Surroundings) -> Vec<PathBuf> {
    let mut roots: Vec<PathBuf> =
        ["VIRTUAL_ENV", "CONDA_PREFIX"].iter().filter_map(|name| (around.variable)(name)).map(PathBuf::from).collect();
    if let Some(path) = (around.variable)("PATH") {
        let python = std::env::split_paths(&path).map(|folder| folder.join("python3")).find(|file| file.is_file());
        // The link leads from `/usr/bin/python3` to where the interpreter lives; both have libraries of their own.
        for python in python.iter().cloned().chain(python.as_ref().and_then(|file| fs::canonicalize(file).ok())) {
            roots.extend(python.parent().and_then(Path::parent).map(Path::to_path_buf));
        }
    }
    let mut packages = Vec::new();
    for root in roots {
        packages.push(root.join("Lib/site-packages"));
        for lib in ["lib", "lib64", "local/lib"] {
            packages.extend(
                folders_in(&root.join(lib))
                    .into_iter()
                    .filter(|folder| {
                        folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python3"))
                    })
                    .flat_map(|python| [python.join("site-packages"), python.join("dist-packages")]),
            );
        }
    }
    let mut seen = BTreeSet::new();
    packages
        .iter()
        .flat_map(|site| folders_in(&site.join("nvidia")))
        .flat_map(|wheel| [wheel.join("lib"), wheel.join("bin"), wheel.join("bin/x86_64")])
        .filter(|folder| folder.is_dir() && seen.insert(folder.clone()))
        .collect()
}

/// The folders in a folder, newest name first (`cu13` before `cu12`, `python3.12` before `python3.11`).
fn folders_in(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|p| p.is_dir()).collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    found
}

/// Opens the first library of `spec` that `open` can open, and says what it opened. Every place is asked for
/// each name before the next name is tried: the version counts for more than the place, except that what the
/// user names comes first.
///
/// # Errors
/// The text of an error: the names, the places, the loader's words about files that are there, the fix.
pub(crate) fn find<H>(
    spec: &Spec,
    around: &Surroundings,
    open: impl Fn(&Path) -> Result<H, String>,
) -> Result<(H, PathBuf), String> {
    let places = places(spec, around);
    let own = places.iter().take_while(|place| **place != Place::Loader).count();
    let mut broken = Vec::new();
    for group in [&places[..own], &places[own..]] {
        for name in spec.names() {
            for place in group {
                let path = match place {
                    Place::Loader => PathBuf::from(name),
                    Place::Folder(folder, _) => folder.join(name),
                };
                let named_by_loader = *place == Place::Loader;
                if !named_by_loader && !path.is_file() {
                    continue;
                }
                match open(&path) {
                    Ok(handle) => return Ok((handle, path)),
                    // For the loader's path, "not found" is the rule, and "found but broken" cannot be told apart.
                    Err(_) if named_by_loader => {}
                    Err(reason) => broken.push(format!("{} does not load: {reason}", path.display())),
                }
            }
        }
    }
    let mut text = format!("{} was not found under the names {}", spec.title, spec.names().join(", "));
    let mut listed: Vec<String> = Vec::new();
    for place in &places {
        let line = match place {
            Place::Loader => "the loader's path".to_string(),
            Place::Folder(folder, why) => format!("{} ({why})", folder.display()),
        };
        if !listed.contains(&line) {
            listed.push(line);
        }
    }
    text.push_str(&format!("; sought in {}", listed.join(", ")));
    for line in broken {
        text.push_str(&format!("; {line}"));
    }
    text.push_str(&format!(". To fix it, {}", spec.fix));
    Err(text)
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    fn touch(path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }

    fn search(variables: &[(&str, &Path)], spec: &Spec, loads: &dyn Fn(&Path) -> bool) -> Result<PathBuf, String> {
        let variable = |name: &str| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_os_str().to_os_string())
        };
        let open = |path: &Path| if loads(path) { Ok(()) } else { Err("wrong ELF class".to_string()) };
        find(spec, &Surroundings { variable: &variable }, open).map(|(_, path)| path)
    }

    #[test]
    fn own_path_wins_then_versions_then_places() {
        let dir = tempfile::tempdir().unwrap();
        let (own, home, venv) = (dir.path().join("own"), dir.path().join("cuda"), dir.path().join("venv"));
        let wheel = venv.join("lib/python3.12/site-packages/nvidia/cu13/lib/libcublasLt.so.13");
        touch(&own.join("lib64/libcublasLt.so"));
        touch(&home.join("lib64/libcublasLt.so.12"));
        touch(&wheel);
        let folders = |path: &Path| path.is_absolute() && path.starts_with(dir.path());
        let spec = cublas_lt(13_020);
        let all = [("KILN_CUDA_PATH", &*own), ("CUDA_HOME", &home), ("VIRTUAL_ENV", &venv)];
        assert_eq!(search(&all, &spec, &folders).unwrap(), own.join("lib64/libcublasLt.so"));
        assert_eq!(search(&all[1..], &spec, &folders).unwrap(), wheel);
        assert_eq!(search(&all[1..], &cublas_lt(12_080), &folders).unwrap(), home.join("lib64/libcublasLt.so.12"));
        // The loader's own finds come before folders of the same version.
        let any = |_: &Path| true;
        assert_eq!(search(&all[1..], &spec, &any).unwrap(), Path::new("libcublasLt.so.13"));
    }

    #[test]
    fn the_error_names_library_names_places_and_fix() {
        let dir = tempfile::tempdir().unwrap();
        let (own, home) = (dir.path().join("missing"), dir.path().join("cuda"));
        touch(&home.join("lib64/libcublasLt.so.13"));
        let variables = [("KILN_CUDA_PATH", &*own), ("CUDA_PATH", &*home)];
        let text = search(&variables, &cublas_lt(13_000), &|_| false).unwrap_err();
        for part in [
            "cuBLASLt was not found",
            "libcublasLt.so.13, libcublasLt.so.12, libcublasLt.so",
            "the loader's path",
            "missing (KILN_CUDA_PATH)",
            "cuda/lib64 (CUDA_PATH)",
            "libcublasLt.so.13 does not load: wrong ELF class",
            "pip install nvidia-cublas",
        ] {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
        let text = search(&[], &DRIVER, &|_| false).unwrap_err();
        assert!(text.contains("libcuda.so.1, libcuda.so") && text.contains("525"), "{text}");
    }

    #[test]
    fn python_on_the_path_leads_to_its_packages() {
        let dir = tempfile::tempdir().unwrap();
        let python = dir.path().join("py/bin/python3.11");
        touch(&python);
        let bin = dir.path().join("bin");
        fs::create_dir_all(&bin).unwrap();
        std::os::unix::fs::symlink(&python, bin.join("python3")).unwrap();
        let wheel = dir.path().join("py/lib/python3.11/site-packages/nvidia/cublas/lib/libcublasLt.so.12");
        touch(&wheel);
        let found = search(&[("PATH", &*bin)], &cublas_lt(12_000), &|path| path.is_absolute());
        assert_eq!(fs::canonicalize(found.unwrap()).unwrap(), fs::canonicalize(wheel).unwrap());
    }
}

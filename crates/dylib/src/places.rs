//! The search path for libraries and nvcc, in one order for both: `search` uses it at run time, and the build script of
//! `kiln-cuda`, which includes this file, at build time. So it uses nothing but `std`. `docs/gpu.md` has the order as a
//! table.

use std::{
    collections::BTreeSet,
    env::{consts::OS, split_paths},
    ffi::OsString,
    fmt, fs,
    path::{Path, PathBuf},
};

/// What is searched for, which decides the folders that are relevant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// `libcuda`, which comes with the display driver.
    Driver,
    /// A library of the CUDA toolkit: cuBLASLt, NVRTC, NCCL.
    Toolkit,
    /// cuDNN, which has variables of its own.
    Cudnn,
    /// nvcc.
    Compiler,
    /// MPI.
    Mpi,
}

/// The parts of the process's environment that the search reads; tests pass their own.
pub struct Environment<'a> {
    /// The value of a variable.
    pub variable: &'a dyn Fn(&str) -> Option<OsString>,
}

impl Environment<'static> {
    /// The environment of this process.
    pub fn process() -> Environment<'static> {
        Environment { variable: &|name| std::env::var_os(name) }
    }
}

impl Environment<'_> {
    /// The paths of a variable that holds a list of them.
    fn paths(&self, name: &str) -> Vec<PathBuf> {
        let list = (self.variable)(name).unwrap_or_default();
        split_paths(&list).filter(|path| !path.as_os_str().is_empty()).collect()
    }
}

/// Where a folder of the search path comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A variable that names roots of installations, or folders of libraries.
    Roots(&'static str),
    /// `LD_LIBRARY_PATH`: folders. The loader would find them as well, but only after its built-in paths.
    LibraryPath,
    /// `VIRTUAL_ENV`: NVIDIA's wheels in a virtual environment of Python.
    VirtualEnv,
    /// `CONDA_PREFIX`: conda's own packages, and wheels in its Python.
    Conda,
    /// The loader's default search; `PATH` for nvcc.
    Loader,
    /// NVIDIA's wheels of the `python3` that is first on `PATH`.
    PythonOnPath,
    /// NVIDIA's wheels that `pip install --user` has installed.
    UserSite,
    /// Default folders of installers.
    Usual,
}

/// The search order for NVIDIA's libraries and nvcc.
pub const ORDER: [Source; 12] = [
    Source::Roots("KILN_CUDA_PATH"),
    Source::LibraryPath,
    Source::Roots("CUDNN_PATH"),
    Source::Roots("CUDNN_HOME"),
    Source::Roots("CUDA_HOME"),
    Source::Roots("CUDA_PATH"),
    Source::VirtualEnv,
    Source::Conda,
    Source::Loader,
    Source::PythonOnPath,
    Source::UserSite,
    Source::Usual,
];

/// The search order for MPI.
const MPI_ORDER: [Source; 10] = [
    Source::Roots("KILN_MPI_PATH"),
    Source::LibraryPath,
    Source::Roots("MPI_HOME"),
    Source::Roots("MPI_ROOT"),
    Source::VirtualEnv,
    Source::Conda,
    Source::Loader,
    Source::PythonOnPath,
    Source::UserSite,
    Source::Usual,
];

/// Folders below a root that hold libraries.
const LIBRARY_FOLDERS: &[&str] =
    &["lib64", "lib", "lib/x64", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib", "bin", "bin/x64"];
/// Folders below a root that hold programs.
const PROGRAM_FOLDERS: &[&str] = &["bin"];

/// A place to search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// [`Source::Loader`].
    Loader,
    /// An existing folder, and where it comes from.
    Folder(PathBuf, Source),
}

/// The sources for `wanted`, in order of preference.
fn order(wanted: Wanted) -> Vec<Source> {
    match wanted {
        Wanted::Mpi => MPI_ORDER.to_vec(),
        _ => ORDER.into_iter().filter(|source| source.serves(wanted)).collect(),
    }
}

/// All existing places for `wanted`, in order of preference.
pub fn places(wanted: Wanted, environment: &Environment) -> Vec<Place> {
    let mut seen = BTreeSet::new();
    let mut places = Vec::new();
    for source in order(wanted) {
        if source == Source::Loader && wanted != Wanted::Compiler {
            places.push(Place::Loader);
            continue;
        }
        let folders = source.folders(wanted, environment).into_iter();
        let new = folders.filter(|folder| folder.is_dir() && seen.insert(folder.clone()));
        places.extend(new.map(|folder| Place::Folder(folder, source)));
    }
    places
}

/// The variables that this search reads and that name no existing folder, for an error: `CUDA_HOME=/opt/cuda`.
pub fn dangling(wanted: Wanted, environment: &Environment) -> Vec<String> {
    let of = |source: Source| match source {
        Source::Roots(name) => Some((source, name)),
        Source::VirtualEnv => Some((source, "VIRTUAL_ENV")),
        Source::Conda => Some((source, "CONDA_PREFIX")),
        _ => None,
    };
    let set = order(wanted).into_iter().filter_map(of);
    set.filter(|(source, _)| !source.folders(wanted, environment).iter().any(|folder| folder.is_dir()))
        .filter_map(|(_, name)| Some(format!("{name}={}", (environment.variable)(name)?.to_string_lossy())))
        .collect()
}

impl Source {
    /// Whether it is the variable that names folders for Kiln alone, which comes before all others.
    pub fn is_own(self) -> bool {
        matches!(self, Source::Roots("KILN_CUDA_PATH" | "KILN_MPI_PATH"))
    }

    fn serves(self, wanted: Wanted) -> bool {
        match self {
            Source::Roots("KILN_CUDA_PATH") | Source::Loader | Source::Usual => true,
            Source::LibraryPath => wanted != Wanted::Compiler,
            Source::Roots("CUDNN_PATH" | "CUDNN_HOME") => wanted == Wanted::Cudnn,
            _ => wanted != Wanted::Driver,
        }
    }

    /// The folders that may hold `wanted`, whether they exist or not.
    fn folders(self, wanted: Wanted, environment: &Environment) -> Vec<PathBuf> {
        let below = if wanted == Wanted::Compiler { PROGRAM_FOLDERS } else { LIBRARY_FOLDERS };
        let root = |root: PathBuf| -> Vec<PathBuf> {
            std::iter::once(root.clone()).chain(below.iter().map(|folder| root.join(folder))).collect()
        };
        let variable = |name: &str| (environment.variable)(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        match self {
            Source::Roots(name) => {
                let named = environment.paths(name).into_iter();
                // NVIDIA's folder of wheels has one folder per wheel, each a root itself.
                let wheels = |path: &Path| if path.ends_with("nvidia") { folders_in(path) } else { Vec::new() };
                named.flat_map(|path| [wheels(&path), vec![path]].concat()).flat_map(root).collect()
            }
            Source::LibraryPath if OS == "windows" => Vec::new(),
            Source::LibraryPath => environment.paths("LD_LIBRARY_PATH"),
            Source::VirtualEnv => variable("VIRTUAL_ENV").into_iter().flat_map(|env| wheels(&env, wanted)).collect(),
            Source::Conda => {
                let prefix = variable("CONDA_PREFIX").into_iter();
                prefix
                    .flat_map(|prefix| {
                        let own = [root(prefix.clone()), root(prefix.join("Library"))].concat();
                        [own, wheels(&prefix, wanted)].concat()
                    })
                    .collect()
            }
            Source::Loader => environment.paths("PATH"),
            Source::PythonOnPath => {
                python_prefixes(environment).iter().flat_map(|prefix| wheels(prefix, wanted)).collect()
            }
            Source::UserSite => {
                let home = if OS == "windows" {
                    variable("APPDATA").map(|data| data.join("Python"))
                } else {
                    variable("HOME").map(|home| home.join(".local"))
                };
                let base = variable("PYTHONUSERBASE").or(home).into_iter();
                base.flat_map(|base| wheels(&base, wanted)).collect()
            }
            Source::Usual => usual_folders(wanted),
        }
    }
}

/// Its name in errors and reports.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Source::Roots(name) => name,
            Source::LibraryPath => "LD_LIBRARY_PATH",
            Source::VirtualEnv => "VIRTUAL_ENV",
            Source::Conda => "CONDA_PREFIX",
            Source::Loader => "the loader's path",
            Source::PythonOnPath => "python3 on PATH",
            Source::UserSite => "pip --user",
            Source::Usual => "the usual folders",
        })
    }
}

fn usual_folders(wanted: Wanted) -> Vec<PathBuf> {
    if OS != "linux" {
        return Vec::new();
    }
    if wanted == Wanted::Driver {
        // The Windows subsystem for Linux, and NixOS.
        return ["/usr/lib/wsl/lib", "/run/opengl-driver/lib"].map(PathBuf::from).to_vec();
    }
    if wanted == Wanted::Mpi {
        return ["/usr/local/lib", "/opt/mpich/lib", "/usr/lib64/mpich/lib"].map(PathBuf::from).to_vec();
    }
    let mut roots = folders_in(Path::new("/usr/local"));
    roots.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("cuda-")));
    roots.insert(0, "/usr/local/cuda".into());
    let below = if wanted == Wanted::Compiler { PROGRAM_FOLDERS } else { LIBRARY_FOLDERS };
    roots.iter().flat_map(|root| below.iter().map(move |folder| root.join(folder))).collect()
}

/// The roots of the Python installations that the `python3` on `PATH` may belong to: the parent of its folder, the same
/// for the file that it links to, and, if it is the launcher of a version manager, all of that manager's versions.
fn python_prefixes(environment: &Environment) -> Vec<PathBuf> {
    let name = if OS == "windows" { "python.exe" } else { "python3" };
    let found = environment.paths("PATH").into_iter().map(|folder| folder.join(name)).find(|file| file.is_file());
    let Some(python) = found else { return Vec::new() };
    let mut prefixes = Vec::new();
    for file in [Some(python.clone()), fs::canonicalize(&python).ok()].into_iter().flatten() {
        let Some(folder) = file.parent() else { continue };
        // On Windows it is in the root itself.
        let prefix = if OS == "windows" { Some(folder) } else { folder.parent() };
        let Some(prefix) = prefix.map(Path::to_path_buf) else { continue };
        if folder.file_name().is_some_and(|name| name == "shims") {
            // For pyenv and mise.
            prefixes.extend(folders_in(&prefix.join("versions")));
            prefixes.extend(folders_in(&prefix.join("installs/python")));
        }
        prefixes.push(prefix);
    }
    prefixes
}

/// The folders of wheels in the Python installation at `root`. For NVIDIA's, one level of folders is listed rather than
/// assumed, since their layout varies (`nvidia/cu13/lib`, `nvidia/cublas/lib`, `bin` on Windows). MPI's wheels put
/// libraries beside Python's.
fn wheels(root: &Path, wanted: Wanted) -> Vec<PathBuf> {
    if wanted == Wanted::Mpi {
        return vec![root.join("lib"), root.join("Library/bin")];
    }
    let mut packages = vec![root.join("Lib/site-packages")];
    let is_python = |folder: &PathBuf| {
        folder.file_name().is_some_and(|name| name.to_string_lossy().to_lowercase().starts_with("python3"))
    };
    for lib in ["lib", "lib64", "local/lib", "."] {
        let pythons = folders_in(&root.join(lib)).into_iter().filter(is_python);
        packages.extend(pythons.flat_map(|python| [python.join("site-packages"), python.join("dist-packages")]));
    }
    let below: &[&str] = if wanted == Wanted::Compiler { &["bin"] } else { &["lib", "bin", "bin/x86_64"] };
    packages
        .iter()
        .flat_map(|site| folders_in(&site.join("nvidia")))
        .flat_map(|wheel| below.iter().map(move |folder| wheel.join(folder)).collect::<Vec<_>>())
        .collect()
}

/// The folders in a folder, newest version first (`cu13` before `cu12`, `python3.12` before `python3.11`, `cuda-12.10`
/// before `cuda-12.9`).
fn folders_in(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|p| p.is_dir()).collect();
    found.sort_by_cached_key(|path| std::cmp::Reverse(natural_key(path)));
    found
}

/// Sorts names by the numbers in them: each part is a text and the number after it.
fn natural_key(path: &Path) -> Vec<(String, u64)> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut key: Vec<(String, u64)> = Vec::new();
    let (mut text, mut digits) = (String::new(), String::new());
    for letter in name.chars().chain(['\0']) {
        if letter.is_ascii_digit() {
            digits.push(letter);
            continue;
        }
        if !digits.is_empty() {
            key.push((std::mem::take(&mut text), digits.parse().unwrap_or(u64::MAX)));
            digits.clear();
        }
        text.push(letter);
    }
    key.push((text, 0));
    key
}

//! Searches for the files of a data set: in the folder that the program names, `$KILN_DATA`, the user's, the system's.

use std::{
    env, fmt,
    path::{Component, Path, PathBuf},
};

use kiln_tensor::Error;

use super::kind::Facts;

/// Where a data set was found. [`MnistBuilder::load`](super::MnistBuilder::load) documents the order of the search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The folder that the program named.
    Given,
    /// `$KILN_DATA`.
    Environment,
    /// The user's data directory.
    User,
    /// The system's package.
    System,
    /// The subset that comes with Kiln.
    Bundled,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Origin::Given => "the given folder",
            Origin::Environment => "$KILN_DATA",
            Origin::User => "the user's data directory",
            Origin::System => "the system's package",
            Origin::Bundled => "the subset that comes with Kiln",
        })
    }
}

/// The images' and labels' files of one split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Files {
    pub origin: Origin,
    pub images: PathBuf,
    pub labels: PathBuf,
}

/// The folders to search. Only [`SearchPath::of_machine`] reads the environment, so that the search can be tested.
#[derive(Clone, Debug, Default)]
pub(super) struct SearchPath {
    pub given: Option<PathBuf>,
    pub environment: Option<PathBuf>,
    pub user: Option<PathBuf>,
    pub system: Option<PathBuf>,
    pub bundled: Option<PathBuf>,
}

impl SearchPath {
    pub fn of_machine(kind: &Facts, given: Option<PathBuf>) -> SearchPath {
        SearchPath {
            given,
            environment: env::var_os("KILN_DATA").filter(|value| !value.is_empty()).map(PathBuf::from),
            user: crate::user_dir::data_dir().map(|dir| dir.join("kiln")),
            system: kind.system_folder.map(PathBuf::from),
            bundled: kind.bundled_folder.and_then(|folder| bundled(Path::new(folder), &near())),
        }
    }

    /// The folders in order. If the program or the environment names one, only that is searched: a data set in another
    /// place is not the one that was requested.
    pub fn folders(&self, kind: &Facts) -> Vec<(Origin, PathBuf)> {
        if let Some(root) = &self.given {
            let mut folders = named(kind, root);
            folders.extend([root.join("raw"), root.clone()]);
            return folders.into_iter().map(|dir| (Origin::Given, dir)).collect();
        }
        if let Some(root) = &self.environment {
            let mut folders = named(kind, root);
            // All data sets of the family have the same file names, so a folder with another name may hold another data set.
            if is_named(kind, root) {
                folders.extend([root.join("raw"), root.clone()]);
            }
            return folders.into_iter().map(|dir| (Origin::Environment, dir)).collect();
        }
        let mut folders = Vec::new();
        folders.extend(self.user.iter().flat_map(|root| named(kind, root)).map(|dir| (Origin::User, dir)));
        folders.extend(self.system.iter().map(|dir| (Origin::System, dir.clone())));
        folders.extend(self.bundled.iter().map(|dir| (Origin::Bundled, dir.clone())));
        folders
    }

    /// The folder for downloads: torchvision's layout below the folder that the program or the environment names.
    #[cfg(feature = "download")]
    pub fn download_folder(&self, kind: &Facts) -> kiln_tensor::Result<(Origin, PathBuf)> {
        let roots =
            [(Origin::Given, &self.given), (Origin::Environment, &self.environment), (Origin::User, &self.user)];
        let root = roots.into_iter().find_map(|(origin, root)| Some((origin, root.as_ref()?)));
        let (origin, root) = root.ok_or_else(|| {
            Error::argument(kind.name, "this system has no data directory to download to; name one, or set KILN_DATA")
        })?;
        let raw = if is_named(kind, root) { root.join("raw") } else { root.join(kind.name).join("raw") };
        Ok((origin, raw))
    }

    /// The files of a split, in the first folder that has both.
    pub fn find(&self, kind: &Facts, train: bool) -> Option<Files> {
        self.folders(kind).into_iter().find_map(|(origin, dir)| files(origin, &dir, train))
    }

    pub fn not_found(&self, kind: &Facts, train: bool) -> Error {
        let searched: Vec<String> = self.folders(kind).iter().map(|(_, dir)| dir.display().to_string()).collect();
        let ([images, labels], name) = (names(train), kind.name);
        let missing = format!("no {images} and {labels} (or .gz) in {}", searched.join(", "));
        let message = match (&self.given, &self.environment) {
            (None, Some(root)) => format!(
                "KILN_DATA is {}, which does not hold {name}: {missing}; set it to the folder above {name}, or unset it",
                root.display()
            ),
            _ => {
                format!("{missing}; give their folder, set KILN_DATA to the one above {name}, or use `download(true)`")
            }
        };
        Error::argument(kind.name, message)
    }
}

/// Where to look for files that come with the program: near the package, the program, and the current folder.
fn near() -> Vec<PathBuf> {
    let package = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    [package, env::current_exe().ok(), env::current_dir().ok()].into_iter().flatten().collect()
}

/// The folder that [`MnistKind::BUNDLED_FOLDER`](super::MnistKind::BUNDLED_FOLDER) names: itself if it is absolute;
/// otherwise the first match in a folder above one of `near`.
fn bundled(folder: &Path, near: &[PathBuf]) -> Option<PathBuf> {
    let mut plain = PathBuf::new();
    for part in folder.components() {
        if part == Component::ParentDir {
            plain.pop();
        } else {
            plain.push(part);
        }
    }
    // Joined to another folder, an absolute one stays as it is.
    let above = near.iter().flat_map(|place| place.ancestors());
    above.chain([Path::new("/")]).map(|place| place.join(&plain)).find(|place| place.is_dir())
}

/// The names of the images' and labels' files.
pub(super) fn names(train: bool) -> [&'static str; 2] {
    if train {
        ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"]
    } else {
        ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]
    }
}

/// Debian's spelling of a name: `fashion-mnist` for `FashionMNIST`.
fn slug(name: &str) -> String {
    match name.strip_suffix("MNIST") {
        Some(kind) if !kind.is_empty() => format!("{}-mnist", kind.to_lowercase()),
        _ => name.to_lowercase(),
    }
}

fn named(kind: &Facts, root: &Path) -> Vec<PathBuf> {
    vec![root.join(kind.name).join("raw"), root.join(kind.name), root.join(slug(kind.name))]
}

fn is_named(kind: &Facts, root: &Path) -> bool {
    let name = root.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.eq_ignore_ascii_case(kind.name) || name.eq_ignore_ascii_case(&slug(kind.name))
}

fn files(origin: Origin, dir: &Path, train: bool) -> Option<Files> {
    let [images, labels] = names(train).map(|name| {
        let candidates = [name.to_string(), format!("{name}.gz"), name.replace("-idx", ".idx")];
        candidates.into_iter().map(|name| dir.join(name)).find(|path| path.is_file())
    });
    Some(Files { origin, images: images?, labels: labels? })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::mnist::{
        MnistKind as _,
        kind::{Digits, Fashion},
    };

    fn put(dir: &Path, ending: &str) -> PathBuf {
        fs::create_dir_all(dir).unwrap();
        for name in names(true) {
            fs::write(dir.join(format!("{name}{ending}")), []).unwrap();
        }
        dir.to_path_buf()
    }

    #[test]
    fn order() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        let mut search = SearchPath {
            given: None,
            environment: None,
            user: Some(at("user")),
            system: Some(put(&at("system"), ".gz")),
            bundled: Some(put(&at("bundled"), ".gz")),
        };
        let found = |search: &SearchPath| {
            search.find(&Facts::of::<Fashion>(), true).map(|f| (f.origin, f.images.parent().unwrap().to_path_buf()))
        };
        assert_eq!(found(&search), Some((Origin::System, at("system"))));
        assert_eq!(search.find(&Facts::of::<Fashion>(), false), None);
        put(&at("user/FashionMNIST/raw"), "");
        assert_eq!(found(&search), Some((Origin::User, at("user/FashionMNIST/raw"))));
        // A wrong folder is never replaced by another place.
        search.environment = Some(at("env"));
        assert_eq!(found(&search), None);
        let error = search.not_found(&Facts::of::<Fashion>(), true).to_string();
        for part in ["KILN_DATA is", "train-images-idx3-ubyte", "FashionMNIST/raw", "fashion-mnist", "unset it"] {
            assert!(error.contains(part) && !error.contains("system"), "{error}");
        }
        put(&at("env/fashion-mnist"), ".gz");
        assert_eq!(found(&search), Some((Origin::Environment, at("env/fashion-mnist"))));
        put(&at("env/FashionMNIST"), "");
        assert_eq!(found(&search), Some((Origin::Environment, at("env/FashionMNIST"))));
        search.given = Some(at("given"));
        assert_eq!(found(&search), None);
        assert!(search.not_found(&Facts::of::<Fashion>(), true).to_string().contains("given"));
        put(&at("given"), "");
        assert_eq!(found(&search), Some((Origin::Given, at("given"))));
        put(&at("given/raw"), "");
        assert_eq!(found(&search), Some((Origin::Given, at("given/raw"))));
    }

    #[test]
    fn one_data_set_is_not_taken_for_another() {
        let temp = tempfile::tempdir().unwrap();
        let root = put(&temp.path().join("FashionMNIST"), "");
        let search = SearchPath { environment: Some(root), ..SearchPath::default() };
        assert!(search.find(&Facts::of::<Fashion>(), true).is_some());
        assert!(search.find(&Facts::of::<Digits>(), true).is_none());
        let flat = SearchPath { environment: Some(put(&temp.path().join("data"), "")), ..SearchPath::default() };
        assert!(flat.find(&Facts::of::<Fashion>(), true).is_none());
    }

    #[test]
    fn both_files_are_needed() {
        let temp = tempfile::tempdir().unwrap();
        let dir = put(temp.path(), "");
        fs::remove_file(dir.join(names(true)[1])).unwrap();
        assert!(SearchPath { given: Some(dir), ..SearchPath::default() }.find(&Facts::of::<Fashion>(), true).is_none());
    }

    #[test]
    fn what_comes_with_the_program_is_found_near_it() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        fs::create_dir_all(at("checkout/crates/data/assets")).unwrap();
        fs::create_dir_all(at("checkout/target/debug")).unwrap();
        let source = Path::new("crates/data/src/kind.rs/../../assets");
        let want = Some(at("checkout/crates/data/assets"));
        for near in ["checkout", "checkout/crates/data", "checkout/target/debug/program"] {
            assert_eq!(bundled(source, &[at("elsewhere"), at(near)]), want, "{near}");
        }
        assert_eq!(bundled(source, &[at("elsewhere")]), None);
        // Of a dependency that is no member of the workspace, the compiler has the whole path.
        assert_eq!(bundled(&at("checkout").join(source), &[]), want);
        // That of the package, whose sources are here.
        let folder = bundled(Path::new(Fashion::BUNDLED_FOLDER.unwrap()), &near()).unwrap();
        assert!(folder.join("train-images-idx3-ubyte.gz").is_file(), "{}", folder.display());
        // No path of this machine is in the library.
        assert!(Path::new(Fashion::BUNDLED_FOLDER.unwrap()).is_relative());
    }

    #[test]
    fn slugs() {
        assert_eq!([slug("FashionMNIST"), slug("MNIST"), slug("KMNIST")], ["fashion-mnist", "mnist", "k-mnist"]);
    }
}

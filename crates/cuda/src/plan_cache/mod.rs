//! A cache of cuDNN's execution plans on disk: one file per problem, in a folder for each version of the library and
//! each kind of device. Plans that were built ahead of time, on a machine without a GPU, are the same files.
//!
//! The library serializes a plan to text, which includes the code of engines that are compiled at run time, and
//! restores it in a millisecond. A file is verified by a checksum, by its key (library, device, problem, and the source
//! code that creates the graph), and by the library, which refuses plans of other versions and devices. A file that is
//! refused is replaced, and a folder that is not writable is not used any more; neither is an error.

mod file;

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::SystemTime,
};

use parking_lot::Mutex;

/// The variable that names the folder; 0 or an empty value turns the cache off.
const VARIABLE: &str = "KILN_PLAN_CACHE";
/// The most files per device. Beyond that the oldest quarter is removed.
const MAX_FILES: usize = 4096;
/// A hash of the code that creates the graphs of problems: plans of graphs that were created differently are not found.
const GRAPHS: u64 = {
    let of_convolutions = file::fnv1a(0, include_bytes!("../conv/graph.rs"));
    let of_attention = file::fnv1a(of_convolutions, include_bytes!("../attention/graph.rs"));
    file::fnv1a(of_attention, include_bytes!("../library_dtypes.rs"))
};

/// The properties of a device that plans depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceKind {
    /// The driver's name of it.
    pub name: String,
    /// E.g. (9, 0) for sm_90.
    pub compute_capability: (u32, u32),
    /// The number of streaming multiprocessors.
    pub multiprocessors: u32,
}

/// The plan cache of one device.
pub struct PlanCache {
    folder: PathBuf,
    /// The part of every key that names library, device and graphs.
    key: String,
    max_files: usize,
    read: AtomicUsize,
    written: AtomicUsize,
    /// The number of files, once they have been counted.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    files: Option<usize>,
    /// How many files were refused, and the reason for the last one.
    refused: (usize, String),
    /// Why nothing is written any more.
    given_up: Option<String>,
}

/// The folder that the environment names, or the user's default; or why there is none.
fn root() -> Result<PathBuf, String> {
    match env::var_os(VARIABLE) {
        Some(value) if value.is_empty() || value == "0" => Err(format!("{VARIABLE} turns it off")),
        Some(value) => Ok(value.into()),
        None => match kiln_backend::cache_dir() {
            Some(cache) => Ok(cache.join("kiln").join("plans")),
            None => Err(format!("the user has no cache directory, and {VARIABLE} names none")),
        },
    }
}

/// The location of the cache, for the report.
pub(crate) fn location() -> String {
    root().map_or_else(|reason| format!("not kept: {reason}"), |root| format!("kept in {}", root.display()))
}

impl PlanCache {
    /// The cache of a device, in the folder that the environment names; `None` if it is off. `version` is the
    /// library's.
    pub(crate) fn open(version: u32, device: &DeviceKind) -> Option<PlanCache> {
        root().ok().map(|root| PlanCache::in_folder(&root, version, device))
    }

    /// The cache of a device in a given folder.
    #[must_use]
    pub fn in_folder(root: &Path, version: u32, device: &DeviceKind) -> PlanCache {
        let DeviceKind { name, compute_capability: (major, minor), multiprocessors } = device;
        let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let folder = root.join(format!("cudnn-{version}")).join(format!("{plain}-sm{major}{minor}-{multiprocessors}"));
        let kiln = env!("CARGO_PKG_VERSION");
        PlanCache {
            folder,
            key: format!("Kiln {kiln}, graphs {GRAPHS:016x}, cuDNN {version}, {device:?}, "),
            max_files: MAX_FILES,
            read: AtomicUsize::new(0),
            written: AtomicUsize::new(0),
            state: Mutex::default(),
        }
    }

    fn entry(&self, problem: &dyn fmt::Debug) -> (PathBuf, String) {
        let key = format!("{}{problem:?}", self.key);
        (self.folder.join(format!("{:016x}.plan", file::fnv1a(0, key.as_bytes()))), key)
    }

    /// The text of a problem's plan, if there is a valid file for it.
    #[must_use]
    pub fn read(&self, problem: &dyn fmt::Debug) -> Option<Vec<u8>> {
        let (path, key) = self.entry(problem);
        match file::read(&path, &key) {
            Ok(text) => {
                self.read.fetch_add(usize::from(text.is_some()), Ordering::Relaxed);
                text
            }
            Err(reason) => {
                self.note(&path, reason);
                None
            }
        }
    }

    /// Records that the library refused a plan that was read.
    pub(crate) fn refuse(&self, problem: &dyn fmt::Debug, reason: String) {
        self.read.fetch_sub(1, Ordering::Relaxed);
        self.note(&self.entry(problem).0, reason);
    }

    fn note(&self, path: &Path, reason: String) {
        let refused = &mut self.state.lock().refused;
        *refused = (refused.0 + 1, format!("{}: {reason}", path.display()));
    }

    /// Stores a plan. After a failure nothing more is written.
    pub fn write(&self, problem: &dyn fmt::Debug, text: &[u8]) {
        let mut state = self.state.lock();
        if state.given_up.is_some() {
            return;
        }
        let (path, key) = self.entry(problem);
        match self.make_room(&mut state).and_then(|()| file::write(&path, &key, text)) {
            Ok(()) => _ = self.written.fetch_add(1, Ordering::Relaxed),
            Err(reason) => state.given_up = Some(reason),
        }
    }

    /// Creates the folder, accessible to the user only, and removes the oldest files if there are too many.
    fn make_room(&self, state: &mut State) -> Result<(), String> {
        if state.files.is_none() {
            let mut builder = fs::DirBuilder::new();
            #[cfg(unix)]
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
            builder.recursive(true).create(&self.folder).map_err(|error| error.to_string())?;
        }
        if state.files.is_none_or(|files| files >= self.max_files) {
            let entries = fs::read_dir(&self.folder).map_err(|error| error.to_string())?;
            let mut files: Vec<(SystemTime, PathBuf)> = entries
                .flatten()
                .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
                .collect();
            if files.len() >= self.max_files {
                files.sort();
                // Another process may have removed some of them.
                files.drain(..files.len() - self.max_files * 3 / 4).for_each(|(_, path)| _ = fs::remove_file(path));
            }
            state.files = Some(files.len());
        }
        state.files = state.files.map(|files| files + 1);
        Ok(())
    }

    /// The folder with its files.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Why nothing is written any more.
    #[must_use]
    pub fn given_up(&self) -> Option<String> {
        self.state.lock().given_up.clone()
    }

    /// How many plans were read and written, and what went wrong.
    pub(crate) fn describe(&self) -> String {
        let state = self.state.lock();
        let mut text =
            format!("{} read, {} written", self.read.load(Ordering::Relaxed), self.written.load(Ordering::Relaxed));
        if let (count @ 1.., reason) = &state.refused {
            text += &format!(", {count} not taken ({reason})");
        }
        match &state.given_up {
            Some(reason) => text + &format!(", no more are written to {}: {reason}", self.folder.display()),
            None => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use kiln_backend::{Conv2d, Conv2dDirection, DType};

    use super::*;
    use crate::{conv::problem::Problem, image_format::Format};

    fn device() -> DeviceKind {
        DeviceKind { name: "A device / of 3".into(), compute_capability: (9, 0), multiprocessors: 132 }
    }

    fn problem(batch: usize) -> Problem {
        let rule = Conv2d::default();
        let dims = [[batch, 3, 8, 8], [4, 3, 3, 3], [batch, 4, 6, 6]];
        Problem::new(Conv2dDirection::Forward, DType::F32, rule, dims, Format::ChannelsLast)
    }

    #[test]
    fn plans_are_found_by_library_device_and_problem() {
        let folder = tempfile::tempdir().unwrap();
        let open = |version, device: &DeviceKind| PlanCache::in_folder(folder.path(), version, device);
        let cache = open(92_600, &device());
        assert_eq!(cache.read(&problem(1)), None);
        cache.write(&problem(1), b"one");
        cache.write(&problem(2), b"two");
        // Another process.
        let again = open(92_600, &device());
        assert_eq!(again.read(&problem(1)).unwrap(), b"one");
        assert_eq!(again.read(&problem(2)).unwrap(), b"two");
        assert_eq!(again.describe(), "2 read, 0 written");
        // Names that have the same form in a path are different devices.
        let others = [(92_601, device()), (92_600, DeviceKind { name: "A device - of 3".into(), ..device() })];
        for (version, device) in &others {
            assert_eq!(open(*version, device).read(&problem(1)), None);
        }
        assert_eq!(cache.read(&Problem { tf32: !problem(1).tf32, ..problem(1) }), None);
        // A file under the name of another.
        fs::copy(cache.entry(&problem(1)).0, cache.entry(&problem(2)).0).unwrap();
        assert_eq!(cache.read(&problem(2)), None);
        assert!(cache.describe().contains("1 not taken"), "{}", cache.describe());
        cache.write(&problem(2), b"two");
        assert_eq!(cache.read(&problem(2)).unwrap(), b"two");
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        // A file in place of the folder, which cannot be written even with all permissions.
        fs::write(folder.path().join("cudnn-1"), "").unwrap();
        let cache = PlanCache::in_folder(folder.path(), 1, &device());
        (0..2).for_each(|_| cache.write(&problem(1), b"text"));
        assert_eq!(cache.read(&problem(1)), None);
        let text = cache.describe();
        assert!(text.contains("0 written") && text.contains("no more are written"), "{text}");
    }

    #[test]
    fn the_number_of_files_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let cache = PlanCache { max_files: 8, ..PlanCache::in_folder(folder.path(), 1, &device()) };
        for batch in 1..30 {
            cache.write(&problem(batch), b"text");
            assert!(fs::read_dir(&cache.folder).unwrap().count() <= 8);
            assert!(cache.read(&problem(batch)).is_some());
        }
    }

    #[cfg(unix)]
    #[test]
    fn the_folder_is_the_users_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let cache = PlanCache::in_folder(folder.path(), 1, &device());
        cache.write(&problem(1), b"text");
        assert_eq!(fs::metadata(&cache.folder).unwrap().permissions().mode() & 0o777, 0o700);
    }
}

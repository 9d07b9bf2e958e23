//! Calls the simulator and NVIDIA's library in the same way, and records their answers.
use std::ffi::c_void;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use kiln_sim::types::*;
use libloading::Library;

use crate::{devices, required::required, stub};

/// The folders of the wheels: of cuDNN, and of the toolkit whose headers it includes.
pub fn wheels() -> Option<[PathBuf; 2]> {
    let mut roots: Vec<PathBuf> = env::var_os("VIRTUAL_ENV").into_iter().map(PathBuf::from).collect();
    let path = env::var_os("PATH").unwrap_or_default();
    let pythons = env::split_paths(&path).map(|folder| folder.join("python3")).filter(|file| file.is_file());
    for python in pythons.flat_map(|file| [fs::canonicalize(&file).ok(), Some(file)]).flatten() {
        roots.extend(python.parent().and_then(Path::parent).map(Path::to_path_buf));
    }
    let folders = |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let found = roots
        .into_iter()
        .flat_map(|root| folders(root.join("lib")))
        .map(|python| python.join("site-packages/nvidia"))
        .find_map(|nvidia| {
            let toolkit = folders(nvidia.clone()).find(|folder| folder.join("include/cuda_runtime_api.h").exists())?;
            let dnn = nvidia.join("cudnn");
            dnn.join("include/cudnn.h").exists().then_some([dnn, toolkit])
        });
    required("cuDNN with its headers", found)
}

/// The library that the simulator is.
pub fn simulator() -> PathBuf {
    let library = env::current_exe().unwrap().with_file_name("libkiln_sim.so");
    assert!(library.exists(), "{} is not there", library.display());
    library
}

/// The functions of cuDNN that it exports.
pub fn exported() -> Vec<String> {
    let output = Command::new("nm").args(["-D", "--defined-only"]).arg(simulator()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let names = text.lines().filter_map(|line| line.split_whitespace().nth(2));
    let names: Vec<String> = names.filter(|name| name.starts_with("cudnn")).map(str::to_string).collect();
    assert!(names.len() >= 13, "{names:?}");
    names
}

pub type Create = unsafe extern "C" fn(u32, *mut usize) -> u32;
pub type One = unsafe extern "C" fn(usize) -> u32;
pub type Set = unsafe extern "C" fn(usize, u32, u32, i64, *const c_void) -> u32;
pub type Get = unsafe extern "C" fn(usize, u32, u32, i64, *mut i64, *mut c_void) -> u32;

/// A library of cuDNN's functions.
pub struct Functions {
    pub create: Create,
    pub destroy: One,
    pub finalize: One,
    pub set: Set,
    pub get: Get,
    _library: Library,
}

impl Functions {
    pub fn open(path: &Path) -> Functions {
        // SAFETY: neither library has initializers with requirements on the caller; the types above are those of the
        // header, with numbers for enums and descriptors.
        unsafe {
            let library = Library::new(path).unwrap();
            fn get<T: Copy>(library: &Library, name: &str) -> T {
                // SAFETY: as above.
                *unsafe { library.get::<T>(name.as_bytes()) }.unwrap()
            }
            Functions {
                create: get(&library, "cudnnBackendCreateDescriptor"),
                destroy: get(&library, "cudnnBackendDestroyDescriptor"),
                finalize: get(&library, "cudnnBackendFinalize"),
                set: get(&library, "cudnnBackendSetAttribute"),
                get: get(&library, "cudnnBackendGetAttribute"),
                _library: library,
            }
        }
    }
}

/// Descriptors that one library has been asked for, and its answers.
pub struct Asked<'a> {
    pub of: &'a Functions,
    pub made: Vec<usize>,
    pub answers: Vec<(String, i64)>,
    /// Whether everything has been finalized so far.
    pub whole: bool,
    pub device: usize,
    /// A mistake to make: after so many uses of descriptors, one is destroyed just before it is used.
    pub destroyed_before: Option<u64>,
    /// The status of the call that used the destroyed descriptor.
    pub misused: Option<u32>,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        for desc in &self.made {
            // SAFETY: made by this library and not destroyed yet.
            unsafe { (self.of.destroy)(*desc) };
        }
    }
}

impl<'a> Asked<'a> {
    /// Nothing has been asked for yet; graphs are for this device.
    pub fn new(of: &'a Functions, device: usize) -> Asked<'a> {
        let (made, answers) = (Vec::new(), Vec::new());
        Asked { of, made, answers, whole: true, device, destroyed_before: None, misused: None }
    }

    /// A description of one of the devices of the table of plans.
    pub fn describe(&mut self, device: usize) -> usize {
        let desc = self.create(38);
        let json = devices::DEVICES[device].json() + "\0";
        self.set(desc, 2702, CHAR, json.as_bytes());
        assert!(self.finalize("a device", desc), "{:?}", self.answers);
        desc
    }

    pub fn create(&mut self, kind: u32) -> usize {
        let mut desc = 0;
        // SAFETY: it writes the handle.
        let status = unsafe { (self.of.create)(kind, &raw mut desc) };
        assert_eq!(status, 0);
        self.made.push(desc);
        desc
    }

    /// Calls the library with descriptors, one of which has just been destroyed if it is time for that mistake.
    fn using(&mut self, used: &[usize], call: impl FnOnce(&Functions) -> u32) -> u32 {
        let late = self.destroyed_before.and_then(|uses| uses.checked_sub(1));
        if self.destroyed_before.take() != Some(0) {
            self.destroyed_before = late;
            return call(self.of);
        }
        let victim = used[self.made.len() % used.len()];
        self.made.retain(|desc| *desc != victim);
        // SAFETY: made by this library and not destroyed yet. What uses it now must not: the real library is only asked
        // in a process of its own.
        unsafe { (self.of.destroy)(victim) };
        let status = call(self.of);
        self.misused = Some(status);
        status
    }

    pub fn set<T: std::fmt::Debug>(&mut self, desc: usize, attribute: u32, kind: u32, values: &[T]) {
        // SAFETY: there are as many values as are said.
        let set =
            |of: &Functions| unsafe { (of.set)(desc, attribute, kind, values.len() as i64, values.as_ptr().cast()) };
        let status = self.using(&[desc], set);
        self.answers.push((format!("set {attribute} of type {kind} to {values:?}"), status.into()));
    }

    /// Sets an attribute to other descriptors.
    pub fn set_parts(&mut self, desc: usize, attribute: u32, parts: &[usize]) {
        let (count, values) = (parts.len() as i64, parts.as_ptr().cast());
        // SAFETY: there are as many values as are said.
        let set = |of: &Functions| unsafe { (of.set)(desc, attribute, DESCRIPTOR, count, values) };
        let status = self.using(&[&[desc], parts].concat(), set);
        self.answers.push((format!("set {attribute} to {count} descriptors"), status.into()));
    }

    pub fn finalize(&mut self, what: &str, desc: usize) -> bool {
        // SAFETY: a descriptor.
        let status = self.using(&[desc], |of| unsafe { (of.finalize)(desc) });
        self.answers.push((format!("finalize {what}"), status.into()));
        self.whole &= status == 0;
        status == 0
    }

    /// Destroys a descriptor, unless that has been done.
    pub fn destroy(&mut self, desc: usize) {
        if !self.made.contains(&desc) {
            return;
        }
        // SAFETY: made by this library and not destroyed yet.
        let status = self.using(&[desc], |of| unsafe { (of.destroy)(desc) });
        self.made.retain(|one| *one != desc);
        self.answers.push(("destroy".into(), status.into()));
    }
}

/// A description of one device for graphs that only differ in themselves. It is not destroyed.
pub fn described(of: &Functions) -> usize {
    let mut asked = Asked::new(of, 0);
    let desc = asked.describe(3);
    asked.made.clear();
    desc
}

/// The simulator's functions and those of the real library, if it is installed.
pub fn both() -> Option<(Functions, Functions)> {
    let [dnn, _] = wheels()?;
    let library = dnn.join("lib/libcudnn.so.9");
    let library = required("cuDNN", library.exists().then_some(library))?;
    stub::load().unwrap();
    Some((Functions::open(&simulator()), Functions::open(&library)))
}

//! Reports of a run: findings (mistakes, with their place), and counts of what a program requested of the driver.
use std::collections::BTreeSet;
use std::fmt::{self, Write};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::{env, fs, process};

use crate::account::{Entry, moved_and_least};
use crate::delays;
use crate::engine::Range;
use crate::json::quote;
use crate::kind::Kind;
use crate::work::Work;

/// One mistake.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The kind of mistake.
    pub kind: Kind,
    /// Where, and what exactly.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.text)
    }
}

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident $label:literal),* $(,)?) => {
        /// How often a program made each kind of request.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counts {
            /// Names and values, in the order of the report.
            pub fn rows(&self) -> Vec<(&'static str, u64)> {
                vec![$(($label, self.$name)),*]
            }

            /// The difference from earlier counts.
            fn since(&self, before: &Counts) -> Counts {
                Counts { $($name: self.$name.saturating_sub(before.$name)),* }
            }

            /// `{"launches": 3, …}`
            fn json(&self) -> String {
                let rows = self.rows().into_iter().map(|(name, value)| format!("{}: {value}", quote(name)));
                format!("{{{}}}", rows.collect::<Vec<_>>().join(", "))
            }
        }
    };
}

counts! {
    /// Kernels launched, not counting those in graphs.
    launches "launches",
    /// Graphs launched.
    graph_launches "graph launches",
    /// Updates of executable graphs.
    graph_updates "graph updates",
    /// Operations that were captured instead of queued.
    captured "operations captured",
    /// Products of cuBLASLt, and convolutions of cuDNN.
    products "library calls",
    /// Copies in any direction.
    copies "copies",
    /// Bytes copied from the host.
    to_device "bytes to device",
    /// Bytes copied to the host.
    to_host "bytes to host",
    /// `cuMemset…` calls.
    fills "fills",
    /// Calls that waited for an event.
    event_waits "event waits",
    /// Calls that waited for a whole stream or device.
    synchronizations "synchronizations",
    /// Allocations of device memory.
    allocations "device allocations",
    /// Allocations of pinned host memory.
    pinned "pinned allocations",
    /// Modules that were loaded.
    modules "modules",
    /// PTX modules that the driver's compiler compiled.
    compiled "modules compiled",
    /// PTX modules that it found in its cache.
    cached "modules from the cache",
    /// Bytes of device memory that are allocated now.
    live "device bytes held",
    /// Descriptors of cuBLASLt and cuDNN, and graphs, that have not been destroyed.
    descriptors "descriptors held",
}

/// What happened between `cuProfilerStart` and `cuProfilerStop`.
#[derive(Clone, Debug, Default)]
pub struct Window {
    /// The counts within the window.
    pub counts: Counts,
    /// What was queued, in order: kernels by name, everything else by the function that queued it.
    pub operations: Vec<String>,
    /// What was executed, in order, by the same names.
    pub executed: Vec<String>,
    /// For each kernel launch, a hash of its arguments.
    pub arguments: Vec<u64>,
    /// What each operation that was executed read and wrote.
    pub entries: Vec<Entry>,
}

/// Findings and counts of a process.
#[derive(Debug, Default)]
pub struct Report {
    pub findings: Vec<Finding>,
    pub counts: Counts,
    /// Kernels that have run.
    pub kernels: BTreeSet<String>,
    /// Functions that were called.
    pub functions: BTreeSet<&'static str>,
    /// What modules were loaded from: `SASS for sm_90`.
    pub images: BTreeSet<String>,
    /// What cuBLASLt and cuDNN refused, with the reason. Not mistakes: programs ask, and have fallbacks.
    pub refusals: BTreeSet<String>,
    /// The closed windows.
    pub windows: Vec<Window>,
    /// The open window, with the counts at its opening.
    open: Option<Window>,
}

impl Report {
    /// Records a mistake once.
    pub fn find(&mut self, kind: Kind, text: String) {
        if !self.findings.iter().any(|seen| seen.kind == kind && seen.text == text) {
            self.findings.push(Finding { kind, text });
        }
    }

    /// Records that a function was called.
    pub fn called(&mut self, name: &'static str) {
        self.functions.insert(name);
    }

    /// Records that a kernel runs.
    pub fn kernel(&mut self, name: &str) {
        if !self.kernels.contains(name) {
            self.kernels.insert(name.to_string());
        }
    }

    /// Records that a module was loaded from this image.
    pub fn loaded(&mut self, image: &str) {
        self.counts.modules += 1;
        self.images.insert(image.to_string());
    }

    /// Records that something was queued.
    pub fn queued(&mut self, name: &str) {
        if let Some(open) = &mut self.open {
            open.operations.push(name.to_string());
        }
    }

    /// Records that something was executed.
    pub fn executed(&mut self, name: &str) {
        if let Some(open) = &mut self.open {
            open.executed.push(name.to_string());
        }
    }

    /// Records what an operation read and wrote.
    pub fn accounted(&mut self, name: &str, work: &Work, reads: &[Range], writes: &[Range]) {
        if let Some(open) = &mut self.open {
            open.entries.extend(Entry::new(name, work, reads, writes));
        }
    }

    /// Records the arguments of a kernel launch.
    pub fn launched(&mut self, arguments: &[u128]) {
        if let Some(open) = &mut self.open {
            let mut hasher = DefaultHasher::new();
            arguments.hash(&mut hasher);
            open.arguments.push(hasher.finish());
        }
    }

    /// Opens a window.
    pub fn open_window(&mut self) {
        self.open = Some(Window { counts: self.counts, ..Window::default() });
    }

    /// Closes the window, and writes it to the folder of reports as `<process>-<number>.json`.
    pub fn close_window(&mut self) {
        let Some(mut window) = self.open.take() else { return };
        window.counts = self.counts.since(&window.counts);
        self.windows.push(window.clone());
        if let Some(folder) = folder() {
            let name = format!("{}-{}.json", process::id(), self.windows.len());
            leave(&Path::new(&folder).join(name), &format!("{}\n", window.json()));
        }
    }

    /// A line of counts, and a line that begins with `!` for each finding.
    fn text(&self) -> String {
        let program = env::current_exe().ok();
        let program = program.as_deref().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
        let used: Vec<String> = self
            .counts
            .rows()
            .into_iter()
            .filter(|(_, value)| *value > 0)
            .map(|(name, value)| format!("{value} {name}"))
            .collect();
        let mut out = format!("simulated device, {program} (process {}): {}\n", process::id(), used.join(", "));
        for finding in &self.findings {
            // Writing into a string does not fail.
            let _ = writeln!(out, "! {finding}");
        }
        out
    }

    /// `{"findings": [{"kind": …, "text": …}], "counts": {…}, "kernels": […], "functions": […], "refusals": […],
    /// "images": […], "together": […], "windows": […]}`
    pub fn json(&self) -> String {
        let findings = self.findings.iter();
        let findings =
            findings.map(|one| format!("{{\"kind\": {}, \"text\": {}}}", quote(one.kind.name()), quote(&one.text)));
        format!(
            "{{\"findings\": [{}],\n\"counts\": {},\n\"kernels\": {},\n\"functions\": {},\n\"refusals\": {},\n\
             \"images\": {},\n\"together\": {},\n\"windows\": [{}]}}\n",
            findings.collect::<Vec<_>>().join(",\n"),
            self.counts.json(),
            list(self.kernels.iter().map(String::as_str)),
            list(self.functions.iter().copied()),
            list(self.refusals.iter().map(String::as_str)),
            list(self.images.iter().map(String::as_str)),
            list(delays::together().iter().map(String::as_str)),
            self.windows.iter().map(Window::json).collect::<Vec<_>>().join(",\n"),
        )
    }
}

impl Window {
    /// `{"counts": {…}, "operations": […], "executed": […], "arguments": […], "moved": …, "least": …, "entries": […]}`
    fn json(&self) -> String {
        let names = |names: &[String]| list(names.iter().map(String::as_str));
        let (counts, operations, executed) = (self.counts.json(), names(&self.operations), names(&self.executed));
        let (arguments, (moved, least)) = (&self.arguments, moved_and_least(&self.entries));
        let entries = self.entries.iter().map(Entry::json).collect::<Vec<_>>().join(",\n");
        format!(
            "{{\"counts\": {counts}, \"operations\": {operations}, \"executed\": {executed}, \"arguments\": \
             {arguments:?}, \"moved\": {moved}, \"least\": {least}, \"entries\": [{entries}]}}"
        )
    }
}

fn list<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    format!("[{}]", texts.map(quote).collect::<Vec<_>>().join(", "))
}

unsafe extern "C" {
    fn atexit(function: extern "C" fn()) -> i32;
}

fn folder() -> Option<std::ffi::OsString> {
    env::var_os("KILN_SIM_REPORT").filter(|folder| !folder.is_empty())
}

/// Registers `write` to run at the end of the process, if a report is to be left in the folder that `KILN_SIM_REPORT`
/// names, as under `cargo sim`.
pub fn at_exit(write: extern "C" fn()) {
    if folder().is_some() {
        // SAFETY: the function takes nothing, unwinds nowhere, and is there until the process ends.
        unsafe { atexit(write) };
    }
}

impl Report {
    /// Writes the report, as text and as JSON, into the folder that `KILN_SIM_REPORT` names.
    pub fn write(&self) {
        let Some(folder) = folder() else { return };
        let name = process::id().to_string();
        for (extension, text) in [("txt", self.text()), ("json", self.json())] {
            leave(&Path::new(&folder).join(&name).with_extension(extension), &text);
        }
    }
}

fn leave(path: &Path, text: &str) {
    if let Err(error) = fs::write(path, text) {
        eprintln!("simulated device: {}: {error}", path.display());
    }
}

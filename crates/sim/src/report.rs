//! What was seen: findings, each a mistake with its place, and counts of what a program asked of the driver.
use std::fmt::{self, Write};
use std::path::Path;
use std::{env, fs, process};

use crate::world;

/// The kinds of mistakes that the device finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An access outside every live allocation.
    IllegalAddress,
    /// An access that is not aligned for its type.
    Misaligned,
    /// A barrier that not all threads of a block reach.
    DivergentBarrier,
    /// A warp operation whose mask is not the lanes that arrive.
    WarpMask,
    /// Two accesses to shared memory with no barrier between.
    SharedRace,
    /// An access outside every shared variable.
    SharedBounds,
    /// A trap or a failed assertion in a kernel.
    Trap,
    /// More shared memory than the launch may use.
    SharedSize,
    /// A read of shared memory that nobody has written.
    SharedUninitialised,
    /// Two operations on the same bytes with nothing that orders them.
    Unordered,
    /// Memory that is given back while queued work still uses it.
    FreeInUse,
    /// The host touched pinned memory that a copy was still using.
    HostTooEarly,
    /// A kernel whose parameters in the PTX are not those of the simulator's build.
    Signature,
}

impl Kind {
    /// The words for it in reports.
    pub fn name(self) -> &'static str {
        match self {
            Kind::IllegalAddress => "illegal address",
            Kind::Misaligned => "misaligned access",
            Kind::DivergentBarrier => "divergent barrier",
            Kind::WarpMask => "wrong warp mask",
            Kind::SharedRace => "race in shared memory",
            Kind::SharedBounds => "shared memory out of bounds",
            Kind::Trap => "trap",
            Kind::SharedSize => "too much shared memory",
            Kind::SharedUninitialised => "uninitialised shared memory",
            Kind::Unordered => "unordered access",
            Kind::FreeInUse => "freed while in use",
            Kind::HostTooEarly => "host access too early",
            Kind::Signature => "signature",
        }
    }
}

/// One mistake.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What sort of mistake.
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
        /// How often a program asked for what.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counts {
            /// Names and values, in the order of the report.
            pub fn rows(&self) -> Vec<(&'static str, u64)> {
                vec![$(($label, self.$name)),*]
            }
        }
    };
}

counts! {
    /// Kernels launched.
    launches "launches",
    /// Copies, of any direction.
    copies "copies",
    /// Bytes copied from the host.
    to_device "bytes to device",
    /// Bytes copied to the host.
    to_host "bytes to host",
    /// `cuMemset…` calls.
    fills "fills",
    /// Calls that waited for the device.
    synchronisations "synchronisations",
    /// Allocations of device memory.
    allocations "device allocations",
    /// Allocations of pinned host memory.
    pinned "pinned allocations",
    /// Bytes of device memory that are allocated now.
    live "device bytes held",
}

/// Findings and counts of a process.
#[derive(Debug, Default)]
pub struct Report {
    pub findings: Vec<Finding>,
    pub counts: Counts,
}

impl Report {
    /// Notes a mistake once.
    pub fn find(&mut self, kind: Kind, text: String) {
        if !self.findings.iter().any(|seen| seen.kind == kind && seen.text == text) {
            self.findings.push(Finding { kind, text });
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

    /// `{"findings": [{"kind": …, "text": …}], "counts": {…}}`
    pub fn json(&self) -> String {
        let mut out = String::from("{\"findings\": [");
        for (i, finding) in self.findings.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            // Writing into a string does not fail.
            let _ =
                write!(out, "{comma}{{\"kind\": {}, \"text\": {}}}", quote(finding.kind.name()), quote(&finding.text));
        }
        out.push_str("], \"counts\": {");
        for (i, (name, value)) in self.counts.rows().into_iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            let _ = write!(out, "{comma}{}: {value}", quote(name));
        }
        out.push_str("}}\n");
        out
    }
}

fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            control if control.is_control() => {
                let _ = write!(out, "\\u{:04x}", control as u32);
            }
            letter => out.push(letter),
        }
    }
    out.push('"');
    out
}

unsafe extern "C" {
    fn atexit(function: extern "C" fn()) -> i32;
}

fn folder() -> Option<std::ffi::OsString> {
    env::var_os("KILN_SIM_REPORT").filter(|folder| !folder.is_empty())
}

/// Lets the process leave its report in the folder that `KILN_SIM_REPORT` names, which `cargo sim` sets.
pub fn write_at_exit() {
    if folder().is_some() {
        // SAFETY: the function takes nothing, unwinds nowhere, and is there until the process ends.
        unsafe { atexit(write) };
    }
}

extern "C" fn write() {
    let Some(folder) = folder() else { return };
    world::with(|world| {
        world.collect_hits();
        world.report.counts.live = world.memory.used() as u64;
        let name = process::id().to_string();
        for (extension, text) in [("txt", world.report.text()), ("json", world.report.json())] {
            let path = Path::new(&folder).join(&name).with_extension(extension);
            if let Err(error) = fs::write(&path, text) {
                eprintln!("simulated device: {}: {error}", path.display());
            }
        }
    });
}

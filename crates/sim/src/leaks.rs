//! Leak detection: memory that is still allocated at the end, with the backtrace of its allocation.
use std::backtrace::Backtrace;
use std::collections::BTreeMap;

use crate::kind::Kind;
use crate::memory::{Home, Memory};
use crate::report::Report;

/// Functions of Rust's own libraries, which say nothing about a program.
const LIBRARIES: [&str; 3] = ["std::", "core::", "__rust"];
/// How many callers of an allocation are reported.
const CALLERS: usize = 5;

/// Where live allocations were made.
#[derive(Default)]
pub struct Sites(BTreeMap<u64, Backtrace>);

impl Sites {
    /// Records the backtrace of an allocation.
    pub fn note(&mut self, address: u64) {
        self.0.insert(address, Backtrace::force_capture());
    }

    /// Reports everything that was recorded and is still allocated.
    pub fn report(&self, memory: &Memory, report: &mut Report) {
        for (address, backtrace) in &self.0 {
            let Some(allocation) = memory.starting(*address) else { continue };
            let home = match allocation.home {
                Home::Device => "device",
                Home::Pinned => "pinned",
            };
            let text = format!(
                "{} bytes of {home} memory at {address:#x} are never freed; allocated by {}",
                allocation.bytes,
                callers(&backtrace.to_string())
            );
            report.find(Kind::Leak, text);
        }
    }
}

/// The first functions of a backtrace that belong to the program; each is on a line of its own, as `12: name`.
/// Functions that were inlined into one of ours may appear without our crate's name, so everything before the last of
/// ours is left out.
fn callers(backtrace: &str) -> String {
    let names = backtrace.lines().filter_map(|line| {
        let (number, name) = line.trim_start().split_once(": ")?;
        number.parse::<u32>().is_ok().then_some(name)
    });
    let names: Vec<_> = names.collect();
    let ours = |name: &&str| name.contains("kiln_sim::") || name.starts_with("cu");
    let first = names.iter().rposition(ours).map_or(0, |last| last + 1);
    let theirs =
        names[first..].iter().copied().filter(|name| !LIBRARIES.iter().any(|library| name.starts_with(library)));
    theirs.take(CALLERS).collect::<Vec<_>>().join(", called by ")
}

//! Memory that is held at the end, and who asked for it.
use std::backtrace::Backtrace;
use std::collections::BTreeMap;

use crate::memory::{Home, Memory};
use crate::report::{Kind, Report};

/// Functions that say nothing of a program: the simulator's, the driver's, and those of Rust's own libraries.
const OURS: [&str; 5] = ["kiln_sim::", "cu", "std::", "core::", "__rust"];
/// How many of its callers an allocation is told with.
const CALLERS: usize = 5;

/// Where live allocations were asked for.
#[derive(Default)]
pub struct Sites(BTreeMap<u64, Backtrace>);

impl Sites {
    /// Notes who asks for memory now.
    pub fn note(&mut self, address: u64) {
        self.0.insert(address, Backtrace::force_capture());
    }

    /// Names everything that was noted and is still there.
    pub fn report(&self, memory: &Memory, report: &mut Report) {
        for (address, backtrace) in &self.0 {
            let Some(allocation) = memory.starting(*address) else { continue };
            let home = match allocation.home {
                Home::Device => "device",
                Home::Pinned => "pinned",
            };
            let text = format!(
                "{} bytes of {home} memory at {address:#x} are never given back; allocated by {}",
                allocation.bytes,
                callers(&backtrace.to_string())
            );
            report.find(Kind::Leak, text);
        }
    }
}

/// The first functions of a backtrace that are the program's own, which stand as `12: name` on lines of their own.
fn callers(backtrace: &str) -> String {
    let names = backtrace.lines().filter_map(|line| {
        let (number, name) = line.trim_start().split_once(": ")?;
        (number.parse::<u32>().is_ok() && !OURS.iter().any(|ours| name.starts_with(ours))).then_some(name)
    });
    names.take(CALLERS).collect::<Vec<_>>().join(", called by ")
}

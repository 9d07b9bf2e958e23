//! Sessions for tests inside this process: each starts with a fresh device and reads its findings.
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::profile::Profile;
use crate::report::{Counts, Finding, Window};
use crate::world::{self, CURRENT};

static TURN: Mutex<()> = Mutex::new(());

/// Exclusive use of the device until it is dropped: other tests of the process wait.
pub struct Session(#[expect(dead_code, reason = "held, not read")] MutexGuard<'static, ()>);

impl Session {
    /// A fresh device as `profile` describes it.
    pub fn new(profile: Profile) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        world::with(|world| world.renew(profile));
        CURRENT.with_borrow_mut(Vec::clear);
        Session(turn)
    }

    /// The mistakes so far.
    pub fn findings(&self) -> Vec<Finding> {
        world::with(|world| {
            world.collect_hits();
            world.report.findings.clone()
        })
    }

    /// The counts so far.
    pub fn counts(&self) -> Counts {
        world::with(|world| {
            world.count_held();
            world.report.counts
        })
    }

    /// The mistakes at the end, when nothing should be held any more.
    pub fn end(&self) -> Vec<Finding> {
        world::with(|world| {
            world.end();
            world.report.findings.clone()
        })
    }

    /// What happened between each pair of `cuProfilerStart` and `cuProfilerStop`.
    pub fn windows(&self) -> Vec<Window> {
        world::with(|world| world.report.windows.clone())
    }

    /// What cuBLASLt and cuDNN refused, with the reasons.
    pub fn refusals(&self) -> Vec<String> {
        world::with(|world| world.report.refusals.iter().cloned().collect())
    }
}

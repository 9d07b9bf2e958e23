//! Slow functions (`KILN_SIM_DELAY`), to test what a program does meanwhile: the device itself handles one call at a
//! time.
use std::collections::BTreeMap;
use std::env;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

/// Functions with their milliseconds, as in `cuModuleLoadDataEx:300,cuEventSynchronize:50`.
static DELAYS: OnceLock<Vec<(String, u64)>> = OnceLock::new();
/// For each slow function, the number of concurrent calls now and the maximum so far.
static CALLS: Mutex<BTreeMap<&'static str, (u32, u32)>> = Mutex::new(BTreeMap::new());

/// A call that has begun.
pub struct Call(Option<&'static str>);

/// Waits if this function is a slow one. Nothing of the device may be locked.
pub fn enter(name: &'static str) -> Call {
    let delays = DELAYS.get_or_init(|| parse(&env::var("KILN_SIM_DELAY").unwrap_or_default()));
    let Some((_, milliseconds)) = delays.iter().find(|(delayed, _)| delayed == name) else { return Call(None) };
    count(name, |now, most| (now + 1, most.max(now + 1)));
    thread::sleep(Duration::from_millis(*milliseconds));
    Call(Some(name))
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(name) = self.0 {
            count(name, |now, most| (now - 1, most));
        }
    }
}

fn count(name: &'static str, change: impl FnOnce(u32, u32) -> (u32, u32)) {
    let mut calls = CALLS.lock().unwrap_or_else(PoisonError::into_inner);
    let entry = calls.entry(name).or_default();
    *entry = change(entry.0, entry.1);
}

/// `function: maximum of concurrent calls` for each slow function.
pub fn together() -> Vec<String> {
    let calls = CALLS.lock().unwrap_or_else(PoisonError::into_inner);
    calls.iter().map(|(name, (_, most))| format!("{name}: {most}")).collect()
}

/// The functions of a list such as `cuInit:5, cuEventQuery:70`, with their milliseconds.
pub fn parse(text: &str) -> Vec<(String, u64)> {
    let one = |part: &str| {
        let (name, milliseconds) = part.trim().rsplit_once(':')?;
        Some((name.to_string(), milliseconds.parse().ok()?))
    };
    text.split(',').filter_map(one).collect()
}

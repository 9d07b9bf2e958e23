//! Gradient mode: a per-thread switch for whether operations are recorded.

use std::{cell::Cell, marker::PhantomData};

thread_local! {
    static ENABLED: Cell<bool> = const { Cell::new(true) };
}

/// Whether operations of this thread are recorded (initially they are).
#[must_use]
pub fn is_grad_enabled() -> bool {
    ENABLED.get()
}

pub use is_grad_enabled as grad_enabled;

/// Restores the switch when it is dropped. Cannot be sent to another thread.
#[must_use = "recording is switched back when the guard is dropped"]
#[derive(Debug)]
pub struct GradModeGuard {
    previous: bool,
    stays_on_its_thread: PhantomData<*const ()>,
}

impl GradModeGuard {
    pub(crate) fn new(enabled: bool) -> GradModeGuard {
        GradModeGuard { previous: ENABLED.replace(enabled), stays_on_its_thread: PhantomData }
    }
}

impl Drop for GradModeGuard {
    fn drop(&mut self) {
        ENABLED.set(self.previous);
    }
}

/// Turns off recording on this thread while the guard lives: `let _guard = no_grad_guard();`.
pub fn no_grad_guard() -> GradModeGuard {
    GradModeGuard::new(false)
}

/// Runs `f` without recording, as `with torch.no_grad():` does.
pub fn no_grad<T>(f: impl FnOnce() -> T) -> T {
    let _guard = GradModeGuard::new(false);
    f()
}

/// Runs `f` with recording, e.g. inside [`no_grad`].
pub fn enable_grad<T>(f: impl FnOnce() -> T) -> T {
    let _guard = GradModeGuard::new(true);
    f()
}

//! Leaves the group when the process exits while it is still in one, as by `std::process::exit`, or with the group in a
//! static. Otherwise `mpiexec` would end the other ranks without a word, and even report success.

use std::{
    ffi::c_int,
    sync::{Arc, Weak},
    thread,
    time::Duration,
};

use parking_lot::Mutex;

use super::shared::Shared;

static GROUP: Mutex<Weak<Shared>> = Mutex::new(Weak::new());

// SAFETY: the declaration of the C library. The function may be called at any time.
unsafe extern "C" {
    safe fn atexit(function: extern "C" fn()) -> c_int;
}

/// The group that is left when the process exits: that of the latest call.
pub(super) fn leave_at_exit(shared: &Arc<Shared>) {
    let mut group = GROUP.lock();
    if group.ptr_eq(&Weak::new()) {
        // If there is no room for it, an early exit is noticed by the launcher alone.
        let _ = atexit(leave);
    }
    *group = Arc::downgrade(shared);
}

/// The other ranks get an error if they call a collective that this one does not.
extern "C" fn leave() {
    const LOOK: Duration = Duration::from_millis(2);
    let Some(shared) = GROUP.lock().upgrade() else { return };
    shared.exit();
    while !shared.has_left() {
        thread::sleep(LOOK);
    }
}

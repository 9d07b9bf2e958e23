//! Signals that end the process: the terminal is restored first. Signals for which the program has its own handlers, or which
//! it ignores, are left to it.
#![allow(unsafe_code)]

use std::{mem::MaybeUninit, ptr};

use libc::{SIG_DFL, SIG_IGN, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, c_int, sighandler_t};

use super::terminal;

const ENDING: [c_int; 4] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM];

/// Restores the terminal when one of the signals comes whose action is the default.
pub fn install() {
    replace(SIG_DFL, handler());
}

/// Undoes [`install`].
pub fn uninstall() {
    replace(handler(), SIG_DFL);
}

/// Stops the processes of the program, as the terminal does for its key, and returns when this one is continued.
pub fn stop() {
    let mut before = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: the current action is written to `before`, and is set again, whatever it is; the signals go to processes of the
    // program.
    unsafe {
        libc::sigaction(SIGTSTP, ptr::null(), before.as_mut_ptr());
        // Of the signal to all, another thread of this process might be told, and this one would go on until it is scheduled.
        // This one stops it at once.
        set_action(SIGTSTP, SIG_IGN);
        libc::kill(0, SIGTSTP);
        libc::sigaction(SIGTSTP, before.as_ptr(), ptr::null_mut());
        libc::raise(SIGTSTP);
    }
}

fn handler() -> sighandler_t {
    end as extern "C" fn(c_int) as sighandler_t
}

fn replace(old: sighandler_t, new: sighandler_t) {
    for signal in ENDING {
        if action_of(signal) == old {
            set_action(signal, new);
        }
    }
}

extern "C" fn end(signal: c_int) {
    terminal::leave();
    set_action(signal, SIG_DFL);
    // SAFETY: `raise` may be called by handlers. The signal is blocked until this one returns, and then ends the process.
    unsafe { libc::raise(signal) };
}

fn action_of(signal: c_int) -> sighandler_t {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action, the current one is written to `action`, which is valid even if nothing is: it is zeroed, and
    // its fields are integers, a set of bits and a function that need not be there.
    unsafe {
        libc::sigaction(signal, ptr::null(), action.as_mut_ptr());
        action.assume_init().sa_sigaction
    }
}

fn set_action(signal: c_int, handler: sighandler_t) {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: zeros are valid, see above. The handler is the default one or `end`, which takes one argument, as without
    // `SA_SIGINFO`, and calls only what handlers may call: `write`, `tcsetattr`, `sigaction`, `raise` and atomic operations.
    unsafe {
        let action = action.assume_init_mut();
        action.sa_sigaction = handler;
        libc::sigemptyset(&mut action.sa_mask);
        libc::sigaction(signal, action, ptr::null_mut());
    }
}

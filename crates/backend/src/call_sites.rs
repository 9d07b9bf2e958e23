//! The lines that called the functions of Kiln that are running, for anomaly mode: an operation that has succeeded tells no
//! line, unlike an error, which is given one on its way out (`Error::called_from`).
//!
//! `#[located]` functions enter and leave. Unless a thread watches, this is one load of an atomic.

use std::{
    cell::{Cell, RefCell},
    marker::PhantomData,
    panic::Location,
    sync::atomic::{AtomicUsize, Ordering},
};

use crate::error::same_crate;

/// How many watches there are, of all threads.
static WATCHES: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static WATCHED: Cell<usize> = const { Cell::new(0) };
    static RUNNING: RefCell<Vec<Frame>> = const { RefCell::new(Vec::new()) };
}

/// A function of Kiln that is running.
#[derive(Clone, Copy)]
struct Frame {
    caller: &'static Location<'static>,
    /// Where the function is defined.
    file: &'static str,
    /// Its name, if it is an operation.
    operation: Option<&'static str>,
}

/// A line of a program, and the operation of Kiln that it called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallSite {
    /// The line.
    pub location: &'static Location<'static>,
    /// The operation, if a function with a name that users know is running.
    pub operation: Option<&'static str>,
    /// Whether the innermost function was called from outside its crate: it is no part of another operation.
    pub is_outermost: bool,
}

/// Keeps this thread's lines while it lives.
#[derive(Debug)]
pub struct Watch(PhantomData<*const ()>);

impl Watch {
    /// Begins to keep them.
    #[must_use]
    pub fn new() -> Watch {
        WATCHES.fetch_add(1, Ordering::Relaxed);
        WATCHED.set(WATCHED.get() + 1);
        Watch(PhantomData)
    }
}

impl Default for Watch {
    fn default() -> Watch {
        Watch::new()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        WATCHES.fetch_sub(1, Ordering::Relaxed);
        WATCHED.set(WATCHED.get() - 1);
        if WATCHED.get() == 0 {
            RUNNING.take();
        }
    }
}

/// What [`enter`] returns where nothing is kept.
const NOT_KEPT: usize = usize::MAX;

/// Whether any thread watches.
#[inline]
pub fn is_watching() -> bool {
    WATCHES.load(Ordering::Relaxed) != 0
}

/// A function begins; the result is for [`leave`].
#[inline]
pub fn enter(caller: &'static Location<'static>, file: &'static str, operation: Option<&'static str>) -> usize {
    if is_watching() { enter_watched(Frame { caller, file, operation }) } else { NOT_KEPT }
}

/// The function has ended. If it panics, that of the function around it ends it, too.
#[inline]
pub fn leave(depth: usize) {
    if depth != NOT_KEPT {
        RUNNING.with_borrow_mut(|running| running.truncate(depth));
    }
}

#[cold]
fn enter_watched(frame: Frame) -> usize {
    if WATCHED.get() == 0 {
        return NOT_KEPT;
    }
    RUNNING.with_borrow_mut(|running| {
        running.push(frame);
        running.len() - 1
    })
}

/// The line of [`current`], if a thread watches.
#[inline]
#[must_use]
pub fn current_location() -> Option<&'static Location<'static>> {
    if is_watching() { current().map(|site| site.location) } else { None }
}

/// The line outside Kiln that leads to what runs now, as an error would name it.
#[must_use]
pub fn current() -> Option<CallSite> {
    RUNNING.with_borrow(|running| {
        let (innermost, outer) = running.split_last()?;
        let is_outermost = !same_crate(innermost.caller.file(), innermost.file);
        let mut site = CallSite { location: innermost.caller, operation: innermost.operation, is_outermost };
        for frame in outer.iter().rev() {
            // A line outside the crate of the function around it is the program's own.
            if !same_crate(site.location.file(), frame.file) {
                break;
            }
            site.location = frame.caller;
            site.operation = frame.operation.or(site.operation);
        }
        Some(site)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> &'static Location<'static> {
        Location::caller()
    }

    #[test]
    fn lines_are_kept_only_while_they_are_watched() {
        let line = here();
        assert_eq!(enter(line, "/kiln/crates/tensor/src/ops/a.rs", Some("a")), NOT_KEPT);
        assert_eq!(current(), None);
        let watch = Watch::new();
        let depth = enter(line, "/kiln/crates/tensor/src/ops/a.rs", Some("a"));
        let site = current().unwrap();
        assert_eq!((site.location.line(), site.operation, site.is_outermost), (line.line(), Some("a"), true));
        leave(depth);
        assert_eq!(current(), None);
        let _left_by_a_panic = enter(line, "/kiln/crates/tensor/src/ops/a.rs", Some("a"));
        drop(watch);
        assert_eq!(current(), None);
    }

    #[test]
    fn operations_inside_others_have_the_line_and_the_name_of_the_outer_one() {
        let _watch = Watch::new();
        let inside = here();
        // This file is in the folder `src` of its crate.
        let outer = enter(inside, "/elsewhere/src/a.rs", Some("outer"));
        let inner = enter(inside, file!(), Some("inner"));
        let site = current().unwrap();
        assert_eq!((site.operation, site.is_outermost), (Some("inner"), false));
        leave(inner);
        assert!(current().unwrap().is_outermost);
        leave(outer);
    }
}

//! The functions of the driver API, under their own names and with their own rules.
#![allow(
    clippy::missing_safety_doc,
    reason = "these are the driver's functions: its manual says what a caller has to see to"
)]
#![allow(non_snake_case, reason = "the driver's names")]

pub mod blas;
pub mod context;
pub mod device;
pub mod dnn;
pub mod error;
pub mod event;
pub mod graph;
pub mod launch;
pub mod memory;
pub mod module;
pub mod nccl;
pub mod nvrtc;
pub mod stream;
pub mod transfer;

use crate::delays;
use crate::status::Status;
use crate::world::{self, CURRENT, World};

/// What a function requires before it does anything.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    Nothing,
    Init,
    Context,
}

/// The common prologue and epilogue of every function.
fn call(name: &'static str, need: Need, mut body: impl FnMut(&mut World) -> Result<(), Status>) -> Status {
    let _call = delays::enter(name);
    // A call that waits for other ranks is made again when something has arrived, and counts once.
    world::until(|world| {
        let counts = world.report.counts;
        match attempt(name, need, world, &mut body) {
            Err(Status::BLOCKED) => {
                world.report.counts = counts;
                None
            }
            done => Some(done.err().unwrap_or(Status::SUCCESS)),
        }
    })
}

fn attempt(
    name: &'static str,
    need: Need,
    world: &mut World,
    body: impl FnOnce(&mut World) -> Result<(), Status>,
) -> Result<(), Status> {
    world.collect_hits();
    world.report.called(name);
    if need >= Need::Init && !world.initialized {
        return Err(Status::NOT_INITIALIZED);
    }
    if need == Need::Context {
        if CURRENT.with_borrow(|stack| stack.last().is_none_or(|context| *context == 0)) {
            return Err(Status::INVALID_CONTEXT);
        }
        if world.retained[world.device] == 0 {
            return Err(Status::CONTEXT_IS_DESTROYED);
        }
        world.healthy()?;
    }
    body(world)
}

/// Writes a result where the caller wants it.
///
/// # Safety
/// `out` is null or may be written.
unsafe fn put<T>(out: *mut T, value: T) -> Result<(), Status> {
    if out.is_null() {
        return Err(Status::INVALID_VALUE);
    }
    // SAFETY: the caller's promise.
    unsafe { out.write(value) };
    Ok(())
}

/// Defines functions of the driver: what each requires, its arguments, and what it does with the world.
macro_rules! driver {
    ($($need:ident fn $name:ident($world:ident $(, $argument:ident: $kind:ty)*) $body:block)*) => {$(
        #[doc = concat!("`", stringify!($name), "` of the driver API.")]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $kind),*) -> $crate::status::Status {
            $crate::api::call(stringify!($name), $crate::api::Need::$need, |$world: &mut $crate::world::World| {
                // SAFETY: the pointers are what the driver's manual requires of a caller; null is checked for.
                #[allow(unused_unsafe, reason = "not every function has pointers")]
                unsafe { $body }
            })
        }
    )*};
}
use driver;

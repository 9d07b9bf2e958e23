//! Progress without the host: a rank's device does its part of a collective that others wait for, although nothing on this
//! rank's host waits for its streams.
use std::thread;
use std::time::Duration;

use crate::arrival::PROGRESS;
use crate::world;

/// How often it looks for work that was queued after the others had sent their values.
const LOOK: Duration = Duration::from_millis(2);

/// Starts the thread, if there is none.
pub fn start() {
    PROGRESS.get_or_init(|| {
        let spawned = thread::Builder::new().name("kiln-sim-progress".into()).spawn(|| {
            loop {
                // A thread that is never joined, as a device that works by itself.
                if world::with(|world| world.work_for_others()) {
                    thread::park_timeout(LOOK);
                } else {
                    thread::park_timeout(LOOK * 50);
                }
            }
        });
        spawned.map_or_else(|_| thread::current(), |handle| handle.thread().clone())
    });
}

//! Ranks that have been started: waiting for them, and what they said.

use std::{
    process::{Child, Command},
    time::{Duration, Instant},
};

/// Longer than any scenario takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(180);

/// What became of ranks.
pub struct Ended {
    pub success: bool,
    pub text: String,
    pub time: Duration,
}

/// A run that has begun: a launcher, or each rank.
pub struct Run {
    pub children: Vec<Child>,
    pub started: Instant,
}

impl Run {
    /// Waits for all ranks.
    pub fn end(self) -> Ended {
        let Run { children, started } = self;
        let ids: Vec<String> = children.iter().map(|child| child.id().to_string()).collect();
        let (finished, watched) = std::sync::mpsc::channel::<()>();
        let watchdog = std::thread::spawn(move || {
            if watched.recv_timeout(LIMIT) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                let _ = Command::new("kill").arg("-9").args(ids).status();
            }
        });
        let (mut success, mut text) = (true, String::new());
        for child in children {
            let output = child.wait_with_output().unwrap();
            success &= output.status.success();
            text += &(String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr));
        }
        drop(finished);
        watchdog.join().unwrap();
        Ended { success, text, time: started.elapsed() }
    }
}

//! The view: a thread that draws the run at most five times per second and reads keys. The training never waits for it.

mod draw;
mod plot;
mod signals;
mod terminal;
mod text;

use std::{
    panic,
    sync::{Arc, Mutex, MutexGuard, Once, PoisonError, TryLockError, Weak},
    thread,
    time::{Duration, Instant},
};

use ratatui_core::terminal::Terminal;
use rustix::process::Signal;

use crate::run::Shared;
use draw::Screen;
use terminal::{Ansi, Input};

/// Interval between redraws.
const INTERVAL: Duration = Duration::from_millis(200);
/// How long who closes the view waits for a terminal that takes no output.
const PATIENCE: Duration = Duration::from_millis(500);

/// The dashboard with a view: there is one terminal.
static VIEWED: Mutex<Weak<Shared>> = Mutex::new(Weak::new());
/// Held while something is written to the terminal or read from it, but for signals.
static WRITING: Mutex<()> = Mutex::new(());

/// Opens the view, if there is a terminal that can show it.
pub(crate) fn open(shared: &Arc<Shared>) {
    let mut viewed = VIEWED.lock().unwrap_or_else(PoisonError::into_inner);
    if viewed.upgrade().is_some_and(|other| other.is_viewed()) || !terminal::is_suitable() {
        return;
    }
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            // The message is printed on the terminal as it was before.
            let viewed = VIEWED.try_lock().ok().and_then(|viewed| viewed.upgrade());
            if let Some(viewed) = viewed {
                close(&viewed);
            }
            others(info);
        }));
    });
    *viewed = Arc::downgrade(shared);
    shared.set_viewed();
    let run = shared.clone();
    let show = move || show(&run);
    if !enter() || thread::Builder::new().name("kiln-dashboard".to_owned()).spawn(show).is_err() {
        close(shared);
    }
}

/// Begins a view. Signals that end the process end it first; until there is one, they do what they did.
fn enter() -> bool {
    signals::install();
    terminal::enter()
}

/// Closes the view, if there is one, and prints the lines that it has kept. Whoever is first does it.
pub(crate) fn close(shared: &Shared) {
    if shared.is_viewed() {
        let _writing = writing(PATIENCE);
        terminal::leave();
        signals::uninstall();
        shared.end_view();
    }
}

/// The lock of the terminal, if it is free soon.
fn writing(patience: Duration) -> Option<MutexGuard<'static, ()>> {
    let start = Instant::now();
    loop {
        match WRITING.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(error)) => return Some(error.into_inner()),
            Err(TryLockError::WouldBlock) if start.elapsed() >= patience => return None,
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// Draws until the view is closed.
fn show(shared: &Shared) {
    let Ok(mut terminal) = Terminal::new(Ansi::default()) else { return close(shared) };
    let (mut screen, mut drawn) = (Screen::default(), Instant::now());
    while shared.is_viewed() {
        let Input::Keys(keys) = terminal::wait(INTERVAL.saturating_sub(drawn.elapsed()), || writing(PATIENCE)) else {
            return close(shared);
        };
        if keys.is_empty() && drawn.elapsed() < INTERVAL {
            continue;
        }
        for key in keys {
            match key {
                b'q' => return close(shared),
                b'\t' => screen.page += 1,
                CTRL_L if terminal.clear().is_err() => return close(shared),
                CTRL_C => return end_by(shared, Signal::INT),
                CTRL_BACKSLASH => return end_by(shared, Signal::QUIT),
                CTRL_Z => {
                    suspend();
                    if !terminal::is_suitable() || !enter() || terminal.clear().is_err() {
                        return close(shared);
                    }
                }
                _ => {}
            }
        }
        drawn = Instant::now();
        let run = shared.snapshot();
        let Some(lock) = writing(PATIENCE) else { continue };
        // Not after it was closed.
        let is_gone = shared.is_viewed() && terminal.draw(|frame| screen.draw(&run, frame.buffer_mut())).is_err();
        drop(lock);
        if is_gone {
            return close(shared);
        }
    }
}

const CTRL_C: u8 = 0x03;
const CTRL_L: u8 = 0x0c;
const CTRL_Z: u8 = 0x1a;
const CTRL_BACKSLASH: u8 = 0x1c;

/// What the terminal does for these keys when nobody reads them: the signal goes to all processes of the program.
fn end_by(shared: &Shared, signal: Signal) {
    close(shared);
    let _ = rustix::process::kill_current_process_group(signal);
}

/// Stops the program, and returns when it is continued.
fn suspend() {
    let _writing = writing(PATIENCE);
    terminal::leave();
    signals::stop();
}

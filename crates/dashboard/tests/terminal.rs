//! The dashboard on a pseudo-terminal, in processes of their own: what it leaves behind however it ends, keys, sizes, and a
//! terminal that vanishes; and lines where there is no terminal.
#![cfg(unix)]

use std::{
    env,
    fs::File,
    io::{Read, Write},
    os::{
        fd::OwnedFd,
        unix::{
            ffi::OsStrExt,
            process::{CommandExt, ExitStatusExt},
        },
    },
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use kiln_dashboard::Dashboard;
use kiln_data::Progress;
use kiln_tensor::Device;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{FdFlags, fcntl_setfd},
    process::{Pid, Signal, WaitOptions, kill_process, waitpid},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};

const VARIABLE: &str = "KILN_DASHBOARD_TEST";
const LEAVE: &str = "\x1b[0m\x1b[?25h\x1b[?1049l";

/// The program on the terminal, not a test: it does nothing unless a test starts it.
#[test]
#[ignore = "the other tests start it"]
fn program() {
    let Ok(ends) = env::var(VARIABLE) else { return };
    let dashboard = Dashboard::builder("a run of tests").epochs(0..2).device(Device::Cpu).start();
    let other = Dashboard::builder("another").start();
    assert!(!other.is_view(), "there is one terminal");
    drop(other);
    for epoch in 0..2 {
        let mut steps = Progress::new(0..20).samples(640).on(&dashboard);
        while let Some(step) = steps.next() {
            dashboard.add_scalar("loss/train", if step == 7 { f64::NAN } else { f64::from(step) }, step.into());
            steps.println(format_args!("step {step} of epoch {epoch}"));
            if step == 10 && epoch == 0 {
                // Long enough that everything is drawn, or for the test to do what it does.
                let limit = match ends.as_str() {
                    "waits" => 60_000,
                    "panics" => 300,
                    _ => 2000,
                };
                let limit = Instant::now() + Duration::from_millis(limit);
                while Instant::now() < limit && dashboard.is_view() {
                    thread::sleep(Duration::from_millis(10));
                }
                assert!(ends != "panics", "this is the panic");
            }
        }
        dashboard.add_scalar("accuracy/test", 0.25, epoch);
    }
    drop(dashboard);
    eprintln!("the run is over");
}

/// A process with the program on a pseudo-terminal.
struct Session {
    child: Child,
    /// The test's end; `None` once it is closed.
    terminal: Option<File>,
    /// The program's end, kept open so that its settings can be read afterwards.
    theirs: Option<OwnedFd>,
    printed: Arc<Mutex<Vec<u8>>>,
    /// Whether the test's end is to be closed.
    closes: Arc<AtomicBool>,
}

fn program_in(ends: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["program", "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env(VARIABLE, ends).env("TERM", "xterm").env_remove("NO_COLOR");
    // Shells start what they put in the background with signals ignored, and these tests perhaps with it.
    act(&mut command, &[libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGTSTP], libc::SIG_DFL);
    command
}

/// Starts the program with this action for the signals.
fn act(command: &mut Command, signals: &'static [libc::c_int], action: libc::sighandler_t) {
    let set = move || {
        for &signal in signals {
            // SAFETY: the action is the default, or to ignore the signal, and `signal` may be called between `fork` and `exec`.
            unsafe { libc::signal(signal, action) };
        }
        Ok(())
    };
    // SAFETY: it calls nothing but `signal`.
    unsafe { command.pre_exec(set) };
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

impl Session {
    fn start(command: Command, columns: u16, rows: u16) -> Session {
        Session::start_with(command, columns, rows, None)
    }

    /// A session whose standard error may be elsewhere.
    fn start_with(mut command: Command, columns: u16, rows: u16, stderr: Option<Stdio>) -> Session {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        // The program must not have it, or it never vanishes.
        fcntl_setfd(&ours, FdFlags::CLOEXEC).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        tcsetwinsize(&ours, size(columns, rows)).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let path = Path::new(std::ffi::OsStr::from_bytes(name.as_bytes()));
        let theirs = File::options().read(true).write(true).open(path).unwrap();
        let end = || Stdio::from(theirs.try_clone().unwrap());
        // A group of its own, which its signals go to.
        command.stdin(end()).stdout(end()).stderr(stderr.unwrap_or_else(end)).process_group(0);
        let child = command.spawn().unwrap();
        // The command has copies of the program's end.
        drop(command);
        let terminal = File::from(ours);
        let (mut reader, printed) = (terminal.try_clone().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let closes = Arc::new(AtomicBool::new(false));
        let (sink, stops) = (printed.clone(), closes.clone());
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while !stops.load(Ordering::Relaxed) {
                let timeout = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
                let ready = poll(&mut [PollFd::new(&reader, PollFlags::IN)], Some(&timeout)).unwrap();
                if ready > 0 {
                    match reader.read(&mut bytes) {
                        Ok(0) | Err(_) => break,
                        Ok(count) => sink.lock().unwrap().extend_from_slice(&bytes[..count]),
                    }
                }
            }
        });
        Session { child, terminal: Some(terminal), theirs: Some(theirs.into()), printed, closes }
    }

    fn printed(&self) -> String {
        String::from_utf8_lossy(&self.printed.lock().unwrap()).into_owned()
    }

    /// Waits until something was printed.
    fn wait_for(&self, text: &str) {
        let limit = Instant::now() + Duration::from_secs(30);
        while !self.printed().contains(text) {
            assert!(Instant::now() < limit, "no {text:?} in {:?}", self.printed());
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn press(&mut self, keys: &str) {
        self.terminal.as_mut().unwrap().write_all(keys.as_bytes()).unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(self.theirs.as_ref().unwrap()).unwrap().local_modes.contains(LocalModes::ICANON)
    }

    /// Waits for the end: how it was, and what was printed, of which the last part after the view.
    fn finish(mut self) -> (ExitStatus, String, String) {
        let status = self.child.wait().unwrap();
        assert!(!self.is_raw(), "the terminal is as it was");
        assert!(tcgetattr(self.theirs.as_ref().unwrap()).unwrap().local_modes.contains(LocalModes::ECHO));
        // What is on its way still arrives; then the reader's end is closed.
        self.theirs = None;
        thread::sleep(Duration::from_millis(50));
        let printed = self.printed();
        assert_eq!(printed.matches("\x1b[?1049h").count(), printed.matches(LEAVE).count(), "{printed:?}");
        let after = printed.rsplit(LEAVE).next().unwrap().to_owned();
        assert!(!after.contains('\x1b'), "nothing is drawn after the end: {after:?}");
        (status, printed, after)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

#[test]
fn a_run_draws_and_leaves_its_lines() {
    let session = Session::start(program_in("itself"), 80, 24);
    session.wait_for("accuracy");
    let (status, printed, after) = session.finish();
    assert!(status.success(), "{printed:?}");
    for drawn in ["a run of tests", "loss", "q: close the view", "cpu: "] {
        assert!(printed.contains(drawn), "{drawn}: {printed:?}");
    }
    assert!(printed.chars().any(|c| ('\u{2801}'..='\u{28ff}').contains(&c)), "there are curves");
    assert!(after.contains("step 0 of epoch 0") && after.contains("step 19 of epoch 1"), "{after:?}");
    assert!(after.contains("epoch 2/2, step 20/20, loss/train 19.00, accuracy/test 0.2500"), "{after:?}");
}

#[test]
fn the_view_is_closed_and_the_run_goes_on() {
    let mut session = Session::start(program_in("waits"), 80, 24);
    session.wait_for("a run of tests");
    assert!(session.is_raw());
    let pressed = Instant::now();
    session.press("xy\t\x1bOQq");
    let (status, printed, after) = session.finish();
    assert!(pressed.elapsed() < Duration::from_secs(30), "the view was not closed");
    assert!(status.success(), "{printed:?}");
    // What was kept, then what is printed at once, with the lines that tell where it is.
    let at = |text: &str| after.find(text).unwrap_or_else(|| panic!("no {text:?} in {after:?}"));
    assert!(at("step 10 of epoch 0") < at("step 11 of epoch 0"));
    assert!(at("step 19 of epoch 0") < at("epoch 1/2, step 20/20") && at("epoch 1/2") < at("epoch 2/2"));
}

#[test]
fn a_panic_is_printed_on_the_terminal_as_it_was() {
    let (status, _, after) = Session::start(program_in("panics"), 80, 24).finish();
    assert!(
        !status.success() && after.contains("this is the panic") && after.contains("step 10 of epoch 0"),
        "{after:?}"
    );
}

#[test]
fn keys_and_signals_end_the_process_as_ever() {
    let ends = [
        (Some("\x03"), Signal::INT, 2),
        (Some("\x1c"), Signal::QUIT, 3),
        (None, Signal::INT, 2),
        (None, Signal::TERM, 15),
        (None, Signal::HUP, 1),
    ];
    // All at once: they start while the first ones are waited for.
    let sessions = ends.map(|_| Session::start(program_in("waits"), 80, 24));
    for ((key, signal, number), mut session) in ends.into_iter().zip(sessions) {
        session.wait_for("a run of tests");
        match key {
            Some(key) => session.press(key),
            None => session.signal(signal),
        }
        let (status, printed, _) = session.finish();
        assert_eq!(status.signal(), Some(number), "{key:?} {signal:?} {printed:?}");
    }
}

/// As under `nohup`, or in the background of a script.
#[test]
fn signals_that_are_ignored_stay_so() {
    for (key, signal, number) in [(Some("\x03"), Signal::INT, libc::SIGINT), (None, Signal::HUP, libc::SIGHUP)] {
        let mut command = program_in("waits");
        act(&mut command, if number == libc::SIGINT { &[libc::SIGINT] } else { &[libc::SIGHUP] }, libc::SIG_IGN);
        let mut session = Session::start(command, 80, 24);
        session.wait_for("q: close the view");
        match key {
            Some(key) => session.press(key),
            None => session.signal(signal),
        }
        session.press("q");
        let (status, printed, after) = session.finish();
        assert!(status.success() && after.contains("epoch 2/2, step 20/20"), "{signal:?} {printed:?}");
    }
}

#[test]
fn a_stopped_program_leaves_the_terminal_and_comes_back() {
    let mut session = Session::start(program_in("waits"), 80, 24);
    session.wait_for("q: close the view");
    session.press("\x1a");
    let (_, status) = waitpid(Some(Pid::from_child(&session.child)), WaitOptions::UNTRACED).unwrap().unwrap();
    assert!(status.stopped() && !session.is_raw());
    session.wait_for(LEAVE);
    let before = session.printed();
    assert!(before.ends_with(LEAVE), "nothing is drawn after it: {before:?}");
    session.signal(Signal::CONT);
    let limit = Instant::now() + Duration::from_secs(30);
    while !session.printed()[before.len()..].contains("q: close the view") {
        assert!(Instant::now() < limit, "everything is drawn again: {:?}", &session.printed()[before.len()..]);
        thread::sleep(Duration::from_millis(5));
    }
    assert!(session.is_raw());
    session.press("q");
    assert!(session.finish().0.success());
}

#[test]
fn the_view_follows_the_size_of_the_terminal() {
    let mut session = Session::start(program_in("waits"), 80, 24);
    session.wait_for("q: close the view");
    for (columns, rows) in [(120, 50), (0, 0), (1, 1), (11, 5), (65535, 65535), (200, 3), (64, 20)] {
        let before = session.printed().len();
        tcsetwinsize(session.terminal.as_ref().unwrap(), size(columns, rows)).unwrap();
        let limit = Instant::now() + Duration::from_secs(20);
        while columns > 10 && !session.printed()[before..].contains("\x1b[2J") {
            assert!(Instant::now() < limit, "{columns} {rows}");
            thread::sleep(Duration::from_millis(5));
        }
    }
    session.press("q");
    assert!(session.finish().0.success());
}

/// A closed window, with a program that nobody tells of it, as one that `nohup` has started.
#[test]
fn a_terminal_that_vanishes_ends_the_view_and_not_the_run() {
    let mut session = Session::start_with(program_in("waits"), 80, 24, Some(Stdio::piped()));
    session.wait_for("a run of tests");
    session.closes.store(true, Ordering::Relaxed);
    (session.theirs, session.terminal) = (None, None);
    let (closed, mut errors) = (Instant::now(), String::new());
    session.child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    session.child.wait().unwrap();
    assert!(closed.elapsed() < Duration::from_secs(30), "the view was not closed");
    assert!(errors.starts_with("the run is over"), "{errors}");
}

#[test]
fn lines_where_there_is_no_terminal() {
    let output = program_in("itself").stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && !text.contains('\x1b'), "{text:?}");
    assert!(text.contains("step 0 of epoch 0\nstep 1 of epoch 0\n"), "{text}");
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("epoch ")).collect();
    assert_eq!(lines.len(), 2, "one for each epoch: {text}");
    assert!(lines[0].starts_with("epoch 1/2, step 20/20, loss/train 19.00, accuracy/test 0.2500, "), "{text}");
    assert!(lines[0].contains(" samples/s, memory ") && lines[0].contains(", left 00:"), "{text}");
}

#[test]
fn lines_on_terminals_that_cannot_show_it() {
    let cases = [("TERM", "dumb", 80), ("TERM", "", 80), ("NO_COLOR", "1", 80), ("OTHER", "", 0)];
    for (name, value, columns) in cases {
        let mut command = program_in("itself");
        command.env(name, value);
        let (status, printed, _) = Session::start(command, columns, columns).finish();
        assert!(status.success() && !printed.contains('\x1b'), "{name} {printed:?}");
        assert!(printed.contains("epoch 2/2, step 20/20"), "{printed:?}");
    }
}

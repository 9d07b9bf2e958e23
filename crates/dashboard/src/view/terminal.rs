//! The terminal: how it is entered and left, its keys, and the backend that ratatui draws on.

use std::{
    env,
    fmt::Write,
    io::{self, IsTerminal},
    os::fd::BorrowedFd,
    sync::{
        MutexGuard, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use ratatui_core::{
    backend::{Backend, ClearType, WindowSize},
    buffer::Cell,
    layout::{Position, Size},
    style::{Color, Modifier},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::getpgrp,
    stdio::{stdin, stdout},
    termios::{OptionalActions, Termios, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr},
};

/// The alternate screen, without a cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[2J";
const LEAVE: &str = "\x1b[0m\x1b[?25h\x1b[?1049l";

/// Whether the view is on the terminal.
static ENTERED: AtomicBool = AtomicBool::new(false);
/// The terminal's settings before the first view of the process. A handler of signals reads them.
static BEFORE: OnceLock<Termios> = OnceLock::new();

/// Whether there is a terminal that can show a view and is this process's to use.
pub fn is_suitable() -> bool {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty());
    let can_draw = set("TERM").is_some_and(|term| term != "dumb") && set("NO_COLOR").is_none();
    // A process in the background would be stopped. A terminal that is not the process's own has no foreground.
    let foreground = !stdin().is_terminal() || tcgetpgrp(stdin()).map_or(true, |group| group == getpgrp());
    can_draw
        && stdout().is_terminal()
        && foreground
        && tcgetwinsize(stdout()).is_ok_and(|size| size.ws_row > 0 && size.ws_col > 0)
}

/// Begins a view. Keys come one by one and unseen from now on, those of signals as well.
pub fn enter() -> bool {
    // What was printed before comes before.
    let _ = io::Write::flush(&mut io::stdout());
    if stdin().is_terminal() {
        let Ok(now) = tcgetattr(stdin()) else { return false };
        let mut raw = BEFORE.get_or_init(|| now).clone();
        raw.make_raw();
        if tcsetattr(stdin(), OptionalActions::Now, &raw).is_err() {
            return false;
        }
    }
    ENTERED.store(true, Ordering::SeqCst);
    write_all(stdout(), ENTER.as_bytes()).is_ok()
}

/// Ends the view, if there is one: the terminal is as before. It takes no locks and no memory, so that handlers of signals may
/// call it.
pub fn leave() {
    if ENTERED.swap(false, Ordering::SeqCst) {
        let _ = write_all(stdout(), LEAVE.as_bytes());
        if let Some(before) = BEFORE.get() {
            let _ = tcsetattr(stdin(), OptionalActions::Now, before);
        }
    }
}

fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            // Another process has made the terminal return at once.
            Err(Errno::AGAIN) => drop(poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::OUT)], None)?),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// What [`wait`] has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The bytes of keys; none, if the time is over.
    Keys(Vec<u8>),
    /// The terminal is no longer there.
    Gone,
}

/// The keys among these bytes that send one byte each. Arrows, function keys and combinations with Alt send several, which begin
/// with an escape.
fn keys(bytes: &[u8]) -> Vec<u8> {
    let (mut keys, mut rest) = (Vec::new(), bytes.iter().copied());
    while let Some(byte) = rest.next() {
        if byte != 0x1b {
            keys.push(byte);
        } else {
            match rest.next() {
                Some(b'[') => drop(rest.find(|byte| (0x40..=0x7e).contains(byte))),
                Some(b'O') => drop(rest.next()),
                _ => {}
            }
        }
    }
    keys
}

/// Waits for a key, `timeout` at most. Keys are read with the terminal's lock, and only while the view is there: later ones are
/// not for it.
pub fn wait(timeout: Duration, lock: impl Fn() -> Option<MutexGuard<'static, ()>>) -> Input {
    let nothing = Input::Keys(Vec::new());
    // Standard input may also be a file, which is the program's.
    if !stdin().is_terminal() {
        thread::sleep(timeout);
        return nothing;
    }
    let mut fds = [PollFd::from_borrowed_fd(stdin(), PollFlags::IN)];
    let timeout = Timespec { tv_sec: timeout.as_secs() as _, tv_nsec: timeout.subsec_nanos().into() };
    match poll(&mut fds, Some(&timeout)) {
        Ok(0) | Err(Errno::INTR | Errno::AGAIN) => return nothing,
        Ok(_) => {}
        Err(_) => return Input::Gone,
    }
    let Some(_lock) = lock() else { return nothing };
    if !ENTERED.load(Ordering::SeqCst) {
        return nothing;
    }
    let mut bytes = [0; 64];
    match rustix::io::read(stdin(), &mut bytes) {
        Ok(0) => Input::Gone,
        Ok(count) => Input::Keys(keys(&bytes[..count])),
        Err(Errno::INTR | Errno::AGAIN) => nothing,
        Err(_) => Input::Gone,
    }
}

/// Draws by the control sequences of ECMA-48, which all terminals of Unix systems know, on standard output. A frame is written
/// at once.
#[derive(Debug, Default)]
pub struct Ansi {
    frame: String,
}

impl Backend for Ansi {
    type Error = io::Error;

    fn draw<'a, I: Iterator<Item = (u16, u16, &'a Cell)>>(&mut self, cells: I) -> io::Result<()> {
        let (mut after, mut style) = (None, None);
        for (x, y, cell) in cells {
            if after != Some((x, y)) {
                self.set_cursor_position((x, y))?;
            }
            after = Some((x + 1, y));
            let wanted = (cell.fg, cell.modifier);
            if style != Some(wanted) {
                style = Some(wanted);
                let bold = if cell.modifier.contains(Modifier::BOLD) { ";1" } else { "" };
                self.push(format_args!("\x1b[0{bold};{}m", color_code(cell.fg)));
            }
            self.frame.push_str(cell.symbol());
        }
        self.frame.push_str("\x1b[0m");
        Ok(())
    }

    fn hide_cursor(&mut self) -> io::Result<()> {
        self.frame.push_str("\x1b[?25l");
        Ok(())
    }

    fn show_cursor(&mut self) -> io::Result<()> {
        self.frame.push_str("\x1b[?25h");
        Ok(())
    }

    /// Nobody needs it: the view has no cursor, and every run of cells begins with a position.
    fn get_cursor_position(&mut self) -> io::Result<Position> {
        Ok(Position::ORIGIN)
    }

    fn set_cursor_position<P: Into<Position>>(&mut self, position: P) -> io::Result<()> {
        let Position { x, y } = position.into();
        self.push(format_args!("\x1b[{};{}H", y.saturating_add(1), x.saturating_add(1)));
        Ok(())
    }

    fn clear(&mut self) -> io::Result<()> {
        self.clear_region(ClearType::All)
    }

    fn clear_region(&mut self, region: ClearType) -> io::Result<()> {
        self.frame.push_str(match region {
            ClearType::All => "\x1b[2J",
            ClearType::AfterCursor => "\x1b[J",
            ClearType::BeforeCursor => "\x1b[1J",
            ClearType::CurrentLine => "\x1b[2K",
            ClearType::UntilNewLine => "\x1b[K",
        });
        Ok(())
    }

    /// As large as screens are, whatever the terminal says.
    fn size(&self) -> io::Result<Size> {
        let size = tcgetwinsize(stdout())?;
        Ok(Size::new(size.ws_col.min(1000), size.ws_row.min(500)))
    }

    fn window_size(&mut self) -> io::Result<WindowSize> {
        Ok(WindowSize { columns_rows: self.size()?, pixels: Size::ZERO })
    }

    fn flush(&mut self) -> io::Result<()> {
        let written = write_all(stdout(), self.frame.as_bytes());
        self.frame.clear();
        written
    }
}

impl Ansi {
    fn push(&mut self, text: std::fmt::Arguments<'_>) {
        // A string takes everything.
        let _ = self.frame.write_fmt(text);
    }
}

/// The code of a foreground color in "select graphic rendition".
fn color_code(color: Color) -> u8 {
    match color {
        Color::Black => 30,
        Color::Red => 31,
        Color::Green => 32,
        Color::Yellow => 33,
        Color::Blue => 34,
        Color::Magenta => 35,
        Color::Cyan => 36,
        Color::Gray => 37,
        Color::DarkGray => 90,
        Color::LightRed => 91,
        Color::LightGreen => 92,
        Color::LightYellow => 93,
        Color::LightBlue => 94,
        Color::LightMagenta => 95,
        Color::LightCyan => 96,
        Color::White => 97,
        Color::Reset | Color::Rgb(..) | Color::Indexed(_) => 39,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_one_byte() {
        for (bytes, want) in [
            (&b"q"[..], &b"q"[..]),
            (b"\x1bOQ", b""),
            (b"a\x1b[1;5Qb\x1b[Aq", b"abq"),
            (b"\x1bqx\x1b", b"x"),
            (b"\x1b[12", b""),
            (b"\x1bO", b""),
        ] {
            assert_eq!(keys(bytes), want, "{bytes:?}");
        }
    }

    #[test]
    fn cells_are_drawn_where_they_are_with_their_styles() {
        let mut cells = [Cell::new("a"), Cell::new("b"), Cell::new("c"), Cell::new("d")];
        cells[1].set_fg(Color::Red);
        cells[2].set_fg(Color::Red).modifier = Modifier::BOLD;
        let mut ansi = Ansi::default();
        let places = [(3, 1), (4, 1), (5, 1), (0, 2)];
        ansi.draw(places.iter().zip(&cells).map(|(&(x, y), cell)| (x, y, cell))).unwrap();
        let want = "\x1b[2;4H\x1b[0;39ma\x1b[0;31mb\x1b[0;1;31mc\x1b[3;1H\x1b[0;39md\x1b[0m";
        assert_eq!(ansi.frame, want);
    }
}

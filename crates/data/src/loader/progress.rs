//! Progress bars for loops over data.

use std::{
    fmt,
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

/// Characters of the bar itself.
const WIDTH: usize = 30;
/// Interval between redraws: often enough to look alive, too rarely to cost anything.
const INTERVAL: Duration = Duration::from_millis(100);

/// What shows the progress of loops in place of a bar, such as a dashboard: see [`Progress::on`].
pub trait ProgressDisplay: fmt::Debug + Send + Sync {
    /// A loop of so many steps begins, over so many samples if that is known.
    fn begin(&self, steps: u64, samples: Option<u64>);

    /// So many steps of the loop were begun. Called in the loop: it must be quick.
    fn step(&self, position: u64);

    /// Prints a line of the loop.
    fn println(&self, line: fmt::Arguments<'_>);

    /// The loop ended, perhaps before its last step.
    fn end(&self);
}

/// An iterator over batches, or over anything, that draws a bar on standard error with the number of steps, the rate
/// and the remaining time. It draws nothing if standard error is not a terminal.
/// [`DataLoader::progress`](crate::DataLoader::progress) makes one.
#[derive(Debug)]
#[must_use]
pub struct Progress<I> {
    iter: I,
    len: u64,
    samples: Option<u64>,
    position: u64,
    start: Instant,
    terminal: bool,
    /// When the visible bar was drawn.
    drawn: Option<Instant>,
    /// What shows the progress instead, until the end.
    display: Option<Box<dyn ProgressDisplay>>,
}

impl<I: ExactSizeIterator> Progress<I> {
    /// Wraps an iterator: `Progress::new(loader.iter())`.
    pub fn new(iter: impl IntoIterator<IntoIter = I>) -> Progress<I> {
        let iter = iter.into_iter();
        let (len, start, terminal) = (iter.len() as u64, Instant::now(), io::stderr().is_terminal());
        Progress { iter, len, samples: None, position: 0, start, terminal, drawn: None, display: None }
    }
}

impl<I> Progress<I> {
    /// Shows the progress on `display` instead of a bar; the lines of [`println`](Progress::println) go there, too.
    pub fn on<D: ProgressDisplay + Clone + 'static>(mut self, display: &D) -> Progress<I> {
        self.clear();
        self.finish();
        display.begin(self.len, self.samples);
        self.display = Some(Box::new(display.clone()));
        self
    }

    /// Sets the number of samples in all steps together, for displays with a rate of samples. Call it before
    /// [`on`](Progress::on).
    pub fn samples(mut self, samples: u64) -> Progress<I> {
        self.samples = Some(samples);
        self
    }

    /// Prints a line to standard output, above the bar if there is one.
    pub fn println(&self, line: impl fmt::Display) {
        if let Some(display) = &self.display {
            return display.println(format_args!("{line}"));
        }
        if self.drawn.is_none() {
            return println!("{line}");
        }
        let bar = self.bar(self.start.elapsed());
        erase();
        println!("{line}");
        show(&bar);
    }

    /// The number of steps taken.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    fn draw(&mut self) {
        let now = Instant::now();
        if self.terminal && self.drawn.is_none_or(|last| now - last >= INTERVAL) {
            show(&self.bar(now - self.start));
            self.drawn = Some(now);
        }
    }

    fn clear(&mut self) {
        if self.drawn.take().is_some() {
            erase();
        }
    }

    /// Tells the display that the loop has ended, once.
    fn finish(&mut self) {
        if let Some(display) = self.display.take() {
            display.end();
        }
    }

    /// The text of the bar, `elapsed` after the start.
    fn bar(&self, elapsed: Duration) -> String {
        let share = self.position as f64 / self.len.max(1) as f64;
        let filled = ((share * WIDTH as f64) as usize).min(WIDTH);
        let head = if filled < WIDTH { ">" } else { "" };
        let bar = format!("{}{head}", "=".repeat(filled));
        let rate = self.position as f64 / elapsed.as_secs_f64().max(1e-9);
        let left = match self.position {
            0 => "?".to_owned(),
            _ => clock((self.len.saturating_sub(self.position)) as f64 / rate),
        };
        let (position, len, elapsed) = (self.position, self.len, clock(elapsed.as_secs_f64()));
        format!("{bar:WIDTH$} {position:>5}/{len} [{elapsed} < {left}, {rate:.1}/s]")
    }
}

/// Minutes and seconds, and hours if there are any.
#[doc(hidden)]
#[must_use]
pub fn clock(seconds: f64) -> String {
    let seconds = seconds as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes:02}:{seconds:02}") }
}

/// Draws the bar over the current line of the terminal. Errors of the terminal are ignored.
fn show(bar: &str) {
    let mut out = io::stderr().lock();
    let _ = write!(out, "\r\x1b[2K{bar}").and_then(|()| out.flush());
}

/// Clears the terminal's line.
fn erase() {
    show("");
}

impl<I: ExactSizeIterator> Iterator for Progress<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        if self.display.is_none() && self.drawn.is_none() {
            self.draw();
        }
        let item = self.iter.next();
        self.position += u64::from(item.is_some());
        match (&item, &self.display) {
            (Some(_), Some(display)) => display.step(self.position),
            (Some(_), None) => self.draw(),
            (None, _) => {
                self.clear();
                self.finish();
            }
        }
        item
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.iter.size_hint()
    }
}

impl<I: ExactSizeIterator> ExactSizeIterator for Progress<I> {}

impl<I> Drop for Progress<I> {
    fn drop(&mut self) {
        self.clear();
        self.finish();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn the_bar_tells_steps_rate_and_remaining_time() {
        let mut progress = Progress::new(vec![(); 188]);
        assert_eq!(progress.bar(Duration::ZERO), format!(">{} {}", " ".repeat(29), "    0/188 [00:00 < ?, 0.0/s]"));
        progress.position = 94;
        let half = format!("{}>{}", "=".repeat(15), " ".repeat(14));
        assert_eq!(progress.bar(Duration::from_secs(47)), format!("{half}    94/188 [00:47 < 00:47, 2.0/s]"));
        progress.position = 188;
        let whole = "=".repeat(30);
        assert_eq!(progress.bar(Duration::from_secs(3760)), format!("{whole}   188/188 [1:02:40 < 00:00, 0.1/s]"));
        // More steps than the iterator announced, and none.
        progress.position = 200;
        assert!(progress.bar(Duration::from_secs(1)).starts_with(&whole));
        assert!(Progress::new(Vec::<()>::new()).bar(Duration::ZERO).contains(" 0/0 ["));
    }

    #[test]
    fn steps_are_those_of_the_iterator() {
        let mut progress = Progress::new(vec![3, 1, 2]);
        assert_eq!((progress.len(), progress.next(), progress.position()), (3, Some(3), 1));
        progress.println("above the bar");
        assert_eq!((progress.len(), progress.by_ref().collect::<Vec<_>>()), (2, vec![1, 2]));
        assert_eq!((progress.next(), progress.position(), progress.drawn), (None, 3, None));
    }

    #[test]
    fn a_display_is_told_of_each_step_and_once_of_the_end() {
        #[derive(Clone, Debug, Default)]
        struct Told(Arc<Mutex<Vec<String>>>);
        impl Told {
            fn told(&self, what: impl fmt::Display) {
                self.0.lock().unwrap().push(what.to_string());
            }
        }
        impl ProgressDisplay for Told {
            fn begin(&self, steps: u64, samples: Option<u64>) {
                self.told(format_args!("{steps} steps, {samples:?}"));
            }
            fn step(&self, position: u64) {
                self.told(position);
            }
            fn println(&self, line: fmt::Arguments<'_>) {
                self.told(line);
            }
            fn end(&self) {
                self.told("end");
            }
        }
        let told = Told::default();
        let mut progress = Progress::new([1, 2]).samples(7).on(&told);
        while let Some(i) = progress.next() {
            progress.println(format_args!("line {i}"));
        }
        assert_eq!((progress.next(), progress.drawn), (None, None));
        drop(progress);
        let mut stopped = Progress::new([1, 2, 3]).on(&told);
        stopped.next();
        drop(stopped);
        let want = ["2 steps, Some(7)", "1", "line 1", "2", "line 2", "end", "3 steps, None", "1", "end"];
        assert_eq!(*told.0.lock().unwrap(), want);
    }
}

//! A bar that tells how far a pass over the data has come.

use std::{fmt, time::Duration};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// An iterator over batches, or over anything, that draws a bar on standard error with the number of steps, the rate and
/// the remaining time. It draws nothing where that is no terminal. [`DataLoader::progress`](crate::DataLoader::progress)
/// makes one.
#[derive(Debug)]
#[must_use]
pub struct Progress<I> {
    iter: I,
    bar: ProgressBar,
}

impl<I: ExactSizeIterator> Progress<I> {
    /// Wraps an iterator: `Progress::new(loader.iter())`.
    pub fn new(iter: impl IntoIterator<IntoIter = I>) -> Progress<I> {
        let iter = iter.into_iter();
        let bar = ProgressBar::with_draw_target(Some(iter.len() as u64), ProgressDrawTarget::stderr());
        let rate = |state: &ProgressState, out: &mut dyn fmt::Write| {
            // A failure to write to a terminal's line is of no interest.
            let _ = write!(out, "{:.1}", state.per_sec());
        };
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos:>5}/{len} [{elapsed} < {eta}, {rate}/s]") {
            bar.set_style(style.with_key("rate", rate).progress_chars("=> "));
        }
        if !bar.is_hidden() {
            bar.enable_steady_tick(Duration::from_millis(500));
        }
        Progress { iter, bar }
    }
}

impl<I> Progress<I> {
    /// Prints a line to standard output, above the bar if there is one.
    pub fn println(&self, line: impl fmt::Display) {
        self.bar.suspend(|| println!("{line}"));
    }

    /// The bar, for messages and styles of one's own. It may be cloned.
    pub fn bar(&self) -> &ProgressBar {
        &self.bar
    }
}

impl<I: ExactSizeIterator> Iterator for Progress<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        let item = self.iter.next();
        match item {
            Some(_) => self.bar.inc(1),
            None => self.bar.finish_and_clear(),
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
        self.bar.finish_and_clear();
    }
}

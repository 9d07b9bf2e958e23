//! How far an epoch has come: a bar on a terminal, nothing but its last line when the output is piped.

use std::{fmt::Display, io::IsTerminal, time::Instant};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

/// Counts the images of one epoch.
pub struct Progress {
    bar: ProgressBar,
    images: u64,
    start: Instant,
}

impl Progress {
    pub fn new(images: usize) -> Progress {
        let on_terminal = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
        let bar = if on_terminal { ProgressBar::new(images as u64) } else { ProgressBar::hidden() };
        let rate = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            // A failure to write to a terminal's line is of no interest.
            let _ = write!(out, "{:.0}", state.per_sec());
        };
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos:>5}/{len} images, {rate} images/s, {eta} left") {
            bar.set_style(style.with_key("rate", rate).progress_chars("=> "));
        }
        Progress { bar, images: 0, start: Instant::now() }
    }

    /// `images` more are done.
    pub fn add(&mut self, images: usize) {
        self.images += images as u64;
        self.bar.inc(images as u64);
    }

    /// Prints a line above the bar.
    pub fn println(&self, line: impl Display) {
        self.bar.suspend(|| println!("{line}"));
    }

    /// Replaces the bar by what it came to.
    pub fn finish(self) {
        self.bar.finish_and_clear();
        let seconds = self.start.elapsed().as_secs_f64();
        println!("{} images in {seconds:.2} s, {:.0} images/s", self.images, self.images as f64 / seconds.max(1e-9));
    }
}

//! What is known of a run: where its loops are, its curves and lines. The view draws it, and without a view lines tell it.

use std::{
    collections::VecDeque,
    fmt,
    io::{self, Write},
    mem,
    ops::Range,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use kiln_backend::Bytes;
use kiln_data::clock;
use kiln_tensor::{Device, MemoryStats};

use crate::curve::{Curve, number};

/// Interval between lines within an epoch.
const LINE_INTERVAL: Duration = Duration::from_secs(30);
/// Lines that are kept while there is a view.
const MAX_LINES: usize = 1000;
/// Tags that are shown. More are a mistake, such as one for each step.
const MAX_TAGS: usize = 256;

/// What a loop calls, on its own thread.
#[derive(Debug)]
pub(crate) struct Shared {
    /// How many steps of the current loop were begun.
    position: AtomicU64,
    /// Whether there is a view; else lines are printed at once.
    viewed: AtomicBool,
    /// When the next line is due, in milliseconds after the start.
    line_due: AtomicU64,
    start: Instant,
    run: Mutex<Run>,
}

impl Shared {
    pub fn new(run: Run) -> Shared {
        Shared {
            position: AtomicU64::new(0),
            viewed: AtomicBool::new(false),
            line_due: AtomicU64::new(LINE_INTERVAL.as_millis() as u64),
            start: run.start,
            run: Mutex::new(run),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Run> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_viewed(&self) -> bool {
        self.viewed.load(Ordering::Acquire)
    }

    pub fn set_viewed(&self) {
        self.viewed.store(true, Ordering::Release);
    }

    /// From now on lines are printed at once. Those that were printed while there was a view are printed now, unless the
    /// thread that panics is changing them: then they are by the next call.
    pub fn end_view(&self) {
        self.viewed.store(false, Ordering::Release);
        if let Ok(mut run) = self.run.try_lock() {
            run.print_kept();
        }
    }

    /// The run as it is now, for the view.
    pub fn snapshot(&self) -> Run {
        let mut run = self.lock();
        run.position = self.position.load(Ordering::Relaxed);
        run.clone()
    }

    pub fn begin(&self, steps: u64, samples: Option<u64>) {
        let mut run = self.lock();
        if !self.is_viewed() {
            run.print_status();
        }
        self.position.store(0, Ordering::Relaxed);
        run.begin(steps, samples);
    }

    pub fn step(&self, position: u64) {
        self.position.store(position, Ordering::Relaxed);
        if !self.is_viewed() {
            let now = self.start.elapsed().as_millis() as u64;
            if now >= self.line_due.load(Ordering::Relaxed) {
                self.line_due.store(now + LINE_INTERVAL.as_millis() as u64, Ordering::Relaxed);
                let mut run = self.lock();
                run.position = position;
                run.print_status();
            }
        }
    }

    pub fn end(&self) {
        let mut run = self.lock();
        run.position = self.position.load(Ordering::Relaxed);
        run.end();
    }

    pub fn add_scalar(&self, tag: &str, value: f64, step: i64) {
        self.lock().add_scalar(tag, value, step);
    }

    pub fn println(&self, line: fmt::Arguments<'_>) {
        let mut run = self.lock();
        if self.is_viewed() {
            run.keep(&line.to_string());
        } else {
            run.print_kept();
            print(line);
        }
    }

    /// Prints the last line.
    pub fn finish(&self) {
        let mut run = self.lock();
        run.print_kept();
        run.print_status();
    }
}

/// Prints a line. A terminal or pipe that is no longer there is no reason to end the run, as by `println!`.
fn print(line: impl fmt::Display) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// See the file's first sentence.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub title: String,
    epochs: Range<u64>,
    device: Option<Device>,
    start: Instant,
    /// How many loops were begun: each is an epoch.
    loops: u64,
    steps: u64,
    samples: Option<u64>,
    position: u64,
    loop_start: Instant,
    /// How long the last loop took, if there is none now.
    ended: Option<Duration>,
    pub curves: Vec<Curve>,
    pub lines: VecDeque<String>,
    /// How many lines were not kept.
    lost: u64,
    /// Whether there is anything that no line has told yet.
    is_new: bool,
}

/// Where a run is, as the view and lines show it.
#[derive(Clone, Debug)]
pub(crate) struct Status {
    /// Counted from 1, and how many there are.
    pub epoch: Option<(u64, u64)>,
    pub position: u64,
    pub steps: u64,
    pub unit: &'static str,
    /// Per second, over the current loop, or the last one.
    pub rate: f64,
    pub memory: Option<(Device, MemoryStats)>,
    pub elapsed: f64,
    /// Seconds; not known before the first step.
    pub left: Option<f64>,
}

impl Run {
    pub fn new(title: String, epochs: Range<u64>, device: Option<Device>) -> Run {
        let start = Instant::now();
        Run {
            title,
            epochs,
            device,
            start,
            loops: 0,
            steps: 0,
            samples: None,
            position: 0,
            loop_start: start,
            ended: None,
            curves: Vec::new(),
            lines: VecDeque::new(),
            lost: 0,
            is_new: false,
        }
    }

    fn begin(&mut self, steps: u64, samples: Option<u64>) {
        self.loops += 1;
        (self.steps, self.samples, self.position) = (steps, samples, 0);
        (self.loop_start, self.ended) = (Instant::now(), None);
    }

    fn end(&mut self) {
        self.ended = Some(self.loop_start.elapsed());
        self.is_new = true;
    }

    fn add_scalar(&mut self, tag: &str, value: f64, step: i64) {
        self.is_new = true;
        let at = match self.curves.iter().position(|curve| curve.tag == tag) {
            Some(at) => at,
            None if self.curves.len() < MAX_TAGS => {
                self.curves.push(Curve::new(tag));
                self.curves.len() - 1
            }
            None => return,
        };
        self.curves[at].push(value, step);
    }

    fn keep(&mut self, text: &str) {
        for line in text.split('\n') {
            if self.lines.len() == MAX_LINES {
                self.lines.pop_front();
                self.lost += 1;
            }
            self.lines.push_back(line.to_owned());
        }
    }

    fn print_kept(&mut self) {
        if self.lost > 0 {
            print(format_args!("… {} lines before", mem::take(&mut self.lost)));
        }
        for line in mem::take(&mut self.lines) {
            print(line);
        }
    }

    /// Prints where the run is, and the values since the last time, if there is anything new.
    fn print_status(&mut self) {
        let within = self.ended.is_none() && self.position > 0;
        if mem::take(&mut self.is_new) || within {
            print(self.line());
            for curve in &mut self.curves {
                curve.is_new = false;
            }
        }
    }

    fn line(&self) -> String {
        let status = self.status();
        let mut parts = Vec::new();
        if let Some((epoch, epochs)) = status.epoch {
            parts.push(format!("epoch {epoch}/{epochs}"));
        }
        if self.loops > 0 {
            parts.push(format!("step {}/{}", status.position, status.steps));
        }
        parts.extend(
            self.curves
                .iter()
                .filter(|curve| curve.is_new)
                .map(|curve| format!("{} {}", curve.tag, number(curve.last))),
        );
        if status.rate > 0.0 {
            parts.push(format!("{:.0} {}/s", status.rate, status.unit));
        }
        if let Some((_, memory)) = status.memory {
            parts.push(format!("memory {}", Bytes(memory.allocated)));
        }
        parts.push(format!("elapsed {}", clock(status.elapsed)));
        if let Some(left) = status.left {
            parts.push(format!("left {}", clock(left)));
        }
        parts.join(", ")
    }

    /// Samples, or steps if the number of samples is not known, of the current loop.
    fn done_in_loop(&self) -> f64 {
        match self.samples {
            Some(samples) => samples as f64 * self.share(),
            None => self.position as f64,
        }
    }

    /// The share of the current loop that is done.
    fn share(&self) -> f64 {
        (self.position as f64 / self.steps.max(1) as f64).min(1.0)
    }

    pub fn status(&self) -> Status {
        let now = Instant::now();
        let in_loop = self.ended.unwrap_or_else(|| now - self.loop_start).as_secs_f64();
        let (epochs, loops) = (self.epochs.end.saturating_sub(self.epochs.start), self.loops);
        let share = if self.ended.is_some() { 1.0 } else { self.share() };
        // In loops, of the whole run; or of this loop.
        let (done, all, elapsed) = match epochs {
            0 => (share, 1.0, in_loop),
            _ => (loops.saturating_sub(1) as f64 + share, epochs.max(loops) as f64, (now - self.start).as_secs_f64()),
        };
        let left = (loops > 0 && done > 0.0).then(|| elapsed * (all - done) / done);
        Status {
            epoch: (epochs > 0 && loops > 0)
                .then(|| (self.epochs.start + loops, self.epochs.end.max(self.epochs.start + loops))),
            position: self.position,
            steps: self.steps,
            unit: if self.samples.is_some() { "samples" } else { "steps" },
            rate: self.done_in_loop() / in_loop.max(1e-9),
            memory: self.device.and_then(|device| Some((device, device.memory_stats().ok()?))),
            elapsed: (now - self.start).as_secs_f64(),
            left,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The second of three epochs, after half of its 100 steps and a minute and a half, with lines and curves.
    pub fn example(curves: &[(&str, f64)], lines: u64) -> Run {
        let mut run = Run::new("example".to_owned(), 0..3, None);
        run.begin(100, Some(6400));
        run.begin(100, Some(6400));
        run.position = 50;
        at(&mut run, 90, 32);
        for i in 0..100 {
            for &(tag, slope) in curves {
                run.add_scalar(tag, slope * f64::from(i), i.into());
            }
        }
        for i in 0..lines {
            run.keep(&format!("line {i}"));
        }
        run
    }

    /// A run whose start and loop were so many seconds ago.
    fn at(run: &mut Run, start: u64, loop_start: u64) {
        let now = Instant::now();
        run.start = now - Duration::from_secs(start);
        run.loop_start = now - Duration::from_secs(loop_start);
    }

    #[test]
    fn lines_tell_where_a_run_is_and_what_is_new() {
        let mut run = Run::new(String::new(), 2..6, None);
        run.begin(10, Some(95));
        at(&mut run, 10, 10);
        assert_eq!(run.line(), "epoch 3/6, step 0/10, elapsed 00:10");
        run.position = 5;
        run.add_scalar("loss/train", 0.5, 5);
        run.add_scalar("grad", f64::NAN, 5);
        // An eighth of four epochs took 10 seconds.
        let line = "epoch 3/6, step 5/10, loss/train 0.5000, grad NaN, 5 samples/s, elapsed 00:10, left 01:10";
        assert_eq!(run.line(), line);
        run.print_status();
        assert!(!run.line().contains("loss"), "told once");
        run.position = 10;
        run.ended = Some(Duration::from_secs(19));
        at(&mut run, 30, 20);
        assert_eq!(run.line(), "epoch 3/6, step 10/10, 5 samples/s, elapsed 00:30, left 01:30");
        run.begin(10, Some(95));
        assert_eq!(run.status().epoch, Some((4, 6)));
        // More loops than epochs.
        (run.loops, run.position) = (7, 10);
        assert_eq!((run.status().epoch, run.status().left), (Some((9, 9)), Some(0.0)));
    }

    #[test]
    fn without_epochs_the_time_left_is_that_of_the_loop() {
        let mut run = Run::new(String::new(), 0..0, Some(Device::Cpu));
        assert!(run.line().starts_with("memory ") && run.line().ends_with("elapsed 00:00"), "{}", run.line());
        run.begin(8, None);
        at(&mut run, 100, 10);
        run.position = 2;
        run.device = None;
        assert_eq!(run.line(), "step 2/8, 0 steps/s, elapsed 01:40, left 00:30");
        // Loops without steps, and longer than announced.
        run.begin(0, Some(0));
        assert_eq!((run.status().left, run.status().rate), (None, 0.0));
        run.position = 3;
        assert!(run.status().left == Some(0.0) && run.line().contains("step 3/0"));
    }

    #[test]
    fn lines_and_tags_are_bounded() {
        let mut run = Run::new(String::new(), 0..0, None);
        for i in 0..2000 {
            run.add_scalar(&format!("loss/{i}"), 1.0, i);
            run.keep(&format!("a\n{i}"));
        }
        assert_eq!((run.curves.len(), run.curves.last().unwrap().points.len()), (MAX_TAGS, 1));
        assert_eq!((run.lines.len(), run.lost, run.lines.back().unwrap().as_str()), (MAX_LINES, 3000, "1999"));
        run.add_scalar("loss/7", 2.0, 8);
        assert_eq!(run.curves[7].points.len(), 2);
    }
}

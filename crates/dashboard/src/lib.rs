//! A dashboard in the terminal for long training runs: curves of losses and metrics, the rate in samples per second, memory
//! of the device, time left. Where there is no terminal it prints lines.
//!
//! It shows what a loop tells its [`Progress`](kiln_data::Progress) and, under the names of TensorBoard's
//! `SummaryWriter::add_scalar`, the values that it adds:
//!
//! ```
//! use kiln_dashboard::Dashboard;
//! use kiln_data::Progress;
//!
//! let dashboard = Dashboard::builder("my run").epochs(0..2).start();
//! for epoch in 0..2 {
//!     // `loader.progress().on(&dashboard)` for a `DataLoader`; any iterator that knows its length will do.
//!     let mut steps = Progress::new(0..100).samples(6400).on(&dashboard);
//!     while let Some(step) = steps.next() {
//!         if step % 10 == 0 {
//!             let loss = 1.0 / f64::from(1 + step);
//!             dashboard.add_scalar("loss/train", loss, 100 * epoch + i64::from(step));
//!         }
//!     }
//!     dashboard.add_scalar("loss/test", 0.5, 100 * (epoch + 1));
//!     dashboard.println(format_args!("epoch {} is over", epoch + 1));
//! }
//! ```
//!
//! Curves with the same name before the `/` share a panel. The view takes the whole screen until the dashboard is dropped,
//! the program panics or a signal ends it; then the terminal is as it was before, with the lines printed through the
//! dashboard. Keys: `q` closes the view, while the run goes on and prints lines; Tab shows other panels if not all fit; Ctrl-L
//! draws everything anew; Ctrl-C ends the program, Ctrl-Z stops it, as ever.
//!
//! It prints lines if standard output is not a terminal or the process is in the background, if `TERM` is `dumb` or not set,
//! if `NO_COLOR` is set (curves differ by their colors), and on Windows: one for each epoch, which includes what is added
//! before the next epoch begins, and one every 30 seconds.
//!
//! Lines that are printed past it, by `println!`, are drawn over. A program that calls `std::process::exit` should drop the
//! dashboard before.

// But for one file, which installs handlers of signals.
#![deny(unsafe_code)]
// There is no view on Windows.
#![cfg_attr(not(unix), allow(dead_code))]

mod curve;
mod run;
#[cfg(unix)]
mod view;

use std::{fmt, ops::Range, sync::Arc};

use kiln_data::ProgressDisplay;
use kiln_tensor::Device;

use run::{Run, Shared};

/// A dashboard; see the [crate's](crate) documentation. Clones are handles of the same one, which ends with the last of them.
#[derive(Clone, Debug)]
pub struct Dashboard(Arc<Owner>);

/// Ends the dashboard when the last handle is dropped; what draws the view has none.
#[derive(Debug)]
struct Owner(Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        #[cfg(unix)]
        view::close(&self.0);
        self.0.finish();
    }
}

/// What is to be shown: see [`Dashboard::builder`].
#[derive(Clone, Debug)]
#[must_use]
pub struct DashboardBuilder {
    title: String,
    epochs: Range<u64>,
    device: Option<Device>,
    lines: bool,
}

impl DashboardBuilder {
    /// The epochs that this run will train, as those of the loop over them; a run that continues from a checkpoint starts with
    /// a later one than 0. Each [`Progress`](kiln_data::Progress) on the dashboard is the next epoch, and the time left is that
    /// of all. Without this, the time left is that of the current loop.
    pub fn epochs(self, epochs: Range<u64>) -> DashboardBuilder {
        DashboardBuilder { epochs, ..self }
    }

    /// Shows the memory that tensors use on this device.
    pub fn device(self, device: Device) -> DashboardBuilder {
        DashboardBuilder { device: Some(device), ..self }
    }

    /// Prints lines also where there is a terminal.
    pub fn lines(self, lines: bool) -> DashboardBuilder {
        DashboardBuilder { lines, ..self }
    }

    /// Starts the dashboard. If there is another one with a view already, this one prints lines.
    pub fn start(self) -> Dashboard {
        let shared = Arc::new(Shared::new(Run::new(self.title, self.epochs, self.device)));
        #[cfg(unix)]
        if !self.lines {
            view::open(&shared);
        }
        Dashboard(Arc::new(Owner(shared)))
    }
}

impl Dashboard {
    /// What is to be shown, under this title.
    pub fn builder(title: impl Into<String>) -> DashboardBuilder {
        DashboardBuilder { title: title.into(), epochs: 0..0, device: None, lines: false }
    }

    /// Adds a point to a curve, as `SummaryWriter::add_scalar` does. Curves with the same name before the first `/` of their
    /// tags share a panel, such as `loss/train` and `loss/test`. Values that are not finite are counted and shown as the
    /// latest; there may be any number of points, of at most 256 tags.
    pub fn add_scalar(&self, tag: &str, value: f64, step: i64) {
        self.shared().add_scalar(tag, value, step);
    }

    /// Prints a line: below the curves, and to standard output when the view is closed; at once, if there is no view.
    pub fn println(&self, line: impl fmt::Display) {
        self.shared().println(format_args!("{line}"));
    }

    /// Whether there is a view now; else lines are printed.
    #[must_use]
    pub fn is_view(&self) -> bool {
        self.shared().is_viewed()
    }

    fn shared(&self) -> &Shared {
        &self.0.0
    }
}

impl ProgressDisplay for Dashboard {
    fn begin(&self, steps: u64, samples: Option<u64>) {
        self.shared().begin(steps, samples);
    }

    fn step(&self, position: u64) {
        self.shared().step(position);
    }

    fn println(&self, line: fmt::Arguments<'_>) {
        self.shared().println(line);
    }

    fn end(&self) {
        self.shared().end();
    }
}

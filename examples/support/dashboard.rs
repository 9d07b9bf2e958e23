//! `--dashboard` of the examples. A build without the feature `dashboard` has no such option, and prints.

use std::{fmt, ops::Range};

use clap::Args;
#[cfg(feature = "dashboard")]
use kiln::dashboard::Dashboard;
use kiln::{data::Progress, prelude::*};

#[derive(Args)]
#[group(id = "dashboard_options")]
pub struct Options {
    /// Show curves, rate, memory and time left on the whole terminal; q closes it
    #[cfg(feature = "dashboard")]
    #[arg(long)]
    dashboard: bool,
}

/// Where a run is shown.
pub struct Display {
    #[cfg(feature = "dashboard")]
    dashboard: Option<Dashboard>,
}

impl Display {
    /// Closes the view: what is printed from now on is not drawn over.
    pub fn finish(self) {}
}

#[cfg(feature = "dashboard")]
impl Display {
    pub fn start(options: &Options, title: &str, epochs: Range<u64>, device: Device) -> Display {
        let start = || Dashboard::builder(title).epochs(epochs).device(device).start();
        Display { dashboard: options.dashboard.then(start) }
    }

    /// Whether there are curves. Reading a value for them makes the device wait.
    pub fn has_curves(&self) -> bool {
        self.dashboard.is_some()
    }

    /// Shows the loop here, if not by its bar.
    pub fn show<I>(&self, progress: Progress<I>) -> Progress<I> {
        match &self.dashboard {
            Some(dashboard) => progress.on(dashboard),
            None => progress,
        }
    }

    pub fn add_scalar(&self, tag: &str, value: f64, step: usize) {
        if let Some(dashboard) = &self.dashboard {
            dashboard.add_scalar(tag, value, step as i64);
        }
    }

    pub fn println(&self, line: impl fmt::Display) {
        match &self.dashboard {
            Some(dashboard) => dashboard.println(line),
            None => println!("{line}"),
        }
    }
}

#[cfg(not(feature = "dashboard"))]
impl Display {
    pub fn start(_: &Options, _: &str, _: Range<u64>, _: Device) -> Display {
        Display {}
    }

    pub fn has_curves(&self) -> bool {
        false
    }

    pub fn show<I>(&self, progress: Progress<I>) -> Progress<I> {
        progress
    }

    pub fn add_scalar(&self, _: &str, _: f64, _: usize) {}

    pub fn println(&self, line: impl fmt::Display) {
        println!("{line}");
    }
}

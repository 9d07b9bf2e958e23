//! A report of the CUDA installation: driver, devices, libraries, kernels, what is missing, and which fallbacks were
//! taken.

use std::{
    fmt::{Display, Write as _},
    fs,
    path::Path,
};

use kiln_backend::Bytes;

use crate::{
    context::{self, DeviceInfo},
    device, fallbacks,
    libs::{self, Driver, Libraries, release},
    modules, plan_cache,
};

/// Describes the driver, each GPU, cuBLASLt, cuDNN and NVRTC, and the kernels that Kiln uses; what is missing, with
/// where it was searched for and how to fix it; and which fallbacks this process has taken. It opens no device, and
/// works without one.
#[must_use]
pub fn report() -> String {
    let mut lines = Lines::default();
    let driver = device::driver();
    match driver {
        Ok(driver) => {
            lines.found("driver", format_args!("serves CUDA {}", packed(driver.version(), 1000)), &driver.file());
            if let Some(version) = display_driver() {
                lines.line("", version);
            }
        }
        Err(reason) => lines.missing("driver", reason),
    }
    for index in 0..driver.map_or(0, |driver| context::device_count(driver).unwrap_or(0)) {
        if let Ok(driver) = driver {
            lines.device(driver, index);
        }
    }
    lines.line("kernels", modules::built_in());
    match driver {
        Ok(driver) => match libs::libraries(driver) {
            Ok(found) => lines.libraries(found),
            Err(reason) => lines.missing("libraries", reason),
        },
        // With the available libraries listed, only the driver is missing.
        Err(_) => match Libraries::open(None) {
            Ok(found) => lines.libraries(&found),
            Err(reason) => lines.missing("libraries", &reason),
        },
    }
    lines.line("plans", format_args!("of convolutions and attention: {}", plan_cache::location()));
    for (text, count) in fallbacks::notes() {
        lines.line("fallback", format_args!("{count} times: {text}"));
    }
    lines.finish()
}

/// The lines of a report, and what is missing, which comes last.
#[derive(Default)]
struct Lines {
    text: String,
    missing: String,
}

impl Lines {
    fn line(&mut self, what: &str, text: impl Display) {
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "{what:<10} {text}");
    }

    fn found(&mut self, what: &str, text: impl Display, file: &Path) {
        self.line(what, format_args!("{text}, {}", file.display()));
    }

    fn missing(&mut self, what: &str, reason: &str) {
        self.line(what, "missing");
        let _ = writeln!(self.missing, "missing: {what}: {reason}");
    }

    fn device(&mut self, driver: &Driver, index: usize) {
        let name = format!("cuda:{index}");
        let info = match DeviceInfo::of(driver, index) {
            Ok(info) => info,
            Err(error) => return self.missing(&name, &error.to_string()),
        };
        let (major, minor) = info.compute_capability;
        self.line(
            &name,
            format_args!(
                "{}, compute capability {major}.{minor}, {}, {} multiprocessors",
                info.name,
                Bytes(info.total_memory),
                info.multiprocessors
            ),
        );
        match modules::describe(info.compute_capability, info.driver_version) {
            Ok(text) => self.line("", format_args!("kernels: {text}")),
            Err(reason) => self.missing(&name, &reason),
        }
        if let Some(open) = device::opened(index) {
            self.line("", format_args!("open: kernels {}", open.0.loaded_kernels()));
            for (of, text) in open.0.kept_plans() {
                self.line("", format_args!("open: plans of {of}: {text}"));
            }
            let stats = open.0.memory.stats();
            self.line("", format_args!("open: {} in use, {} held", Bytes(stats.allocated), Bytes(stats.reserved)));
        }
    }

    fn libraries(&mut self, found: &Libraries) {
        match &found.cublas_lt {
            Ok(library) => self.found("cuBLASLt", known(library.version(), 10_000), &library.file()),
            Err(reason) => self.missing("cuBLASLt", reason),
        }
        match &found.cudnn {
            Ok(library) => {
                let built_for = known(library.cuda_version(), 1000);
                let text = format!("{}, built for CUDA {built_for}", known(library.version(), 10_000));
                self.found("cuDNN", text, &library.file());
            }
            Err(reason) => self.missing("cuDNN", reason),
        }
        match &found.nvrtc {
            Ok(library) => {
                let (major, minor) = library.version;
                self.found("NVRTC", format_args!("{major}.{minor}"), &library.file);
            }
            Err(reason) => self.missing("NVRTC", reason),
        }
    }

    fn finish(self) -> String {
        self.text + &self.missing
    }
}

/// A version that a library may not report.
fn known(version: Option<u32>, unit: u32) -> String {
    version.map_or_else(|| "an unknown version".into(), |version| release(version, unit))
}

fn packed(version: i32, unit: u32) -> String {
    known(u32::try_from(version).ok(), unit)
}

/// The version of the display driver (580.65.06), as opposed to that of the CUDA it supports.
fn display_driver() -> Option<String> {
    let text = fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    text.lines().next().map(|line| line.trim_start_matches("NVRM version:").trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_a_line_for_everything_and_says_what_is_missing() {
        let text = report();
        println!("{text}");
        for what in ["driver", "kernels", "plans"] {
            assert!(text.lines().any(|line| line.starts_with(what)), "{what} is not in:\n{text}");
        }
        // Even without a driver, the report names the libraries, or where they were searched for.
        let has_libraries =
            ["cuBLASLt", "cuDNN", "NVRTC"].iter().all(|what| text.lines().any(|line| line.starts_with(what)));
        assert!(has_libraries || text.contains("missing: libraries: "), "{text}");
        for line in text.lines().filter(|line| line.ends_with(" missing")) {
            let what = line.split_whitespace().next().unwrap_or_default();
            let reason = text.lines().find(|line| line.starts_with(&format!("missing: {what}: ")));
            assert!(reason.is_some_and(|reason| reason.contains("To fix it, ")), "{what}:\n{text}");
        }
    }
}

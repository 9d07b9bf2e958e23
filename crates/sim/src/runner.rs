//! `cargo sim`: puts the simulated device in the place of NVIDIA's libraries, runs a command, and reports.
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};
use std::{env, fs, io};

use crate::account_table;
use crate::coverage;
use crate::sanitize::Sanitizer;

/// Every name under which loaders look for the libraries that the simulator replaces. Some loaders try the unversioned
/// names first, so without those a real library would win.
const NAMES: [&str; 13] = [
    "libcuda.so",
    "libcuda.so.1",
    "libcublasLt.so",
    "libcublasLt.so.12",
    "libcublasLt.so.13",
    "libcudnn.so",
    "libcudnn.so.9",
    // The sub-library of cuDNN that reports its version.
    "libcudnn_graph.so.9",
    "libnccl.so",
    "libnccl.so.2",
    "libnvrtc.so",
    "libnvrtc.so.12",
    "libnvrtc.so.13",
];

/// Words that are cargo commands: `cargo sim test` means `cargo test` on the simulator.
const OF_CARGO: [&str; 4] = ["test", "run", "bench", "nextest"];

/// The variable with a comma-separated list of libraries or functions to leave out.
const WITHOUT: &str = "KILN_SIM_WITHOUT";

/// The variable for the framework's cache of convolution plans.
const PLAN_CACHE: &str = "KILN_PLAN_CACHE";

pub fn main() -> ExitCode {
    let mut words: Vec<_> = env::args_os().skip(1).collect();
    let mut option = |name: &str, length: usize| -> Option<Vec<OsString>> {
        let there = words.len() >= length && words[0] == name;
        there.then(|| words.drain(..length).collect())
    };
    let account = option("--account", 1).is_some();
    let coverage = option("--coverage", 1).is_some();
    let sanitizer = option("--sanitize", 2);
    if words.is_empty() {
        eprintln!(
            "usage: cargo sim [--account] [--coverage] [--sanitize address|thread] <command…>, as in `cargo sim test \
             --features cuda`"
        );
        return ExitCode::FAILURE;
    }
    if account && sanitizer.is_some() {
        eprintln!(
            "cargo sim: under a sanitizer kernels do not record what they read and write, so there is no account"
        );
        return ExitCode::FAILURE;
    }
    let after = After { account, coverage };
    match run(&words, after, sanitizer.as_ref().map(|words| words[1].as_os_str())) {
        Ok((status, findings)) => {
            let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
            // A program that succeeds although the device has found mistakes counts as failed.
            if code == 0 && findings > 0 { ExitCode::FAILURE } else { ExitCode::from(code) }
        }
        Err(error) => {
            eprintln!("simulated device: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What is printed after the reports.
struct After {
    account: bool,
    coverage: bool,
}

fn run(words: &[OsString], after: After, sanitizer: Option<&OsStr>) -> io::Result<(ExitStatus, usize)> {
    let own = env::current_exe()?;
    let home = own.parent().ok_or_else(|| io::Error::other("the runner has no folder"))?;
    // Cargo puts the library here for a program that it runs, and not beside the program.
    let library = home.join("deps").join("libkiln_sim.so");
    if !library.exists() {
        return Err(io::Error::other(format!("{} is not there: start the runner with cargo", library.display())));
    }
    let default = home.join("sim");
    let reports = default.join(format!("reports-{}", std::process::id()));
    fs::create_dir_all(&reports)?;
    let without = env::var(WITHOUT).unwrap_or_default();
    let libraries = if without.is_empty() {
        offer(&library, &default, &[])?;
        default.clone()
    } else {
        let without: Vec<&str> = without.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
        let folder = reports.join("libraries");
        fs::create_dir_all(&folder)?;
        offer(&library, &folder, &without)?;
        folder
    };
    let cargo = OF_CARGO.iter().any(|word| words[0] == *word);
    let mut command = if cargo {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.arg(&words[0]);
        command
    } else {
        Command::new(&words[0])
    };
    let mut path = vec![libraries];
    // When a program on the simulator starts another `cargo sim`, the inner simulator takes precedence.
    let inherited = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    path.extend(env::split_paths(&inherited).filter(|path| *path != default));
    command.args(&words[1..]);
    command.env("LD_LIBRARY_PATH", env::join_paths(path).map_err(io::Error::other)?);
    command.env("KILN_SIM_REPORT", &reports);
    // Plans cached by an earlier run would change the calls of this one.
    if env::var_os(PLAN_CACHE).is_none() {
        command.env(PLAN_CACHE, "0");
    }
    // For tests that run a part of themselves on a faulty device.
    command.env("KILN_SIM_RUNNER", &own);
    command.env_remove(WITHOUT);
    // Cargo's variables about this package. A cargo started from here would rerun build scripts that read them; but
    // tests started from here find their files by them.
    for name in env::vars_os().filter_map(|(name, _)| name.into_string().ok()).filter(|_| cargo) {
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || name == "OUT_DIR" {
            command.env_remove(name);
        }
    }
    if let Some(name) = sanitizer {
        Sanitizer::named(name)?.apply(&mut command, cargo)?;
    }
    let status = command.status()?;
    let mut findings = report(&reports)?;
    if after.account {
        account_table::print(&reports)?;
    }
    if after.coverage {
        findings += coverage::missing(&reports)?;
    }
    if let Some(outer) = env::var_os("KILN_SIM_REPORT") {
        hand_on(&reports, Path::new(&outer))?;
    }
    fs::remove_dir_all(&reports)?;
    Ok((status, findings))
}

/// What this run executed counts for the outer run that it is a part of.
fn hand_on(reports: &Path, outer: &Path) -> io::Result<()> {
    for entry in fs::read_dir(reports)? {
        let path = entry?.path();
        if let Some(name) = path.file_name().filter(|_| path.extension() == Some(OsStr::new("json"))) {
            fs::copy(&path, outer.join(name))?;
        }
    }
    Ok(())
}

/// Puts the libraries into a folder, except the libraries and functions that `without` names.
fn offer(library: &Path, folder: &Path, without: &[&str]) -> io::Result<()> {
    let functions: Vec<&str> = without.iter().copied().filter(|name| !name.starts_with("lib")).collect();
    let mut target = library.to_path_buf();
    if !functions.is_empty() {
        let mut image = fs::read(library)?;
        functions.iter().try_for_each(|name| forget(&mut image, name))?;
        target = folder.join("libkiln_sim.so");
        fs::write(&target, image)?;
    }
    for name in NAMES {
        let path = folder.join(name);
        // A single file, or a library under all its names.
        let is_left_out = |left_out: &&str| match left_out.contains(".so") {
            true => name == *left_out,
            false => left_out.starts_with("lib") && name.starts_with(left_out),
        };
        if !without.iter().any(is_left_out) {
            link(&target, &path)?;
        }
    }
    Ok(())
}

/// Renames a function in a library, so that it cannot be found.
fn forget(image: &mut [u8], name: &str) -> io::Result<()> {
    let text = [b"\0", name.as_bytes(), b"\0"].concat();
    let places: Vec<usize> =
        image.windows(text.len()).enumerate().filter(|(_, bytes)| *bytes == text).map(|(at, _)| at + 1).collect();
    if places.is_empty() {
        return Err(io::Error::other(format!("{WITHOUT}: the simulator has no function {name}")));
    }
    places.into_iter().for_each(|at| image[at] = b'_');
    Ok(())
}

/// Creates or replaces a link atomically, since other runs may use it.
fn link(target: &Path, name: &Path) -> io::Result<()> {
    if fs::read_link(name).is_ok_and(|old| old == target) {
        return Ok(());
    }
    let fresh = name.with_extension(format!("{}.new", std::process::id()));
    std::os::unix::fs::symlink(target, &fresh)?;
    fs::rename(&fresh, name)
}

/// Prints the reports of all processes, and counts the findings.
fn report(folder: &Path) -> io::Result<usize> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    files.retain(|file| file.extension() == Some(OsStr::new("txt")));
    files.sort();
    let mut findings = 0;
    for file in &files {
        let text = fs::read_to_string(file)?;
        findings += text.lines().filter(|line| line.starts_with("! ")).count();
        eprint!("{text}");
    }
    match (files.is_empty(), findings) {
        (true, _) => eprintln!("simulated device: it was not used"),
        (false, 0) => eprintln!("simulated device: no findings"),
        (false, count) => eprintln!("simulated device: {count} findings"),
    }
    Ok(findings)
}

//! Puts the simulated device in the place of the driver's libraries, runs a command, and reports.
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};
use std::{env, fs, io};

/// Every name under which loaders look for what the simulator stands in for. The unversioned names come first in
/// some of them, so that without these a real library would win.
const NAMES: [&str; 2] = ["libcuda.so", "libcuda.so.1"];

/// Words that are commands of cargo: `cargo sim test` means `cargo test` on the simulator.
const OF_CARGO: [&str; 4] = ["test", "run", "bench", "nextest"];

pub fn main() -> ExitCode {
    let words: Vec<_> = env::args_os().skip(1).collect();
    if words.is_empty() {
        eprintln!("usage: cargo sim <command…>, as in `cargo sim test --features cuda`");
        return ExitCode::FAILURE;
    }
    match run(&words) {
        Ok((status, findings)) => {
            let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
            // A program that succeeds with mistakes that the device has seen has not succeeded.
            if code == 0 && findings > 0 { ExitCode::FAILURE } else { ExitCode::from(code) }
        }
        Err(error) => {
            eprintln!("simulated device: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[std::ffi::OsString]) -> io::Result<(ExitStatus, usize)> {
    let own = env::current_exe()?;
    let home = own.parent().ok_or_else(|| io::Error::other("the runner has no folder"))?;
    // Cargo puts the library of a program that it runs here, and not beside the program.
    let library = home.join("deps").join("libkiln_sim.so");
    if !library.exists() {
        return Err(io::Error::other(format!("{} is not there: start the runner with cargo", library.display())));
    }
    let folder = home.join("sim");
    fs::create_dir_all(&folder)?;
    for name in NAMES {
        link(&library, &folder.join(name))?;
    }
    let reports = folder.join(format!("reports-{}", std::process::id()));
    fs::create_dir_all(&reports)?;
    let cargo = OF_CARGO.iter().any(|word| words[0] == *word);
    let mut command = if cargo {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.arg(&words[0]);
        command
    } else {
        Command::new(&words[0])
    };
    let mut path = vec![folder.clone()];
    path.extend(env::var_os("LD_LIBRARY_PATH").iter().flat_map(env::split_paths));
    command.args(&words[1..]);
    command.env("LD_LIBRARY_PATH", env::join_paths(path).map_err(io::Error::other)?);
    command.env("KILN_SIM_REPORT", &reports);
    let status = command.status()?;
    let findings = report(&reports)?;
    fs::remove_dir_all(&reports)?;
    Ok((status, findings))
}

/// A link that is there, whatever was there before.
fn link(target: &Path, name: &Path) -> io::Result<()> {
    if fs::read_link(name).is_ok_and(|old| old == target) {
        return Ok(());
    }
    let _ = fs::remove_file(name);
    std::os::unix::fs::symlink(target, name)
}

/// Prints what each process has left, and counts the findings.
fn report(folder: &Path) -> io::Result<usize> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    files.sort();
    let mut findings = 0;
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "txt")) {
        let text = fs::read_to_string(file)?;
        findings += text.lines().filter(|line| line.starts_with("! ")).count();
        eprint!("{text}");
    }
    match (files.is_empty(), findings) {
        (true, _) => eprintln!("simulated device: nobody has used it"),
        (false, 0) => eprintln!("simulated device: no findings"),
        (false, count) => eprintln!("simulated device: {count} findings"),
    }
    Ok(findings)
}

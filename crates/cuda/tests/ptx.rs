//! Every compiled kernel assembles for every architecture that a user may have, without spills.
//!
//! Runs the `ptxas` beside the `nvcc` that built the kernels. `KILN_PTXAS` adds others, as a list in the form of `PATH`:
//! older ones must take the same text for the architectures that they know. All of it takes minutes for an assembler;
//! `KILN_PTX_ARCHITECTURES`, a list as `80,121`, picks some.
#![cfg(feature = "kernels")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use kiln_cuda::launch::{ENTRIES, MODULES, Module};

const ARCHITECTURES: [u32; 10] = [75, 80, 86, 87, 89, 90, 100, 103, 120, 121];

/// Kernels that may use local memory: the reduction of huge angles in CUDA's library looks bits of pi up in a table
/// and keeps some of them there. Ordinary angles do not touch it.
const LOCAL_MEMORY: [&str; 5] = ["unary_sin_", "unary_cos_", "unary_tan_", "unary_grad_sin_", "unary_grad_cos_"];

/// The module that a device loads: the latest that is not later than the device.
fn loaded(architecture: u32) -> Vec<&'static Module> {
    let fits = |module: &&Module| module.capability <= architecture;
    let best = MODULES.iter().filter(fits).map(|module| module.capability).max();
    MODULES.iter().filter(|module| Some(module.capability) == best).collect()
}

/// Assembles one module; what is wrong with it, if anything.
fn assemble(ptxas: &Path, architecture: u32, module: &Module, folder: &Path) -> Option<String> {
    let name = format!("{}.{}.{architecture}", module.file, module.capability);
    let (ptx, cubin) = (folder.join(format!("{name}.ptx")), folder.join(format!("{name}.cubin")));
    fs::write(&ptx, module.ptx).unwrap();
    let output = Command::new(ptxas)
        .args([&format!("-arch=sm_{architecture}"), "--warn-on-spills", "--warn-on-local-memory-usage", "-o"])
        .args([&cubin, &ptx])
        .output()
        .unwrap_or_else(|e| panic!("{} does not start: {e}", ptxas.display()));
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    for file in [ptx, cubin] {
        // A failed run leaves no cubin; the folder goes in the end anyway.
        let _ = fs::remove_file(file);
    }
    let local = |line: &str| line.contains("Local memory used") && LOCAL_MEMORY.iter().any(|name| line.contains(name));
    let wrong: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty() && !local(line)).collect();
    if output.status.success() && wrong.is_empty() { None } else { Some(format!("{name}:\n{}", wrong.join("\n"))) }
}

/// Assembles modules for architectures, on all processors.
fn assemble_all(ptxas: &Path, jobs: &[(u32, &'static Module)]) -> Vec<String> {
    let folder = env::temp_dir().join(format!("kiln-ptx-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some((architecture, module)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let failure = assemble(ptxas, *architecture, module, &folder);
                    failures.lock().unwrap().extend(failure);
                }
            });
        }
    });
    fs::remove_dir_all(&folder).unwrap();
    failures.into_inner().unwrap()
}

/// The architectures that an assembler knows.
fn known(ptxas: &Path) -> Vec<u32> {
    let output = Command::new(ptxas).arg("--help").output().unwrap_or_else(|e| panic!("{}: {e}", ptxas.display()));
    let help = String::from_utf8_lossy(&output.stdout).into_owned();
    ARCHITECTURES.into_iter().filter(|a| help.contains(&format!("'sm_{a}'"))).collect()
}

#[test]
fn kernels_assemble_for_every_architecture() {
    if MODULES.is_empty() {
        // `KILN_CUDA_STUB=1` asked for a build without them.
        assert!(env::var("KILN_CUDA_STUB").is_ok_and(|value| value == "1"), "no kernels are built in");
        return;
    }
    let beside = PathBuf::from(env!("KILN_NVCC")).with_file_name("ptxas");
    assert_eq!(known(&beside), ARCHITECTURES, "{} is too old to check all", beside.display());
    let some: Option<Vec<u32>> = env::var("KILN_PTX_ARCHITECTURES")
        .ok()
        .map(|list| list.split(',').map(|text| text.trim().parse().expect("numbers with commas")).collect());
    let more = env::var_os("KILN_PTXAS");
    let mut failures = Vec::new();
    for ptxas in std::iter::once(beside).chain(more.iter().flat_map(env::split_paths)) {
        let mut architectures = known(&ptxas);
        architectures.retain(|architecture| some.as_ref().is_none_or(|some| some.contains(architecture)));
        println!("{} for {architectures:?}", ptxas.display());
        let jobs: Vec<_> = architectures.iter().flat_map(|&a| loaded(a).into_iter().map(move |m| (a, m))).collect();
        assert!(!jobs.is_empty());
        failures.extend(assemble_all(&ptxas, &jobs));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn every_file_is_there_for_every_capability_and_runs_on_old_drivers() {
    let mut capabilities: Vec<u32> = MODULES.iter().map(|module| module.capability).collect();
    capabilities.sort_unstable();
    capabilities.dedup();
    for module in MODULES {
        let version = module.ptx.lines().find_map(|line| line.strip_prefix(".version ")).unwrap();
        let highest = if module.capability <= 80 { "7.0" } else { "8.6" };
        assert!(version <= highest, "{} has .version {version}", module.file);
        let target = format!(".target sm_{}", module.capability);
        assert!(module.ptx.lines().any(|line| line == target), "{}: no {target}", module.file);
    }
    for entry in ENTRIES {
        for &capability in &capabilities {
            let module = MODULES.iter().find(|m| m.file == entry.file && m.capability == capability).unwrap();
            assert!(module.ptx.contains(&format!(".entry {}(", entry.name)), "{} for {capability}", entry.name);
        }
    }
}

//! The images of the kernels: PTX that assembles without spills for every supported architecture, and SASS of bounded
//! size.
//!
//! Runs the `ptxas` beside the `nvcc` that built the kernels. `KILN_PTXAS` adds others, as a list in the form of
//! `PATH`: older ones must accept the same text for the architectures that they support. Each assembler takes minutes
//! for all of them; `KILN_PTX_ARCHITECTURES`, a list such as `80,121`, selects some.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use kiln_cuda::launch::{Code, ENTRIES, Entry, IMAGES, Image};

const ARCHITECTURES: [u32; 10] = [75, 80, 86, 87, 89, 90, 100, 103, 120, 121];

/// Kernels that may use local memory: the reduction of huge angles in CUDA's library looks bits of pi up in a table
/// and keeps some of them there. Ordinary angles do not touch it.
const LOCAL_MEMORY: [&str; 5] = ["unary_sin_", "unary_cos_", "unary_tan_", "unary_grad_sin_", "unary_grad_cos_"];

/// What each architecture's SASS may add to a program, and the PTX, compressed: the default list of six stays below 25 MB.
const MAX_BYTES: usize = 2_000_000;

fn ptx() -> impl Iterator<Item = &'static Image> {
    IMAGES.iter().filter(|image| image.code == Code::Ptx)
}

/// The text of PTX, without the zero at its end.
fn text(image: &Image) -> String {
    let mut bytes = image.bytes().unwrap();
    assert_eq!(bytes.pop(), Some(0));
    String::from_utf8(bytes).unwrap()
}

/// Assembles one file; what is wrong with it, if anything.
fn assemble(ptxas: &Path, architecture: u32, image: &Image, folder: &Path) -> Option<String> {
    let name = format!("{}.{}.{architecture}", image.file, image.capability);
    let (ptx, cubin) = (folder.join(format!("{name}.ptx")), folder.join(format!("{name}.cubin")));
    fs::write(&ptx, text(image)).unwrap();
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

/// Assembles files for architectures, on all processors.
fn assemble_all(ptxas: &Path, jobs: &[(u32, &'static Image)]) -> Vec<String> {
    let folder = env::temp_dir().join(format!("kiln-ptx-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some((architecture, image)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let failure = assemble(ptxas, *architecture, image, &folder);
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
    if IMAGES.is_empty() {
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
        let runs = |architecture| ptx().filter(move |image| image.capability <= architecture);
        let jobs: Vec<_> = architectures.iter().flat_map(|&a| runs(a).map(move |image| (a, image))).collect();
        assert!(!jobs.is_empty());
        failures.extend(assemble_all(&ptxas, &jobs));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn every_file_is_there_for_every_capability_and_runs_on_old_drivers() {
    let of = |code| {
        let images = IMAGES.iter().filter(move |image| image.code == code);
        images.map(|image| image.capability).collect::<BTreeSet<u32>>()
    };
    let (sass, ptx_for) = (of(Code::Sass), of(Code::Ptx));
    // PTX of the lowest, for all that have no SASS.
    assert_eq!(ptx_for.iter().collect::<Vec<_>>(), sass.first().into_iter().collect::<Vec<_>>());
    for image in ptx() {
        let text = text(image);
        let version = text.lines().find_map(|line| line.strip_prefix(".version ")).unwrap();
        let highest = if image.capability <= 80 { "7.0" } else { "8.6" };
        assert!(version <= highest, "{} has .version {version}", image.file);
        let target = format!(".target sm_{}", image.capability);
        assert!(text.lines().any(|line| line == target), "{}: no {target}", image.file);
        for entry in ENTRIES.iter().filter(|entry| entry.file == image.file) {
            assert!(text.contains(&format!(".entry {}(", entry.name)), "{}", entry.name);
        }
    }
    for (code, capabilities) in [(Code::Sass, sass), (Code::Ptx, ptx_for)] {
        for capability in capabilities {
            let found = |file| {
                let of = |image: &&Image| (image.file, image.code, image.capability) == (file, code, capability);
                IMAGES.iter().find(of)
            };
            assert!(ENTRIES.iter().all(|entry| found(entry.file).is_some()), "{code:?} for {capability}");
            // Names stand in the ELF file's table of symbols.
            let files: BTreeSet<&str> = ENTRIES.iter().map(|entry| entry.file).collect();
            for image in files.into_iter().filter_map(found) {
                let bytes = image.bytes().unwrap();
                let names: BTreeSet<&[u8]> = bytes.split(|&byte| byte == 0).collect();
                let missing = |entry: &&Entry| entry.file == image.file && !names.contains(entry.name.as_bytes());
                assert!(code == Code::Ptx || ENTRIES.iter().find(missing).is_none(), "{} for {capability}", image.file);
            }
        }
    }
}

#[test]
fn images_are_small() {
    let mut sizes: BTreeMap<(bool, u32), usize> = BTreeMap::new();
    for image in IMAGES {
        *sizes.entry((image.code == Code::Sass, image.capability)).or_default() += image.compressed.len();
    }
    for ((sass, capability), bytes) in sizes {
        println!("{} for {capability}: {bytes} bytes", if sass { "SASS" } else { "PTX" });
        assert!(bytes <= MAX_BYTES, "{bytes} bytes for {capability}: docs/gpu.md has a table to update");
    }
}

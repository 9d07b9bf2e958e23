//! Compiles every `.cu` file to images: SASS for each listed architecture, and PTX of the lowest for all later ones.
//!
//! nvcc's front end runs once per file, to PTX of the lowest architecture; ptxas assembles this PTX for every
//! architecture. Images are compressed with deflate.

use std::{
    collections::hash_map::DefaultHasher,
    env, fs,
    hash::{Hash, Hasher},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use crate::{
    compiled::{Compiled, Image},
    files::{Result, has_extension, read, sorted_files, write},
};

/// No contraction to fused multiply-adds: the CPU backend has none, and results should agree. Diagnostic 186 (comparing
/// unsigned numbers with 0) comes from templates that also serve signed types.
const FLAGS: [&str; 5] = ["-ptx", "-O3", "-std=c++17", "--fmad=false", "-diag-suppress=186"];
/// The default of `CUDA_COMPUTE_CAP`: A100, RTX 30 and A10, RTX 40 and L4, H100, B200, RTX 50. A device of the same
/// major version and a later minor one (B300, GB10) runs the SASS of the earlier one.
const DEFAULT_CAPABILITIES: &str = "80,86,89,90,100,120";
/// PTX versions to write in place of the compiler's, which older drivers refuse: the lowest version that supports each
/// architecture.
const LOWEST_PTX: [(u32, &str); 4] = [(80, "7.0"), (86, "7.1"), (90, "7.8"), (100, "8.6")];

/// Compiles all files of a folder into `out`, with as many threads as cargo's job server allows.
pub fn compile_all(nvcc: &Path, kernels: &Path, out: &Path) -> Result<Compiled> {
    let tools = Tools::new(nvcc)?;
    let capabilities = tools.capabilities()?;
    let lowest = capabilities[0];
    let files = sorted_files(kernels)?;
    let mut headers = DefaultHasher::new();
    for header in files.iter().filter(|file| has_extension(file, "cuh")) {
        read(header)?.hash(&mut headers);
    }
    let sources: Vec<&PathBuf> = files.iter().filter(|file| has_extension(file, "cu")).collect();
    let stem = |source: &Path| source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let ptx = parallel(&sources, |source| {
        let text = tools.ptx(source, &out.join(format!("{}.{lowest}.ptx", stem(source))), lowest, headers.clone())?;
        Ok((stem(source), text))
    })?;
    // The longest jobs first, so that none of them is left to run alone at the end.
    let mut jobs: Vec<(&str, &str, u32)> =
        ptx.iter().flat_map(|(stem, text)| capabilities.iter().map(move |&c| (&**stem, &**text, c))).collect();
    jobs.sort_by_key(|(_, text, _)| std::cmp::Reverse(text.len()));
    let mut images = parallel(&jobs, |&(stem, text, capability)| {
        let compressed = out.join(format!("{stem}.{capability}.sass"));
        let len = tools.sass(text, &compressed, capability)?;
        Ok(Image { stem: stem.into(), capability, sass: true, len, compressed })
    })?;
    for (stem, text) in &ptx {
        let compressed = out.join(format!("{stem}.{lowest}.ptx.deflate"));
        write_bytes(&compressed, &deflate(text.as_bytes())?)?;
        images.push(Image { stem: stem.clone(), capability: lowest, sass: false, len: text.len(), compressed });
    }
    images.sort_by(|a, b| (&a.stem, !a.sass, a.capability).cmp(&(&b.stem, !b.sass, b.capability)));
    Ok(Compiled { images, ptx, toolkit: tools.toolkit })
}

/// The compiler and the assembler beside it.
struct Tools {
    nvcc: PathBuf,
    ptxas: PathBuf,
    toolkit: u32,
    /// Hash of the tools, to detect when they change.
    stamp: DefaultHasher,
}

impl Tools {
    fn new(nvcc: &Path) -> Result<Tools> {
        let beside = nvcc.with_file_name(format!("ptxas{}", env::consts::EXE_SUFFIX));
        let ptxas = if beside.is_file() { beside } else { "ptxas".into() };
        let version = run(Command::new(&ptxas).arg("--version"))?;
        let toolkit = release(&version).ok_or_else(|| {
            format!("cannot find the CUDA release in the output of {} --version:\n{version}", ptxas.display())
        })?;
        let mut stamp = DefaultHasher::new();
        (nvcc, &version, FLAGS, LOWEST_PTX).hash(&mut stamp);
        fs::metadata(nvcc).and_then(|data| data.modified()).ok().hash(&mut stamp);
        Ok(Tools { nvcc: nvcc.to_owned(), ptxas, toolkit, stamp })
    }

    /// The architectures of `CUDA_COMPUTE_CAP` in ascending order; by default those of the default list that the
    /// assembler supports.
    fn capabilities(&self) -> Result<Vec<u32>> {
        let list = env::var("CUDA_COMPUTE_CAP").ok().filter(|list| !list.trim().is_empty());
        let mut capabilities = parse_capabilities(list.as_deref().unwrap_or(DEFAULT_CAPABILITIES))?;
        let help = run(Command::new(&self.ptxas).arg("--help"))?;
        let known = |capability: &u32| help.contains(&format!("'sm_{capability}'"));
        let unknown: Vec<u32> = capabilities.iter().copied().filter(|capability| !known(capability)).collect();
        if !unknown.is_empty() {
            let (major, minor) = (self.toolkit / 1000, self.toolkit % 1000 / 10);
            let text = format!("{} of CUDA {major}.{minor} does not support {unknown:?}", self.ptxas.display());
            if list.is_some() {
                return Err(format!("CUDA_COMPUTE_CAP: {text}"));
            }
            println!("cargo::warning={text}: GPUs of these architectures compile PTX when a program starts");
            capabilities.retain(known);
        }
        if capabilities.is_empty() { Err("CUDA_COMPUTE_CAP names no architecture".into()) } else { Ok(capabilities) }
    }

    /// The PTX of a file; compiled again if the file, a header or a tool has changed.
    fn ptx(&self, source: &Path, ptx: &Path, capability: u32, mut stamp: DefaultHasher) -> Result<String> {
        (self.stamp.finish(), read(source)?).hash(&mut stamp);
        let stamp = format!("{:x}", stamp.finish());
        let stamp_file = ptx.with_extension("ptx.stamp");
        if fs::read_to_string(&stamp_file).is_ok_and(|old| old == stamp)
            && let Ok(text) = fs::read_to_string(ptx)
        {
            return Ok(text);
        }
        let raw = ptx.with_extension("raw");
        let architecture = format!("-arch=compute_{capability}");
        run(Command::new(&self.nvcc).args(FLAGS).arg(architecture).arg("-o").arg(&raw).arg(source))?;
        let text = lower_version(&read(&raw)?, capability);
        write(ptx, &text)?;
        write(&stamp_file, &stamp)?;
        Ok(text)
    }

    /// Assembles PTX into a compressed file, unless the file was made of the same PTX by the same tool. Returns the
    /// length of the SASS.
    fn sass(&self, ptx: &str, compressed: &Path, capability: u32) -> Result<usize> {
        let mut stamp = self.stamp.clone();
        (ptx, capability).hash(&mut stamp);
        let stamp_file = compressed.with_extension("sass.stamp");
        let stamp = format!("{:x} ", stamp.finish());
        let old = fs::read_to_string(&stamp_file).ok().filter(|_| compressed.exists());
        if let Some(len) = old.as_deref().and_then(|old| old.strip_prefix(&stamp)?.parse().ok()) {
            return Ok(len);
        }
        let (text, cubin) = (compressed.with_extension("sass.ptx"), compressed.with_extension("cubin"));
        write(&text, ptx)?;
        run(Command::new(&self.ptxas).arg(format!("-arch=sm_{capability}")).arg("-o").args([&cubin, &text]))?;
        let bytes = fs::read(&cubin).map_err(|e| format!("{}: {e}", cubin.display()))?;
        write_bytes(compressed, &deflate(&bytes)?)?;
        for file in [&text, &cubin] {
            // Leftover files only take space.
            let _ = fs::remove_file(file);
        }
        write(&stamp_file, &format!("{stamp}{}", bytes.len()))?;
        Ok(bytes.len())
    }
}

/// Parses `80,8.6` and the like, in ascending order.
fn parse_capabilities(list: &str) -> Result<Vec<u32>> {
    let mut capabilities = Vec::new();
    for part in list.split([',', ';', ' ']).map(str::trim).filter(|part| !part.is_empty()) {
        let number = part.replace('.', "").parse().map_err(|_| {
            format!(
                "CUDA_COMPUTE_CAP={list}: {part:?} is not a compute capability; write a list such as 80,90 or 8.0,9.0"
            )
        })?;
        capabilities.push(number);
    }
    capabilities.sort_unstable();
    capabilities.dedup();
    Ok(capabilities)
}

/// 13050 from `Cuda compilation tools, release 13.5, V13.5.37`.
fn release(version: &str) -> Option<u32> {
    let (_, rest) = version.split_once("release ")?;
    let (major, rest) = rest.split_once('.')?;
    let minor = rest.split(|letter: char| !letter.is_ascii_digit()).next()?;
    Some(major.parse::<u32>().ok()? * 1000 + minor.parse::<u32>().ok()? * 10)
}

/// Replaces the `.version` of PTX by the lowest one that supports the architecture, and drops comments.
fn lower_version(ptx: &str, capability: u32) -> String {
    let lowest = LOWEST_PTX.iter().find(|(below, _)| capability <= *below).map(|(_, version)| *version);
    let mut text = String::with_capacity(ptx.len());
    for line in ptx.lines() {
        match (line.strip_prefix(".version"), lowest) {
            (Some(_), Some(version)) => text.extend([".version ", version]),
            _ if line.trim_start().starts_with("//") || line.trim().is_empty() => continue,
            // Says which bytes of a vector load are used; older versions do not know it, and code is right without it.
            _ if line.trim_start().starts_with(".pragma \"used_bytes_mask") => continue,
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

/// Runs a command and returns what it prints, or an error if it fails.
fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|e| format!("{program} does not start: {e}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    let arguments: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
    Err(format!("{program} {} failed:\n{}{}", arguments.join(" "), text(&output.stdout), text(&output.stderr)))
}

fn deflate(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).map_err(|e| format!("deflate: {e}"))
}

fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).map_err(|e| format!("{}: {e}", path.display()))
}

/// Runs jobs on this thread, for which cargo has already granted a token, and on one more thread per token that the job
/// server grants meanwhile. The results are in the order of the jobs; failures are reported together.
fn parallel<T: Sync, R: Send>(jobs: &[T], run: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>> {
    let threads = thread::available_parallelism().map_or(2, usize::from).min(jobs.len());
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some((i, job)) = Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|i| Some((i, jobs.get(i)?))) {
            let result = run(job);
            results.lock().unwrap_or_else(|e| e.into_inner()).push((i, result));
        }
    };
    // SAFETY: cargo passes the job server's descriptors to build scripts, and nothing here opens descriptors before
    // this.
    let server = unsafe { jobserver::Client::from_env() };
    let (give, tokens) = mpsc::channel();
    // Without a job server (the build script was run by hand) the number of threads is not limited.
    let helper = server.and_then(|server| server.into_helper_thread(move |token| drop(give.send(token))).ok());
    if let Some(helper) = &helper {
        (1..threads).for_each(|_| helper.request_token());
    }
    let (tokens, work) = (Mutex::new(tokens), &work);
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|| {
                while next.load(Ordering::Relaxed) < jobs.len() {
                    let wait = Duration::from_millis(20);
                    let token = tokens.lock().unwrap_or_else(|e| e.into_inner()).recv_timeout(wait);
                    match token {
                        Err(RecvTimeoutError::Timeout) => {}
                        // The token is returned when the work is done.
                        Ok(_token) => work(),
                        Err(RecvTimeoutError::Disconnected) => work(),
                    }
                }
            });
        }
        work();
    });
    let mut results = results.into_inner().unwrap_or_else(|e| e.into_inner());
    results.sort_by_key(|(i, _)| *i);
    let (mut done, mut failures) = (Vec::new(), Vec::new());
    for (_, result) in results {
        match result {
            Ok(result) => done.push(result),
            Err(failure) => failures.push(failure),
        }
    }
    if failures.is_empty() { Ok(done) } else { Err(failures.join("\n")) }
}

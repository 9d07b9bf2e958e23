//! Builds of the kernels for sanitizers: `cargo sim --sanitize address …`, or `thread`. The engine and the kernels'
//! rewritten sources are those of the simulator's build; only the instrumentation differs.
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::SystemTime;
use std::{env, fs, io, thread};

const OUT: &str = env!("OUT_DIR");
const ENGINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/csrc");
const COMPILER: &str = env!("KILN_SIM_CXX");
/// As in the simulator's own build.
const ENGINE_LANGUAGE: &str = "-std=c++20";
const KERNEL_LANGUAGE: &str = "-std=c++17";
const SHARED: [&str; 5] = ["-fPIC", "-w", "-ffp-contract=off", "-fno-strict-aliasing", "-fno-stack-protector"];

/// A sanitizer, or two that are used together.
pub struct Sanitizer {
    name: &'static str,
    define: &'static str,
    /// The flags to compile the kernels with; `None` to use the simulator's own build.
    kernels: Option<&'static [&'static str]>,
    libraries: &'static [&'static str],
    options: &'static [(&'static str, &'static str)],
}

const SANITIZERS: [Sanitizer; 2] = [
    Sanitizer {
        name: "address",
        define: "-DKILN_SIM_ADDRESS",
        // Without optimization, with which the instantiations for each element type would take minutes to compile.
        kernels: Some(&["-g1", "-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize=vptr"]),
        libraries: &["libasan.so", "libubsan.so"],
        options: &[
            // Rust programs hold memory until they end.
            ("ASAN_OPTIONS", "detect_leaks=0:detect_stack_use_after_return=0:allow_user_segv_handler=1"),
            ("UBSAN_OPTIONS", "halt_on_error=1:print_stacktrace=1"),
        ],
    },
    Sanitizer {
        name: "thread",
        define: "-DKILN_SIM_THREAD",
        // Our own hooks are called by the same instrumentation.
        kernels: None,
        libraries: &["libtsan.so", "libubsan.so"],
        // Only the kernels are instrumented, and only they are checked.
        options: &[("TSAN_OPTIONS", "ignore_noninstrumented_modules=1:report_thread_leaks=0:exitcode=66")],
    },
];

impl Sanitizer {
    pub fn named(name: &OsStr) -> io::Result<&'static Sanitizer> {
        SANITIZERS.iter().find(|one| name == one.name).ok_or_else(|| {
            io::Error::other(format!("no sanitizer {}: there are `address` and `thread`", name.to_string_lossy()))
        })
    }

    /// Makes a command run its program with a build for this sanitizer.
    pub fn apply(&self, command: &mut Command, cargo: bool) -> io::Result<()> {
        command.env(kiln_sim::ENGINE_PATH, self.build()?).envs(self.options.iter().copied());
        let preload = self.libraries.iter().map(|name| library(name)).collect::<io::Result<Vec<_>>>()?.join(":");
        if cargo {
            // For the program alone, not for the compiler that cargo runs.
            let triple = env!("KILN_SIM_TARGET").replace('-', "_").to_uppercase();
            command.env(format!("CARGO_TARGET_{triple}_RUNNER"), format!("env LD_PRELOAD={preload}"));
        } else {
            command.env("LD_PRELOAD", preload);
        }
        Ok(())
    }

    /// The engine's library with the kernels, which is built if it is missing or out of date.
    fn build(&self) -> io::Result<PathBuf> {
        let folder = Path::new(OUT).join(self.name);
        fs::create_dir_all(&folder)?;
        // Runs beside each other would link objects that the other one is writing. The second finds all of it built.
        let lock = fs::File::create(folder.join("lock"))?;
        lock.lock()?;
        let target = folder.join("libkiln_sim_engine.so");
        let texts = kernels()?;
        let mut sources = texts.clone();
        sources.push(Path::new(OUT).join("registry.cpp"));
        for entry in fs::read_dir(ENGINE)? {
            sources.push(entry?.path());
        }
        // The flags are part of the runner, so a new runner means a rebuild.
        sources.push(env::current_exe()?);
        let made = fs::metadata(&target).and_then(|data| data.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut newest = made;
        for source in &sources {
            newest = newest.max(fs::metadata(source)?.modified()?);
        }
        if newest == made && target.exists() {
            return Ok(target);
        }
        let objects = match self.kernels {
            None => texts.iter().map(|text| text.with_extension("o")).collect(),
            Some(flags) => compile(&texts, flags, &folder)?,
        };
        // Linked under another name and renamed: others may be running the existing one.
        let fresh = folder.join(format!("{}.so", std::process::id()));
        let mut link = Command::new(COMPILER);
        link.arg(ENGINE_LANGUAGE)
            .args(SHARED)
            .args(["-O2", "-shared", "-Wl,-Bsymbolic", self.define, "-I", ENGINE, "-o"])
            .arg(&fresh);
        for part in ["engine.cpp", "memory.cpp", "signals.cpp"] {
            link.arg(Path::new(ENGINE).join(part));
        }
        run(link.arg(Path::new(OUT).join("registry.cpp")).args(objects))?;
        fs::rename(fresh, &target)?;
        Ok(target)
    }
}

/// The kernels' sources, as the build has rewritten them.
fn kernels() -> io::Result<Vec<PathBuf>> {
    let registry = fs::read_to_string(Path::new(OUT).join("registry.cpp"))?;
    let names = registry.lines().filter_map(|line| line.trim().strip_prefix('&')?.strip_suffix(','));
    Ok(names.map(|name| Path::new(OUT).join(format!("{name}.cpp"))).collect())
}

/// Compiles each source to an object in `folder`, as many at a time as there are processors.
fn compile(texts: &[PathBuf], flags: &[&str], folder: &Path) -> io::Result<Vec<PathBuf>> {
    let object = |text: &Path| folder.join(text.file_name().unwrap_or_default()).with_extension("o");
    let queue = Mutex::new(texts.iter());
    let worker = || -> io::Result<()> {
        while let Some(text) = queue.lock().ok().and_then(|mut queue| queue.next()) {
            run(Command::new(COMPILER)
                .arg(KERNEL_LANGUAGE)
                .args(SHARED)
                .args(flags)
                .arg("-c")
                .arg(text)
                .arg("-o")
                .arg(object(text)))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let count = thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..count).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|one| one.join().map_err(|_| io::Error::other("a compiler's thread"))?)
    })?;
    Ok(texts.iter().map(|text| object(text)).collect())
}

/// The path of a sanitizer's library, from the compiler.
fn library(name: &str) -> io::Result<String> {
    let output = Command::new(COMPILER).arg(format!("-print-file-name={name}")).output()?;
    let path = String::from_utf8_lossy(&output.stdout).trim().to_string();
    if Path::new(&path).is_absolute() {
        return Ok(path);
    }
    Err(io::Error::other(format!("{COMPILER} has no {name}")))
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let program: OsString = command.get_program().into();
    Err(io::Error::other(format!("{}: {}", program.to_string_lossy(), String::from_utf8_lossy(&output.stderr))))
}

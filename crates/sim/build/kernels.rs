//! Builds one static library from `.cu` files: preprocesses, rewrites, and compiles them with the engine's hooks.
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::{env, fs, thread};

use crate::rewrite::{Kernels, rewrite};

/// The flags make the compiler report every memory access to the engine (`csrc/memory.cpp` replaces the sanitizers'
/// libraries), and compute as on the device: no fused multiply-add, integers wrap, any pointer may be cast. The
/// language is that of nvcc's command (the last `-std` counts), because a later one has functions of the same names:
/// `std::lerp`. More optimization would cost minutes of build time, while most of the run time is spent in the hooks
/// anyway.
const KERNEL_FLAGS: [&str; 10] = [
    KERNEL_LANGUAGE,
    "-Og",
    "-g1",
    "-fsanitize=thread,alignment,bounds,shift,integer-divide-by-zero,float-cast-overflow,bool,enum,unreachable,return",
    "-ffp-contract=off",
    "-fwrapv",
    "-fno-strict-aliasing",
    "-fno-math-errno",
    "-fno-exceptions",
    "-fno-stack-protector",
];

const KERNEL_LANGUAGE: &str = "-std=c++17";

pub fn build() -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo did not say where to build")?);
    let files = sources()?;
    let errors = Mutex::new(Vec::new());
    let queue = Mutex::new(files.iter());
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from).min(files.len()) {
            scope.spawn(|| {
                while let Some(file) = queue.lock().ok().and_then(|mut queue| queue.next()) {
                    match compile(file, &out) {
                        Ok(built) => done.lock().into_iter().for_each(|mut done| done.push(built.clone())),
                        Err(error) => errors.lock().into_iter().for_each(|mut errors| errors.push(error.clone())),
                    }
                }
            });
        }
    });
    let errors = errors.into_inner().unwrap_or_default();
    if !errors.is_empty() {
        return Err(errors.join("\n"));
    }
    let mut done = done.into_inner().unwrap_or_default();
    // The framework's kernels first.
    done.sort_by(|a, b| (a.test, &a.table).cmp(&(b.test, &b.table)));
    let registry = out.join("registry.cpp");
    write_if_changed(&registry, &registry_text(&done))?;
    let mut library = base();
    library.opt_level(2).warnings(true).include("csrc");
    for part in ["engine", "memory", "signals"] {
        library.file(format!("csrc/{part}.cpp"));
    }
    library.file(registry);
    for built in &done {
        library.object(&built.object);
    }
    library.try_compile("kiln_sim_engine").map_err(|error| format!("the engine of the simulated device: {error}"))?;
    // For builds with the sanitizers' libraries, which the runner starts (`src/sanitize.rs`).
    let compiler = base().try_get_compiler().map_err(|error| error.to_string())?;
    println!("cargo::rustc-env=KILN_SIM_CXX={}", compiler.path().display());
    println!("cargo::rustc-env=KILN_SIM_TARGET={}", env::var("TARGET").unwrap_or_default());
    for folder in ["csrc", "build"] {
        println!("cargo::rerun-if-changed={folder}");
    }
    Ok(())
}

fn base() -> cc::Build {
    let mut build = cc::Build::new();
    build.cpp(true).std("c++20");
    build
}

/// The kernels of this crate's tests, including planted faults. They are always included, because a separate build of
/// them would cost minutes.
const TESTS: &str = "tests/kernels";

/// The framework's kernels (those of another checkout, if `KILN_SIM_KERNELS` names its folder), and the tests' kernels.
fn sources() -> Result<Vec<PathBuf>, String> {
    println!("cargo::rerun-if-env-changed=KILN_SIM_KERNELS");
    let own = env::var_os("KILN_SIM_KERNELS").map_or_else(|| "../../kernels".into(), PathBuf::from);
    let mut files = Vec::new();
    for folder in [own, TESTS.into()] {
        println!("cargo::rerun-if-changed={}", folder.display());
        let entries = fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        for entry in entries {
            let path = entry.map_err(|error| format!("{}: {error}", folder.display()))?.path();
            if path.extension().is_some_and(|extension| extension == "cu") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

#[derive(Clone)]
struct Built {
    /// Whether it belongs to the tests.
    test: bool,
    table: String,
    object: PathBuf,
}

fn compile(file: &Path, out: &Path) -> Result<Built, String> {
    let name = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let compiler = base().try_get_compiler().map_err(|error| name(&error))?;
    let mut command = compiler.to_command();
    // `KILN_SIM` is for code that must differ on the simulator, which should only be substitutes for inline PTX.
    command
        .args([KERNEL_LANGUAGE, "-E", "-x", "c++", "-DKILN_SIM=1", "-Icsrc/include", "-include", "kiln_sim.h"])
        .arg(file);
    let output = command.output().map_err(|error| name(&error))?;
    if !output.status.success() {
        return Err(name(&String::from_utf8_lossy(&output.stderr)));
    }
    let text = String::from_utf8(output.stdout).map_err(|error| name(&error))?;
    let Kernels { text, entries } = rewrite(&text).map_err(|error| name(&error))?;
    let stem: String = file
        .with_extension("")
        .to_string_lossy()
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' })
        .collect();
    let table = format!("sim_table_{}", stem.trim_start_matches('_'));
    let source = out.join(format!("{table}.cpp"));
    let object = out.join(format!("{table}.o"));
    let text = format!("// {}\n{text}\nextern const SimTable {table} = {{&sim::rows}};\n", KERNEL_FLAGS.join(" "));
    if entries == 0 {
        return Err(name(&"no kernel in it"));
    }
    // The text includes the headers and the flags, so equal texts give equal objects.
    if write_if_changed(&source, &text)? || !object.exists() {
        let mut command = compiler.to_command();
        command.args(KERNEL_FLAGS).args(["-w", "-c"]).arg(&source).arg("-o").arg(&object);
        let output = command.output().map_err(|error| name(&error))?;
        if !output.status.success() {
            let _ = fs::remove_file(&object);
            return Err(name(&String::from_utf8_lossy(&output.stderr)));
        }
    }
    Ok(Built { test: file.starts_with(TESTS), table, object })
}

fn registry_text(built: &[Built]) -> String {
    let declarations: String = built.iter().map(|built| format!("extern const SimTable {};\n", built.table)).collect();
    let rows: String = built.iter().map(|built| format!("    &{},\n", built.table)).collect();
    format!(
        "#include \"engine.h\"\n{declarations}const SimTable *const sim_tables[] = {{\n{rows}    nullptr,\n}};\n\
         const size_t sim_table_count = {};\nconst size_t sim_framework_table_count = {};\n",
        built.len(),
        built.iter().filter(|built| !built.test).count()
    )
}

/// Writes a file if its content differs; returns whether it did.
fn write_if_changed(path: &Path, text: &str) -> Result<bool, String> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(false);
    }
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(true)
}

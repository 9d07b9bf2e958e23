//! The build script of `crates/cuda`, which reaches this file and `kernels/` through symbolic links.
//!
//! With the feature `kernels` it compiles `kernels/*.cu` to PTX for each architecture of `CUDA_COMPUTE_CAP` (a list
//! as `75,90`) and embeds the result. Without it, or with `KILN_CUDA_STUB=1`, nothing is embedded and no nvcc is needed.
//! Either way the typed launches are generated from `kernels/signatures.txt`, which a full build compares with the
//! entries that the compiler made; `KILN_UPDATE_SIGNATURES=1` writes it.

use std::{
    collections::{BTreeMap, hash_map::DefaultHasher},
    env,
    fmt::Write as _,
    fs,
    hash::{Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

type Result<T> = std::result::Result<T, String>;

/// No contraction to fused multiply-adds: the CPU backend has none, and results should agree. Comparisons of unsigned
/// numbers with 0 come from templates that serve signed ones too.
const FLAGS: [&str; 5] = ["-ptx", "-O3", "-std=c++17", "--fmad=false", "-diag-suppress=186"];
/// All Nvidia GPUs from Turing on, those from Ampere on, those from Hopper on.
const DEFAULT_CAPABILITIES: &str = "75,80,90";
/// PTX versions to write in place of the compiler's, which drivers older than it refuse: the lowest for an architecture.
const LOWEST_PTX: [(u32, &str); 4] = [(80, "7.0"), (86, "7.1"), (90, "7.8"), (100, "8.6")];

fn main() {
    if let Err(message) = run() {
        // `cargo::error` would need a newer cargo than the crate does.
        eprintln!("\n{message}\n");
        std::process::exit(1);
    }
}

fn run() -> Result<()> {
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH", "CUDA_COMPUTE_CAP", "KILN_CUDA_STUB", "KILN_UPDATE_SIGNATURES"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=kernels");
    let kernels = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("kernels");
    let out = PathBuf::from(variable("OUT_DIR")?);
    for entry in sorted_files(&kernels)? {
        println!("cargo::rerun-if-changed={}", entry.display());
    }
    let recorded = kernels.join("signatures.txt");
    let mut signatures = read(&recorded)?;
    let stub = env::var_os("CARGO_FEATURE_KERNELS").is_none() || env::var("KILN_CUDA_STUB").is_ok_and(|v| v == "1");
    let mut modules = Vec::new();
    if stub {
        println!("cargo::rustc-env=KILN_NVCC=");
    } else {
        modules = compile_all(&kernels, &out)?;
        let entries = entries_of(&kernels, &modules)?;
        let found = without_rows(&kernels, &entries)?;
        if found != signatures {
            if env::var_os("KILN_UPDATE_SIGNATURES").is_none() {
                return Err(format!(
                    "kernels/signatures.txt does not list the entries that kernels/*.cu have now, near\n  {}\nBuild once \
                     with KILN_UPDATE_SIGNATURES=1 to write it, and look at the difference before you commit it.",
                    first_difference(&signatures, &found)
                ));
            }
            write(&recorded, &found)?;
        }
        signatures = entries;
    }
    write(&out.join("kernels.rs"), &generate(&signatures, &modules)?)
}

// ---- compiling ----

/// One compiled file for one architecture.
struct Module {
    stem: String,
    capability: u32,
    ptx: PathBuf,
}

fn compile_all(kernels: &Path, out: &Path) -> Result<Vec<Module>> {
    let nvcc = find_nvcc()?;
    // For the tests, which run the assembler beside it.
    println!("cargo::rustc-env=KILN_NVCC={}", nvcc.display());
    let list = env::var("CUDA_COMPUTE_CAP").unwrap_or_else(|_| DEFAULT_CAPABILITIES.into());
    let mut capabilities = Vec::new();
    for part in list.split(',').map(|part| part.trim().replace('.', "")) {
        let number =
            part.parse().map_err(|_| format!("CUDA_COMPUTE_CAP={list}: {part:?} is not a compute capability"))?;
        capabilities.push(number);
    }
    let files = sorted_files(kernels)?;
    let mut shared = DefaultHasher::new();
    (&nvcc, FLAGS, LOWEST_PTX).hash(&mut shared);
    fs::metadata(&nvcc).and_then(|data| data.modified()).ok().hash(&mut shared);
    for header in files.iter().filter(|file| has_extension(file, "cuh")) {
        read(header)?.hash(&mut shared);
    }
    let mut jobs = Vec::new();
    for source in files.iter().filter(|file| has_extension(file, "cu")) {
        for &capability in &capabilities {
            let stem = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let ptx = out.join(format!("{stem}.{capability}.ptx"));
            jobs.push((source, Module { stem, capability, ptx }));
        }
    }
    // Each takes a job in turn; one processor each.
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some((source, module)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(message) = compile(&nvcc, source, module, shared.clone()) {
                        failures.lock().unwrap_or_else(|e| e.into_inner()).push(message);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_else(|e| e.into_inner());
    if failures.is_empty() {
        Ok(jobs.into_iter().map(|(_, module)| module).collect())
    } else {
        Err(failures.join("\n"))
    }
}

/// Compiles one file unless its sources and flags are those of the last time.
fn compile(nvcc: &Path, source: &Path, module: &Module, mut shared: DefaultHasher) -> Result<()> {
    read(source)?.hash(&mut shared);
    let stamp = format!("{:x}", shared.finish());
    let stamp_file = module.ptx.with_extension("stamp");
    if module.ptx.exists() && fs::read_to_string(&stamp_file).is_ok_and(|old| old == stamp) {
        return Ok(());
    }
    let raw = module.ptx.with_extension("raw");
    let architecture = format!("-arch=compute_{}", module.capability);
    let output = Command::new(nvcc).args(FLAGS).arg(architecture).arg("-o").arg(&raw).arg(source).output();
    let output = output.map_err(|e| format!("{} does not start: {e}", nvcc.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{} failed on {}:\n{said}", nvcc.display(), source.display()));
    }
    write(&module.ptx, &lower_version(&read(&raw)?, module.capability))?;
    write(&stamp_file, &stamp)
}

/// PTX with the lowest `.version` that knows the architecture, and without comments.
fn lower_version(ptx: &str, capability: u32) -> String {
    let lowest = LOWEST_PTX.iter().find(|(below, _)| capability <= *below).map(|(_, version)| *version);
    let mut text = String::with_capacity(ptx.len());
    for line in ptx.lines() {
        match (line.strip_prefix(".version"), lowest) {
            (Some(_), Some(version)) => text.extend([".version ", version]),
            _ if line.trim_start().starts_with("//") || line.trim().is_empty() => continue,
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

/// The compiler, from the first place that has it.
fn find_nvcc() -> Result<PathBuf> {
    let name = format!("nvcc{}", env::consts::EXE_SUFFIX);
    if let Some(nvcc) = env::var_os("NVCC") {
        let nvcc = PathBuf::from(nvcc);
        return if nvcc.is_file() { Ok(nvcc) } else { Err(format!("NVCC={} is not a file", nvcc.display())) };
    }
    let mut places: Vec<PathBuf> = Vec::new();
    places
        .extend(["CUDA_HOME", "CUDA_PATH"].iter().filter_map(env::var_os).map(|home| PathBuf::from(home).join("bin")));
    places.extend(env::var_os("PATH").iter().flat_map(env::split_paths));
    places.push("/usr/local/cuda/bin".into());
    let mut versions: Vec<PathBuf> =
        fs::read_dir("/usr/local").into_iter().flatten().flatten().map(|e| e.path()).collect();
    versions.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("cuda-")));
    versions.sort();
    places.extend(versions.into_iter().rev().map(|path| path.join("bin")));
    // The last place, because it starts a program.
    if let Some(found) = places.iter().map(|place| place.join(&name)).find(|path| path.is_file()) {
        return Ok(found);
    }
    wheel_folders().into_iter().map(|place| place.join(&name)).find(|path| path.is_file()).ok_or_else(|| {
        "The feature `kernels` of kiln-cuda needs nvcc, NVIDIA's compiler, to build. It was sought in NVCC, CUDA_HOME/bin, \
         CUDA_PATH/bin, PATH, /usr/local/cuda*/bin and the Python wheels' nvidia/cu*/bin. Install the CUDA toolkit \
         (12.3 or later), or\n  pip install nvidia-cuda-nvcc nvidia-cuda-crt nvidia-cuda-runtime nvidia-nvvm \
         nvidia-cuda-cccl\nand a C++ compiler. To only type-check, set KILN_CUDA_STUB=1: such a build opens no device."
            .into()
    })
}

/// `bin` folders of NVIDIA's wheels in Python's site directories.
fn wheel_folders() -> Vec<PathBuf> {
    let program = "import site, sysconfig; print('\\n'.join([sysconfig.get_paths()['purelib'], *site.getsitepackages(), \
                   site.getusersitepackages()]))";
    let output =
        ["python3", "python"].iter().find_map(|python| Command::new(python).args(["-c", program]).output().ok());
    let output = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let mut folders = Vec::new();
    for site in output.lines() {
        let wheels = fs::read_dir(Path::new(site).join("nvidia")).into_iter().flatten().flatten();
        let mut found: Vec<PathBuf> = wheels.map(|entry| entry.path().join("bin")).filter(|bin| bin.is_dir()).collect();
        found.sort();
        folders.extend(found.into_iter().rev());
    }
    folders
}

// ---- signatures ----

/// One line an entry, `file family op dtype: parameters`, from the PTX of the first architecture. The others have the
/// same parameters: they are compiled from the same declarations.
fn entries_of(kernels: &Path, modules: &[Module]) -> Result<String> {
    let mut lines = Vec::new();
    let Some(first) = modules.first() else { return Ok(String::new()) };
    for module in modules.iter().filter(|module| module.capability == first.capability) {
        let source = read(&kernels.join(format!("{}.cu", module.stem)))?;
        let marked = source.lines().filter_map(|line| line.strip_prefix("FAMILY(")?.strip_suffix(");"));
        let mut families: Vec<&str> = marked.collect();
        // `unary_grad` before `unary`.
        families.sort_by_key(|family| std::cmp::Reverse(family.len()));
        let ptx = read(&module.ptx)?;
        for text in ptx.split(".entry ").skip(1) {
            let (name, rest) = text.split_once('(').ok_or("an entry without parameters in the PTX")?;
            let (parameters, _) = rest.split_once(')').ok_or("an entry without an end of its parameters in the PTX")?;
            let unknown = || format!("{}.cu: the entry {name} has no FAMILY line, or no op and dtype", module.stem);
            let split = |family: &str| Some((family.to_owned(), name.strip_prefix(family)?.strip_prefix('_')?));
            let (family, rest) = families.iter().find_map(|family| split(family)).ok_or_else(unknown)?;
            let (op, dtype) = rest.rsplit_once('_').ok_or_else(unknown)?;
            let kinds: Result<Vec<String>> = parameters.split(",\n").map(|text| kind(text.trim())).collect();
            lines.push(format!("{} {family} {op} {dtype}: {}\n", module.stem, kinds?.join(" ")));
        }
    }
    lines.sort();
    Ok(lines.concat())
}

/// The entries with one line, `file family * *: parameters`, for each family whose operations are the rows of a table
/// (`#include "…_table.cuh"`): a new row changes no other file.
fn without_rows(kernels: &Path, entries: &str) -> Result<String> {
    let mut text = String::new();
    for line in entries.lines() {
        let wrong = || format!("{line:?} is not an entry");
        let (names, parameters) = line.split_once(": ").ok_or_else(wrong)?;
        let &[file, family, _, _] = &names.split(' ').collect::<Vec<_>>()[..] else { return Err(wrong()) };
        let from_table = read(&kernels.join(format!("{file}.cu")))?.contains("_table.cuh\"");
        let line = if from_table { format!("{file} {family} * *: {parameters}") } else { line.to_owned() };
        if !from_table || !text.lines().any(|known| known == line) {
            put(&mut text, format_args!("{line}\n"));
        }
    }
    Ok(text)
}

/// The kind of a parameter, from its declaration.
fn kind(declaration: &str) -> Result<String> {
    let unknown = || format!("a kernel parameter of an unknown kind: {declaration}");
    if declaration.contains(".b8 ") {
        let size = declaration.rsplit_once('[').and_then(|(_, size)| size.strip_suffix(']')).ok_or_else(unknown)?;
        return Ok(format!("bytes{size}"));
    }
    let known = ["u64", "u32", "f64"].into_iter().find(|kind| declaration.contains(&format!(".{kind} ")));
    known.map(Into::into).ok_or_else(unknown)
}

fn first_difference(old: &str, new: &str) -> String {
    let known: std::collections::HashSet<&str> = old.lines().collect();
    let added = new.lines().find(|line| !known.contains(line)).map(|line| format!("+ {line}"));
    let current: std::collections::HashSet<&str> = new.lines().collect();
    let gone = || old.lines().find(|line| !current.contains(line)).map(|line| format!("- {line}"));
    added.or_else(gone).unwrap_or_else(|| "the order of lines".into())
}

// ---- generated code ----

/// The order of [`Family`]'s columns in launch.rs.
const COLUMNS: [&str; 12] =
    ["f32", "f64", "f16", "bf16", "i64", "i32", "u8", "bool", "bits8", "bits16", "bits32", "bits64"];

/// The entries of a family: for each operation, one in each column that it has.
type Ops<'a> = BTreeMap<&'a str, [Option<usize>; 12]>;

fn generate(signatures: &str, modules: &[Module]) -> Result<String> {
    let mut entries = String::new();
    // Family -> (parameters, op -> entry of each column).
    let mut families: BTreeMap<&str, (&str, Ops)> = BTreeMap::new();
    let mut count = 0;
    for (number, line) in signatures.lines().enumerate() {
        let wrong = || format!("kernels/signatures.txt, line {}: {line:?} is not an entry", number + 1);
        let (names, parameters) = line.split_once(": ").ok_or_else(wrong)?;
        let &[file, family, op, dtype] = &names.split(' ').collect::<Vec<_>>()[..] else { return Err(wrong()) };
        let (same, ops) = families.entry(family).or_insert((parameters, BTreeMap::new()));
        if *same != parameters {
            return Err(format!("the entries of the family {family} differ in their parameters: {same}, {parameters}"));
        }
        // A build without kernels has none of the tables' rows.
        if op == "*" {
            continue;
        }
        let column = COLUMNS.iter().position(|name| *name == dtype).ok_or_else(wrong)?;
        ops.entry(op).or_default()[column] = Some(count);
        count += 1;
        let sizes: Vec<&str> = parameters.split(' ').map(size).collect();
        put(
            &mut entries,
            format_args!(
                "    Entry {{ name: \"{family}_{op}_{dtype}\", file: \"{file}\", sizes: &[{}] }},\n",
                sizes.join(", ")
            ),
        );
    }
    let mut text = format!("/// Every kernel.\npub static ENTRIES: &[Entry] = &[\n{entries}];\n\n");
    put(
        &mut text,
        format_args!("/// The compiled files; none in a build without kernels.\npub static MODULES: &[Module] = &[\n"),
    );
    for Module { stem, capability, ptx } in modules {
        put(
            &mut text,
            format_args!("    Module {{ file: {stem:?}, capability: {capability}, ptx: include_str!({ptx:?}) }},\n"),
        );
    }
    text.push_str("];\n");
    for (family, (parameters, ops)) in families {
        let kinds: Vec<String> = parameters.split(' ').map(rust_kind).collect();
        let constant = family.to_uppercase();
        let words = family.split('_').map(|word| format!("{}{}", word[..1].to_uppercase(), &word[1..]));
        let alias = words.collect::<String>() + "Kinds";
        put(
            &mut text,
            format_args!(
                "\n/// What the kernels `{family}_*` take.\npub type {alias} = ({},);\n/// The kernels `{family}_*`.\n\
                 pub const {constant}: Family<{alias}> = Family::new(&[\n",
                kinds.join(", ")
            ),
        );
        for (op, columns) in ops {
            let columns: Vec<String> =
                columns.iter().map(|c| c.map_or("NONE".into(), |number| number.to_string())).collect();
            put(&mut text, format_args!("    ({op:?}, [{}]),\n", columns.join(", ")));
        }
        text.push_str("]);\n");
    }
    Ok(text)
}

fn put(text: &mut String, what: std::fmt::Arguments) {
    // Writing to a `String` cannot fail.
    let _ = text.write_fmt(what);
}

fn size(kind: &str) -> &str {
    kind.strip_prefix("bytes").unwrap_or(if kind == "u32" { "4" } else { "8" })
}

fn rust_kind(kind: &str) -> String {
    match kind {
        "u64" => "Arg64".into(),
        "u32" => "Arg32".into(),
        "f64" => "ArgF64".into(),
        bytes => format!("ArgBytes<{}>", size(bytes)),
    }
}

// ---- files ----

fn variable(name: &str) -> Result<String> {
    env::var(name).map_err(|e| format!("cargo sets {name} for build scripts: {e}"))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

/// Writes a file, unless it has these contents already.
fn write(path: &Path, contents: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|old| old == contents) {
        return Ok(());
    }
    fs::write(path, contents).map_err(|e| format!("{}: {e}", path.display()))
}

fn sorted_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.is_file());
    files.sort();
    Ok(files)
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

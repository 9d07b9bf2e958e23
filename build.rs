//! The build script of `crates/cuda`, which reaches this file and `kernels/` through symbolic links.
//!
//! With the feature `kernels` it compiles `kernels/*.cu` to PTX for each architecture of `CUDA_COMPUTE_CAP` (a list
//! as `75,90`) and embeds the result. Without it, or with `KILN_CUDA_STUB=1`, nothing is embedded and no nvcc is needed.
//! Either way the typed launches are generated from the `FAMILY(…)` lines of the `.cu` files, which a full build compares
//! with the entries that the compiler made.

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

use places::{Environment, Place, Wanted};

// The order of the places at run time; libraries are none of this script's business.
// (It is formatted with its crate: from the folder that this file is linked to, its path leads nowhere.)
#[allow(dead_code)]
#[rustfmt::skip]
#[path = "src/libs/places.rs"]
mod places;

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
    for name in ["NVCC", "KILN_CUDA_PATH", "CUDA_HOME", "CUDA_PATH", "CUDA_COMPUTE_CAP", "KILN_CUDA_STUB"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/libs/places.rs");
    println!("cargo::rerun-if-changed=kernels");
    let kernels = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("kernels");
    let out = PathBuf::from(variable("OUT_DIR")?);
    for entry in sorted_files(&kernels)? {
        println!("cargo::rerun-if-changed={}", entry.display());
    }
    let families = families_of(&kernels)?;
    let stub = env::var_os("CARGO_FEATURE_KERNELS").is_none() || env::var("KILN_CUDA_STUB").is_ok_and(|v| v == "1");
    let mut modules = Vec::new();
    if stub {
        println!("cargo::rustc-env=KILN_NVCC=");
    } else {
        modules = compile_all(&kernels, &out)?;
    }
    let entries = entries_of(&families, &modules)?;
    write(&out.join("kernels.rs"), &generate(&families, &entries, &modules))
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

/// The compiler: the file that `NVCC` names, or the one in the first of the places that libraries are sought in at run time.
fn find_nvcc() -> Result<PathBuf> {
    let name = format!("nvcc{}", env::consts::EXE_SUFFIX);
    if let Some(nvcc) = env::var_os("NVCC") {
        let nvcc = PathBuf::from(nvcc);
        return if nvcc.is_file() { Ok(nvcc) } else { Err(format!("NVCC={} is not a file", nvcc.display())) };
    }
    let mut sought = Vec::new();
    for place in places::places(Wanted::Compiler, &Environment::process()) {
        let Place::Folder(folder, source) = place else { continue };
        let nvcc = folder.join(&name);
        if nvcc.is_file() {
            return Ok(nvcc);
        }
        sought.push(format!("{} ({source})", folder.display()));
    }
    sought.extend(places::dangling(Wanted::Compiler, &Environment::process()));
    Err(format!(
        "The feature `kernels` of kiln-cuda needs nvcc, NVIDIA's compiler, to build. It was sought as NVCC and in {}. \
         Install the CUDA toolkit (12.3 or later), or\n  pip install nvidia-cuda-nvcc nvidia-cuda-crt nvidia-cuda-runtime \
         nvidia-nvvm nvidia-cuda-cccl\nand a C++ compiler. To only type-check, set KILN_CUDA_STUB=1: such a build opens \
         no device.",
        sought.join(", ")
    ))
}

// ---- families and entries ----

/// A `FAMILY(name, type name, …);` line of a `.cu` file.
struct Family {
    /// The file, without its ending.
    file: String,
    name: String,
    /// The types of the parameters: a struct of params.cuh, `address`, `Number`, or a number.
    parameters: Vec<String>,
}

/// A kernel that the compiler made: `family_op_dtype`.
struct Entry {
    /// The number of its family.
    family: usize,
    op: String,
    dtype: String,
    /// The sizes of its parameters in bytes.
    sizes: Vec<usize>,
}

fn families_of(kernels: &Path) -> Result<Vec<Family>> {
    let mut families = Vec::new();
    for path in sorted_files(kernels)?.iter().filter(|path| has_extension(path, "cu")) {
        let file = path.file_stem().unwrap_or_default().to_string_lossy();
        for declaration in read(path)?.split("\nFAMILY(").skip(1) {
            let (text, _) =
                declaration.split_once(");").ok_or_else(|| format!("{file}.cu: a FAMILY line has no end"))?;
            let mut words = text.split(',').map(|part| part.split_whitespace().next().unwrap_or_default().to_owned());
            let name = words.next().unwrap_or_default();
            families.push(Family { file: file.clone().into_owned(), name, parameters: words.collect() });
        }
    }
    families.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(families)
}

/// The kernels in the PTX of the first architecture. (The others have the same: they are compiled from the same
/// declarations.)
///
/// # Errors
/// A kernel belongs to no family, or takes other parameters than its family declares.
fn entries_of(families: &[Family], modules: &[Module]) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let Some(first) = modules.first() else { return Ok(entries) };
    for module in modules.iter().filter(|module| module.capability == first.capability) {
        let ptx = read(&module.ptx)?;
        for text in ptx.split(".entry ").skip(1) {
            let (name, rest) = text.split_once('(').ok_or("an entry without parameters in the PTX")?;
            let (parameters, _) = rest.split_once(')').ok_or("an entry without an end of its parameters in the PTX")?;
            let unknown = || format!("{}.cu: the entry {name} has no FAMILY line, or no op and dtype", module.stem);
            let of_family = |family: &Family| {
                (family.file == module.stem).then(|| name.strip_prefix(&family.name)?.strip_prefix('_'))?
            };
            // The longest name: `unary_grad` rather than `unary`.
            let found = families.iter().enumerate().filter_map(|(i, family)| Some((i, of_family(family)?)));
            let (family, rest) = found.max_by_key(|(i, _)| families[*i].name.len()).ok_or_else(unknown)?;
            let (op, dtype) = rest.rsplit_once('_').ok_or_else(unknown)?;
            let declared = &families[family].parameters;
            let compiled: Vec<&str> = parameters.split(",\n").map(str::trim).collect();
            let sizes: Vec<Option<usize>> = compiled.iter().zip(declared).map(|(c, d)| size_of(c, d)).collect();
            if compiled.len() != declared.len() || sizes.contains(&None) {
                let family = &families[family].name;
                return Err(format!(
                    "{}.cu: {name} takes {compiled:?}, but FAMILY({family}, …) declares {declared:?}",
                    module.stem
                ));
            }
            let sizes = sizes.into_iter().flatten().collect();
            entries.push(Entry { family, op: op.to_owned(), dtype: dtype.to_owned(), sizes });
        }
    }
    entries.sort_by(|a, b| (a.family, &a.op, &a.dtype).cmp(&(b.family, &b.op, &b.dtype)));
    Ok(entries)
}

/// The size of a parameter in the PTX, if it can be of the declared type. That of a struct is compared by the generated
/// code, which knows the structs.
fn size_of(compiled: &str, declared: &str) -> Option<usize> {
    let is = |kind: &str| compiled.contains(&format!(".{kind} "));
    match declared {
        "address" | "Number" | "u64" | "i64" => is("u64").then_some(8),
        "u32" => is("u32").then_some(4),
        "f64" => is("f64").then_some(8),
        _ => compiled.rsplit_once('[')?.1.strip_suffix(']')?.parse().ok().filter(|_| is("b8")),
    }
}

// ---- generated code ----

/// The order of `Family`'s columns in launch.rs.
const COLUMNS: [&str; 12] =
    ["f32", "f64", "f16", "bf16", "i64", "i32", "u8", "bool", "bits8", "bits16", "bits32", "bits64"];

fn generate(families: &[Family], entries: &[Entry], modules: &[Module]) -> String {
    let mut text = "/// Every kernel; none in a build without kernels.\npub static ENTRIES: &[Entry] = &[\n".to_owned();
    for Entry { family, op, dtype, sizes } in entries {
        let Family { file, name, .. } = &families[*family];
        put(
            &mut text,
            format_args!("    Entry {{ name: \"{name}_{op}_{dtype}\", file: {file:?}, sizes: &{sizes:?} }},\n"),
        );
    }
    text.push_str(
        "];\n\n/// The compiled files; none in a build without kernels.\npub static MODULES: &[Module] = &[\n",
    );
    for Module { stem, capability, ptx } in modules {
        put(
            &mut text,
            format_args!("    Module {{ file: {stem:?}, capability: {capability}, ptx: include_str!({ptx:?}) }},\n"),
        );
    }
    text.push_str("];\n");
    for (number, Family { name, parameters, .. }) in families.iter().enumerate() {
        let kinds: Vec<String> = parameters.iter().map(|declared| rust_kind(declared)).collect();
        let words = name.split('_').map(|word| format!("{}{}", word[..1].to_uppercase(), &word[1..]));
        let alias = words.collect::<String>() + "Kinds";
        put(
            &mut text,
            format_args!(
                "\n/// What the kernels `{name}_*` take.\npub type {alias} = ({},);\n/// The kernels `{name}_*`.\n\
                 pub const {}: Family<{alias}> = Family::new(&[\n",
                kinds.join(", "),
                name.to_uppercase()
            ),
        );
        // Operation -> the entry of each column.
        let mut ops: BTreeMap<&str, [Option<usize>; 12]> = BTreeMap::new();
        let mut sizes: &[usize] = &[];
        for (entry, made) in entries.iter().enumerate().filter(|(_, entry)| entry.family == number) {
            let column = COLUMNS.iter().position(|column| *column == made.dtype);
            if let Some(column) = column {
                ops.entry(&made.op).or_default()[column] = Some(entry);
            }
            sizes = &made.sizes;
        }
        for (op, columns) in ops {
            let columns: Vec<String> =
                columns.iter().map(|c| c.map_or("NONE".into(), |entry| entry.to_string())).collect();
            put(&mut text, format_args!("    ({op:?}, [{}]),\n", columns.join(", ")));
        }
        text.push_str("]);\n");
        for (declared, size) in parameters.iter().zip(sizes).filter(|(declared, _)| is_struct(declared)) {
            put(&mut text, format_args!("const _: () = assert!(size_of::<params::{declared}>() == {size});\n"));
        }
    }
    text
}

fn is_struct(declared: &str) -> bool {
    !matches!(declared, "address" | "Number" | "u64" | "i64" | "u32" | "f64")
}

fn rust_kind(declared: &str) -> String {
    match declared {
        "address" | "Number" | "u64" | "i64" => "Arg64".into(),
        "u32" => "Arg32".into(),
        "f64" => "ArgF64".into(),
        name => format!("ArgBytes<{{ size_of::<params::{name}>() }}>"),
    }
}

fn put(text: &mut String, what: std::fmt::Arguments) {
    // Writing to a `String` cannot fail.
    let _ = text.write_fmt(what);
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

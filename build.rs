//! The build script of `crates/cuda`, which reaches this file and `kernels/` through symbolic links.
//!
//! With the feature `kernels` it compiles `kernels/*.cu` ([`images`]): SASS for each architecture of `CUDA_COMPUTE_CAP`
//! (a list such as `80,90`), and PTX for the lowest. Without it, or with `KILN_CUDA_STUB=1`, nothing is embedded and no
//! nvcc is needed. Either way the typed launches are generated from the `FAMILY(…)` lines of the `.cu` files, which a
//! full build checks against the compiled kernels.

#![cfg_attr(not(feature = "kernels"), allow(dead_code))] // what finds nvcc

#[path = "build/compiled.rs"]
mod compiled;
#[path = "build/files.rs"]
mod files;
#[cfg(feature = "kernels")]
#[path = "build/images.rs"]
mod images;

use std::{
    collections::BTreeMap,
    env,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use compiled::{Compiled, Image};
use files::{Result, has_extension, read, sorted_files, variable, write};
use places::{Environment, Place, Wanted};

// The search order for libraries at run time, used here to find nvcc. (It is formatted with its crate: the path is
// wrong as seen from the folder that this file is linked to.)
#[allow(dead_code)]
#[rustfmt::skip]
#[path = "src/libs/places.rs"]
mod places;

// The table of dtypes, whose names appear in kernel names.
#[macro_use]
#[rustfmt::skip]
#[path = "kernels/dtype_table.cuh"]
mod dtype_table;

fn main() {
    if let Err(message) = run() {
        // `cargo::error` would need a newer cargo than the crate requires.
        eprintln!("\n{message}\n");
        std::process::exit(1);
    }
}

fn run() -> Result<()> {
    // Without kernels none of them is read, and almost the whole workspace would be built again when one changes.
    if cfg!(feature = "kernels") {
        for name in ["NVCC", "KILN_CUDA_PATH", "CUDA_HOME", "CUDA_PATH", "CUDA_COMPUTE_CAP", "KILN_CUDA_STUB"] {
            println!("cargo::rerun-if-env-changed={name}");
        }
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/libs/places.rs");
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed=kernels");
    let kernels = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("kernels");
    let out = PathBuf::from(variable("OUT_DIR")?);
    for entry in sorted_files(&kernels)? {
        println!("cargo::rerun-if-changed={}", entry.display());
    }
    let families = families_of(&kernels)?;
    println!("cargo::rustc-env=KILN_NVCC=");
    let stub = env::var("KILN_CUDA_STUB").is_ok_and(|value| value == "1");
    let compiled = if stub { Compiled::default() } else { compile(&kernels, &out)? };
    let entries = entries_of(&families, &compiled.ptx)?;
    write(&out.join("kernels.rs"), &generate(&families, &entries, &compiled))
}

// ---- compiling ----

#[cfg(feature = "kernels")]
fn compile(kernels: &Path, out: &Path) -> Result<Compiled> {
    let nvcc = find_nvcc()?;
    // For tests, which run the assembler from the same folder.
    println!("cargo::rustc-env=KILN_NVCC={}", nvcc.display());
    images::compile_all(&nvcc, kernels, out)
}

#[cfg(not(feature = "kernels"))]
fn compile(_kernels: &Path, _out: &Path) -> Result<Compiled> {
    Ok(Compiled::default())
}

/// The compiler: the file that `NVCC` names, or the first one on the search path for libraries.
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
        "The feature `kernels` of kiln-cuda needs nvcc, NVIDIA's compiler, to build. Searched: NVCC and {}. \
         Install the CUDA toolkit (12.3 or later), or\n  pip install nvidia-cuda-nvcc nvidia-cuda-crt nvidia-cuda-runtime \
         nvidia-nvvm nvidia-cuda-cccl\nand a C++ compiler. To only type-check, set KILN_CUDA_STUB=1: such a build opens \
         no device.",
        sought.join(", ")
    ))
}

// ---- families and entries ----

/// A `FAMILY(name, type name, …);` line of a `.cu` file.
struct Family {
    /// The stem of its file.
    file: String,
    name: String,
    /// The types of the parameters: a struct of params.cuh, `address`, `Number`, or a number.
    parameters: Vec<String>,
}

/// A compiled kernel: `family_op_dtype`.
struct Entry {
    /// The index of its family.
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

/// Finds the kernels in the PTX of each file.
///
/// # Errors
/// If a kernel belongs to no family, or takes other parameters than its family declares.
fn entries_of(families: &[Family], files: &[(String, String)]) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for (stem, ptx) in files {
        for text in ptx.split(".entry ").skip(1) {
            let (name, rest) = text.split_once('(').ok_or("an entry without parameters in the PTX")?;
            let (parameters, _) = rest.split_once(')').ok_or("an entry without an end of its parameters in the PTX")?;
            let unknown = || format!("{stem}.cu: the entry {name} has no FAMILY line, or no op and dtype");
            let of_family =
                |family: &Family| (family.file == *stem).then(|| name.strip_prefix(&family.name)?.strip_prefix('_'))?;
            // The longest match: `unary_grad` rather than `unary`.
            let found = families.iter().enumerate().filter_map(|(i, family)| Some((i, of_family(family)?)));
            let (family, rest) = found.max_by_key(|(i, _)| families[*i].name.len()).ok_or_else(unknown)?;
            let (op, dtype) = rest.rsplit_once('_').ok_or_else(unknown)?;
            let declared = &families[family].parameters;
            let compiled: Vec<&str> = parameters.split(",\n").map(str::trim).collect();
            let sizes: Vec<Option<usize>> = compiled.iter().zip(declared).map(|(c, d)| size_of(c, d)).collect();
            if compiled.len() != declared.len() || sizes.contains(&None) {
                let family = &families[family].name;
                return Err(format!(
                    "{stem}.cu: {name} takes {compiled:?}, but FAMILY({family}, …) declares {declared:?}"
                ));
            }
            let sizes = sizes.into_iter().flatten().collect();
            entries.push(Entry { family, op: op.to_owned(), dtype: dtype.to_owned(), sizes });
        }
    }
    entries.sort_by(|a, b| (a.family, &a.op, &a.dtype).cmp(&(b.family, &b.op, &b.dtype)));
    Ok(entries)
}

/// The size of a parameter in the PTX, if that can be of the declared type. The sizes of structs are checked by the
/// generated code, which knows the structs.
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

macro_rules! columns {
    (() $($kind:ident($variant:ident, $name:ident, $($rest:tt)*))*) => {
        &[$(stringify!($name),)* "bits8", "bits16", "bits32", "bits64"]
    };
}
/// The order of `Family`'s columns in launch.rs: the dtypes, then the sizes for operations that only move elements.
const COLUMNS: &[&str] = dtype_table!(columns);

fn generate(families: &[Family], entries: &[Entry], Compiled { images, toolkit, .. }: &Compiled) -> String {
    let mut text = "/// Every kernel; none in a build without kernels.\npub static ENTRIES: &[Entry] = &[\n".to_owned();
    for Entry { family, op, dtype, sizes } in entries {
        let Family { file, name, .. } = &families[*family];
        put(
            &mut text,
            format_args!("    Entry {{ name: \"{name}_{op}_{dtype}\", file: {file:?}, sizes: &{sizes:?} }},\n"),
        );
    }
    text.push_str("];\n\n/// The compiled files; none in a build without kernels.\npub static IMAGES: &[Image] = &[\n");
    for Image { stem, capability, sass, len, compressed } in images {
        let code = if *sass { "Code::Sass" } else { "Code::Ptx" };
        put(
            &mut text,
            format_args!(
                "    Image {{ file: {stem:?}, code: {code}, capability: {capability}, len: {len}, compressed: \
                 include_bytes!({compressed:?}) }},\n"
            ),
        );
    }
    put(
        &mut text,
        format_args!(
            "];\n\n/// The release of CUDA that assembled the SASS, as drivers write theirs: 12080 for 12.8.\n\
             pub const TOOLKIT: u32 = {toolkit};\n"
        ),
    );
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
        let mut ops: BTreeMap<&str, [Option<usize>; COLUMNS.len()]> = BTreeMap::new();
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

//! The simulated NCCL against NVIDIA's header and library, where these are installed (`pip install nvidia-nccl-cu13
//! nvidia-cuda-runtime`): numbers, declarations, and what both answer without a GPU: version, id, texts of codes, checks
//! of arguments.
//!
//! They are looked for in the Python environment of `python3`. Without them the tests pass, unless `KILN_REQUIRE_HEADERS`
//! is set.
mod required;

use std::env;
use std::ffi::{CStr, c_char, c_int};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use libloading::Library;
use required::required;

/// The folders of the wheels: of NCCL, and of the runtime whose headers it includes.
fn wheels() -> Option<[PathBuf; 2]> {
    let output = Command::new("python3").args(["-c", "import nvidia; print(*nvidia.__path__, sep='\\n')"]).output();
    let text = output.map_or_else(|_| String::new(), |output| String::from_utf8_lossy(&output.stdout).into_owned());
    let folders = |path: &str| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let with = |file: &str| text.lines().flat_map(folders).find(|folder| folder.join(file).exists());
    let found = with("include/nccl.h").zip(with("include/cuda_runtime.h")).map(<[PathBuf; 2]>::from);
    required("NCCL with its header", found)
}

fn simulator() -> PathBuf {
    env::current_exe().unwrap().with_file_name("libkiln_sim.so")
}

/// The functions of NCCL that the simulator exports, with their results and parameters in C.
const FUNCTIONS: [(&str, &str, &str); 17] = [
    ("ncclResult_t", "ncclGetVersion", "int*"),
    ("ncclResult_t", "ncclGetUniqueId", "ncclUniqueId*"),
    ("ncclResult_t", "ncclCommInitRank", "ncclComm_t*, int, ncclUniqueId, int"),
    ("ncclResult_t", "ncclCommDestroy", "ncclComm_t"),
    ("ncclResult_t", "ncclCommAbort", "ncclComm_t"),
    ("ncclResult_t", "ncclCommGetAsyncError", "ncclComm_t, ncclResult_t*"),
    ("ncclResult_t", "ncclCommCount", "ncclComm_t, int*"),
    ("ncclResult_t", "ncclCommUserRank", "ncclComm_t, int*"),
    ("ncclResult_t", "ncclCommCuDevice", "ncclComm_t, int*"),
    ("const char*", "ncclGetErrorString", "ncclResult_t"),
    ("const char*", "ncclGetLastError", "ncclComm_t"),
    (
        "ncclResult_t",
        "ncclAllReduce",
        "const void*, void*, size_t, ncclDataType_t, ncclRedOp_t, ncclComm_t, cudaStream_t",
    ),
    ("ncclResult_t", "ncclBroadcast", "const void*, void*, size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t"),
    ("ncclResult_t", "ncclAllGather", "const void*, void*, size_t, ncclDataType_t, ncclComm_t, cudaStream_t"),
    (
        "ncclResult_t",
        "ncclReduceScatter",
        "const void*, void*, size_t, ncclDataType_t, ncclRedOp_t, ncclComm_t, cudaStream_t",
    ),
    ("ncclResult_t", "ncclGroupStart", "void"),
    ("ncclResult_t", "ncclGroupEnd", "void"),
];

/// Names of the library's enums with the numbers that the simulator, and Kiln, have for them.
const NUMBERS: [(&str, i32); 21] = [
    ("ncclUnhandledCudaError", 1),
    ("ncclSystemError", 2),
    ("ncclInternalError", 3),
    ("ncclInvalidArgument", 4),
    ("ncclInvalidUsage", 5),
    ("ncclRemoteError", 6),
    ("ncclSum", 0),
    ("ncclProd", 1),
    ("ncclMax", 2),
    ("ncclMin", 3),
    ("ncclAvg", 4),
    ("ncclInt8", 0),
    ("ncclUint8", 1),
    ("ncclInt32", 2),
    ("ncclUint32", 3),
    ("ncclInt64", 4),
    ("ncclUint64", 5),
    ("ncclFloat16", 6),
    ("ncclFloat32", 7),
    ("ncclFloat64", 8),
    ("ncclBfloat16", 9),
];

#[test]
fn numbers_and_declarations_are_those_of_the_header() {
    let Some([nccl, toolkit]) = wheels() else { return };
    let output = Command::new("nm").args(["-D", "--defined-only"]).arg(simulator()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let exported: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
    for name in exported.iter().filter(|name| name.starts_with("nccl")) {
        assert!(FUNCTIONS.iter().any(|(_, known, _)| known == name), "{name}");
    }
    let folder = tempfile::tempdir().unwrap();
    let mut text = String::from("#include <nccl.h>\n");
    for (name, number) in NUMBERS {
        text += &format!("_Static_assert({name} == {number}, \"{name}\");\n");
    }
    text += "_Static_assert(sizeof(ncclUniqueId) == 128, \"id\");\n";
    for (result, name, parameters) in FUNCTIONS {
        text += &format!("{result} (*own_{name})({parameters}) = {name};\n");
        assert!(exported.contains(&name), "{name}");
    }
    text += "int main(void) { int version = 0; return ncclGetVersion(&version) || version / 10000 != 2; }\n";
    let source = folder.path().join("nccl.c");
    fs::write(&source, text).unwrap();
    let program = folder.path().join("nccl");
    let library = simulator();
    let mut command = Command::new(env::var_os("CC").unwrap_or_else(|| "cc".into()));
    command.arg(&source).arg("-Werror").arg("-o").arg(&program).arg(&library);
    command.arg(format!("-Wl,-rpath,{}", library.parent().unwrap().display()));
    let output = command.args([nccl, toolkit].map(|wheel| format!("-I{}", wheel.join("include").display()))).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(Command::new(&program).status().unwrap().success());
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Id([u8; 128]);

/// What a library answers, call by call. There is no GPU.
fn answers(library: &Library) -> Vec<(&'static str, i32, String)> {
    /// # Safety
    /// The function has this type.
    unsafe fn get<F: Copy>(library: &Library, name: &str) -> F {
        // SAFETY: the caller's promise.
        unsafe { *library.get::<F>(name.as_bytes()).unwrap() }
    }
    let mut answers = Vec::new();
    // SAFETY: the types are those of the header, which the other test compares; pointers are null or to variables.
    unsafe {
        let last: unsafe extern "C" fn(usize) -> *const c_char = get(library, "ncclGetLastError");
        let mut note = |name: &'static str, code: i32, with_text: bool| {
            let text = if with_text { CStr::from_ptr(last(0)).to_string_lossy().into_owned() } else { String::new() };
            answers.push((name, code, text));
        };
        let version: unsafe extern "C" fn(*mut c_int) -> c_int = get(library, "ncclGetVersion");
        let mut number = 0;
        note("version", version(&raw mut number), false);
        // The simulator has that of the library which it was compared with last.
        note("its major number", number / 10_000, false);
        note("version of null", version(std::ptr::null_mut()), false);
        let unique: unsafe extern "C" fn(*mut Id) -> c_int = get(library, "ncclGetUniqueId");
        let mut ids = [Id([0; 128]); 2];
        note("id", unique(&raw mut ids[0]), false);
        note("id", unique(&raw mut ids[1]), false);
        note("ids differ", i32::from(ids[0].0 != ids[1].0), false);
        note("id of null", unique(std::ptr::null_mut()), true);
        let init: unsafe extern "C" fn(*mut usize, c_int, Id, c_int) -> c_int = get(library, "ncclCommInitRank");
        let mut comm = 0;
        for (ranks, rank) in [(1, 0), (0, 0), (2, 2), (2, -1), (-1, 0)] {
            note("init", init(&raw mut comm, ranks, ids[0], rank), false);
        }
        note("init of null", init(std::ptr::null_mut(), 1, ids[0], 0), false);
        for name in ["ncclCommDestroy", "ncclCommAbort"] {
            let end: unsafe extern "C" fn(usize) -> c_int = get(library, name);
            note(name, end(0), false);
        }
        for name in ["ncclCommGetAsyncError", "ncclCommCount", "ncclCommUserRank", "ncclCommCuDevice"] {
            let about: unsafe extern "C" fn(usize, *mut c_int) -> c_int = get(library, name);
            note(name, about(0, &raw mut number), true);
        }
        type Reduce = unsafe extern "C" fn(usize, usize, usize, c_int, c_int, usize, usize) -> c_int;
        type Gather = unsafe extern "C" fn(usize, usize, usize, c_int, usize, usize) -> c_int;
        let reduce: Reduce = get(library, "ncclAllReduce");
        for name in ["ncclAllReduce", "ncclReduceScatter", "ncclBroadcast"] {
            let call: Reduce = get(library, name);
            note(name, call(0, 0, 4, 7, 0, 0, 0), true);
        }
        let gather: Gather = get(library, "ncclAllGather");
        note("ncclAllGather", gather(0, 0, 4, 7, 0, 0), true);
        let start: unsafe extern "C" fn() -> c_int = get(library, "ncclGroupStart");
        let end: unsafe extern "C" fn() -> c_int = get(library, "ncclGroupEnd");
        note("end without start", end(), true);
        for code in [start(), start(), end(), end(), end()] {
            note("nested groups", code, false);
        }
        for code in [start(), reduce(0, 0, 4, 7, 0, 0, 0), end(), start(), end()] {
            note("a group with a wrong call", code, false);
        }
        for code in [start(), init(&raw mut comm, 1, ids[0], 0), end()] {
            note("a group with an init", code, false);
        }
        let text: unsafe extern "C" fn(c_int) -> *const c_char = get(library, "ncclGetErrorString");
        for code in -1..12 {
            answers.push(("text", code, CStr::from_ptr(text(code)).to_string_lossy().into_owned()));
        }
    }
    answers
}

/// Plays one library in a process of its own, since the simulator is told by a variable that there is no GPU.
#[test]
#[ignore = "started by the other test"]
fn library() {
    let file = env::var_os("KILN_NCCL").unwrap();
    // SAFETY: the libraries have no initializers with requirements on the caller.
    let library = unsafe { Library::new(file) }.unwrap();
    for (name, code, text) in answers(&library) {
        println!("= {name}: {code} {text}");
    }
}

#[test]
fn without_a_gpu_it_answers_as_the_real_library() {
    let Some([nccl, _]) = wheels() else { return };
    let play = |file: PathBuf| {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["library", "--exact", "--ignored", "--nocapture"]);
        let output = command.env("KILN_NCCL", file).env("KILN_SIM_INIT", "100").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().filter(|line| line.starts_with("= ")).map(str::to_string).collect::<Vec<_>>()
    };
    let (own, real) = (play(simulator()), play(nccl.join("lib/libnccl.so.2")));
    assert!(own.len() > 40);
    assert_eq!(own, real);
}

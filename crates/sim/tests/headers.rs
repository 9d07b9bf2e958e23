//! The simulator against NVIDIA's headers and libraries, where these are installed (`pip install nvidia-cuda-runtime
//! nvidia-cublas`): numbers, layouts, names, and cuBLASLt's results that need no device.
//!
//! They are looked for in the Python environment of `python3`. Without them the tests pass, unless
//! `KILN_REQUIRE_HEADERS` is set.
mod required;

use std::ffi::{c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr::null_mut;
use std::{env, fs};

use kiln_sim::api::blas as sim;
use kiln_sim::api::graph::{Memcpy3d, UpdateResult};
use kiln_sim::{Algorithm, Candidate, Descriptor, LAYOUT, OPERATION, PREFERENCE};
use libloading::Library;
use required::required;

/// The folder of the wheels that has `include/cuda.h`, as the `python3` of the path knows it.
fn wheels() -> Option<PathBuf> {
    let output = Command::new("python3").args(["-c", "import nvidia; print(*nvidia.__path__, sep='\\n')"]).output();
    let text = output.map_or_else(|_| String::new(), |output| String::from_utf8_lossy(&output.stdout).into_owned());
    let folders = |path: &str| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let found = text
        .lines()
        .flat_map(folders)
        .find(|folder| folder.join("include/cuda.h").exists() && folder.join("include/cublasLt.h").exists());
    required("the toolkit with cuBLASLt's headers", found)
}

/// Runs a C compiler on a text.
fn compile(text: &str, arguments: &[&str], program: &Path) {
    let source = program.with_extension("c");
    fs::write(&source, text).unwrap();
    let mut command = Command::new(env::var_os("CC").unwrap_or_else(|| "cc".into()));
    let output = command.arg(&source).args(arguments).arg("-o").arg(program).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The library that the simulator is.
fn library() -> PathBuf {
    let library = env::current_exe().unwrap().with_file_name("libkiln_sim.so");
    assert!(library.exists(), "{} is not there", library.display());
    library
}

/// The functions of CUDA that the library exports.
fn exported() -> Vec<String> {
    let output = Command::new("nm").args(["-D", "--defined-only"]).arg(library()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let names: Vec<String> = text
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2))
        // cuDNN has a test of its own.
        .filter(|name| name.starts_with("cu") && !name.starts_with("cudnn"))
        .map(str::to_string)
        .collect();
    assert!(names.len() > 90, "{names:?}");
    names
}

/// Attributes that `Profile::attribute` answers by name, with their numbers.
const ATTRIBUTES: [(&str, i32); 22] = [
    ("MAX_THREADS_PER_BLOCK", 1),
    ("MAX_BLOCK_DIM_X", 2),
    ("MAX_BLOCK_DIM_Z", 4),
    ("MAX_GRID_DIM_X", 5),
    ("MAX_GRID_DIM_Y", 6),
    ("MAX_SHARED_MEMORY_PER_BLOCK", 8),
    ("TOTAL_CONSTANT_MEMORY", 9),
    ("WARP_SIZE", 10),
    ("MAX_PITCH", 11),
    ("MAX_REGISTERS_PER_BLOCK", 12),
    ("CLOCK_RATE", 13),
    ("TEXTURE_ALIGNMENT", 14),
    ("MULTIPROCESSOR_COUNT", 16),
    ("MEMORY_CLOCK_RATE", 36),
    ("L2_CACHE_SIZE", 38),
    ("MAX_THREADS_PER_MULTIPROCESSOR", 39),
    ("COMPUTE_CAPABILITY_MAJOR", 75),
    ("COMPUTE_CAPABILITY_MINOR", 76),
    ("MAX_SHARED_MEMORY_PER_MULTIPROCESSOR", 81),
    ("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN", 97),
    ("MAX_BLOCKS_PER_MULTIPROCESSOR", 106),
    ("MEMORY_POOLS_SUPPORTED", 115),
];

/// Names of the library's enums with the numbers that the simulator has for them.
const NUMBERS: [(&str, i64); 49] = [
    ("CU_STREAM_CAPTURE_MODE_THREAD_LOCAL", 1),
    ("CU_STREAM_CAPTURE_MODE_RELAXED", 2),
    ("CU_STREAM_CAPTURE_STATUS_INVALIDATED", 2),
    ("CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED", 2),
    ("CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED", 3),
    ("CU_MEMORYTYPE_DEVICE", 2),
    ("CUBLAS_STATUS_SUCCESS", 0),
    ("CUBLAS_STATUS_NOT_INITIALIZED", 1),
    ("CUBLAS_STATUS_ALLOC_FAILED", 3),
    ("CUBLAS_STATUS_INVALID_VALUE", 7),
    ("CUBLAS_STATUS_EXECUTION_FAILED", 13),
    ("CUBLAS_STATUS_NOT_SUPPORTED", 15),
    ("CUDA_R_32F", 0),
    ("CUDA_R_64F", 1),
    ("CUDA_R_16F", 2),
    ("CUDA_R_16BF", 14),
    ("CUBLAS_COMPUTE_16F", 64),
    ("CUBLAS_COMPUTE_16F_PEDANTIC", 65),
    ("CUBLAS_COMPUTE_32F", 68),
    ("CUBLAS_COMPUTE_32F_PEDANTIC", 69),
    ("CUBLAS_COMPUTE_64F", 70),
    ("CUBLAS_COMPUTE_64F_PEDANTIC", 71),
    ("CUBLAS_COMPUTE_32I", 72),
    ("CUBLAS_COMPUTE_32I_PEDANTIC", 73),
    ("CUBLAS_COMPUTE_32F_FAST_16F", 74),
    ("CUBLAS_COMPUTE_32F_FAST_16BF", 75),
    ("CUBLAS_COMPUTE_32F_FAST_TF32", 77),
    ("CUBLAS_OP_N", 0),
    ("CUBLAS_OP_T", 1),
    ("CUBLAS_OP_C", 2),
    ("CUBLAS_FILL_MODE_FULL", 2),
    ("CUBLASLT_ORDER_COL", 0),
    ("CUBLASLT_ORDER_ROW", 1),
    ("CUBLASLT_POINTER_MODE_HOST", 0),
    ("CUBLASLT_POINTER_MODE_DEVICE", 1),
    ("CUBLASLT_POINTER_MODE_ALPHA_DEVICE_VECTOR_BETA_HOST", 4),
    ("CUBLASLT_EPILOGUE_DEFAULT", 1),
    ("CUBLASLT_EPILOGUE_RELU", 2),
    ("CUBLASLT_EPILOGUE_BIAS", 4),
    ("CUBLASLT_EPILOGUE_RELU_BIAS", 6),
    ("CUBLASLT_EPILOGUE_RELU_AUX", 130),
    ("CUBLASLT_EPILOGUE_RELU_AUX_BIAS", 134),
    ("CUBLASLT_EPILOGUE_DRELU", 136),
    ("CUBLASLT_EPILOGUE_DRELU_BGRAD", 152),
    ("CUBLASLT_EPILOGUE_BGRADA", 256),
    ("CUBLASLT_EPILOGUE_BGRADB", 512),
    ("CUBLASLT_EPILOGUE_GELU_BIAS", 36),
    ("CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE", 2),
    ("CUBLASLT_REDUCTION_SCHEME_MASK", 7),
];

#[test]
fn numbers_and_layouts_are_those_of_the_headers() {
    let Some(wheels) = wheels() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut text = String::from("#include <cuda.h>\n#include <cublasLt.h>\n#include <stddef.h>\n");
    let mut hold = |claim: String| text += &format!("_Static_assert({claim}, \"{}\");\n", claim.replace('"', ""));
    for (code, name) in kiln_sim::error_codes() {
        hold(format!("{name} == {code}"));
    }
    for (name, number) in ATTRIBUTES {
        hold(format!("CU_DEVICE_ATTRIBUTE_{name} == {number}"));
    }
    for (name, number) in NUMBERS {
        hold(format!("{name} == {number}"));
    }
    for (name, number, ..) in [OPERATION, LAYOUT, PREFERENCE].into_iter().flatten() {
        hold(format!("{name} == {number}"));
    }
    hold(format!("sizeof(cublasLtMatmulAlgo_t) == {}", size_of::<Algorithm>()));
    hold(format!("sizeof(cublasLtMatmulHeuristicResult_t) == {}", size_of::<Candidate>()));
    for (field, offset) in [
        ("workspaceSize", std::mem::offset_of!(Candidate, workspace)),
        ("state", std::mem::offset_of!(Candidate, state)),
        ("wavesCount", std::mem::offset_of!(Candidate, waves)),
    ] {
        hold(format!("offsetof(cublasLtMatmulHeuristicResult_t, {field}) == {offset}"));
    }
    hold(format!("sizeof(CUDA_MEMCPY3D) == {}", size_of::<Memcpy3d>()));
    hold(format!("sizeof(CUgraphExecUpdateResultInfo) == {}", size_of::<UpdateResult>()));
    for (field, offset) in [
        ("srcMemoryType", std::mem::offset_of!(Memcpy3d, src_type)),
        ("srcDevice", std::mem::offset_of!(Memcpy3d, src_device)),
        ("dstXInBytes", std::mem::offset_of!(Memcpy3d, dst_x)),
        ("dstMemoryType", std::mem::offset_of!(Memcpy3d, dst_type)),
        ("dstDevice", std::mem::offset_of!(Memcpy3d, dst_device)),
        ("WidthInBytes", std::mem::offset_of!(Memcpy3d, width)),
    ] {
        hold(format!("offsetof(CUDA_MEMCPY3D, {field}) == {offset}"));
    }
    text += "int main(void) { return 0; }\n";
    let include = format!("-I{}", wheels.join("include").display());
    compile(&text, &[&include], &folder.path().join("numbers"));
}

#[test]
fn every_function_is_one_of_the_headers_and_links() {
    let Some(wheels) = wheels() else { return };
    let folder = tempfile::tempdir().unwrap();
    // With this name defined, cuda.h declares every version of a function under its own name.
    let mut text = String::from("#define __CUDA_API_VERSION_INTERNAL 1\n#include <cuda.h>\n#include <cublasLt.h>\n");
    text += "const void *functions[] = {\n";
    for name in exported() {
        if name.starts_with("cuProfiler") {
            // Of the profiler the wheels have no header but one of types.
            let types = fs::read_to_string(wheels.join("include/cudaProfilerTypedefs.h")).unwrap();
            assert!(types.contains(&format!("PFN_{name}")), "{name}");
            continue;
        }
        text += &format!("    (const void *)&{name},\n");
    }
    text += "};\nint main(void) {\n    int version = 0;\n    if (cuDriverGetVersion(&version) || version < 12000) return 1;\n";
    text += "    for (unsigned i = 0; i < sizeof functions / sizeof *functions; ++i) if (!functions[i]) return 2;\n";
    text += "    cublasLtMatrixLayout_t layout;\n    if (cublasLtMatrixLayoutCreate(&layout, CUDA_R_32F, 2, 3, 2)) return 3;\n";
    text += "    return cublasLtMatrixLayoutDestroy(layout);\n}\n";
    let include = format!("-I{}", wheels.join("include").display());
    let library = library();
    let path = format!("-Wl,-rpath,{}", library.parent().unwrap().display());
    let program = folder.path().join("names");
    compile(&text, &[&include, library.to_str().unwrap(), &path], &program);
    assert!(Command::new(&program).status().unwrap().success());
}

type Create = unsafe extern "C" fn(*mut usize) -> u32;
type CreateDesc = unsafe extern "C" fn(*mut usize, c_int, c_int) -> u32;
type CreateLayout = unsafe extern "C" fn(*mut usize, c_int, u64, u64, i64) -> u32;
type Destroy = unsafe extern "C" fn(usize) -> u32;
type Set = unsafe extern "C" fn(usize, c_int, *const u8, usize) -> u32;
type Get = unsafe extern "C" fn(usize, c_int, *mut u8, usize, *mut usize) -> u32;

/// What there is of a kind of descriptor.
struct Functions {
    create: Box<dyn Fn(*mut usize) -> u32>,
    destroy: Destroy,
    set: Set,
    get: Get,
}

/// The functions of the library at `path`.
fn real(library: &'static Library, kind: Descriptor) -> Functions {
    // SAFETY: the types are those of the header, with a number for the enum of statuses.
    unsafe {
        let name = match kind {
            Descriptor::Operation => "MatmulDesc",
            Descriptor::Layout => "MatrixLayout",
            Descriptor::Preference => "MatmulPreference",
        };
        let function = |suffix: &str| format!("cublasLt{name}{suffix}");
        let create: Box<dyn Fn(*mut usize) -> u32> = match kind {
            Descriptor::Operation => {
                let create = *library.get::<CreateDesc>(function("Create")).unwrap();
                Box::new(move |out| create(out, 68, 0))
            }
            Descriptor::Layout => {
                let create = *library.get::<CreateLayout>(function("Create")).unwrap();
                Box::new(move |out| create(out, 0, 5, 6, 7))
            }
            Descriptor::Preference => {
                let create = *library.get::<Create>(function("Create")).unwrap();
                Box::new(move |out| create(out))
            }
        };
        Functions {
            create,
            destroy: *library.get(function("Destroy")).unwrap(),
            set: *library.get(function("SetAttribute")).unwrap(),
            get: *library.get(function("GetAttribute")).unwrap(),
        }
    }
}

/// Everything that can be asked of a kind of descriptor without a device, with the answers.
fn answers(functions: &Functions, kind: Descriptor) -> Vec<(String, u32, Vec<u8>)> {
    let mut all = Vec::new();
    let mut note = |question: String, status: u32, bytes: &[u8]| all.push((question, status, bytes.to_vec()));
    // SAFETY: descriptors of these functions, and buffers that are larger than any attribute.
    unsafe {
        note("create into nothing".into(), (functions.create)(null_mut()), &[]);
        note("destroy nothing".into(), (functions.destroy)(0), &[]);
        for (name, number, ..) in kind.table() {
            let mut handle = 0;
            note("create".into(), (functions.create)(&raw mut handle), &[]);
            let mut buffer = [0u8; 64];
            let mut written = 0;
            let status = (functions.get)(handle, *number, null_mut(), 0, &raw mut written);
            note(format!("size of {name}"), status, &written.to_le_bytes());
            let status = (functions.get)(handle, *number, buffer.as_mut_ptr(), written, &raw mut written);
            note(format!("default of {name}"), status, &buffer[..written]);
            note(format!("null for {name}"), (functions.set)(handle, *number, std::ptr::null(), written), &[]);
            note(format!("{name} of nothing"), (functions.set)(0, *number, buffer.as_ptr(), written), &[]);
            for bytes in 0..=16 {
                let status = (functions.set)(handle, *number, buffer.as_ptr(), bytes);
                note(format!("{bytes} bytes for {name}"), status, &[]);
            }
            let new = [0x11u8, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x08];
            let status = (functions.set)(handle, *number, new.as_ptr(), written);
            note(format!("a new {name}"), status, &[]);
            let status = (functions.get)(handle, *number, buffer.as_mut_ptr(), written, null_mut());
            note(format!("the new {name}"), status, &buffer[..written]);
            note("destroy".into(), (functions.destroy)(handle), &[]);
        }
        let mut handle = 0;
        (functions.create)(&raw mut handle);
        for number in [-1, 99] {
            note(format!("attribute {number}"), (functions.set)(handle, number, [0; 8].as_ptr(), 8), &[]);
        }
        (functions.destroy)(handle);
    }
    all
}

#[test]
fn descriptors_answer_as_the_real_library() {
    let Some(wheels) = wheels() else { return };
    let library = wheels.join("lib/libcublasLt.so.13");
    let Some(library) = required("cuBLASLt", library.exists().then_some(library)) else { return };
    // SAFETY: NVIDIA's library has no initializers with requirements on the caller.
    let library: &'static Library = Box::leak(Box::new(unsafe { Library::new(&library) }.unwrap()));
    for name in exported().iter().filter(|name| name.starts_with("cublas")) {
        // SAFETY: the address is only looked up.
        assert!(unsafe { library.get::<*const c_void>(name.as_bytes()) }.is_ok(), "the real library has no {name}");
    }
    // SAFETY: the library that the simulator is, with the same functions.
    let own: &'static Library = Box::leak(Box::new(unsafe { Library::new(self::library()) }.unwrap()));
    for kind in [Descriptor::Operation, Descriptor::Layout, Descriptor::Preference] {
        let (got, want) = (answers(&real(own, kind), kind), answers(&real(library, kind), kind));
        for (got, want) in got.iter().zip(&want) {
            assert_eq!(got, want, "{kind:?}: simulator, real library");
        }
        assert_eq!(got.len(), want.len());
    }
    // What needs a handle, without one.
    for library in [own, library] {
        // SAFETY: the type is that of the header; null is refused.
        unsafe {
            assert_eq!((library.get::<Create>(b"cublasLtCreate").unwrap())(null_mut()), 7);
            assert_eq!((library.get::<Destroy>(b"cublasLtDestroy").unwrap())(0), 7);
        }
    }
    assert!(sim::cublasLtGetVersion() >= 120_000);
}

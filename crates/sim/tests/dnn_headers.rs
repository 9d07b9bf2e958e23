//! The simulated cuDNN against NVIDIA's headers and library, where these are installed (`pip install nvidia-cudnn-cu13
//! nvidia-cuda-runtime`): numbers, layouts, names, and everything that the real library answers without a device.
//!
//! They are looked for in the active Python environment. Without them the tests pass, unless `KILN_REQUIRE_HEADERS` is
//! set.
use std::ffi::{c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use kiln_sim::{Choice, DnnStatus};
use libloading::Library;

/// The folders of the wheels: of cuDNN, and of the toolkit whose headers it includes.
fn wheels() -> Option<[PathBuf; 2]> {
    let mut roots: Vec<PathBuf> = env::var_os("VIRTUAL_ENV").into_iter().map(PathBuf::from).collect();
    let path = env::var_os("PATH").unwrap_or_default();
    let pythons = env::split_paths(&path).map(|folder| folder.join("python3")).filter(|file| file.is_file());
    for python in pythons.flat_map(|file| [fs::canonicalize(&file).ok(), Some(file)]).flatten() {
        roots.extend(python.parent().and_then(Path::parent).map(Path::to_path_buf));
    }
    let folders = |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let found = roots
        .into_iter()
        .flat_map(|root| folders(root.join("lib")))
        .map(|python| python.join("site-packages/nvidia"))
        .find_map(|nvidia| {
            let toolkit = folders(nvidia.clone()).find(|folder| folder.join("include/cuda_runtime_api.h").exists())?;
            let dnn = nvidia.join("cudnn");
            dnn.join("include/cudnn.h").exists().then_some([dnn, toolkit])
        });
    assert!(found.is_some() || env::var_os("KILN_REQUIRE_HEADERS").is_none(), "NVIDIA's headers are required");
    found
}

/// The library that the simulator is.
fn simulator() -> PathBuf {
    let library = env::current_exe().unwrap().with_file_name("libkiln_sim.so");
    assert!(library.exists(), "{} is not there", library.display());
    library
}

/// The functions of cuDNN that it exports.
fn exported() -> Vec<String> {
    let output = Command::new("nm").args(["-D", "--defined-only"]).arg(simulator()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let names = text.lines().filter_map(|line| line.split_whitespace().nth(2));
    let names: Vec<String> = names.filter(|name| name.starts_with("cudnn")).map(str::to_string).collect();
    assert!(names.len() > 25, "{names:?}");
    names
}

/// Names of the library's enums with the numbers that the simulator has for them.
const NUMBERS: [(&str, u32); 44] = [
    ("CUDNN_STATUS_SUCCESS", DnnStatus::SUCCESS.0),
    ("CUDNN_STATUS_NOT_INITIALIZED", DnnStatus::NOT_INITIALIZED.0),
    ("CUDNN_STATUS_BAD_PARAM", DnnStatus::BAD_PARAM.0),
    ("CUDNN_STATUS_NOT_SUPPORTED", DnnStatus::NOT_SUPPORTED.0),
    ("CUDNN_STATUS_ALLOC_FAILED", DnnStatus::ALLOC_FAILED.0),
    ("CUDNN_STATUS_EXECUTION_FAILED", DnnStatus::EXECUTION_FAILED.0),
    ("CUDNN_DATA_FLOAT", 0),
    ("CUDNN_DATA_DOUBLE", 1),
    ("CUDNN_DATA_HALF", 2),
    ("CUDNN_DATA_BFLOAT16", 9),
    ("CUDNN_TENSOR_NCHW", 0),
    ("CUDNN_TENSOR_NHWC", 1),
    ("CUDNN_CONVOLUTION", 0),
    ("CUDNN_CROSS_CORRELATION", 1),
    ("CUDNN_DEFAULT_MATH", 0),
    ("CUDNN_TENSOR_OP_MATH", 1),
    ("CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION", 2),
    ("CUDNN_FMA_MATH", 3),
    ("CUDNN_ACTIVATION_RELU", 1),
    ("CUDNN_ACTIVATION_IDENTITY", 5),
    ("CUDNN_NOT_PROPAGATE_NAN", 0),
    ("CUDNN_NON_DETERMINISTIC", 0),
    ("CUDNN_DETERMINISTIC", 1),
    ("CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM", 0),
    ("CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM", 1),
    ("CUDNN_CONVOLUTION_FWD_ALGO_GEMM", 2),
    ("CUDNN_CONVOLUTION_FWD_ALGO_DIRECT", 3),
    ("CUDNN_CONVOLUTION_FWD_ALGO_FFT", 4),
    ("CUDNN_CONVOLUTION_FWD_ALGO_FFT_TILING", 5),
    ("CUDNN_CONVOLUTION_FWD_ALGO_WINOGRAD", 6),
    ("CUDNN_CONVOLUTION_FWD_ALGO_WINOGRAD_NONFUSED", 7),
    ("CUDNN_CONVOLUTION_BWD_DATA_ALGO_0", 0),
    ("CUDNN_CONVOLUTION_BWD_DATA_ALGO_1", 1),
    ("CUDNN_CONVOLUTION_BWD_DATA_ALGO_FFT", 2),
    ("CUDNN_CONVOLUTION_BWD_DATA_ALGO_FFT_TILING", 3),
    ("CUDNN_CONVOLUTION_BWD_DATA_ALGO_WINOGRAD", 4),
    ("CUDNN_CONVOLUTION_BWD_DATA_ALGO_WINOGRAD_NONFUSED", 5),
    ("CUDNN_CONVOLUTION_BWD_FILTER_ALGO_0", 0),
    ("CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1", 1),
    ("CUDNN_CONVOLUTION_BWD_FILTER_ALGO_FFT", 2),
    ("CUDNN_CONVOLUTION_BWD_FILTER_ALGO_3", 3),
    ("CUDNN_CONVOLUTION_BWD_FILTER_ALGO_WINOGRAD", 4),
    ("CUDNN_CONVOLUTION_BWD_FILTER_ALGO_WINOGRAD_NONFUSED", 5),
    ("CUDNN_CONVOLUTION_BWD_FILTER_ALGO_FFT_TILING", 6),
];

/// A C program that states what the simulator takes the headers to say, and refers to every function that it has.
#[test]
fn numbers_layouts_and_names_are_those_of_the_headers() {
    let Some([dnn, toolkit]) = wheels() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut text = String::from("#include <cudnn.h>\n#include <stddef.h>\n");
    let mut hold = |claim: String| text += &format!("_Static_assert({claim}, \"{claim}\");\n");
    for (name, number) in NUMBERS {
        hold(format!("{name} == {number}"));
    }
    for direction in ["Fwd", "BwdData", "BwdFilter"] {
        let name = format!("cudnnConvolution{direction}AlgoPerf_t");
        hold(format!("sizeof({name}) == {}", size_of::<Choice>()));
        for (field, offset) in [
            ("algo", std::mem::offset_of!(Choice, algorithm)),
            ("status", std::mem::offset_of!(Choice, status)),
            ("time", std::mem::offset_of!(Choice, time)),
            ("memory", std::mem::offset_of!(Choice, memory)),
            ("determinism", std::mem::offset_of!(Choice, determinism)),
            ("mathType", std::mem::offset_of!(Choice, math)),
        ] {
            hold(format!("offsetof({name}, {field}) == {offset}"));
        }
    }
    text += "const void *functions[] = {\n";
    exported().iter().for_each(|name| text += &format!("    (const void *)&{name},\n"));
    text += "};\nint main(void) {\n";
    text += "    for (unsigned i = 0; i < sizeof functions / sizeof *functions; ++i) if (!functions[i]) return 1;\n";
    text += "    cudnnTensorDescriptor_t tensor;\n    if (cudnnCreateTensorDescriptor(&tensor)) return 2;\n";
    text += "    return cudnnGetVersion() < 90000 || cudnnDestroyTensorDescriptor(tensor);\n}\n";
    let (source, program) = (folder.path().join("names.c"), folder.path().join("names"));
    fs::write(&source, text).unwrap();
    let mut command = Command::new(env::var_os("CC").unwrap_or_else(|| "cc".into()));
    command.arg(&source).arg("-w");
    [&dnn, &toolkit].iter().for_each(|wheel| _ = command.arg("-I").arg(wheel.join("include")));
    let library = simulator();
    command.arg(&library).arg(format!("-Wl,-rpath,{}", library.parent().unwrap().display()));
    let output = command.arg("-o").arg(&program).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(Command::new(&program).status().unwrap().success());
}

type Create = unsafe extern "C" fn(*mut usize) -> u32;
type One = unsafe extern "C" fn(usize) -> u32;
type Number = unsafe extern "C" fn(usize, c_int) -> u32;
type SetTensor = unsafe extern "C" fn(usize, c_int, c_int, *const c_int, *const c_int) -> u32;
type SetFilter = unsafe extern "C" fn(usize, c_int, c_int, c_int, *const c_int) -> u32;
type SetConvolution = unsafe extern "C" fn(usize, c_int, *const c_int, *const c_int, *const c_int, c_int, c_int) -> u32;
type SetActivation = unsafe extern "C" fn(usize, c_int, c_int, f64) -> u32;
type Output = unsafe extern "C" fn(usize, usize, usize, c_int, *mut c_int) -> u32;

/// A library of cuDNN's functions.
struct Functions(Library);

impl Functions {
    fn open(path: &Path) -> Functions {
        // SAFETY: neither library has initializers with requirements on the caller.
        Functions(unsafe { Library::new(path) }.unwrap())
    }

    fn get<T: Copy>(&self, name: &str) -> T {
        // SAFETY: the types above are those of the header, with numbers for enums and descriptors.
        *unsafe { self.0.get::<T>(name.as_bytes()) }.unwrap()
    }

    fn descriptor(&self, sort: &str) -> usize {
        let mut handle = 0;
        // SAFETY: it writes the handle.
        let status = unsafe { self.get::<Create>(&format!("cudnnCreate{sort}Descriptor"))(&raw mut handle) };
        assert!(status == 0 && handle != 0);
        handle
    }
}

/// What has been asked and answered.
#[derive(Default)]
struct Answers(Vec<(String, Vec<i64>)>);

impl Answers {
    fn note(&mut self, question: String, status: u32) {
        self.0.push((question, vec![status.into()]));
    }
}

const SORTS: [&str; 4] = ["Tensor", "Filter", "Convolution", "Activation"];
const LONG: usize = 12;

fn settings(of: &Functions, answers: &mut Answers) {
    let [tensor, filter, convolution, activation] = SORTS.map(|sort| of.descriptor(sort));
    let set_tensor = |answers: &mut Answers, data: c_int, dims: &[c_int], strides: &[c_int]| {
        // SAFETY: there are as many numbers as are said.
        let status = unsafe {
            let set = of.get::<SetTensor>("cudnnSetTensorNdDescriptor");
            set(tensor, data, dims.len() as c_int, dims.as_ptr(), strides.as_ptr())
        };
        answers.note(format!("tensor {data} {dims:?} {strides:?}"), status);
    };
    for rank in -1..=LONG as c_int {
        let (two, one) = ([2; LONG], [1; LONG]);
        // SAFETY: there are more numbers than any of the functions reads.
        unsafe {
            let set = of.get::<SetTensor>("cudnnSetTensorNdDescriptor");
            answers.note(format!("tensor of {rank}"), set(tensor, 0, rank, two.as_ptr(), one.as_ptr()));
            let set = of.get::<SetFilter>("cudnnSetFilterNdDescriptor");
            answers.note(format!("filter of {rank}"), set(filter, 0, 0, rank, two.as_ptr()));
            let set = of.get::<SetConvolution>("cudnnSetConvolutionNdDescriptor");
            let (two, one) = (two.as_ptr(), one.as_ptr());
            answers.note(format!("convolution of {rank}"), set(convolution, rank, two, one, one, 1, 0));
        }
    }
    for data in -1..=20 {
        set_tensor(answers, data, &[2, 3, 4, 5], &[60, 20, 5, 1]);
        // SAFETY: as above.
        unsafe {
            let set = of.get::<SetFilter>("cudnnSetFilterNdDescriptor");
            answers.note(format!("filter {data}"), set(filter, data, 0, 4, [2, 3, 4, 5].as_ptr()));
            let set = of.get::<SetConvolution>("cudnnSetConvolutionNdDescriptor");
            let (none, one) = ([0; 2].as_ptr(), [1; 2].as_ptr());
            answers.note(format!("sums {data}"), set(convolution, 2, none, one, one, 1, data));
            answers.note(format!("mode {data}"), set(convolution, 2, none, one, one, data, 0));
        }
    }
    const MOST: c_int = c_int::MAX;
    for (dims, strides) in [
        ([0, 3, 4, 5], [60, 20, 5, 1]),
        ([2, -3, 4, 5], [60, 20, 5, 1]),
        ([2, 3, 4, 5], [60, 0, 5, 1]),
        ([2, 3, 4, 5], [60, 20, 5, -1]),
        ([2, 3, 4, 5], [1, 1, 1, 1]),
        ([1 << 15, 1 << 16, 1, 1], [1 << 16, 1, 1, 1]),
        ([1 << 15, (1 << 16) - 1, 1, 1], [(1 << 16) - 1, 1, 1, 1]),
        ([MOST, 1, 1, 1], [1, 1, 1, 1]),
        ([MOST, 1, 1, 1], [2, 1, 1, 1]),
        ([2, 1, 1, 1], [MOST, 1, 1, 1]),
        ([2, 1, 1, 1], [MOST - 1, 1, 1, 1]),
        ([2, 1, 1, 1], [-MOST, 1, 1, 1]),
        ([1 << 20, 1 << 20, 1 << 20, 4], [1, 1, 1, 1]),
    ] {
        for data in [0, 1, 2, 9] {
            set_tensor(answers, data, &dims, &strides);
        }
    }
    // SAFETY: as above.
    unsafe {
        let set = of.get::<SetFilter>("cudnnSetFilterNdDescriptor");
        for dims in [[0, 3, 3, 3], [2, 3, 3, -1], [1 << 16; 4], [1 << 15, 1 << 16, 1, 1]] {
            for format in -1..=4 {
                let status = set(filter, 0, format, 4, dims.as_ptr());
                answers.note(format!("filter {format} {dims:?}"), status);
            }
        }
        let set = of.get::<SetConvolution>("cudnnSetConvolutionNdDescriptor");
        for (at, value) in (0..6).flat_map(|at| [-1, 0, 1, MOST].map(|value| (at, value))) {
            let mut moves = [0, 0, 1, 1, 1, 1];
            moves[at] = value;
            let [p, s, d] = [0, 2, 4].map(|axis| moves[axis..].as_ptr());
            answers.note(format!("moves {moves:?}"), set(convolution, 2, p, s, d, 1, 0));
        }
        for number in -2..=6 {
            let (groups, math) = ("cudnnSetConvolutionGroupCount", "cudnnSetConvolutionMathType");
            answers.note(format!("groups {number}"), of.get::<Number>(groups)(convolution, number));
            answers.note(format!("math {number}"), of.get::<Number>(math)(convolution, number));
            answers.note(format!("{groups} of nothing"), of.get::<Number>(groups)(0, number));
            answers.note(format!("{math} of nothing"), of.get::<Number>(math)(0, number));
            let set = of.get::<SetActivation>("cudnnSetActivationDescriptor");
            for mode in -1..=8 {
                answers.note(format!("activation {mode} {number}"), set(activation, mode, number, f64::NAN));
            }
        }
    }
    for (sort, handle) in SORTS.into_iter().zip([tensor, filter, convolution, activation]) {
        let destroy = of.get::<One>(&format!("cudnnDestroy{sort}Descriptor"));
        // SAFETY: null is refused or ignored; the handle was made above and is not used again.
        unsafe {
            let create = of.get::<Create>(&format!("cudnnCreate{sort}Descriptor"));
            answers.note(format!("{sort} into nothing"), create(std::ptr::null_mut()));
            answers.note(format!("no {sort}"), destroy(0));
            answers.note(sort.to_string(), destroy(handle));
        }
    }
}

/// The extents of outputs, and what is no convolution.
fn outputs(of: &Functions, answers: &mut Answers) {
    let [tensor, filter, convolution] = [SORTS[0], SORTS[1], SORTS[2]].map(|sort| of.descriptor(sort));
    let output = of.get::<Output>("cudnnGetConvolutionNdForwardOutputDim");
    let mut ask = |question: String, handles: [usize; 3], rank: c_int| {
        let mut dims = [-7; LONG];
        let [convolution, tensor, filter] = handles;
        // SAFETY: there is more room than is said.
        let status = unsafe { output(convolution, tensor, filter, rank, dims.as_mut_ptr()) };
        let told = std::iter::once(status.into()).chain(dims.map(i64::from));
        answers.0.push((question, told.collect()));
    };
    ask("nothing is set".into(), [convolution, tensor, filter], 4);
    let strides = [1; LONG];
    for (x, w) in [
        (vec![2, 4, 8, 9], vec![6, 4, 3, 3]),
        (vec![2, 4, 8, 9], vec![6, 2, 3, 2]),
        (vec![2, 4, 8, 9], vec![5, 2, 1, 5]),
        (vec![2, 4, 8, 9], vec![6, 1, 8, 9]),
        (vec![2, 4, 3, 9], vec![6, 4, 5, 3]),
        (vec![2, 4, 9, 3], vec![6, 4, 3, 5]),
        (vec![2, 4, 8], vec![6, 4, 3]),
        (vec![2, 4, 8, 9, 7], vec![6, 4, 3, 3, 2]),
        (vec![2, 4, 8, 9], vec![6, 4, 3, 3, 3]),
    ] {
        for (groups, moves) in [
            (1, [0, 0, 1, 1, 1, 1]),
            (1, [1, 2, 2, 3, 1, 1]),
            (1, [2, 1, 1, 1, 2, 3]),
            (2, [1, 1, 2, 1, 2, 1]),
            (4, [0, 1, 5, 5, 1, 1]),
            (3, [1, 1, 1, 1, 1, 1]),
        ] {
            for axes in 1..=3 {
                let [p, s, d] = [0, 2, 4].map(|at| {
                    let mut all = [if at == 0 { 0 } else { 1 }; 8];
                    all[..2].copy_from_slice(&moves[at..at + 2]);
                    all
                });
                // SAFETY: there are as many numbers as are said.
                let set = unsafe {
                    [
                        of.get::<SetTensor>("cudnnSetTensorNdDescriptor")(
                            tensor,
                            0,
                            x.len() as c_int,
                            x.as_ptr(),
                            strides.as_ptr(),
                        ),
                        of.get::<SetFilter>("cudnnSetFilterNdDescriptor")(
                            filter,
                            0,
                            groups % 2,
                            w.len() as c_int,
                            w.as_ptr(),
                        ),
                        of.get::<SetConvolution>("cudnnSetConvolutionNdDescriptor")(
                            convolution,
                            axes,
                            p.as_ptr(),
                            s.as_ptr(),
                            d.as_ptr(),
                            1,
                            0,
                        ),
                        of.get::<Number>("cudnnSetConvolutionGroupCount")(convolution, groups),
                    ]
                };
                assert_eq!(set, [0; 4]);
                for rank in 2..=6 {
                    let question = format!("{x:?} by {w:?} in {groups} groups, {axes} axes, {moves:?}, {rank} extents");
                    ask(question, [convolution, tensor, filter], rank);
                }
            }
        }
    }
    for left_out in 0..3 {
        let mut handles = [convolution, tensor, filter];
        handles[left_out] = 0;
        ask(format!("without descriptor {left_out}"), handles, 4);
    }
}

#[test]
fn what_needs_no_device_is_answered_as_by_the_real_library() {
    let Some([dnn, _]) = wheels() else { return };
    let library = dnn.join("lib/libcudnn.so.9");
    if !library.exists() && env::var_os("KILN_REQUIRE_HEADERS").is_none() {
        return;
    }
    let (own, real) = (Functions::open(&simulator()), Functions::open(&library));
    for name in exported() {
        real.get::<*const c_void>(&name);
    }
    let answers = [&own, &real].map(|of| {
        let mut answers = Answers::default();
        settings(of, &mut answers);
        outputs(of, &mut answers);
        // What needs a handle, without one.
        // SAFETY: null is refused, or ignored.
        unsafe {
            answers.note("a handle into nothing".into(), of.get::<Create>("cudnnCreate")(std::ptr::null_mut()));
            answers.note("no handle".into(), of.get::<One>("cudnnDestroy")(0));
            let stream = of.get::<unsafe extern "C" fn(usize, usize) -> u32>("cudnnSetStream");
            answers.note("the stream of nothing".into(), stream(0, 0));
        }
        answers.0
    });
    let [got, want] = answers;
    assert!(want.len() > 1000, "{}", want.len());
    for (got, want) in got.iter().zip(&want) {
        assert_eq!(got, want, "simulator, real library");
    }
}

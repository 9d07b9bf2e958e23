//! The simulated cuDNN against NVIDIA's headers and library, where these are installed (`pip install nvidia-cudnn-cu13
//! nvidia-cuda-runtime nvidia-cublas nvidia-cuda-nvrtc`): numbers and names, and the results of both for random graphs,
//! valid and invalid ones, that need no device: the real library gets a description of one
//! (`CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR`).
//!
//! They are looked for in the active Python environment. Without them the tests pass, unless `KILN_REQUIRE_HEADERS` is
//! set.
#[path = "../../cuda/src/described/devices.rs"]
#[allow(dead_code, reason = "the table of plans has names for them")]
mod devices;
#[path = "../../cuda/src/described/stub.rs"]
mod stub;

use std::ffi::c_void;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use kiln_sim::types::*;
use kiln_sim::{DnnStatus, KINDS};
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
    assert!(names.len() >= 13, "{names:?}");
    names
}

/// Names of the library's enums with the numbers that the simulator has for them.
const NUMBERS: [(&str, u32); 44] = [
    ("CUDNN_STATUS_SUCCESS", DnnStatus::SUCCESS.0),
    ("CUDNN_STATUS_NOT_INITIALIZED", DnnStatus::NOT_INITIALIZED.0),
    ("CUDNN_STATUS_BAD_PARAM", DnnStatus::BAD_PARAM.0),
    ("CUDNN_STATUS_BAD_PARAM_NULL_POINTER", DnnStatus::NULL_POINTER.0),
    ("CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER", DnnStatus::MISALIGNED_POINTER.0),
    ("CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED", DnnStatus::NOT_FINALIZED.0),
    ("CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE", DnnStatus::BAD_ATTRIBUTE_TYPE.0),
    ("CUDNN_STATUS_NOT_SUPPORTED", DnnStatus::NOT_SUPPORTED.0),
    ("CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED", DnnStatus::ALLOC_FAILED.0),
    ("CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", DnnStatus::DEVICE_ALLOCATION_FAILED.0),
    ("CUDNN_STATUS_EXECUTION_FAILED", DnnStatus::EXECUTION_FAILED.0),
    ("CUDNN_DATA_FLOAT", 0),
    ("CUDNN_DATA_DOUBLE", 1),
    ("CUDNN_DATA_HALF", 2),
    ("CUDNN_DATA_BFLOAT16", 9),
    ("CUDNN_CONVOLUTION", 0),
    ("CUDNN_CROSS_CORRELATION", 1),
    ("CUDNN_POINTWISE_ADD", 0),
    ("CUDNN_POINTWISE_RELU_FWD", 100),
    ("CUDNN_POINTWISE_RELU_BWD", 200),
    ("CUDNN_REDUCE_TENSOR_ADD", 0),
    ("CUDNN_HEUR_MODE_A", 3),
    ("CUDNN_HEUR_MODE_FALLBACK", 2),
    ("CUDNN_NUMERICAL_NOTE_TENSOR_CORE", 0),
    ("CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS", 1),
    ("CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION", 2),
    ("CUDNN_NUMERICAL_NOTE_FFT", 3),
    ("CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC", 4),
    ("CUDNN_NUMERICAL_NOTE_WINOGRAD", 5),
    ("CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION", 0),
    ("CUDNN_TYPE_HANDLE", HANDLE),
    ("CUDNN_TYPE_DATA_TYPE", DATA_TYPE),
    ("CUDNN_TYPE_BOOLEAN", BOOLEAN),
    ("CUDNN_TYPE_INT64", INT64),
    ("CUDNN_TYPE_FLOAT", FLOAT),
    ("CUDNN_TYPE_DOUBLE", DOUBLE),
    ("CUDNN_TYPE_VOID_PTR", POINTER),
    ("CUDNN_TYPE_CONVOLUTION_MODE", CONVOLUTION_MODE),
    ("CUDNN_TYPE_HEUR_MODE", HEURISTIC_MODE),
    ("CUDNN_TYPE_NUMERICAL_NOTE", NUMERICAL_NOTE),
    ("CUDNN_TYPE_POINTWISE_MODE", POINTWISE_MODE),
    ("CUDNN_TYPE_BACKEND_DESCRIPTOR", DESCRIPTOR),
    ("CUDNN_TYPE_BEHAVIOR_NOTE", BEHAVIOR_NOTE),
    ("CUDNN_TYPE_REDUCTION_OPERATOR_TYPE", REDUCTION_OPERATOR_TYPE),
];

/// A C program that states what the simulator takes the headers to say, and refers to every function that it has.
#[test]
fn numbers_and_names_are_those_of_the_headers() {
    let Some([dnn, toolkit]) = wheels() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut text = String::from("#include <cudnn.h>\n#include <stddef.h>\n");
    let mut hold = |claim: String| text += &format!("_Static_assert({claim}, \"{claim}\");\n");
    for (name, number) in NUMBERS {
        hold(format!("{name} == {number}"));
    }
    for (kind, name, attributes) in KINDS {
        hold(format!("CUDNN_BACKEND_{name} == {}", *kind as u32));
        for (name, number, ..) in *attributes {
            hold(format!("CUDNN_ATTR_{name} == {number}"));
        }
    }
    text += "const void *functions[] = {\n";
    exported().iter().for_each(|name| text += &format!("    (const void *)&{name},\n"));
    text += "};\nint main(void) {\n";
    text += "    for (unsigned i = 0; i < sizeof functions / sizeof *functions; ++i) if (!functions[i]) return 1;\n";
    text += "    cudnnBackendDescriptor_t tensor;\n";
    text += "    if (cudnnBackendCreateDescriptor(CUDNN_BACKEND_TENSOR_DESCRIPTOR, &tensor)) return 2;\n";
    text += "    return cudnnGetVersion() < 90000 || cudnnBackendDestroyDescriptor(tensor);\n}\n";
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

type Create = unsafe extern "C" fn(u32, *mut usize) -> u32;
type One = unsafe extern "C" fn(usize) -> u32;
type Set = unsafe extern "C" fn(usize, u32, u32, i64, *const c_void) -> u32;
type Get = unsafe extern "C" fn(usize, u32, u32, i64, *mut i64, *mut c_void) -> u32;

/// A library of cuDNN's functions.
struct Functions {
    create: Create,
    destroy: One,
    finalize: One,
    set: Set,
    get: Get,
    _library: Library,
}

impl Functions {
    fn open(path: &Path) -> Functions {
        // SAFETY: neither library has initializers with requirements on the caller; the types above are those of the
        // header, with numbers for enums and descriptors.
        unsafe {
            let library = Library::new(path).unwrap();
            fn get<T: Copy>(library: &Library, name: &str) -> T {
                // SAFETY: as above.
                *unsafe { library.get::<T>(name.as_bytes()) }.unwrap()
            }
            Functions {
                create: get(&library, "cudnnBackendCreateDescriptor"),
                destroy: get(&library, "cudnnBackendDestroyDescriptor"),
                finalize: get(&library, "cudnnBackendFinalize"),
                set: get(&library, "cudnnBackendSetAttribute"),
                get: get(&library, "cudnnBackendGetAttribute"),
                _library: library,
            }
        }
    }
}

/// Descriptors that one library has been asked for, and its answers.
struct Asked<'a> {
    of: &'a Functions,
    made: Vec<usize>,
    answers: Vec<(String, i64)>,
    /// Whether everything has been finalized so far.
    whole: bool,
    device: usize,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        for desc in &self.made {
            // SAFETY: made by this library and not destroyed yet.
            unsafe { (self.of.destroy)(*desc) };
        }
    }
}

impl Asked<'_> {
    fn create(&mut self, kind: u32) -> usize {
        let mut desc = 0;
        // SAFETY: it writes the handle.
        let status = unsafe { (self.of.create)(kind, &raw mut desc) };
        assert_eq!(status, 0);
        self.made.push(desc);
        desc
    }

    fn set<T: std::fmt::Debug>(&mut self, desc: usize, attribute: u32, kind: u32, values: &[T]) {
        // SAFETY: there are as many values as are said.
        let status = unsafe { (self.of.set)(desc, attribute, kind, values.len() as i64, values.as_ptr().cast()) };
        let values = if kind == DESCRIPTOR { String::new() } else { format!("{values:?}") };
        self.answers.push((format!("set {attribute} of type {kind} to {values}"), status.into()));
    }

    fn finalize(&mut self, what: &str, desc: usize) -> bool {
        // SAFETY: a descriptor.
        let status = unsafe { (self.of.finalize)(desc) };
        self.answers.push((format!("finalize {what}"), status.into()));
        self.whole &= status == 0;
        status == 0
    }
}

/// A generator of numbers, the same for both libraries (splitmix64).
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }

    /// True once in so many times.
    fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// Whether a graph has something that the simulator has no engine for, though the real library may: tensors with gaps or of
/// mixed orders, tensors without a number, other operations behind a convolution than Kiln fuses to it.
#[derive(Debug, Default)]
struct Beyond(bool);

/// Asks one library for a random graph, with mistakes in about half of them. Returns what it proposes: `None` if the graph
/// is not even valid.
fn random_graph(asked: &mut Asked, random: &mut Random, beyond: &mut Beyond) -> Option<bool> {
    let mistakes = random.once_in(2);
    // One mistake in about four chances for it, where there are any.
    let slips = |random: &mut Random, chances: u64| mistakes && random.once_in(chances);
    let direction = random.below(3) as usize;
    // What is behind the convolution: `b` a bias, `z` another tensor that is added, `r` ReLU, `g` ReLU's gradient, `s` sums.
    let behind = match direction {
        0 if random.once_in(3) => random.of(&["br", "zbr"]),
        1 if random.once_in(2) => random.of(&["g", "gs"]),
        _ => "",
    };
    let data = if random.once_in(20) { 4 } else { random.of(&[0, 0, 1, 2, 2, 9]) };
    let compute = i32::from(data == 1);
    let bytes = i64::from([4, 8, 2][usize::from(data == 1) + 2 * usize::from(data == 2 || data == 9)]);
    let groups = random.of(&[1, 1, 1, 2, 3]);
    let (n, c, k) = (random.of(&[1, 2, 5]), groups * random.of(&[1, 2, 4]), groups * random.of(&[1, 3, 4]));
    let pair = |random: &mut Random, all: &[i64]| [random.of(all), random.of(all)];
    let (taps, image) = (pair(random, &[1, 2, 3, 5]), pair(random, &[5, 6, 8, 9, 12]));
    let (pad, stride, dilation) =
        (pair(random, &[0, 0, 1, 2]), pair(random, &[1, 1, 2, 3]), pair(random, &[1, 1, 1, 2]));
    let along = |axis: usize| {
        (image[axis] + 2 * pad[axis] - (taps[axis] - 1) * dilation[axis] - 1).div_euclid(stride[axis]) + 1
    };
    let mut dims = [[n, c, image[0], image[1]], [k, c / groups, taps[0], taps[1]], [n, k, along(0), along(1)]];
    // Extents that do not fit.
    if slips(random, 4) {
        let (tensor, dim) = (random.below(3) as usize, random.below(4) as usize);
        dims[tensor][dim] += random.of(&[-1, 1, 1, 2]);
    }
    let last = random.once_in(2);
    let mut strides = dims.map(|[_, c, h, w]| if last { [h * w * c, 1, w * c, c] } else { [c * h * w, h * w, w, 1] });
    if slips(random, 6) {
        let (tensor, dim) = (random.below(3) as usize, random.below(4) as usize);
        strides[tensor][dim] = random.of(&[-1, 0, 1, 2, 1000]);
        beyond.0 = true;
    }
    let mut dense =
        |asked: &mut Asked, random: &mut Random, uid: i64, dims: &[i64], strides: &[i64], data: i32, is_virtual| {
            let desc = asked.create(17);
            let alignment =
                if slips(random, 12) { random.of(&[0, 1, 2, 3, 4, -16, 12]) } else { random.of(&[bytes, 16]) };
            let left_out = slips(random, 12).then(|| random.below(5));
            beyond.0 |= left_out == Some(0);
            // Twice, with the second value to stay.
            if slips(random, 12) {
                asked.set(desc, 906, INT64, &[uid + 50]);
            }
            if left_out != Some(0) {
                asked.set(desc, 906, INT64, &[uid]);
            }
            if left_out != Some(1) {
                asked.set(desc, 901, DATA_TYPE, &[data]);
            }
            if left_out != Some(2) {
                asked.set(desc, 902, INT64, dims);
            }
            if left_out != Some(3) {
                let cut = if slips(random, 30) { 3 } else { strides.len() };
                asked.set(desc, 903, INT64, &strides[..cut]);
            }
            if left_out != Some(4) {
                asked.set(desc, 900, INT64, &[if is_virtual { 16 } else { alignment }]);
            }
            if is_virtual {
                asked.set(desc, 907, BOOLEAN, &[true]);
            }
            // An attribute of another kind, of another type, of too many values, of none.
            match slips(random, 20).then(|| random.below(4)) {
                Some(0) => asked.set(desc, 100, DATA_TYPE, &[0i32]),
                Some(1) => asked.set(desc, 906, DATA_TYPE, &[0i32, 0]),
                Some(2) => asked.set(desc, 906, INT64, &[1i64, 2]),
                Some(3) => asked.set::<i64>(desc, 902, INT64, &[]),
                _ => {}
            }
            if slips(random, 25) {
                asked.whole = false;
            } else {
                asked.finalize(if left_out == Some(0) { "a tensor without a number" } else { "a tensor" }, desc);
                // Once is enough.
                if slips(random, 20) {
                    let whole = asked.whole;
                    asked.finalize("a tensor again", desc);
                    asked.whole = whole;
                    asked.set(desc, 906, INT64, &[uid]);
                }
            }
            desc
        };
    let mut data_of = [data; 3];
    if slips(random, 10) {
        data_of[random.below(3) as usize] = random.of(&[0, 1, 2, 9]);
    }
    let result = [2, 0, 1][direction];
    let mut tensors = [0; 3];
    for i in 0..3 {
        if i == result && !behind.is_empty() {
            continue;
        }
        tensors[i] = dense(asked, random, i as i64 + 1, &dims[i], &strides[i], data_of[i], false);
    }
    // What each operation takes from the one before.
    let between: Vec<usize> = (10..)
        .zip(behind.chars().filter(|step| *step != 's'))
        .map(|(uid, _)| dense(asked, random, uid, &dims[result], &strides[result], compute, true))
        .collect();
    let rule = asked.create(1);
    if !slips(random, 12) {
        asked.set(rule, 100, DATA_TYPE, &[compute]);
    }
    let mode = random.below(2) as i32;
    asked.set(rule, 101, CONVOLUTION_MODE, &[mode]);
    asked.set(rule, 106, INT64, &[if slips(random, 12) { random.of(&[-1, 0, 1, 3]) } else { 2i64 }]);
    for (attribute, mut pair) in [(102, dilation), (103, stride), (104, pad), (105, pad)] {
        if slips(random, 16) {
            pair[random.below(2) as usize] = random.of(&[-1, 0]);
        }
        match slips(random, 24) {
            true if random.once_in(2) => {}
            true => asked.set(rule, attribute, INT64, &[pair[0], pair[1], 1]),
            false => asked.set(rule, attribute, INT64, &pair),
        }
    }
    asked.finalize("a convolution", rule);
    let (kind, [to_x, to_w, to_y, to_rule, alpha, beta]) = [
        (10, [704, 703, 705, 702, 700, 701]),
        (12, [710, 709, 711, 708, 706, 707]),
        (11, [716, 715, 717, 714, 712, 713]),
    ][direction];
    let operation = asked.create(kind);
    if let Some(&first) = between.first() {
        tensors[result] = first;
    }
    for (attribute, part) in [(to_x, tensors[0]), (to_w, tensors[1]), (to_y, tensors[2]), (to_rule, rule)] {
        if !slips(random, 30) {
            asked.set(operation, attribute, DESCRIPTOR, &[part]);
        }
    }
    for (attribute, value) in [(alpha, 1.0f32), (beta, random.of(&[0.0, 0.0, 1.0]))] {
        match random.below(4) {
            0 => asked.set(operation, attribute, DOUBLE, &[f64::from(value)]),
            1 if slips(random, 4) => asked.set(operation, attribute, INT64, &[1i64]),
            _ => asked.set(operation, attribute, FLOAT, &[value]),
        }
    }
    asked.finalize("an operation", operation);
    let mut operations = vec![operation];
    if !behind.is_empty() {
        let mut channel_dims = [1, dims[result][1], 1, 1];
        if slips(random, 6) {
            channel_dims[random.below(4) as usize] = random.of(&[1, 2, 3, k]);
        }
        let [_, c, h, w] = channel_dims;
        let data_of_channels = if behind.contains('s') { compute } else { data };
        let mut of = |asked: &mut Asked, random: &mut Random, uid, dims: &[i64], strides: &[i64], data| {
            dense(asked, random, uid, dims, strides, data, false)
        };
        let channels = of(asked, random, 4, &channel_dims, &[c * h * w, h * w, w, 1], data_of_channels);
        let like = of(asked, random, 5, &dims[result], &strides[result], data);
        let end = of(asked, random, result as i64 + 1, &dims[result], &strides[result], data_of[result]);
        beyond.0 |= channel_dims != [1, dims[result][1], 1, 1] || data_of != [data; 3];
        // The real library looks no closer at what was not finalized, and fails later in some way.
        if !asked.whole {
            return None;
        }
        let flow: Vec<usize> = between.iter().copied().chain([end]).collect();
        for (i, step) in behind.chars().enumerate() {
            let (from, to) = (flow[i], flow.get(i + 1).copied().unwrap_or(end));
            if step == 's' {
                let rule = asked.create(21);
                let operator = if slips(random, 12) { random.of(&[1, 2, 3]) } else { 0i32 };
                beyond.0 |= operator != 0;
                if !slips(random, 20) {
                    asked.set(rule, 1600, REDUCTION_OPERATOR_TYPE, &[operator]);
                }
                if !slips(random, 20) {
                    asked.set(rule, 1601, DATA_TYPE, &[compute]);
                }
                asked.finalize("a reduction", rule);
                let operation = asked.create(22);
                for (attribute, part) in [(1612, rule), (1610, end), (1611, channels)] {
                    if !slips(random, 40) {
                        asked.set(operation, attribute, DESCRIPTOR, &[part]);
                    }
                }
                asked.finalize("a reduction operation", operation);
                operations.push(operation);
                continue;
            }
            let mode = match step {
                'r' => 100,
                'g' => 200,
                _ => 0,
            };
            let mode = if slips(random, 16) { random.of(&[0, 1, 100, 101, 200]) } else { mode };
            beyond.0 |= mode != [0, 0, 100, 200][['b', 'z', 'r', 'g'].iter().position(|one| *one == step).unwrap()];
            let rule = asked.create(0);
            asked.set(rule, 0, POINTWISE_MODE, &[mode]);
            if !slips(random, 20) {
                asked.set(rule, 1, DATA_TYPE, &[compute]);
            }
            asked.finalize("a pointwise rule", rule);
            let parts = match step {
                'r' => vec![(751, from), (753, to)],
                'g' => vec![(751, like), (757, from), (756, to)],
                'b' => vec![(751, from), (752, channels), (753, to)],
                _ => vec![(751, from), (752, like), (753, to)],
            };
            let operation = asked.create(13);
            for (attribute, part) in [(750, rule)].into_iter().chain(parts) {
                if !slips(random, 40) {
                    asked.set(operation, attribute, DESCRIPTOR, &[part]);
                }
            }
            asked.finalize("a pointwise operation", operation);
            operations.push(operation);
        }
    }
    let graph = asked.create(15);
    if slips(random, 30) {
        operations.push(operations[0]);
    }
    if !slips(random, 30) {
        asked.set(graph, 801, DESCRIPTOR, &operations);
    }
    if !asked.whole || !asked.finalize("a graph", graph) {
        return None;
    }
    let mut any = false;
    for mode in [3, 2] {
        let heuristic = asked.create(4);
        asked.set(heuristic, 201, DESCRIPTOR, &[graph]);
        asked.set(heuristic, 200, HEURISTIC_MODE, &[mode]);
        asked.set(heuristic, 204, DESCRIPTOR, &[asked.device]);
        if asked.finalize("a heuristic", heuristic) {
            let (mut configs, mut returned) = ([0usize; 4], 0);
            configs.iter_mut().for_each(|config| *config = asked.create(3));
            let to = configs.as_mut_ptr().cast();
            // SAFETY: there is room for four.
            let status = unsafe { (asked.of.get)(heuristic, 202, DESCRIPTOR, 4, &raw mut returned, to) };
            asked.answers.push(("ask for proposals".into(), status.into()));
            any |= returned > 0;
        }
    }
    Some(any)
}

/// As many as are asked for by the variable, or enough.
const GRAPHS: u64 = 20_000;

#[test]
fn random_graphs_are_answered_as_by_the_real_library() {
    let Some([dnn, _]) = wheels() else { return };
    let library = dnn.join("lib/libcudnn.so.9");
    if !library.exists() && env::var_os("KILN_REQUIRE_HEADERS").is_none() {
        return;
    }
    stub::load().unwrap();
    let (own, real) = (Functions::open(&simulator()), Functions::open(&library));
    let described = |of: &Functions| {
        let mut asked = Asked { of, made: Vec::new(), answers: Vec::new(), whole: true, device: 0 };
        let desc = asked.create(38);
        let json = devices::DEVICES[3].json() + "\0";
        asked.set(desc, 2702, CHAR, json.as_bytes());
        assert!(asked.finalize("a device", desc), "{:?}", asked.answers);
        asked.made.clear();
        desc
    };
    let on = [described(&own), described(&real)];
    let count = env::var("KILN_GRAPHS").ok().and_then(|text| text.parse().ok()).unwrap_or(GRAPHS);
    let (mut differences, mut stricter, mut proposed) = (Vec::new(), 0, 0);
    for seed in 0..count {
        let mut beyond = Beyond::default();
        let [(got, own_any), (want, any)] = [(&own, on[0]), (&real, on[1])].map(|(of, device)| {
            let mut asked = Asked { of, made: Vec::new(), answers: Vec::new(), whole: true, device };
            let mut random = Random(seed);
            let any = random_graph(&mut asked, &mut random, &mut beyond);
            (std::mem::take(&mut asked.answers), any)
        });
        let first = got.iter().zip(&want).find(|(got, want)| got != want);
        let all = &want;
        if let Some((got, want)) = first {
            differences.push(format!("graph {seed}: {got:?}, the real library {want:?}: {all:?}"));
        } else if own_any == Some(true) && any != Some(true) {
            differences.push(format!("graph {seed}: engines are proposed, the real library has none: {want:?}"));
        } else if own_any != any {
            stricter += 1;
            if !beyond.0 {
                differences.push(format!("graph {seed}: the real library has engines for it: {want:?}"));
            }
        }
        proposed += u64::from(any == Some(true));
    }
    println!("{count} graphs, {proposed} with engines, {stricter} of them with none of the simulator's");
    assert!(
        differences.is_empty(),
        "{} differences:\n{}",
        differences.len(),
        differences[..differences.len().min(40)].join("\n")
    );
}

/// A plan's text as each library writes it; with a heuristic, the first proposal that can be finalized.
fn plan_text(asked: &mut Asked, fused: bool, direction: usize) -> Vec<u8> {
    let graph = plain_graph(asked, fused, direction);
    for mode in [3, 2] {
        let heuristic = asked.create(4);
        asked.set(heuristic, 201, DESCRIPTOR, &[graph]);
        asked.set(heuristic, 200, HEURISTIC_MODE, &[mode]);
        asked.set(heuristic, 204, DESCRIPTOR, &[asked.device]);
        assert!(asked.finalize("a heuristic", heuristic), "{:?}", asked.answers);
        let mut returned = 0;
        let mut configs = [(); 8].map(|()| asked.create(3));
        // SAFETY: there is room for as many.
        unsafe { (asked.of.get)(heuristic, 202, DESCRIPTOR, 8, &raw mut returned, configs.as_mut_ptr().cast()) };
        for config in &configs[..returned as usize] {
            let plan = asked.create(5);
            asked.set(plan, 401, DESCRIPTOR, &[*config]);
            asked.set(plan, 407, DESCRIPTOR, &[asked.device]);
            if asked.finalize("a plan", plan) {
                return text_of(asked, plan);
            }
        }
    }
    panic!("no plan: {:?}", asked.answers);
}

fn text_of(asked: &Asked, plan: usize) -> Vec<u8> {
    let mut count = 0;
    // SAFETY: only the length is written, and then as many bytes as there is room for.
    unsafe {
        assert_eq!((asked.of.get)(plan, 405, CHAR, 0, &raw mut count, std::ptr::null_mut()), 0);
        let mut text = vec![0u8; count as usize];
        assert_eq!((asked.of.get)(plan, 405, CHAR, count, &raw mut count, text.as_mut_ptr().cast()), 0);
        text.truncate(count as usize);
        text
    }
}

/// A convolution of 2 images, with a bias and ReLU if it is fused.
fn plain_graph(asked: &mut Asked, fused: bool, direction: usize) -> usize {
    let tensor = |asked: &mut Asked, uid: i64, dims: [i64; 4], data: i32, is_virtual: bool| {
        let desc = asked.create(17);
        let [_, c, h, w] = dims;
        asked.set(desc, 906, INT64, &[uid]);
        asked.set(desc, 901, DATA_TYPE, &[data]);
        asked.set(desc, 902, INT64, &dims);
        asked.set(desc, 903, INT64, &[h * w * c, 1, w * c, c]);
        asked.set(desc, 900, INT64, &[16i64]);
        if is_virtual {
            asked.set(desc, 907, BOOLEAN, &[true]);
        }
        asked.finalize("a tensor", desc);
        desc
    };
    let [x, w, y] = [(1, [2, 16, 9, 8]), (2, [24, 16, 3, 3]), (3, [2, 24, 9, 8])]
        .map(|(uid, dims)| tensor(asked, uid, dims, 2, false));
    let rule = asked.create(1);
    asked.set(rule, 100, DATA_TYPE, &[0i32]);
    asked.set(rule, 101, CONVOLUTION_MODE, &[1i32]);
    asked.set(rule, 106, INT64, &[2i64]);
    [102, 103, 104, 105].iter().for_each(|attribute| asked.set(rule, *attribute, INT64, &[1i64, 1]));
    asked.finalize("a convolution", rule);
    let (kind, [to_x, to_w, to_y, to_rule, alpha, beta]) = [
        (10, [704, 703, 705, 702, 700, 701]),
        (12, [710, 709, 711, 708, 706, 707]),
        (11, [716, 715, 717, 714, 712, 713]),
    ][direction];
    let between = [10, 11].map(|uid| fused.then(|| tensor(asked, uid, [2, 24, 9, 8], 0, true)));
    let operation = asked.create(kind);
    for (attribute, part) in [(to_x, x), (to_w, w), (to_y, between[0].unwrap_or(y)), (to_rule, rule)] {
        asked.set(operation, attribute, DESCRIPTOR, &[part]);
    }
    asked.set(operation, alpha, FLOAT, &[1.0f32]);
    asked.set(operation, beta, FLOAT, &[0.0f32]);
    asked.finalize("an operation", operation);
    let mut operations = vec![operation];
    if let [Some(sum), Some(biased)] = between {
        let bias = tensor(asked, 4, [1, 24, 1, 1], 2, false);
        for (mode, x, b, y) in [(0, sum, Some(bias), biased), (100, biased, None, y)] {
            let rule = asked.create(0);
            asked.set(rule, 0, POINTWISE_MODE, &[mode]);
            asked.set(rule, 1, DATA_TYPE, &[0i32]);
            asked.finalize("a pointwise rule", rule);
            let operation = asked.create(13);
            for (attribute, part) in [(750, Some(rule)), (751, Some(x)), (752, b), (753, Some(y))] {
                part.into_iter().for_each(|part| asked.set(operation, attribute, DESCRIPTOR, &[part]));
            }
            asked.finalize("a pointwise operation", operation);
            operations.push(operation);
        }
    }
    let graph = asked.create(15);
    asked.set(graph, 801, DESCRIPTOR, &operations);
    assert!(asked.finalize("a graph", graph), "{:?}", asked.answers);
    graph
}

/// What a library answers to a text as a plan for its device.
fn status_of(asked: &mut Asked, text: &[u8]) -> u32 {
    let plan = asked.create(5);
    asked.set(plan, 407, DESCRIPTOR, &[asked.device]);
    asked.set(plan, 405, CHAR, text);
    // SAFETY: a descriptor.
    unsafe { (asked.of.finalize)(plan) }
}

#[test]
fn texts_of_plans_are_taken_as_by_the_real_library() {
    let Some([dnn, _]) = wheels() else { return };
    let library = dnn.join("lib/libcudnn.so.9");
    if !library.exists() && env::var_os("KILN_REQUIRE_HEADERS").is_none() {
        return;
    }
    stub::load().unwrap();
    let (own, real) = (Functions::open(&simulator()), Functions::open(&library));
    let open = |of| Asked { of, made: Vec::new(), answers: Vec::new(), whole: true, device: 0 };
    let described = |asked: &mut Asked, device: usize| {
        let desc = asked.create(38);
        asked.set(desc, 2702, CHAR, (devices::DEVICES[device].json() + "\0").as_bytes());
        assert!(asked.finalize("a device", desc));
        desc
    };
    let mut both = [open(&own), open(&real)];
    for asked in &mut both {
        asked.device = described(asked, 3);
    }
    for (fused, direction) in [(false, 0), (true, 0), (false, 1), (false, 2)] {
        let [of_own, of_real] = both.each_mut().map(|asked| plan_text(asked, fused, direction));
        // The simulator takes what the real library writes, but for the version, which may be a later one. (The other way,
        // engines differ.)
        let version_in = |text: &str| {
            let after = text.split("\"cudnnVersion\":").nth(1).unwrap();
            after.chars().take_while(char::is_ascii_digit).collect::<String>()
        };
        let text = String::from_utf8(of_real.clone()).unwrap();
        let versions = [version_in(&String::from_utf8(of_own.clone()).unwrap()), version_in(&text)];
        let texts = versions.each_ref().map(|version| text.replace(&versions[1], version));
        let [own, real] = &mut both;
        assert_eq!(
            [status_of(own, &of_own), status_of(own, texts[0].as_bytes()), status_of(real, &of_real)],
            [0; 3],
            "{direction}"
        );
        let spoilt = |text: &str, version: &str| {
            [
                String::new(),
                "no JSON".into(),
                "[]".into(),
                "{}".into(),
                text[..text.len() / 2].into(),
                text.replace(version, "91900"),
                text.replace("\"schemaVersion\":4", "\"schemaVersion\":3"),
                text.replace("\"multiProcessorCount\":132", "\"multiProcessorCount\":114"),
                text.replace("\"deviceVer\":900", "\"deviceVer\":800"),
                text.replace("\"stride\":[1,1]", "\"stride\":[2,2]"),
                text.replace("[24,16,3,3]", "[24,8,3,3]"),
                text.replace("engineId", "engine"),
                text.replace("GPUProfile", "Profile"),
            ]
        };
        let [for_own, for_real] = [0, 1].map(|side| spoilt(&texts[side], &versions[side]));
        for (for_own, for_real) in for_own.iter().zip(&for_real) {
            let [own, real] = &mut both;
            let (got, want) = (status_of(own, for_own.as_bytes()), status_of(real, for_real.as_bytes()));
            assert!(want != 0 && got == want, "{got}, the real library {want}: {for_own}");
        }
        // A device of another kind.
        let statuses = [0, 1].map(|side| {
            let asked = &mut both[side];
            let other = described(asked, 0);
            let own = std::mem::replace(&mut asked.device, other);
            let status = status_of(asked, texts[side].as_bytes());
            asked.device = own;
            status
        });
        assert_eq!(statuses, [3007; 2]);
    }
}

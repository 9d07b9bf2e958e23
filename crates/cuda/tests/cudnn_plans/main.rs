//! Asks NVIDIA's own cuDNN, on a machine without a GPU, whether it has a plan for each convolution, and for attention, that Kiln
//! would run on devices given by their descriptions: the code that builds Kiln's graphs, against the library from PyPI (`pip
//! install nvidia-cudnn-cu13 nvidia-cublas nvidia-cuda-nvrtc`), which is looked for as at run time.
//!
//! Its choices are recorded in `table.txt`, so that another version, or another graph, shows as a difference.
//! `KILN_UPDATE_PLANS=1` rewrites the table. Without the library the test is skipped with a message; with a version
//! other than the table's it reports the convolutions without a plan. If `KILN_REQUIRE_CUDNN` is set, both are
//! failures.
#![cfg(target_os = "linux")]

mod attention;
#[path = "../../../../tests/support/checkout.rs"]
mod checkout;
mod networks;
mod volumes;

use std::{collections::BTreeMap, env, fmt::Write, fs, thread};

use kiln_backend::{
    Conv2dDirection::{self, *},
    Conv2dFusion::{self, *},
    DType,
};
use kiln_cuda::convolution_plans::{DEVICES, DescribedDevice, Format, Problem, stub};
use networks::Layer;

/// What the table has rows of.
fn networks() -> Vec<(String, Vec<Layer>)> {
    let mut all = vec![("LeNet, 64".to_string(), networks::lenet(64))];
    all.extend([1, 8, 64, 256].map(|batch| (format!("VGG16, {batch}"), networks::vgg16(batch))));
    all.push(("ResNet-18, 32".into(), networks::resnet18(32)));
    all.push(("ResNet-50, 32".into(), networks::resnet50(32)));
    all.push(("MobileNetV2, 32".into(), networks::mobilenet_v2(32)));
    all.push(("odd shapes".into(), networks::odd()));
    all
}

/// Name, dtype, whether factors may be rounded to TensorFloat-32.
const PRECISIONS: [(&str, DType, bool); 5] = [
    ("f32", DType::F32, false),
    ("tf32", DType::F32, true),
    ("f16", DType::F16, false),
    ("bf16", DType::BF16, false),
    ("f64", DType::F64, false),
];

const LEGEND: &str = "\
The first engine that can be finalized for each convolution of a network, by their number, with the notes that it has, and
the most memory that one of them takes aside. T: tensor cores, D: rounds its inputs, R: adds in reduced precision, F: FFT,
N: adds in any order, W: Winograd, C: compiled at run time, and but for one layer, and attention of one size, only named.
";

/// A direction, and what is fused to it.
type Computation = (Conv2dDirection, Option<Conv2dFusion>);

const COMPUTATIONS: [(&str, Computation); 4] = [
    ("forward", (Forward, None)),
    ("forward+bias+relu", (Forward, Some(BiasRelu))),
    ("grad_input", (GradInput, None)),
    ("grad_weight", (GradWeight, None)),
];

/// Beside these, what the networks with batch normalization have in evaluation, when it is folded into their convolutions.
const FOLDED: [(&str, Computation); 2] =
    [("forward+bias", (Forward, Some(Bias))), ("forward+residual+bias+relu", (Forward, Some(ResidualBiasRelu)))];

/// Fusions that the library has nothing for but engines that it compiles, and only for some precisions and formats.
const COMPILED: [(&str, Computation); 2] =
    [("grad_input+relu", (GradInput, Some(ReluGrad))), ("grad_input+relu+bias", (GradInput, Some(ReluBiasGrad)))];

const FORMATS: [(&str, Format); 2] = [("nchw", Format::ChannelsFirst), ("nhwc", Format::ChannelsLast)];

fn problem(layer: &Layer, (direction, fusion): Computation, (dtype, tf32): (DType, bool), format: Format) -> Problem {
    Problem {
        direction,
        fusion,
        dtype,
        tf32,
        deterministic: false,
        benchmark: false,
        accumulate: false,
        alignment: 16,
        format,
        x: layer.x,
        w: layer.w,
        y: layer.y(),
        rule: layer.rule,
    }
}

/// What is chosen for the layers of a row: engines, the most frequent first, and the largest workspace.
#[derive(Default)]
struct Cell {
    engines: BTreeMap<String, usize>,
    workspace: usize,
}

impl Cell {
    fn text(&self) -> String {
        let mut engines: Vec<_> = self.engines.iter().collect();
        engines.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let mut text = String::new();
        for (engine, count) in engines {
            let _ = write!(text, "{count}×{engine}, ");
        }
        let _ = match self.workspace {
            bytes if bytes < 1 << 20 => write!(text, "{} KiB", bytes.div_ceil(1 << 10)),
            bytes => write!(text, "{} MiB", bytes.div_ceil(1 << 20)),
        };
        text
    }
}

/// Rows by number, with what they are, of one device; and what it has no plan for.
type Rows = (Vec<(String, Cell)>, Vec<String>);

fn rows(device: &DescribedDevice, key: &str) -> Rows {
    let (mut rows, mut missing) = (Vec::new(), Vec::new());
    let mut asked = |problem: &Problem| {
        let planned = device.plans(problem).unwrap_or_else(|error| panic!("{key}: {problem:?}: {error}"));
        if planned.first.is_none() {
            missing.push(format!("{key}: {problem:?}: {}", planned.reason));
        }
        planned.first
    };
    for (name, layers) in networks() {
        for (precision, dtype, tf32) in PRECISIONS {
            let folded = match &name[..4] {
                "ResN" | "odd " => &FOLDED[..],
                "Mobi" => &FOLDED[..1],
                _ => &[],
            };
            for &(computation_name, computation) in COMPUTATIONS.iter().chain(folded) {
                for (format_name, format) in FORMATS {
                    let mut cell = Cell::default();
                    for layer in &layers {
                        let whole = problem(layer, computation, (dtype, tf32), format);
                        if let Some((engine, workspace)) = asked(&whole) {
                            *cell.engines.entry(engine).or_default() += 1;
                            cell.workspace = cell.workspace.max(workspace);
                        }
                    }
                    rows.push((format!("{name} | {computation_name} | {precision} {format_name}"), cell));
                }
            }
        }
    }
    // What must be there as well: the least alignment, the same bits each time, a sum over a batch that is cut.
    for layer in networks::odd().iter().chain(&networks::lenet(64)).chain(&networks::vgg16(8)) {
        for ((_, dtype, tf32), (_, format)) in PRECISIONS.iter().flat_map(|one| FORMATS.map(|format| (one, format))) {
            for (_, computation) in COMPUTATIONS {
                let whole = problem(layer, computation, (*dtype, *tf32), format);
                asked(&Problem { alignment: dtype.size() as u8, ..whole });
                asked(&Problem { deterministic: true, ..whole });
            }
            let whole = problem(layer, (GradWeight, None), (*dtype, *tf32), format);
            asked(&Problem { accumulate: true, ..whole });
        }
    }
    volumes::rows(device, key, &mut rows, &mut missing);
    compiled_rows(device, &mut rows);
    attention::rows(device, key, &mut rows, &mut missing);
    (rows, missing)
}

/// Fusions that are compiled: which engine would be, for a network's layers, and what becomes of one of them. Where there is
/// none, Kiln computes a fusion in its parts.
fn compiled_rows(device: &DescribedDevice, rows: &mut Vec<(String, Cell)>) {
    let (layers, of) =
        (networks::vgg16(64), |layer, computation, format| problem(layer, computation, (DType::BF16, false), format));
    for ((computation_name, computation), (format_name, format)) in
        COMPILED.iter().flat_map(|one| FORMATS.map(|format| (*one, format)))
    {
        let mut cell = Cell::default();
        for layer in &layers {
            let planned = device.plans(&of(layer, computation, format)).unwrap();
            *cell.engines.entry(planned.first_compiled.unwrap_or_else(|| "none".into())).or_default() += 1;
        }
        rows.push((format!("VGG16, 64 | {computation_name} | bf16 {format_name}"), cell));
    }
    let compiled = device.build(&of(&layers[3], (GradInput, Some(ReluBiasGrad)), Format::ChannelsLast));
    let engine = compiled.map_or_else(|reason| format!("none: {reason}"), |(_, engine)| engine);
    let cell = Cell { engines: BTreeMap::from([(engine, 1)]), workspace: 0 };
    rows.push(("VGG16, 64, its fourth layer, compiled | grad_input+relu+bias | bf16 nhwc".into(), cell));
}

#[test]
fn every_convolution_has_a_plan() {
    stub::load().unwrap();
    let devices: Result<Vec<DescribedDevice>, String> =
        DEVICES.iter().map(|device| DescribedDevice::new(&device.json())).collect();
    let devices = match devices {
        Ok(devices) => devices,
        Err(reason) => {
            assert!(env::var_os("KILN_REQUIRE_CUDNN").is_none(), "cuDNN is required: {reason}");
            eprintln!("skipped: {reason}");
            return;
        }
    };
    let all: Vec<Rows> = thread::scope(|scope| {
        let running: Vec<_> = DEVICES.iter().zip(&devices).map(|(of, on)| scope.spawn(|| rows(on, of.key))).collect();
        running.into_iter().map(|device| device.join().unwrap()).collect()
    });
    let version = devices[0].version();
    let mut table = format!("cuDNN {version}\n\n{LEGEND}\n");
    for number in 0..all[0].0.len() {
        let _ = writeln!(table, "{}", all[0].0[number].0);
        // Devices that choose alike share a line.
        let mut lines: Vec<(String, Vec<&str>)> = Vec::new();
        for (device, (rows, _)) in DEVICES.iter().zip(&all) {
            let text = rows[number].1.text();
            match lines.iter_mut().find(|(known, _)| *known == text) {
                Some((_, keys)) => keys.push(device.key),
                None => lines.push((text, vec![device.key])),
            }
        }
        for (text, keys) in lines {
            let _ = writeln!(table, "    {}: {text}", keys.join(" "));
        }
    }
    let missing: Vec<&String> = all.iter().flat_map(|(_, missing)| missing).collect();
    let _ = writeln!(table, "\nWithout a plan: {}", missing.len());
    missing.iter().for_each(|line| _ = writeln!(table, "    {line}"));
    let path = checkout::path("crates/cuda/tests/cudnn_plans/table.txt");
    if env::var_os("KILN_UPDATE_PLANS").is_some() {
        fs::write(&path, &table).unwrap();
    }
    let known = fs::read_to_string(&path).unwrap();
    if known.lines().next() != table.lines().next() {
        eprintln!("{} is of another version than {version}; without a plan: {missing:#?}", path.display());
        assert!(missing.is_empty() || env::var_os("KILN_REQUIRE_CUDNN").is_none());
        return;
    }
    for (i, (line, was)) in table.lines().zip(known.lines()).enumerate() {
        assert_eq!(line, was, "line {} of {}; KILN_UPDATE_PLANS=1 writes it anew", i + 1, path.display());
    }
    assert_eq!(table.lines().count(), known.lines().count());
}

//! The cache of convolution plans: plans are found by later processes, replaced if they cannot be used, and never cause
//! an error.
//!
//! Runs on the simulated device (`cargo sim test -p kiln-cuda --features kernels --test plan_cache`), each step in a
//! separate process; elsewhere the tests pass without doing anything. The state of a process's cache is read from its
//! report.
#![cfg(target_os = "linux")]

mod child;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use child::child;
use kiln_backend::*;
use kiln_cuda::convolution_plans::{DEVICES, DescribedDevice, stub};

/// `relu(conv(x, w) + bias)` of ones and both gradients: with 2 input and 4 output channels, 3×3 kernels, 5×5 pixels.
/// Three problems.
fn convolutions(on: &dyn Backend) -> [Vec<f32>; 3] {
    let dense = |dims: &[usize]| Layout::contiguous(Shape::new(dims).unwrap());
    let ones = |n: usize| on.adopt(HostVec::F32(vec![1.0; n])).unwrap();
    let (rule, x, w, y, b) =
        (Conv2d::default(), dense(&[2, 2, 5, 5]), dense(&[4, 2, 3, 3]), dense(&[2, 4, 3, 3]), dense(&[4]));
    let (image, filter, bias, grad) = (ones(100), ones(72), ones(4), ones(72));
    let [mut out, mut to_x, mut to_w] = [72, 100, 72].map(|n| on.alloc(DType::F32, n).unwrap());
    let view = |buffer, layout| View { buffer, layout };
    let (xv, wv, gv) = (view(&*image, &x), view(&*filter, &w), view(&*grad, &y));
    let to = ViewMut { buffer: &mut *out, layout: &y };
    let bias = Some(view(&*bias, &b));
    on.conv2d(Conv2dArgs { rule, x: xv, w: wv, bias, residual: None, relu: true, out: to }.checked().unwrap()).unwrap();
    let to = ViewMut { buffer: &mut *to_x, layout: &x };
    on.conv2d_grad_input(Conv2dGradInputArgs { rule, grad: gv, w: wv, out: to }.checked().unwrap()).unwrap();
    let to = ViewMut { buffer: &mut *to_w, layout: &w };
    on.conv2d_grad_weight(Conv2dGradWeightArgs { rule, grad: gv, x: xv, out: to }.checked().unwrap()).unwrap();
    [&out, &to_x, &to_w].map(|buffer| f32::read_vec(buffer.len(), |bytes| on.download(&**buffer, 0, bytes)).unwrap())
}

#[test]
#[ignore = "a child"]
fn child_convolves() {
    set_convolution_benchmark(env::var("BENCHMARK").is_ok_and(|text| !text.is_empty()));
    let device = kiln_cuda::backend(0).unwrap();
    for _ in 0..2 {
        let [out, to_x, to_w] = convolutions(device);
        let near = |got: f32, want: f32| (got - want).abs() <= 1e-5 * want;
        assert!(out.iter().all(|&value| near(value, 19.0)), "{out:?}");
        assert!(near(to_x[0], 4.0) && near(to_x[12], 36.0) && near(to_x.iter().sum(), 1296.0), "{to_x:?}");
        assert!(to_w.iter().all(|&value| near(value, 18.0)), "{to_w:?}");
    }
    let text = kiln_cuda::report();
    for part in env::var("EXPECT").unwrap().split('|') {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

/// Runs a process that convolves, with its plans in this folder and these faults, and checks that its report has these
/// parts, which are separated by bars.
fn convolve(folder: &Path, settings: &[(&str, &str)], expect: &str) {
    let folder = folder.to_str().unwrap();
    let all: Vec<_> = [("KILN_PLAN_CACHE", folder), ("EXPECT", expect)].iter().chain(settings).copied().collect();
    child("child_convolves", &all);
}

fn is_simulated() -> bool {
    env::var_os("KILN_SIM_RUNNER").is_some()
}

/// The files of the cached plans.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = |folder: &Path| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let mut files: Vec<_> = entries(folder).iter().flat_map(|of| entries(of)).flat_map(|of| entries(&of)).collect();
    files.sort();
    files
}

/// The library's heuristics must not be called.
const NO_HEURISTIC: (&str, &str) = ("KILN_SIM_NO_CONVOLUTIONS", "heuristic=3009");

#[test]
fn plans_are_found_by_the_next_process() {
    // A search also times the convolution that is part of the fused one.
    for (benchmark, written) in [("", 3), ("1", 4)] {
        let folder = tempfile::tempdir().unwrap();
        let benchmark = ("BENCHMARK", benchmark);
        let all = format!("plans of convolutions: 0 read, {written} written\n");
        convolve(folder.path(), &[benchmark], &format!("{all}|kept in "));
        // The result of a search is cached, too: nothing is timed again.
        convolve(folder.path(), &[benchmark, NO_HEURISTIC], "plans of convolutions: 3 read, 0 written\n");
        // Another device has its own plans.
        convolve(folder.path(), &[benchmark, ("KILN_SIM_ARCH", "120")], &all);
        assert!(!is_simulated() || files(folder.path()).len() == 2 * written);
    }
}

#[test]
fn damaged_files_are_replaced() {
    let folder = tempfile::tempdir().unwrap();
    convolve(folder.path(), &[], "0 read, 3 written");
    if !is_simulated() {
        return;
    }
    let (paths, read) = (files(folder.path()), |path: &PathBuf| fs::read(path).unwrap());
    let whole: Vec<Vec<u8>> = paths.iter().map(read).collect();
    let [a, b, c] = &paths[..] else { panic!("{paths:?}") };
    // Truncated, with a flipped bit, empty; swapped; a folder, an endless file, one that is too long.
    fs::write(a, &whole[0][..whole[0].len() / 2]).unwrap();
    let mut turned = whole[1].clone();
    turned[200] ^= 4;
    fs::write(b, turned).unwrap();
    fs::write(c, "").unwrap();
    convolve(folder.path(), &[], "0 read, 3 written, 3 not taken (");
    convolve(folder.path(), &[NO_HEURISTIC], "3 read, 0 written\n");
    assert_eq!(paths.iter().map(read).collect::<Vec<_>>(), whole);
    fs::write(a, &whole[1]).unwrap();
    fs::remove_file(b).unwrap();
    std::os::unix::fs::symlink("/dev/zero", b).unwrap();
    fs::File::options().write(true).open(c).unwrap().set_len(1 << 40).unwrap();
    convolve(folder.path(), &[], "0 read, 3 written, 3 not taken (");
    assert_eq!(paths.iter().map(read).collect::<Vec<_>>(), whole);
    // Nothing can be written in place of a folder.
    fs::remove_file(a).unwrap();
    fs::create_dir(a).unwrap();
    convolve(folder.path(), &[], "2 read, 0 written, 1 not taken (|it is not a regular file|no more are written");
}

#[test]
fn plans_that_the_library_refuses_are_replaced() {
    let folder = tempfile::tempdir().unwrap();
    convolve(folder.path(), &[], "0 read, 3 written");
    // Refused when they are restored, with any status.
    for refused in ["text", "text=2000", "text=1002", "text=5000"] {
        let refused = ("KILN_SIM_NO_CONVOLUTIONS", refused);
        convolve(folder.path(), &[refused], "0 read, 3 written, 3 not taken (|the simulator was asked to refuse it");
    }
    convolve(folder.path(), &[NO_HEURISTIC], "3 read, 0 written\n");
    // Refused when they are executed: another plan is found and cached in their place.
    let refused = ("KILN_SIM_NO_CONVOLUTIONS", "forward:1,data:8,data:2=5000,filter:2=4000,fused:1");
    convolve(folder.path(), &[refused], "3 read, ");
    let none = ("KILN_SIM_NO_CONVOLUTIONS", "heuristic=3009,forward:1,data:8,data:2=5000,filter:2=4000,fused:1");
    convolve(folder.path(), &[none], "3 read, 0 written\n");
}

#[test]
fn where_nothing_can_be_kept_work_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a file");
    fs::write(&file, "").unwrap();
    convolve(&file, &[], "0 read, 0 written|no more are written to ");
    convolve(Path::new("/proc/plans"), &[], "0 read, 0 written, no more are written to /proc/plans/");
    convolve(Path::new("0"), &[], "plans      of convolutions and attention: not kept: KILN_PLAN_CACHE turns it off\n");
    convolve(Path::new(""), &[], "not kept: ");
}

#[test]
fn processes_share_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    thread::scope(|scope| (0..4).for_each(|_| _ = scope.spawn(|| convolve(folder.path(), &[], " read, "))));
    convolve(folder.path(), &[NO_HEURISTIC], "3 read, 0 written\n");
    assert!(!is_simulated() || files(folder.path()).len() == 3, "{:?}", files(folder.path()));
}

/// The same problems, recorded while the CPU computes them, planned by the real library for a described device that
/// equals the simulated one.
#[test]
#[ignore = "a child"]
fn child_builds_plans() {
    stub::load().unwrap();
    let json = DEVICES[3].json().replace("NVIDIA H100 80GB HBM3", "Simulated CUDA device (sm_90)");
    let device = match DescribedDevice::new(&json) {
        Ok(device) => device,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let cache = device.cache(None).unwrap();
    let (_, calls) = with_conv2d_calls(|| convolutions(&kiln_cpu::CpuBackend));
    for call in &calls {
        assert_eq!(device.write_plans(call, &cache), (1, vec![]));
        // They exist already.
        assert_eq!(device.write_plans(call, &cache), (0, vec![]));
    }
    assert_eq!(calls.len(), 3);
    println!("built");
}

#[test]
fn plans_that_the_real_library_has_built_are_executed() {
    if !is_simulated() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let paths = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    // Without the simulated libraries.
    let paths = env::split_paths(&paths).filter(|path| !path.join("libcuda.so.1").exists());
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "child_builds_plans", "--ignored", "--nocapture"]).env("KILN_PLAN_CACHE", folder.path());
    let output = command.env("LD_LIBRARY_PATH", env::join_paths(paths).unwrap()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    if let Some(skipped) = text.lines().find(|line| line.contains("skipped: ")) {
        assert!(env::var_os("KILN_REQUIRE_CUDNN").is_none(), "cuDNN is required: {skipped}");
        return eprintln!("{skipped}");
    }
    assert!(text.contains("built"), "{text}");
    convolve(folder.path(), &[NO_HEURISTIC], "3 read, 0 written\n");
}

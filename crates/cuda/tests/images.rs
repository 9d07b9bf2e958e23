//! Which image of the kernels a device loads, and what a program does and reports if none fits.
//!
//! Devices and drivers are simulated (`cargo sim test -p kiln-cuda --features kernels --test images`); the simulator
//! reports which images it was given to load.

mod child;

use std::{
    collections::BTreeSet,
    env,
    time::{Duration, Instant},
};

use child::{Report, child_with_report};
use kiln_backend::*;
use kiln_cuda::launch::{Code, IMAGES, TOOLKIT};

/// The architectures that this build has SASS for.
fn built() -> BTreeSet<u32> {
    IMAGES.iter().filter(|image| image.code == Code::Sass).map(|image| image.capability).collect()
}

/// An architecture after all that are built, and of no major version that is.
fn later_than_all() -> String {
    (built().last().unwrap() / 10 * 10 + 10).to_string()
}

fn on(settings: &[(&str, &str)]) -> Option<(String, Report)> {
    child_with_report("child_computes", settings)
}

/// One kernel of each of four files, beside each other: `2 * (x² + ReLU'(x))` of ones, and zeros.
fn compute() -> Result<()> {
    let device = kiln_cuda::backend(0)?;
    let layout = Layout::contiguous(Shape::new(&[100]).unwrap());
    let ones = device.adopt(HostVec::F32(vec![1.0; 100]))?;
    let view = || View { buffer: &*ones, layout: &layout };
    let values = |out: &dyn Buffer| f32::read_vec(100, |bytes| device.download(out, 0, bytes));
    type Op<'a> = (&'a (dyn Fn(ViewMut<'_>) -> Result<()> + Sync), f32);
    let ops: [Op; 4] = [
        (&|out| device.unary(UnaryArgs { op: UnaryOp::Square, x: view(), out }.checked()?), 1.0),
        (
            &|out| {
                device.binary(
                    BinaryArgs { op: BinaryOp::Add, a: Operand::Tensor(view()), b: Operand::Tensor(view()), out }
                        .checked()?,
                )
            },
            2.0,
        ),
        (&|out| device.fill(Scalar::Float(3.0), out), 3.0),
        (&|out| device.copy(CopyArgs { x: view(), out }.checked()?), 1.0),
    ];
    let results: Vec<Result<()>> = std::thread::scope(|scope| {
        let run = |&(op, want): &Op| {
            let mut out = device.alloc(DType::F32, 100)?;
            op(ViewMut { buffer: &mut *out, layout: &layout })?;
            assert_eq!(values(&*out)?, [want; 100]);
            Ok(())
        };
        let threads: Vec<_> = ops.iter().map(|op| scope.spawn(move || run(op))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    results.into_iter().collect()
}

#[test]
#[ignore = "a child"]
fn child_computes() {
    compute().unwrap();
    println!("loads {}", kiln_cuda::backend(0).unwrap().kernel_image());
}

#[test]
#[ignore = "a child"]
fn child_does_not_compute() {
    let error = compute().unwrap_err().to_string();
    for part in env::var("EXPECT").unwrap().split('|') {
        assert!(error.contains(part), "{part:?} is not in {error}");
    }
}

/// What is loaded by a device of this capability.
fn expected(capability: u32) -> String {
    let built = built();
    // Jetson's SASS is for Jetson alone.
    let same = |sass: &&u32| {
        **sass == capability || (**sass / 10 == capability / 10 && **sass < capability && capability != 87)
    };
    match built.iter().filter(same).max() {
        Some(sass) => format!("SASS for sm_{sass}"),
        None => format!("PTX for compute_{}", built.first().unwrap()),
    }
}

#[test]
fn a_device_loads_sass_of_its_architecture_and_compiles_nothing() {
    let mut sass = 0;
    for capability in [80, 86, 87, 89, 90, 100, 103, 120, 121].into_iter().filter(|c| c >= built().first().unwrap()) {
        let arch = capability.to_string();
        let Some((text, report)) = on(&[("KILN_SIM_ARCH", &arch)]) else { return };
        assert_eq!(report.list("images"), [expected(capability)], "sm_{capability}");
        assert!(text.contains(&format!("loads {}", expected(capability))), "{text}");
        let compiled = if expected(capability).starts_with("PTX") { 4 } else { 0 };
        assert_eq!((report.count("modules"), report.count("modules compiled")), (4, compiled), "sm_{capability}");
        sass += usize::from(compiled == 0);
    }
    assert!(sass > 0, "{:?}", built());
}

#[test]
fn a_driver_of_an_earlier_major_release_compiles_ptx_and_the_report_says_why() {
    let arch = built().first().unwrap().to_string();
    let driver = (TOOLKIT / 1000 * 1000 - 1000 + 80).to_string();
    let Some((text, report)) = on(&[("KILN_SIM_ARCH", &arch), ("KILN_SIM_DRIVER", &driver)]) else { return };
    assert_eq!(report.list("images"), [format!("PTX for compute_{arch}")]);
    for part in ["is of CUDA", "is of an earlier major release", "newer driver"] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

#[test]
fn sass_that_the_driver_refuses_is_replaced_by_ptx() {
    let arch = built().first().unwrap().to_string();
    let Some((text, report)) = on(&[("KILN_SIM_ARCH", &arch), ("KILN_SIM_NO_SASS", "1")]) else { return };
    assert_eq!(report.list("images"), [format!("PTX for compute_{arch}")]);
    let refused = format!("the driver refuses the SASS for sm_{arch} (CUDA_ERROR_INVALID_IMAGE (200)");
    assert!(text.contains(&refused), "{text}");
}

#[test]
fn nothing_is_compiled_where_the_compiler_is_missing_and_errors_say_what_helps() {
    let (first, later) = (built().first().unwrap().to_string(), later_than_all());
    // SASS needs no compiler.
    for off in [("KILN_SIM_NO_JIT", "1"), ("CUDA_DISABLE_PTX_JIT", "1")] {
        if let Some((_, report)) = on(&[("KILN_SIM_ARCH", &first), off]) {
            assert_eq!(report.list("images"), [format!("SASS for sm_{first}")]);
        }
    }
    let list: Vec<String> = built().iter().map(u32::to_string).chain([later.clone()]).collect();
    let list = format!("CUDA_COMPUTE_CAP={}", list.join(","));
    let fails = |setting, expect: &str| {
        let expect = format!("{expect}|{list}|the kernels of ");
        let settings = [("KILN_SIM_ARCH", &*later), setting, ("EXPECT", &expect)];
        child_with_report("child_does_not_compute", &settings);
    };
    fails(("KILN_SIM_NO_JIT", "1"), "CUDA_ERROR_JIT_COMPILER_NOT_FOUND (221)|libnvidia-ptxjitcompiler.so.1");
    fails(("CUDA_DISABLE_PTX_JIT", "1"), "CUDA_ERROR_JIT_COMPILATION_DISABLED (223)|CUDA_DISABLE_PTX_JIT");
    fails(("KILN_SIM_PTX", "63"), "CUDA_ERROR_UNSUPPORTED_PTX_VERSION (222)|update it");
}

#[test]
fn what_the_driver_compiled_is_kept_if_its_cache_can_be_written_and_a_report_says_so_if_not() {
    let (later, folder) = (later_than_all(), tempfile::tempdir().unwrap());
    let (good, file) = (folder.path().join("cache"), folder.path().join("file"));
    std::fs::write(&file, "").unwrap();
    // No folder can be made in a file, whoever asks.
    let bad = file.join("cache");
    for (cache, compiled, says) in [
        (&good, [4, 0], format!("keeps what it has compiled in {}", good.display())),
        (&bad, [4, 4], format!("cache {} cannot be written", bad.display())),
    ] {
        for compiled in compiled {
            let settings = [("KILN_SIM_ARCH", &*later), ("CUDA_CACHE_PATH", cache.to_str().unwrap())];
            let Some((text, report)) = on(&settings) else { return };
            assert_eq!(
                (report.count("modules compiled"), report.count("modules from the cache")),
                (compiled, 4 - compiled)
            );
            assert!(text.contains(&says), "{says:?} is not in {text}");
            assert!(cache == &good || text.contains("Set CUDA_CACHE_PATH"), "{text}");
            // Said without being asked only to those who wait.
            assert!(!text.contains("kiln: cuda:0: "), "{text}");
        }
    }
    let settings =
        [("KILN_SIM_ARCH", &*later), ("CUDA_CACHE_DISABLE", "1"), ("KILN_SIM_DELAY", "cuModuleLoadDataEx:800")];
    let Some((text, _)) = on(&settings) else { return };
    let note = format!("kiln: cuda:0: PTX for compute_{}", built().first().unwrap());
    assert!(text.contains(&note) && text.contains("CUDA_CACHE_DISABLE=1 turns"), "{text}");
    assert_eq!(text.matches("kiln: cuda:0: ").count(), 1, "{text}");
}

#[test]
fn files_load_beside_each_other() {
    let arch = built().first().unwrap().to_string();
    let start = Instant::now();
    // Long enough for four threads to start in.
    let settings = [("KILN_SIM_ARCH", &*arch), ("KILN_SIM_DELAY", "cuModuleLoadDataEx:3000")];
    let Some((_, report)) = on(&settings) else { return };
    assert_eq!(report.list("together"), ["cuModuleLoadDataEx: 4"]);
    assert!(start.elapsed() > Duration::from_secs(3), "the delay was there");
}

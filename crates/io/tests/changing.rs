//! Another process truncates or overwrites files while they are loaded: errors or tensors, never a signal.

#[path = "../../../tests/support/checkout.rs"]
mod checkout;

use std::{
    env, fs,
    fs::OpenOptions,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use kiln_io::{Checkpoint, PthFile, TensorFile, load, load_model, save, save_model};
use kiln_nn::{Linear, seq};
use kiln_tensor::{Device, StateDict, Tensor};
use tempfile::tempdir;

/// The file that the child process works on, and what it does.
const CHILD: &str = "KILN_TEST_CHANGE";
const ACTION: &str = "KILN_TEST_ACTION";

/// Not a test by itself: the process that cuts the file and writes it again, in place.
#[test]
fn child_that_changes_a_file() {
    let Some(path) = env::var_os(CHILD).map(PathBuf::from) else { return };
    let contents = fs::read(&path).unwrap();
    let overwrites = env::var(ACTION).is_ok_and(|action| action == "overwrite");
    // Until the parent has seen enough.
    while path.with_extension("go").exists() {
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        if !overwrites {
            file.set_len(100).unwrap();
        }
        drop(file);
        use std::io::Write;
        let mut file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all(&contents).unwrap();
    }
}

/// Not a test by itself: the process that loads the file some thousand times, and dies of a signal if there is one.
#[test]
fn child_that_loads_a_file() {
    let Some(path) = env::var_os("KILN_TEST_LOAD").map(PathBuf::from) else { return };
    let (mut whole, mut failed) = (0, 0);
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(750) {
        let results = [
            load(&path, Device::Cpu).map(drop),
            load_model(&path, Device::Cpu).map(drop),
            Checkpoint::load(&path, Device::Cpu).map(drop),
            PthFile::open(&path).and_then(|file| file.state_dict(Device::Cpu)).map(drop),
            TensorFile::open(&path).and_then(|file| file.verify()),
        ];
        for result in results {
            match result {
                Ok(()) => whole += 1,
                Err(error) => {
                    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
                    failed += 1;
                }
            }
        }
    }
    println!("{whole} loads, {failed} errors");
    assert!(failed > 0, "nothing was changed meanwhile");
}

fn large() -> StateDict {
    let tensor = |value: f32| Tensor::full([300_000], f64::from(value), Device::Cpu).unwrap();
    (0..4).map(|i| (format!("{i}.weight"), tensor(i as f32))).collect()
}

fn run(test: &str, variables: &[(&str, &str)]) -> std::process::Child {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).stdout(std::process::Stdio::null());
    command.envs(variables.iter().copied());
    command.spawn().unwrap()
}

fn survives(path: &Path, action: &str) {
    let name = path.to_str().unwrap();
    let go = path.with_extension("go");
    fs::write(&go, b"").unwrap();
    let mut changer = run("child_that_changes_a_file", &[(CHILD, name), (ACTION, action)]);
    let loader = run("child_that_loads_a_file", &[("KILN_TEST_LOAD", name)]).wait().unwrap();
    fs::remove_file(&go).unwrap();
    changer.wait().unwrap();
    assert!(loader.success(), "{name} {action}: {loader}");
}

#[test]
fn no_signal_ends_a_process_whose_file_is_changed_in_place() {
    let folder = tempdir().unwrap();
    let plain = folder.path().join("plain.safetensors");
    save(&plain, &large()).unwrap();
    let model = folder.path().join("model.kiln");
    save_model(&model, &seq![Linear::new(500, 600).unwrap()]).unwrap();
    let checkpoint = folder.path().join("run.ckpt");
    Checkpoint { model: large(), ..Checkpoint::now() }.save(&checkpoint).unwrap();
    let pth = folder.path().join("views.pth");
    let golden = checkout::path("tests/golden/pth/vgg16_narrow.pth");
    fs::copy(golden, &pth).unwrap();
    // Each has two processes, which are to run at the same time.
    std::thread::scope(|scope| {
        for files in [[(&plain, "cut"), (&model, "cut")], [(&checkpoint, "overwrite"), (&pth, "cut")]] {
            scope.spawn(move || files.map(|(path, action)| survives(path, action)));
        }
    });
}

#[test]
fn a_file_that_was_changed_while_it_was_open_is_an_error() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    save(&path, &large()).unwrap();
    let open = TensorFile::open(&path).unwrap();
    let later = std::time::SystemTime::now() + Duration::from_secs(5);
    fs::File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
    let message = open.tensor("1.weight", Device::Cpu).unwrap_err().to_string();
    assert!(message.contains("another program changed it") && message.contains("a.safetensors"), "{message}");

    // Who replaces it as Kiln does disturbs nobody: the open file is the old one.
    let open = TensorFile::open(&path).unwrap();
    save(&path, &StateDict::new()).unwrap();
    assert_eq!(open.state_dict(Device::Cpu).unwrap().len(), 4);
}

#[cfg(unix)]
#[test]
fn what_is_no_regular_file_is_refused_at_once() {
    let folder = tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for path in [fifo.as_path(), Path::new("/dev/null"), Path::new("/dev/zero"), folder.path()] {
        for result in [
            load(path, Device::Cpu).map(drop),
            PthFile::open(path).map(drop),
            Checkpoint::load(path, Device::Cpu).map(drop),
        ] {
            let message = result.unwrap_err().to_string();
            assert!(message.contains(path.to_str().unwrap()), "{message}");
        }
    }
}

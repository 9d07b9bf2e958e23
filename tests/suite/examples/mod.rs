//! The examples run, print the tutorials' output, and do what their help says.

mod mlp;
mod networks;
mod resumed;
mod tools;

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::LazyLock,
};

use crate::checkout;

/// The subset of Fashion-MNIST that comes with Kiln.
static SUBSET: LazyLock<String> = LazyLock::new(|| {
    checkout::path("crates/data/assets/fashion-mnist").into_os_string().into_string().expect("a path in UTF-8")
});

/// The program of an example. `cargo test` has built it beside the tests, unless it was told to build this
/// test alone.
fn example(name: &str) -> PathBuf {
    let tests = env::current_exe().unwrap();
    let profile = tests.parent().and_then(Path::parent).unwrap();
    let program = profile.join("examples").join(format!("{name}{}", env::consts::EXE_SUFFIX));
    if !program.exists() {
        let features = "dashboard,distributed,images,onnx,plans,pth,tensorboard";
        let build = ["build", "-p", "kiln", "--features", features, "--example", name];
        let status = Command::new(env!("CARGO")).args(build).status().unwrap();
        assert!(status.success());
    }
    program
}

fn run(name: &str, args: &[&str]) -> Output {
    Command::new(example(name)).args(args).env_remove("KILN_DATA").output().unwrap()
}

/// What an example prints that ends well.
fn printed(name: &str, args: &[&str]) -> String {
    let output = run(name, args);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{name}: {text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// What the MLP prints, trained on the bundled subset.
fn mlp(args: &[&str]) -> String {
    let output = run("mlp", &[&["--data", &SUBSET, "--device", "cpu"], args].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn accuracies(text: &str) -> Vec<f32> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(" Accuracy: ")?.split_once('%'));
    lines.map(|(number, _)| number.parse().unwrap()).collect()
}

/// The numbers that follow a text, one for each time that it occurs.
fn numbers_after(text: &str, label: &str) -> Vec<f64> {
    let number = |rest: &str| rest.split([' ', ',', '%', '\n']).next().unwrap().parse().unwrap();
    text.split(label).skip(1).map(number).collect()
}

#[test]
fn all_have_help() {
    let first = ["autograd", "custom_dataset", "export_onnx", "gan", "gpt", "lenet", "mlp"];
    for name in first.into_iter().chain(["resnet", "transfer", "vgg16"]) {
        let output = run(name, &["--help"]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains("Usage: ") && text.contains("--help"), "{name}: {text}");
    }
}

#[test]
fn a_wrong_kiln_data_is_an_error() {
    for name in ["custom_dataset", "lenet", "mlp"] {
        let output = Command::new(example(name)).env("KILN_DATA", "/no/such/folder").output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && message.contains("/no/such/folder"), "{name}: {message}");
    }
    let output = Command::new(example("vgg16")).arg("train").env("KILN_DATA", "/no/such/folder").output().unwrap();
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("/no/such/folder"));
}

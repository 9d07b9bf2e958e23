//! The examples run, print the tutorials' output, and do what their help says.

#[path = "support/checkout.rs"]
mod checkout;

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::LazyLock,
};

use kiln::{
    data::{FashionMNIST, transforms::Image},
    io::Checkpoint,
    prelude::*,
    vis::events::{Event, Kind, SessionLog, What},
};
use prost::Message;

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

/// Two processes have one model: both test it, and find the same. Each trains on half of the images.
#[test]
fn examples_train_in_two_processes() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).into_os_string().into_string().unwrap();
    let vgg = ["train", "--source", "fashion-mnist", "--width", "0.05", "--batches", "3", "--batch-norm", "--graph"];
    let (mlp, net, resume) = (at("mlp.safetensors"), at("net.safetensors"), at("vgg.ckpt"));
    let runs: [(&str, &[&str]); 3] = [
        ("mlp", &["--epochs", "1", "--device", "cpu", "--graph", "--save", &mlp]),
        ("lenet", &["--epochs", "1", "--graph", "--save", &net]),
        ("vgg16", &[&vgg[..], &["--resume", &resume]].concat()),
    ];
    for (name, args) in runs {
        let mut command = Command::new("mpiexec");
        command.args(["-n", "2"]).arg(example(name)).args(args).args(["--data", &SUBSET, "--distributed"]);
        let output = match command.output() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                assert!(env::var("KILN_REQUIRE_MPI").is_err(), "{error}");
                println!("skipped: there is no mpiexec on PATH (`pip install mpich` brings one)");
                return;
            }
            output => output.unwrap(),
        };
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
        let accuracies = accuracies(&text);
        assert_eq!(accuracies.len(), 2, "{name}: {text}");
        assert_eq!(accuracies[0], accuracies[1], "{name}");
        assert!(name == "vgg16" || accuracies[0] > 50.0, "{name}: {accuracies:?}");
    }
    let saved = kiln::io::load(&mlp, Device::Cpu).unwrap();
    assert!(saved.len() == 6 && Path::new(&net).exists() && Checkpoint::load(&resume, Device::Cpu).unwrap().epoch == 1);
}

#[test]
fn mlp_trains_prints_saves_and_draws() {
    let folder = tempfile::tempdir().unwrap();
    let (model, plots) = (folder.path().join("model.safetensors"), folder.path().join("plots"));
    let (model, plots) = (model.to_str().unwrap(), plots.to_str().unwrap());
    let text = mlp(&["--epochs", "2", "--save", model, "--plot", plots]);
    assert!(text.contains("6000 training and 1000 test images"), "{text}");
    assert!(
        text.contains(
            "(linear_relu_stack): Sequential(\n    (0): Linear(in_features=784, out_features=512, bias=True)"
        )
    );
    let epoch = text.split("Epoch 1\n-------------------------------\nloss: ").nth(1).expect("the tutorial's format");
    assert_eq!(&epoch[1..2], ".");
    assert_eq!(&epoch[8..23], " [    0/ 6000]\n", "{epoch}");
    assert!(text.contains("Test Error: \n Accuracy: ") && text.contains("%, Avg loss: 0."));
    assert!(accuracies(&text).last().is_some_and(|&last| last > 75.0), "{text}");
    let predicted = |text: &str| -> Vec<String> {
        text.lines().filter(|line| line.starts_with("Predicted: \"")).map(str::to_owned).collect()
    };
    assert_eq!(predicted(&text).len(), 5);
    assert!(predicted(&text)[0].ends_with("Actual: \"Ankle boot\""));
    for name in ["curves.png", "predictions.png"] {
        let png = fs::read(Path::new(plots).join(name)).unwrap();
        assert!(png.starts_with(b"\x89PNG") && png.len() > 10_000, "{name} has {} bytes", png.len());
    }
    let svg = fs::read_to_string(Path::new(plots).join("curves.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("running mean") && svg.contains("Accuracy"), "{svg}");

    let again = mlp(&["--epochs", "0", "--load", model]);
    assert_eq!(predicted(&again), predicted(&text));
}

/// Not on a terminal, the dashboard prints a line for each epoch beside what is printed without it.
#[test]
fn mlp_with_a_dashboard_prints_lines() {
    let text = mlp(&["--epochs", "2", "--batch-size", "500", "--dashboard"]);
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("epoch ")).collect();
    assert!(lines.len() >= 2 && lines[0].starts_with("epoch 1/2, step "), "{text}");
    let last = lines.last().unwrap();
    // On a slow machine there are lines within epochs, too, and each value is in one line only.
    assert!(last.starts_with("epoch 2/2, step 12/12, ") && last.contains("accuracy/test 0."), "{text}");
    assert!(
        lines.concat().contains(", loss/train ")
            && text.contains("loss: ")
            && accuracies(&text).len() == 2
            && !text.contains('\u{1b}'),
        "{text}"
    );
}

#[test]
fn mlp_goes_on_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (whole, parts, checkpoint) = (path("whole"), path("parts"), path("run.ckpt"));
    let options = ["--batch-size", "250", "--optimizer", "sgd", "--momentum", "0.9", "--lr", "0.05", "--seed", "5"];
    mlp(&[&options[..], &["--epochs", "2", "--save", &whole, "--workers", "0"]].concat());
    mlp(&[&options[..], &["--epochs", "1", "--resume", &checkpoint]].concat());
    let text = mlp(&[&options[..], &["--epochs", "2", "--resume", &checkpoint, "--save", &parts]].concat());
    assert!(text.contains("Epoch 2") && !text.contains("Epoch 1\n"), "{text}");
    assert!(fs::read(whole).unwrap() == fs::read(parts).unwrap(), "the resumed run ended with other parameters");
}

#[test]
fn mlp_goes_on_with_its_curves_and_its_optimizer() -> kiln::Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (checkpoint, plots) = (path("run.ckpt"), path("plots"));
    let options = ["--batch-size", "500", "--resume", &checkpoint];
    mlp(&[&options[..], &["--epochs", "1"]].concat());
    mlp(&[&options[..], &["--epochs", "2", "--plot", &plots]].concat());
    let history = Checkpoint::load(&checkpoint, Device::Cpu)?.extra;
    assert_eq!((history["losses"].dims(), history["tests"].dims()), (&[24][..], &[2, 3][..]));
    assert_eq!(history["tests"].select(1, 0)?.to_vec::<f64>()?, [12.0, 24.0]);
    // A point for each epoch, in both panels.
    let svg = fs::read_to_string(Path::new(&plots).join("curves.svg")).unwrap();
    assert_eq!(svg.matches("<circle").count(), 4, "{svg}");

    let output = run("mlp", &[&options[..], &["--epochs", "3", "--optimizer", "adamw", "--data", &SUBSET]].concat());
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && message.contains("--optimizer adam,"), "{message}");
    Ok(())
}

/// The points that TensorBoard shows of a folder, by tag and step: a start of a session drops what is at its step and
/// after. Panics if a step has two.
fn points(folder: &Path) -> BTreeMap<(String, i64), f32> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut points = BTreeMap::new();
    for file in files {
        let bytes = fs::read(file).unwrap();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let len = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let event = Event::decode(&rest[12..12 + len]).unwrap();
            rest = &rest[16 + len..];
            match event.what {
                Some(What::SessionLog(log)) if log.status == SessionLog::START => {
                    points.retain(|(_, step): &(String, i64), _| *step < event.step);
                }
                Some(What::Summary(summary)) => {
                    for value in summary.value {
                        let Some(Kind::SimpleValue(number)) = value.value else { continue };
                        let old = points.insert((value.tag.clone(), event.step), number);
                        assert_eq!(old, None, "{} has step {} twice", value.tag, event.step);
                    }
                }
                _ => {}
            }
        }
    }
    points
}

/// Runs that were stopped after they had written more than their checkpoint knows of.
#[test]
fn resumed_runs_purge_the_steps_that_they_repeat() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let vgg16 = |args: &[&str]| {
        let sizes = ["--width", "0.03", "--batch-size", "4", "--batches", "1", "--workers", "0"];
        let output = run("vgg16", &[&["train", "--data", &SUBSET], &sizes[..], args].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let mlp = |args: &[&str]| drop(mlp(&[&["--batch-size", "500"], args].concat()));
    type Program<'a> = (&'a str, &'a dyn Fn(&[&str]), &'a str, i64);
    let programs: [Program<'_>; 2] = [("mlp", &mlp, "loss/train", 12), ("vgg16", &vgg16, "loss/test", 1)];
    for (name, program, tag, steps) in programs {
        let (whole, parts) = (path(&format!("{name} whole")), path(&format!("{name} parts")));
        let (checkpoint, old) = (path(&format!("{name}.ckpt")), path(&format!("{name}.old")));
        program(&["--epochs", "2", "--tensorboard", &whole]);
        program(&["--epochs", "1", "--resume", &checkpoint, "--tensorboard", &parts]);
        fs::copy(&checkpoint, &old).unwrap();
        // This one is lost, but for its events.
        program(&["--epochs", "2", "--resume", &checkpoint, "--tensorboard", &parts]);
        program(&["--epochs", "2", "--resume", &old, "--tensorboard", &parts]);
        let mut want = points(Path::new(&whole));
        let mut got = points(Path::new(&parts));
        want.retain(|(tag, _), _| tag != "images per second");
        got.retain(|(tag, _), _| tag != "images per second");
        assert_eq!(want.keys().filter(|(name, _)| name == tag).count() as i64, 2 * steps, "{want:?}");
        assert!(want.len() as i64 > 2 * steps && got.keys().eq(want.keys()), "{name}: {got:?}, not {want:?}");
        // With a bound on the batches of an epoch, vgg16 goes on with the rest of them.
        assert!(name == "vgg16" || got == want, "{name}: {got:?}, not {want:?}");
    }
}

#[test]
fn vgg16_predicts_with_what_it_saved() -> kiln::Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (weights, photo) = (path("vgg16.safetensors"), path("photo.png"));
    let sizes = ["--width", "0.03", "--batch-size", "4", "--batches", "1", "--workers", "0"];
    let output = run("vgg16", &[&["train", "--data", &SUBSET, "--save", &weights], &sizes[..]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Of another size than the network's, and in color, where the network has one channel.
    Image::new(40, 50, 3, (0..40 * 50 * 3).map(|i| (i % 251) as u8).collect())?.save(&photo)?;
    let output = run("vgg16", &["predict", &photo, "--weights", &weights]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len() == 6 && lines[0] == photo, "{text}");
    let clothes = FashionMNIST::test().root(&*SUBSET).load()?.classes();
    assert!(lines[1..].iter().all(|line| clothes.iter().any(|class| line.ends_with(class))), "{text}");

    let classes = path("classes.txt");
    fs::write(&classes, "one\ntwo\n").unwrap();
    let output = run("vgg16", &["predict", &photo, "--weights", &weights, "--classes", &classes]);
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && message.contains("2 class names for a network with 10 classes"), "{message}");
    Ok(())
}

/// What an example prints that ends well.
fn printed(name: &str, args: &[&str]) -> String {
    let output = run(name, args);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{name}: {text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// The numbers that follow a text, one for each time that it occurs.
fn numbers_after(text: &str, label: &str) -> Vec<f64> {
    let number = |rest: &str| rest.split([' ', ',', '%', '\n']).next().unwrap().parse().unwrap();
    text.split(label).skip(1).map(number).collect()
}

#[test]
fn gpt_learns_saves_and_writes() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("gpt.safetensors").into_os_string().into_string().unwrap();
    let sizes = ["--layers", "1", "--width", "16", "--heads", "2", "--context", "16", "--batch-size", "8"];
    let steps = ["--steps", "60", "--test-every", "30", "--lr", "0.02", "--length", "12", "--device", "cpu"];
    let text = printed("gpt", &[&sizes[..], &steps, &["--save", &model]].concat());
    assert!(text.contains("5416 parameters, 56 different characters"), "{text}");
    let losses = numbers_after(&text, "test loss ");
    // The logarithm of 56 is 4.03.
    assert!(losses.len() == 2 && losses[1] < 3.2, "{text}");

    // The sizes are in the file, the seed gives the same text again, and the prompt comes first.
    let write = ["--load", &model, "--steps", "0", "--prompt", "Shall I", "--length", "30", "--top-k", "5"];
    let text = printed("gpt", &write);
    assert_eq!(text, printed("gpt", &write));
    let written = text.split_once("characters\n").unwrap().1;
    assert!(written.starts_with("Shall I") && written.trim_end_matches('\n').chars().count() <= 37, "{text}");

    for (args, part) in [
        (&["--load", &model, "--steps", "0", "--prompt", "ß"][..], "'ß'"),
        (&["--text", "/no/such/text"], "/no/such/text"),
        (&["--context", "5000"], "too short"),
        (&["--temperature", "0"], "temperature"),
    ] {
        let output = run("gpt", args);
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && message.contains(part), "{args:?}: {message}");
        assert!(!message.contains("panicked"), "{args:?}: {message}");
    }
}

#[test]
fn gan_trains_both_networks_and_draws() -> kiln::Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).into_os_string().into_string().unwrap();
    let (plots, generator) = (path("plots"), path("generator.safetensors"));
    let sizes = ["--width", "4", "--latent", "4", "--batch-size", "16", "--batches", "20", "--critic-steps", "2"];
    let more = ["--data", &SUBSET, "--epochs", "2", "--lr", "0.003", "--plot", &plots, "--save", &generator];
    let text = printed("gan", &[&sizes[..], &more].concat());
    let (distances, penalties) = (numbers_after(&text, "distance "), numbers_after(&text, "penalty "));
    assert!(distances.len() == 2 && penalties.len() == 2, "{text}");
    // The critic tells clothes from noise at once, and the penalty brings its slope towards 1.
    assert!(distances[1] > distances[0].max(0.0) && penalties[1] < penalties[0], "{text}");
    assert!(fs::read(Path::new(&plots).join("generated_002.png")).unwrap().starts_with(b"\x89PNG"));
    let generator = kiln::io::load(&generator, Device::Cpu)?;
    assert_eq!(generator["project.1.num_batches_tracked"].item::<i64>()?, 60);
    Ok(())
}

#[test]
fn resnet_trains_and_refuses_other_depths() -> kiln::Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("resnet.safetensors").into_os_string().into_string().unwrap();
    let sizes = ["--depth", "8", "--width", "4", "--batch-size", "16", "--batches", "10", "--workers", "0"];
    let text = printed("resnet", &[&sizes[..], &["--data", &SUBSET, "--epochs", "2", "--save", &model]].concat());
    let rates = numbers_after(&text, "learning rate ");
    assert!(rates.len() == 2 && rates[0] == 0.05 && (rates[1] - 0.005).abs() < 1e-9, "{text}");
    let losses = numbers_after(&text, "mean loss ");
    assert!(losses.len() == 2 && losses[1] < losses[0] && accuracies(&text).len() == 2, "{text}");
    // In each of three stages a block of two convolutions.
    let saved = kiln::io::load(&model, Device::Cpu)?;
    assert_eq!(saved.keys().filter(|name| name.contains(".conv")).count(), 6);
    assert_eq!(saved["layer3.0.shortcut.0.weight"].dims(), [16, 8, 1, 1]);

    let output = run("resnet", &["--data", &SUBSET, "--depth", "18"]);
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && message.contains("6n + 2"), "{message}");
    Ok(())
}

#[test]
fn transfer_compares_three_ways_to_learn() -> kiln::Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).into_os_string().into_string().unwrap();
    let few = ["--source-epochs", "1", "--source-batches", "1", "--test-images", "2", "--shots", "2", "--epochs", "1"];
    let model = path("tuned.safetensors");
    let text = printed("transfer", &[&few[..], &["--save", &model]].concat());
    for part in ["First 4200 images of clothes, then 6 of shoes", "fine-tuned, epoch 1: ", "frozen, epoch 1: "] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert_eq!(text.matches("Best accuracy, ").count(), 3, "{text}");
    assert_eq!(kiln::io::load(&model, Device::Cpu)?["fc.weight"].dims(), [3, 512]);

    for (args, part) in [
        (&["--data", "/no/such/folder"][..], "/no/such/folder"),
        (&["--weights", "resnet18.pth"], "--data"),
        (&["--epochs", "0"], "--epochs"),
    ] {
        let output = run("transfer", args);
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && message.contains(part), "{args:?}: {message}");
    }
    Ok(())
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
fn mlp_refuses_what_it_cannot_do() {
    for (args, part) in [
        (&["--data", "/no/such/folder"][..], "/no/such/folder"),
        (&["--device", "cuda"], "cuda"),
        (&["--data", &SUBSET, "--batch-size", "0"], "batch"),
        (&["--data", &SUBSET, "--load", "/no/such/model"], "/no/such/model"),
        (&["--optimizer", "sdg"], "sgd"),
    ] {
        let output = run("mlp", args);
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && message.contains(part), "{args:?}: {message}");
        assert!(!message.contains("panicked"), "{args:?}: {message}");
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

#[test]
fn autograd_prints_what_pytorch_prints() {
    let output = run("autograd", &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    for part in [
        "Gradient function for z = <AddBackward0>\n",
        "Gradient function for loss = <BinaryCrossEntropyWithLogitsBackward0>\n",
        "\nTrue\nFalse\nFalse\n",
        "First call\n\
         tensor([[4., 2., 2., 2., 2.],\n        \
                 [2., 4., 2., 2., 2.],\n        \
                 [2., 2., 4., 2., 2.],\n        \
                 [2., 2., 2., 4., 2.],\n        \
                 [2., 2., 2., 2., 4.]])\n\n\
         Second call\n\
         tensor([[8., 4., 4., 4., 4.],\n",
        "Call after zeroing gradients\ntensor([[4., 2., 2., 2., 2.],\n",
        "tensor([[3., 3.],\n        [3., 3.]])\nNone\ntensor([[1., 1.],\n        [1., 1.]])\n",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn custom_dataset_loads_what_it_wrote() {
    let output = run("custom_dataset", &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("Feature batch shape")).collect();
    assert_eq!(lines.len(), 4);
    assert!(lines[0].contains("[64, 1, 28, 28], labels batch shape: [64]"), "{text}");
    assert!(lines[3].contains("[8, 1, 28, 28]"), "{text}");
}

#[test]
fn device_info_reports_with_and_without_a_device() {
    let output = run("device_info", &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    if text.starts_with("missing: Kiln was built without the feature `cuda`") {
        assert!(text.contains("To fix it, build with `--features cuda`"), "{text}");
        return;
    }
    for what in ["driver ", "cuBLASLt ", "cuDNN ", "NVRTC ", "kernels "] {
        assert!(text.lines().any(|line| line.starts_with(what)), "{what:?} is not in {text}");
    }
    // What is missing has a reason and a way out.
    let missing = text.lines().filter(|line| line.ends_with(" missing")).count();
    assert_eq!(text.lines().filter(|line| line.starts_with("missing: ")).count(), missing, "{text}");
    if Device::cuda(0).is_ok() {
        let output = run("device_info", &["--use"]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("cuda:0 ") && text.contains("open: "), "{text}");
    }
}

/// With NVIDIA's cuDNN; without it the example says what is missing.
#[test]
fn compile_plans_writes_what_the_library_takes_back() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().to_str().unwrap();
    let lenet = |more: &[&str]| {
        let args = ["lenet", "--device", "h100,a100", "--batch", "64,7", "--dtype", "f32,bf16"];
        let output = run("compile_plans", &[&args[..], &["--output", output], more].concat());
        let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    };
    let (passed, text) = lenet(&[]);
    if !passed && text.contains("cuDNN was not found") {
        assert!(env::var_os("KILN_REQUIRE_CUDNN").is_none(), "{text}");
        assert!(text.contains("pip install nvidia-cudnn"), "{text}");
        return eprintln!("skipped: {text}");
    }
    assert!(passed, "{text}");
    // Two layers, of which the first has no gradient of its input; dtypes, batches, devices.
    assert_eq!(text.matches("5 convolutions, 5 plans of cuDNN").count(), 8, "{text}");
    // The second time each is read, and given to the library.
    let (passed, text) = lenet(&[]);
    assert!(passed && text.matches("5 convolutions, 0 plans of cuDNN").count() == 8, "{text}");
    let (passed, text) = lenet(&["--inference"]);
    assert!(passed && text.matches("2 convolutions, 0 plans of cuDNN").count() == 8, "{text}");
    let small =
        ["resnet18", "--image-size", "32", "--inference", "--layout", "nhwc", "--batch", "8", "--device", "h100"];
    let text = run("compile_plans", &[&small[..], &["--output", output]].concat()).stdout;
    let text = String::from_utf8_lossy(&text);
    // Of the 11 shapes, four occur with a bias and ReLU and with a residual besides, and three shortcuts with a bias alone.
    let plans = text.split_once(" convolutions, ").and_then(|(_, rest)| rest.split_once(" plans of cuDNN"));
    let plans: usize = plans.expect("a line for each model").0.parse().unwrap();
    assert!((15..=21).contains(&plans) && !text.contains("none: "), "{text}");
    for (args, expect) in [
        (["lenet", "--device", "h10", "--batch", "64"], "h10 is neither one of a100, "),
        (["lenet", "--device", "/", "--batch", "64"], "nor a file"),
        (["lenet", "--device", "h100", "--batch", "0"], "at least one image"),
    ] {
        let output = run("compile_plans", &args);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(expect), "{text}");
    }
}

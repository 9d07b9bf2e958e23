//! Examples that train other networks: they learn, and save and draw what they are told to; in two processes as in one.

use std::{env, fs, path::Path, process::Command};

use kiln::{
    data::{FashionMNIST, transforms::Image},
    io::Checkpoint,
    prelude::*,
};

use super::{SUBSET, accuracies, example, numbers_after, printed, run};

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

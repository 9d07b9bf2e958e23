//! The quickstart tutorial's example: what it prints, saves and draws, and what it refuses.

use std::{fs, path::Path};

use super::{SUBSET, accuracies, mlp, run};

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

//! Examples that go on from a checkpoint: with the same parameters, curves and events as if they had never stopped.

use std::{collections::BTreeMap, fs, path::Path};

use kiln::{
    io::Checkpoint,
    prelude::*,
    vis::events::{Event, Kind, SessionLog, What},
};
use prost::Message;

use super::{SUBSET, mlp, run};

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

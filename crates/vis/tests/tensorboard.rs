//! `SummaryWriter`: the records in its event files, and what TensorBoard's own reader finds in them.

#[path = "../../../tests/support/checkout.rs"]
mod checkout;

use std::process::Command;

use kiln_tensor::{Device, Result, Tensor};
use kiln_vis::{
    SummaryWriter,
    events::{Event, GraphDef, Kind, SessionLog, What},
};
use prost::Message;

/// Scalars, two pictures, a histogram and a graph.
fn write(folder: &std::path::Path) -> Result<SummaryWriter> {
    let mut writer = SummaryWriter::new(folder)?;
    for step in 0..5 {
        writer.add_scalar("loss/train", 1.0 / f64::from(step + 1), step.into())?;
    }
    writer.add_scalar("accuracy", f64::NAN, 7)?;
    let gradient = Tensor::arange(0, 48, Device::Cpu)?.to_dtype(kiln_tensor::DType::F32)?.div(48.0)?;
    writer.add_image("color", &gradient.reshape([3, 4, 4])?, 1)?;
    writer.add_image("gray", &gradient.reshape([6, 8])?, 2)?;
    let none = Tensor::zeros([3, 0, 4], Device::Cpu)?;
    assert!(writer.add_image("none", &none, 2).is_err());
    writer.add_histogram("weights", &Tensor::linspace(-1.0, 1.0, 101, Device::Cpu)?, 3)?;
    let w = Tensor::ones([4, 2], Device::Cpu)?.requires_grad_(true)?;
    let x = Tensor::ones([3, 4], Device::Cpu)?;
    writer.add_graph(&x.matmul(&w)?.relu()?.sum(())?)?;
    writer.add_text("notes", "**bold** and `code`", 4)?;
    writer.add_pr_curve("spam", &labels()?, &predictions()?, 5)?;
    writer.add_hparams(
        &[("lr", 0.1.into()), ("optimizer", "Adam".into()), ("bias", true.into())],
        &[("hparam/accuracy", 0.75)],
    )?;
    let points = Tensor::arange(0, 10, Device::Cpu)?.reshape([5, 2])?;
    writer.add_embedding(
        "words/a b",
        &points,
        Some(&["a", "b", "c", "d", "é"]),
        Some(&Tensor::ones([5, 3, 4, 6], Device::Cpu)?),
        6,
    )?;
    writer.flush()?;
    Ok(writer)
}

fn labels() -> Result<Tensor> {
    Tensor::new(&[1i64, 0, 1, 1, 0, 0, 1, 0], Device::Cpu)
}

fn predictions() -> Result<Tensor> {
    Tensor::new(&[0.9f64, 0.2, 0.65, 0.1, 0.65, 0.0, 1.0, 0.5], Device::Cpu)
}

/// The values of a tensor in a plugin's summary.
fn floats(kind: &Kind) -> &[f32] {
    let Kind::Tensor(tensor) = kind else { panic!("{kind:?}") };
    &tensor.float_val
}

#[test]
fn curves_of_precision_and_recall() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = SummaryWriter::new(folder.path())?;
    writer.add_pr_curve("curve", &labels()?.to_dtype(kiln_tensor::DType::Bool)?, &predictions()?, 0)?;
    let ones = Tensor::ones(2, Device::Cpu)?;
    for (labels, predictions, want) in [
        (&ones, &Tensor::ones(3, Device::Cpu)?, "a prediction for each label"),
        (&ones.mul(2)?, &ones, "label 2 is neither"),
        (&ones, &ones.mul(1.5)?, "prediction 1.5"),
        (&ones, &ones.mul(f64::NAN)?, "prediction NaN"),
    ] {
        let error = writer.add_pr_curve("curve", labels, predictions, 0).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
    writer.flush()?;
    let events = events(&std::fs::read(writer.path()).unwrap());
    let Some(What::Summary(summary)) = &events[1].what else { panic!("{events:?}") };
    let rows = floats(summary.value[0].value.as_ref().unwrap());
    assert_eq!((rows.len(), events.len()), (6 * 127, 2));
    let at = |threshold: f64| (0..6).map(|row| rows[127 * row + (threshold * 126.0) as usize]).collect::<Vec<_>>();
    assert_eq!(at(0.0), [4.0, 4.0, 0.0, 0.0, 0.5, 1.0]);
    assert_eq!(at(0.6), [3.0, 1.0, 3.0, 1.0, 0.75, 0.75]);
    assert_eq!(at(1.0), [1.0, 0.0, 4.0, 3.0, 1.0, 0.25]);
    Ok(())
}

#[test]
fn embeddings_are_files_beside_the_events() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = SummaryWriter::new(folder.path())?;
    let points = Tensor::new([[1.5f32, -2.0], [0.0, 3.0]], Device::Cpu)?;
    writer.add_embedding("../x", &points, Some(&["one", "two"]), None, 3)?;
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!(read("00003/%2E%2E%2Fx/tensors.tsv"), "1.5\t-2\n0\t3\n");
    assert_eq!(read("00003/%2E%2E%2Fx/metadata.tsv"), "one\ntwo\n");
    assert!(read("projector_config.pbtxt").contains("tensor_path: \"00003/%2E%2E%2Fx/tensors.tsv\""));
    let images = Tensor::zeros([1, 1, 2, 2], Device::Cpu)?;
    for (labels, images, want) in [
        (Some(&["one"][..]), None, "1 labels for 2 points"),
        (Some(&["one", "t\two"]), None, "a tab or a line break"),
        (None, Some(&images), "1 images for 2 points"),
        (None, Some(&points), "[N, C, H, W]"),
    ] {
        let error = writer.add_embedding("x", &points, labels, images, 0).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
    assert!(writer.add_embedding("x", &points.flatten(0, -1)?, None, None, 0).is_err());
    let twice = writer.add_hparams(&[("lr", 1.into()), ("lr", 2.into())], &[]).unwrap_err().to_string();
    assert!(twice.contains("\"lr\" occurs twice"), "{twice}");
    Ok(())
}

/// The records of a file, framed as TensorFlow does.
fn events(bytes: &[u8]) -> Vec<Event> {
    let mut rest = bytes;
    let mut events = Vec::new();
    while !rest.is_empty() {
        let len = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        events.push(Event::decode(&rest[12..12 + len]).unwrap());
        rest = &rest[16 + len..];
    }
    events
}

#[test]
fn files_hold_what_was_added() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder.path().join("deep/run"))?.path().to_owned();
    assert!(path.file_name().unwrap().to_str().unwrap().starts_with("events.out.tfevents."));
    let events = events(&std::fs::read(path).unwrap());
    assert_eq!(events[0].what, Some(What::FileVersion("brain.Event:2".into())));
    assert!(events.iter().all(|event| event.wall_time > 1.7e9));
    let mut tags = Vec::new();
    for event in &events[1..] {
        match event.what.as_ref().unwrap() {
            What::Summary(summary) => {
                let value = &summary.value[0];
                tags.push((value.tag.as_str(), event.step));
                if let Some(Kind::SimpleValue(loss)) = value.value
                    && value.tag == "loss/train"
                {
                    assert_eq!(loss, 1.0 / (event.step + 1) as f32);
                }
            }
            What::GraphDef(graph) => assert_eq!(GraphDef::decode(&graph[..]).unwrap().node.len(), 4),
            What::FileVersion(_) | What::SessionLog(_) => panic!("only the first record is the version"),
        }
    }
    assert_eq!(tags[..5], [0, 1, 2, 3, 4].map(|step| ("loss/train", step)));
    assert_eq!(tags[5..9], [("accuracy", 7), ("color", 1), ("gray", 2), ("weights", 3)]);
    assert_eq!(
        tags[9..],
        [
            ("notes/text_summary", 4),
            ("spam", 5),
            ("_hparams_/experiment", 0),
            ("_hparams_/session_start_info", 0),
            ("_hparams_/session_end_info", 0),
            ("hparam/accuracy", 0),
        ]
    );
    // Two writers at once have two files.
    let (a, b) = (SummaryWriter::new(folder.path())?, SummaryWriter::new(folder.path())?);
    assert_ne!(a.path(), b.path());
    let file = folder.path().join("file");
    std::fs::write(&file, []).unwrap();
    assert!(SummaryWriter::new(&file).unwrap_err().to_string().contains("file"));
    Ok(())
}

/// The steps of a run that went to step 9 and was resumed from a checkpoint of step 5.
fn resumed(folder: &std::path::Path) -> Result<()> {
    for (first, last, writer) in
        [(0, 9, SummaryWriter::new(folder)?), (5, 12, SummaryWriter::with_purge_step(folder, 5)?)]
    {
        let mut writer = writer;
        for step in first..=last {
            writer.add_scalar("loss/resumed", (10 * first + step) as f64, step)?;
        }
    }
    Ok(())
}

#[test]
fn a_resumed_run_purges_the_steps_that_it_repeats() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    resumed(folder.path())?;
    let mut files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    // As TensorBoard does: a start of a session drops what is at its step and after.
    let mut seen: Vec<(i64, f32)> = Vec::new();
    for event in files.iter().flat_map(|file| events(&std::fs::read(file).unwrap())) {
        match event.what {
            Some(What::SessionLog(log)) if log.status == SessionLog::START => {
                seen.retain(|(step, _)| *step < event.step);
            }
            Some(What::Summary(summary)) => match summary.value[0].value {
                Some(Kind::SimpleValue(value)) => seen.push((event.step, value)),
                _ => unreachable!(),
            },
            _ => {}
        }
    }
    let want = (0..5).map(|step| (step, step as f32)).chain((5..=12).map(|step| (step, (50 + step) as f32)));
    assert_eq!(seen, want.collect::<Vec<_>>());
    Ok(())
}

/// `pip install tensorboard`, then `cargo test -p kiln-vis --test tensorboard -- --ignored`; `KILN_PYTHON` names another
/// Python than `python3`.
#[test]
#[ignore = "needs Python with tensorboard"]
fn tensorboard_reads_them() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path())?;
    resumed(folder.path())?;
    let python = std::env::var("KILN_PYTHON").unwrap_or_else(|_| "python3".into());
    let script = checkout::path("crates/vis/tests/read_tensorboard.py");
    let output = Command::new(python).arg(script).arg(folder.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let seen: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(
        seen["scalars"]["loss/train"],
        serde_json::json!([[0, 1.0], [1, 0.5], [2, 0.3333], [3, 0.25], [4, 0.2]])
    );
    let steps: Vec<(i64, f64)> =
        (0..5).map(|step| (step, step as f64)).chain((5..=12).map(|step| (step, (50 + step) as f64))).collect();
    assert_eq!(seen["scalars"]["loss/resumed"], serde_json::json!(steps));
    assert_eq!(seen["images"], serde_json::json!({"color": [4, 4, "RGB", [0, 85, 170]], "gray": [8, 6, "L", 0]}));
    let histogram = &seen["histograms"]["weights"];
    assert_eq!((&histogram["num"], &histogram["counted"]), (&101.0.into(), &101.0.into()));
    assert_eq!((&histogram["min"], &histogram["max"]), (&(-1.0).into(), &1.0.into()));
    assert_eq!(seen["texts"]["notes"], serde_json::json!([4, "**bold** and `code`"]));
    assert_eq!(seen["pr_curve"], serde_json::json!({"thresholds": 127, "equal": true}));
    assert_eq!(
        seen["hparams"],
        serde_json::json!({"lr": 0.1, "optimizer": "Adam", "bias": true, "kinds": [1, 2, 3], "metrics": ["hparam/accuracy"], "status": 1})
    );
    assert_eq!(
        seen["embedding"],
        serde_json::json!(["words/a b:00006", [5, 2], ["a", "b", "c", "d", "é"], [18, 12], [6, 4]])
    );
    assert_eq!(seen["graph"], serde_json::json!(["Mm", "Parameter_4x2", "Relu", "Sum"]));
    Ok(())
}

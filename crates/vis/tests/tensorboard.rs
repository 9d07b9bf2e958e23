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
    writer.flush()?;
    Ok(writer)
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
    assert_eq!(tags[5..], [("accuracy", 7), ("color", 1), ("gray", 2), ("weights", 3)]);
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
    assert_eq!(seen["graph"], serde_json::json!(["Mm", "Parameter_4x2", "Relu", "Sum"]));
    Ok(())
}

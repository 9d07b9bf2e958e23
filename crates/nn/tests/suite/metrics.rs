//! Metrics against scikit-learn's (`tests/golden/make_metrics.py`), in batches of several sizes, and what they refuse.

use crate::common::checkout;
use kiln_nn::metrics::{AUROC, Accuracy, Average, ConfusionMatrix, Mean, Metric};
use kiln_tensor::{DType, Device, Result, Tensor};
use serde_json::Value;

fn golden() -> Value {
    serde_json::from_slice(&std::fs::read(checkout::path("tests/golden/metrics.json")).unwrap()).unwrap()
}

fn floats(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(values) => values.iter().flat_map(floats).collect(),
        value => vec![value.as_f64().unwrap()],
    }
}

/// Scores, `[N]` or `[N, classes]`, and targets of a case.
fn data(case: &Value) -> Result<(Tensor, Tensor)> {
    let (scores, targets) = (floats(&case["scores"]), floats(&case["targets"]));
    let n = targets.len();
    let classes = scores.len() / n;
    let scores = Tensor::from_vec(scores, [n, classes], Device::Cpu)?;
    let scores = if case["scores"][0].is_array() { scores } else { scores.squeeze(1)? };
    Ok((scores, Tensor::from_vec(targets, n, Device::Cpu)?.to_dtype(DType::I64)?))
}

/// Batches of 7 samples, an empty one, and the rest.
fn batches(scores: &Tensor, targets: &Tensor) -> Result<Vec<(Tensor, Tensor)>> {
    let n = targets.numel();
    let part = |from: usize, len: usize| Ok((scores.narrow(0, from, len)?, targets.narrow(0, from, len)?));
    let mut out = vec![part(0, 7)?, part(7, 0)?];
    out.extend((7..n).step_by(7).map(|from| part(from, 7.min(n - from))).collect::<Result<Vec<_>>>()?);
    Ok(out)
}

#[track_caller]
fn close(got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    assert!(got.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-12), "{got:?} instead of {want:?}");
}

#[test]
fn all_agree_with_scikit_learn() -> Result<()> {
    for name in ["two", "five", "absent"] {
        let golden = &golden()[name];
        let (scores, targets) = data(golden)?;
        let classes = scores.size(1)?;
        let (mut accuracy, mut matrix) = (Accuracy::new(Device::Cpu)?, ConfusionMatrix::new(classes, Device::Cpu)?);
        let (mut of_labels, mut area) = (ConfusionMatrix::new(classes, Device::Cpu)?, AUROC::new());
        for (x, y) in batches(&scores, &targets)? {
            accuracy.update(&x, &y)?;
            // As they come from a transposed matrix, and as narrow integers.
            matrix.update(&x.transpose(0, 1)?.contiguous()?.transpose(0, 1)?, &y.to_dtype(DType::I32)?)?;
            of_labels.update(&x.argmax(1)?, &y)?;
            area.update(&x, &y)?;
        }
        close(&[accuracy.compute()?], &floats(&golden["accuracy"]));
        let counts: Vec<f64> = matrix.compute()?.to_vec::<i64>()?.into_iter().map(|n| n as f64).collect();
        close(&counts, &floats(&golden["matrix"]));
        assert_eq!(of_labels.compute()?.to_vec::<i64>()?, matrix.compute()?.to_vec::<i64>()?);
        for (key, average) in [("macro", Average::Macro), ("micro", Average::Micro)] {
            let got = [matrix.precision(average)?, matrix.recall(average)?, matrix.f1(average)?];
            close(&got, &floats(&golden[key]));
        }
        let each = [matrix.precision_per_class()?, matrix.recall_per_class()?, matrix.f1_per_class()?];
        close(&each.concat(), &floats(&golden["None"]));
        for (k, want) in golden["top_k"].as_object().unwrap() {
            let mut metric = Accuracy::top_k(k.parse().unwrap(), Device::Cpu)?;
            metric.update(&scores, &targets)?;
            close(&[metric.compute()?], &floats(want));
        }
        match golden.get("auroc") {
            Some(want) => close(&area.compute_per_class()?, &floats(want)),
            None => assert!(area.compute().unwrap_err().to_string().contains("class 2 has no samples")),
        }
    }
    let binary = &golden()["binary"];
    let mut area = AUROC::new();
    let (scores, targets) = data(binary)?;
    for (x, y) in batches(&scores, &targets)? {
        area.update(&x, &y)?;
    }
    close(&[area.compute()?], &floats(&binary["auroc"]));
    // A metric does not depend on what becomes of a batch, and halves keep the order of these scores.
    let (mut area, scores) = (AUROC::new(), scores.to_dtype(DType::F16)?);
    area.update(&scores, &targets.to_dtype(DType::Bool)?)?;
    scores.zero_()?;
    close(&[area.compute()?], &floats(&binary["auroc"]));
    Ok(())
}

/// As they come from regions of autocast and outside of them: what is collected is of one dtype.
#[test]
fn areas_are_of_batches_of_any_dtype() -> Result<()> {
    let (scores, targets) = data(&golden()["binary"])?;
    let dtypes =
        [(DType::F16, DType::Bool), (DType::F64, DType::I64), (DType::BF16, DType::U8), (DType::F32, DType::I32)];
    let (mut area, mut alike) = (AUROC::new(), AUROC::new());
    for ((x, y), (of_scores, of_targets)) in batches(&scores, &targets)?.into_iter().zip(dtypes.into_iter().cycle()) {
        let x = x.to_dtype(of_scores)?;
        area.update(&x, &y.to_dtype(of_targets)?)?;
        alike.update(&x.to_dtype(DType::F64)?, &y)?;
    }
    close(&[area.compute()?], &[alike.compute()?]);
    let ((scores, targets), (want, labels)) = (area.samples()?.unwrap(), alike.samples()?.unwrap());
    assert_eq!((scores.dtype(), targets.dtype()), (DType::F64, DType::I64));
    assert_eq!((scores.to_vec::<f64>()?, targets.to_vec::<i64>()?), (want.to_vec()?, labels.to_vec()?));
    assert!(AUROC::new().samples()?.is_none());
    Ok(())
}

#[test]
fn means_are_of_all_numbers() -> Result<()> {
    let mut mean = Mean::new(Device::Cpu)?;
    assert!(mean.compute()?.is_nan());
    mean.update(&Tensor::new(&[[1.0f32, 2.0], [3.0, 6.0]], Device::Cpu)?)?;
    mean.update(&Tensor::zeros([0, 3], Device::Cpu)?)?;
    // A batch of six with a mean of 8, with a history.
    mean.update_mean(&Tensor::new(8.0f32, Device::Cpu)?.requires_grad_(true)?, 6)?;
    mean.update_mean(&Tensor::new(f32::NAN, Device::Cpu)?, 0)?;
    assert_eq!(mean.compute()?, (12.0 + 48.0) / 10.0);
    assert!(mean.sums().iter().all(|sum| !sum.requires_grad()));
    assert!(mean.update_mean(&Tensor::zeros(2, Device::Cpu)?, 2).is_err());
    mean.reset()?;
    assert!(mean.compute()?.is_nan());
    Ok(())
}

/// What two processes see adds up to what one would have seen.
#[test]
fn sums_add_up() -> Result<()> {
    let golden = &golden()["five"];
    let (scores, targets) = data(golden)?;
    let mut parts = [ConfusionMatrix::new(5, Device::Cpu)?, ConfusionMatrix::new(5, Device::Cpu)?];
    for (i, (x, y)) in batches(&scores, &targets)?.into_iter().enumerate() {
        parts[i % 2].update(&x, &y)?;
    }
    let [mut first, second] = parts;
    let sums: Result<Vec<Tensor>> = first.sums().iter().zip(second.sums()).map(|(a, b)| a.add(&b)).collect();
    first.set_sums(sums?)?;
    close(&[first.f1(Average::Macro)?], &floats(&golden["macro"])[2..]);
    assert!(first.set_sums(second.sums()[..1].to_vec()).is_err());
    assert!(first.set_sums(Mean::new(Device::Cpu)?.sums()).is_err());
    Ok(())
}

#[test]
fn wrong_batches_are_errors() -> Result<()> {
    let (scores, targets) = (Tensor::zeros([3, 2], Device::Cpu)?, Tensor::zeros(3, (DType::I64, Device::Cpu))?);
    let (mut accuracy, mut matrix) = (Accuracy::new(Device::Cpu)?, ConfusionMatrix::new(2, Device::Cpu)?);
    let mut area = AUROC::new();
    for (x, y) in [(&scores, &scores), (&targets, &scores), (&scores, &targets.narrow(0, 0, 2)?)] {
        assert!(accuracy.update(x, y).is_err() && matrix.update(x, y).is_err() && area.update(x, y).is_err());
    }
    assert!(matrix.update(&Tensor::zeros([3, 4], Device::Cpu)?, &targets).is_err());
    assert!(Accuracy::top_k(0, Device::Cpu).is_err() && ConfusionMatrix::new(0, Device::Cpu).is_err());
    assert!(Accuracy::top_k(3, Device::Cpu)?.update(&scores, &targets).is_err());
    assert!(accuracy.compute()?.is_nan() && area.compute().is_err());
    // Nothing of a refused batch has been counted.
    assert_eq!(matrix.compute()?.sum(())?.item::<i64>()?, 0);

    matrix.update(&targets, &Tensor::new(&[0i64, 5, -1], Device::Cpu)?)?;
    let error = matrix.compute().unwrap_err().to_string();
    assert!(error.contains("2 of 3 samples are of no class in 0..2"), "{error}");
    matrix.reset()?;
    assert_eq!(matrix.precision(Average::Macro)?, 0.0);

    area.update(&Tensor::new(&[0.5f32, f32::NAN], Device::Cpu)?, &Tensor::new(&[0i64, 1], Device::Cpu)?)?;
    assert!(area.compute().unwrap_err().to_string().contains("NaN"));
    assert!(area.update(&scores, &targets).is_err());
    area.reset();
    area.update(&Tensor::new(&[0.5f32, 1.0], Device::Cpu)?, &Tensor::new(&[0i64, 2], Device::Cpu)?)?;
    assert!(area.compute().unwrap_err().to_string().contains("the target 2 is not in 0..2"));
    Ok(())
}

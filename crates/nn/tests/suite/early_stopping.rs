//! Early stopping: when it stops, what it restores, and how it resumes.

use kiln_nn::{
    BatchNorm1d, Linear, Module, ModuleTree,
    optim::{EarlyStopping, lr_scheduler::PlateauMode},
    seq,
};
use kiln_tensor::{DType, Device, Result, Tensor, no_grad};

/// The step at which it stops, if it does.
fn stops(stopping: EarlyStopping, metrics: &[f64]) -> Result<Option<usize>> {
    let (model, mut stopping) = (Linear::new(1, 1)?, stopping);
    for (i, metric) in metrics.iter().enumerate() {
        let stop = stopping.step(*metric, &model)?;
        assert_eq!(stop, stopping.should_stop());
        if stop {
            return Ok(Some(i));
        }
    }
    Ok(None)
}

/// The rules of Keras' callback, whose `wait` counts as here.
#[test]
fn it_stops_after_its_patience() -> Result<()> {
    let nan = f64::NAN;
    let max = |patience| EarlyStopping::new(patience).mode(PlateauMode::Max);
    for (stopping, metrics, want) in [
        (EarlyStopping::new(2), &[1.0, 0.9, 0.95, 0.93][..], Some(3)),
        (EarlyStopping::new(2), &[1.0, 1.1, 0.9, 1.0, 0.8, 0.9, 0.85], Some(6)),
        (EarlyStopping::new(3), &[1.0, 1.0, 1.0], None),
        (EarlyStopping::new(0), &[1.0, 0.5, 0.5], Some(2)),
        (EarlyStopping::new(1), &[1.0, 0.5, 0.5], Some(2)),
        (EarlyStopping::new(0), &[1.0, 0.9, 0.8], None),
        (EarlyStopping::new(2).min_delta(0.1), &[1.0, 0.95, 0.91], Some(2)),
        (EarlyStopping::new(2).min_delta(0.1), &[1.0, 0.95, 0.89, 0.85, 0.8], Some(4)),
        (max(2), &[0.5, 0.6, 0.6, 0.59], Some(3)),
        (max(2).min_delta(0.05), &[0.5, 0.54, 0.56, 0.6, 0.61], Some(4)),
        (EarlyStopping::new(2), &[nan, nan, 1.0], Some(1)),
        (EarlyStopping::new(2), &[nan, 1.0, nan, 0.5, nan, nan], Some(5)),
        (EarlyStopping::new(1), &[f64::INFINITY, 1.0, 1.0], Some(2)),
        (max(1), &[f64::NEG_INFINITY, 1.0, 1.0], Some(2)),
    ] {
        assert_eq!(stops(stopping, metrics)?, want, "{metrics:?}");
    }
    for wrong in [-1.0, f64::NAN] {
        assert!(stops(EarlyStopping::new(1).min_delta(wrong), &[1.0]).unwrap_err().to_string().contains("min_delta"));
    }
    Ok(())
}

#[test]
fn the_best_parameters_and_buffers_come_back() -> Result<()> {
    let model = seq![Linear::new(2, 3)?, BatchNorm1d::new(3)?];
    let x = Tensor::randn([4, 2], Device::Cpu)?;
    let mut stopping = EarlyStopping::new(2);
    assert!(stopping.restore(&model).unwrap_err().to_string().contains("no step had a metric"));
    let values =
        || -> Result<Vec<Vec<f64>>> { model.state_dict().values().map(|t| t.to_dtype(DType::F64)?.to_vec()).collect() };
    let mut best = Vec::new();
    for metric in [1.0, 0.5, 0.7, 0.6] {
        model.forward(&x)?; // changes the running statistics
        no_grad(|| model.parameters().iter().try_for_each(|p| p.add_(metric).map(drop)))?;
        if metric == 0.5 {
            best = values()?;
        }
        stopping.step(metric, &model)?;
    }
    assert!(stopping.should_stop());
    assert_ne!(values()?, best);
    // A copy: what the model did afterwards has not changed it.
    stopping.restore(&model)?;
    assert_eq!(values()?, best);
    assert_eq!((stopping.best(), stopping.best_epoch()), (Some(0.5), Some(1)));
    assert!(stopping.restore(&Linear::new(2, 3)?).is_err());

    let mut without = EarlyStopping::new(2).keep_best(false);
    without.step(1.0, &model)?;
    assert!(without.best_state().is_empty());
    assert!(without.restore(&model).unwrap_err().to_string().contains("keep_best"));
    Ok(())
}

#[test]
fn it_resumes_where_it_was() -> Result<()> {
    let model = Linear::new(2, 1)?;
    let mut whole = EarlyStopping::new(3);
    let mut first = EarlyStopping::new(3);
    for metric in [1.0, 0.8, 0.9] {
        whole.step(metric, &model)?;
        first.step(metric, &model)?;
    }
    let mut resumed = EarlyStopping::new(3);
    resumed.load_state_dict(&first.state_dict()?)?;
    drop(first);
    no_grad(|| model.weight.fill_(7.0).map(drop))?;
    for metric in [0.85, 0.9] {
        assert_eq!(resumed.step(metric, &model)?, whole.step(metric, &model)?);
    }
    assert!(resumed.should_stop() && resumed.best_epoch() == Some(1));
    resumed.restore(&model)?;
    assert_ne!(model.weight.to_vec::<f32>()?, [7.0, 7.0]);

    // Before the first step, too; and other states are refused.
    let mut fresh = EarlyStopping::new(3);
    fresh.load_state_dict(&EarlyStopping::new(3).state_dict()?)?;
    assert_eq!((fresh.best(), fresh.best_epoch()), (None, None));
    let mut wrong = EarlyStopping::new(3).state_dict()?;
    wrong.insert("lr".into(), Tensor::zeros((), Device::Cpu)?);
    assert!(fresh.load_state_dict(&wrong).unwrap_err().to_string().contains("lr"));
    Ok(())
}

//! Metrics on the device: their values are the CPU's, and an update only queues work.

use kiln::{
    metrics::{AUROC, Accuracy, Average, ConfusionMatrix, Mean},
    nn::CrossEntropyLoss,
    prelude::*,
};

use crate::{
    account::recorded,
    support::{TURN, device},
};

const CLASSES: usize = 7;

struct Metrics {
    mean: Mean,
    loss: Mean,
    likeliest: Accuracy,
    likely: Accuracy,
    matrix: ConfusionMatrix,
    area: AUROC,
}

impl Metrics {
    fn new(device: Device) -> kiln::Result<Metrics> {
        Ok(Metrics {
            mean: Mean::new(device)?,
            loss: Mean::new(device)?,
            likeliest: Accuracy::new(device)?,
            likely: Accuracy::top_k(3, device)?,
            matrix: ConfusionMatrix::new(CLASSES, device)?,
            area: AUROC::new(),
        })
    }

    fn update(&mut self, (scores, targets, loss): &(Tensor, Tensor, Tensor)) -> kiln::Result<()> {
        self.mean.update(scores)?;
        self.loss.update_mean(loss, targets.numel())?;
        self.likeliest.update(scores, targets)?;
        self.likely.update(scores, targets)?;
        self.matrix.update(scores, targets)?;
        self.area.update(scores, targets)
    }

    fn compute(&self) -> kiln::Result<Vec<f64>> {
        let matrix = self.matrix.compute()?.to_dtype(DType::F64)?.to_vec::<f64>()?;
        let scores = [
            self.mean.compute()?,
            self.loss.compute()?,
            self.likeliest.compute()?,
            self.likely.compute()?,
            self.matrix.f1(Average::Macro)?,
            self.area.compute()?,
        ];
        Ok(scores.into_iter().chain(matrix).collect())
    }
}

/// Scores of which a part is right, classes, and a loss.
fn batch(number: u64, device: Device) -> kiln::Result<(Tensor, Tensor, Tensor)> {
    manual_seed(number);
    let samples = 50 + number as usize;
    let targets = Tensor::randint(0, CLASSES as i64, samples, Device::Cpu)?;
    let scores = Tensor::randn([samples, CLASSES], Device::Cpu)?;
    let scores = scores.add(&targets.one_hot(CLASSES as i64)?.to_dtype(DType::F32)?)?;
    let loss = CrossEntropyLoss::new().forward(&scores, &targets)?;
    Ok((scores.to_device(device)?, targets.to_device(device)?, loss.to_device(device)?))
}

#[test]
fn metrics_are_the_cpus_and_updates_do_not_wait() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let (mut here, mut there) = (Metrics::new(Device::Cpu)?, Metrics::new(device)?);
    for number in 0..3 {
        here.update(&batch(number, Device::Cpu)?)?;
        let batch = batch(number, device)?;
        let ((), account) = recorded(|| there.update(&batch))?;
        if let Some(account) = account {
            let count = |name: &str| account["counts"][name].as_u64().unwrap();
            assert_eq!(count("synchronizations") + count("bytes to host") + count("event waits"), 0, "{account:#}");
            assert!(count("launches") > 0, "{account:#}");
        }
    }
    let (want, got) = (here.compute()?, there.compute()?);
    assert_eq!(want.len(), 6 + CLASSES * CLASSES);
    assert!(want[2] > 0.3 && want[3] > want[2] && want[5] > 0.6, "{want:?}");
    for (i, (want, got)) in want.iter().zip(&got).enumerate() {
        assert!((want - got).abs() <= 1e-6 * want.abs(), "value {i}: {got} on the device, {want} on the CPU");
    }
    Ok(())
}

//! The area under the receiver operating characteristic (ROC) curve.

use kiln_derive::located;
use kiln_tensor::{DType, Error, Result, Tensor};

use super::check_targets;

/// The area under the ROC curve: the probability that a random positive sample has a higher score than a random negative one,
/// where equal scores count half (Hanley & McNeil, 1982). It is exact, and so keeps all scores, on their device.
#[derive(Debug, Default)]
pub struct AUROC {
    batches: Vec<(Tensor, Tensor)>,
}

#[located(site)]
impl AUROC {
    /// The area of no samples yet.
    #[must_use]
    pub fn new() -> AUROC {
        AUROC::default()
    }

    /// Adds a batch: scores `[N]` with targets `[N]` of 0 and 1, or scores `[N, classes]` with targets `[N]` that are classes.
    ///
    /// # Errors
    /// If shapes or dtypes do not fit, or batches differ in their classes.
    pub fn update(&mut self, scores: &Tensor, targets: &Tensor) -> Result<()> {
        const OP: &str = "AUROC::update";
        let (rest, before) = (scores.dims().get(1..), self.batches.first().and_then(|(s, _)| s.dims().get(1..)));
        if !matches!(scores.rank(), 1 | 2) || !scores.dtype().is_float() || (before.is_some() && before != rest) {
            let expected = "floating-point scores [N] or [N, classes], of as many classes as before";
            return Err(Error::shape(OP, expected, scores.shape()));
        }
        check_targets(OP, targets, scores.dims()[0])?;
        // Copies, since what a loader or a captured step returned may be overwritten.
        self.batches.push((scores.detach().copy()?, targets.copy()?));
        Ok(())
    }

    /// The area, 0 to 1: of several classes, the mean over each against all others. Waits for the device.
    ///
    /// # Errors
    /// If a class has no samples or all of them, a target is out of range, or a score is NaN.
    pub fn compute(&self) -> Result<f64> {
        let areas = self.compute_per_class()?;
        Ok(areas.iter().sum::<f64>() / areas.len() as f64)
    }

    /// The area of each class against all others; of scores `[N]`, one number.
    ///
    /// # Errors
    /// Those of [`compute`](AUROC::compute).
    pub fn compute_per_class(&self) -> Result<Vec<f64>> {
        let Some((first, _)) = self.batches.first() else {
            return Err(Error::argument("AUROC", "there are no samples"));
        };
        let classes = first.dims().get(1).copied();
        let columns = classes.unwrap_or(1);
        let (mut scores, mut targets) = (Vec::new(), Vec::new());
        for (batch, labels) in &self.batches {
            scores.extend(batch.to_dtype(DType::F64)?.to_vec::<f64>()?);
            targets.extend(labels.to_dtype(DType::I64)?.to_vec::<i64>()?);
        }
        let range = 0..classes.unwrap_or(2) as i64;
        if let Some(wrong) = targets.iter().find(|target| !range.contains(target)) {
            return Err(Error::argument("AUROC", format!("the target {wrong} is not in {range:?}")));
        }
        if scores.iter().any(|score| score.is_nan()) {
            return Err(Error::argument("AUROC", "a score is NaN"));
        }
        (0..columns)
            .map(|class| {
                let positive = if classes.is_some() { class as i64 } else { 1 };
                let of_class = scores.iter().skip(class).step_by(columns).zip(&targets);
                area(of_class.map(|(&score, &target)| (score, target == positive)).collect())
                    .ok_or_else(|| Error::argument("AUROC", format!("class {positive} has no samples, or all of them")))
            })
            .collect()
    }

    /// The scores of all samples as `f64` and their targets as `i64`, on the device of the first batch, whatever those of the
    /// others are; `None` if there were no batches.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn samples(&self) -> Result<Option<(Tensor, Tensor)>> {
        let Some((first, _)) = self.batches.first() else { return Ok(None) };
        let alike = |part: &Tensor, dtype: DType| part.to_dtype(dtype)?.to_device(first.device());
        let scores = self.batches.iter().map(|(scores, _)| alike(scores, DType::F64)).collect::<Result<Vec<_>>>()?;
        let targets = self.batches.iter().map(|(_, targets)| alike(targets, DType::I64)).collect::<Result<Vec<_>>>()?;
        Ok(Some((Tensor::cat(&scores, 0)?, Tensor::cat(&targets, 0)?)))
    }

    /// Forgets all batches.
    pub fn reset(&mut self) {
        self.batches.clear();
    }
}

/// By the rank sum of the positive samples (Mann & Whitney, 1947); `None` if there are none, or no others.
fn area(mut samples: Vec<(f64, bool)>) -> Option<f64> {
    samples.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut wins, mut negatives, mut positives) = (0.0, 0.0, 0.0);
    // `==` and not the order of `total_cmp`, for which -0 is less than 0.
    for ties in samples.chunk_by(|a, b| a.0 == b.0) {
        let positive = ties.iter().filter(|sample| sample.1).count() as f64;
        let negative = ties.len() as f64 - positive;
        wins += positive * (negatives + negative / 2.0);
        negatives += negative;
        positives += positive;
    }
    (positives > 0.0 && negatives > 0.0).then(|| wins / (positives * negatives))
}

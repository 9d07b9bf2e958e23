//! Metrics over all processes.

use kiln_derive::located;
use kiln_nn::metrics::{AUROC, Metric};
use kiln_tensor::{DType, Error, Result, Tensor, no_grad};

use crate::{collective::ReduceOp, group::ProcessGroup};

/// Adds up the sums of a metric over all processes, so that `compute` then gives the same everywhere: that of all batches of
/// all processes. Call it once, after the last batch; the next updates would add to the sums of all.
///
/// # Errors
/// Those of [`all_reduce`](ProcessGroup::all_reduce); or if the processes' metrics differ in kind or in their classes. If it
/// fails, the metric is unchanged.
#[located(site)]
pub fn all_reduce_metric(group: &dyn ProcessGroup, metric: &mut dyn Metric) -> Result<()> {
    let copies: Result<Vec<_>> = no_grad(|| metric.sums().iter().map(|sum| sum.copy()).collect());
    let copies = copies?;
    for sum in &copies {
        group.all_reduce(sum, ReduceOp::Sum)?;
    }
    metric.set_sums(copies)
}

/// Collects the samples of all processes, so that `compute` then gives the same everywhere: the area of all samples of all
/// processes, as many as each has, or none, of whatever dtypes. Scores become `f64`, in which the area is computed. Call it once,
/// after the last batch.
///
/// # Errors
/// Those of [`all_gather`](ProcessGroup::all_gather); or if the processes' scores differ in their classes. If it fails, the
/// metric is unchanged.
#[located(site)]
pub fn all_gather_auroc(group: &dyn ProcessGroup, metric: &mut AUROC) -> Result<()> {
    let (rank, size, device) = (group.rank(), group.size(), group.device());
    let own = no_grad(|| metric.samples())?;
    // Of each rank: how many samples, and how many columns its scores have, 0 for scores `[N]`; -1 for no batches.
    let mut shapes = vec![0.0; 2 * size];
    let columns = |scores: &Tensor| if scores.rank() == 2 { scores.dims()[1] as f64 } else { 0.0 };
    let (count, of_rank) = own.as_ref().map_or((0, -1.0), |(scores, _)| (scores.dims()[0], columns(scores)));
    [shapes[2 * rank], shapes[2 * rank + 1]] = [count as f64, of_rank];
    let shapes = group.sums(&shapes)?;
    let (counts, all_columns): (Vec<usize>, Vec<f64>) = shapes.chunks(2).map(|of| (of[0] as usize, of[1])).unzip();
    let mut known = all_columns.iter().copied().filter(|&columns| columns >= 0.0);
    let Some(columns) = known.next() else { return Ok(()) };
    if known.any(|other| other != columns) {
        let message = format!("the scores of the ranks have {all_columns:?} classes (0: [N], -1: no batches)");
        return Err(Error::argument("all_gather_auroc", message));
    }
    let most = counts.iter().copied().max().unwrap_or(0);
    let width = (columns as usize).max(1);
    let gather = |part: Option<&Tensor>, width: usize, dtype: DType| -> Result<Tensor> {
        // Ranks send as much as the one with most samples.
        let input = Tensor::zeros([most, width], (dtype, device))?;
        if let Some(part) = part {
            let part = part.to_dtype(dtype)?.to_device(device)?.reshape([count, width])?;
            input.narrow(0, 0, count)?.copy_(&part)?;
        }
        let output = Tensor::zeros([size * most, width], (dtype, device))?;
        if most * width > 0 {
            group.all_gather(&output, &input)?;
        }
        Ok(output)
    };
    no_grad(|| {
        let scores = gather(own.as_ref().map(|(scores, _)| scores), width, DType::F64)?;
        let targets = gather(own.as_ref().map(|(_, targets)| targets), 1, DType::I64)?;
        let mut all = AUROC::new();
        for (of_rank, &count) in counts.iter().enumerate() {
            let scores = scores.narrow(0, of_rank * most, count)?;
            let scores = if columns == 0.0 { scores.reshape([count])? } else { scores };
            all.update(&scores, &targets.narrow(0, of_rank * most, count)?.reshape([count])?)?;
        }
        *metric = all;
        Ok(())
    })
}

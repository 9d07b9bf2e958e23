//! Metrics over all processes.

use kiln_derive::located;
use kiln_nn::metrics::Metric;
use kiln_tensor::{Result, no_grad};

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

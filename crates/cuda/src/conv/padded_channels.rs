//! Which convolutions have so few channels that padding them may be faster, and for which it has been found to be.

use kiln_backend::{Conv2dFusion, DType, Float32Precision, float32_matmul_precision};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::problem::Problem;
use crate::{image_format::Format, plan_limit::max_plans};

/// The bytes of a pixel's channels that tensor cores read at once.
const ROW: usize = 16;

/// For each problem that has been timed, whether it is faster padded.
#[derive(Default)]
pub(crate) struct PaddedChannels(Mutex<FxHashMap<Problem, bool>>);

impl PaddedChannels {
    pub(crate) fn get(&self, problem: &Problem) -> Option<bool> {
        self.0.lock().get(problem).copied()
    }

    pub(crate) fn set(&self, problem: &Problem, faster: bool) {
        let mut all = self.0.lock();
        if all.len() >= max_plans() {
            all.clear();
        }
        all.insert(*problem, faster);
    }
}

/// The number of channels that the input images and the filter of a problem would be padded to; `None` if they fill
/// whole rows, tensor cores do not compute it, or something is fused to it that has the input's channels.
pub(crate) fn padded_channels(problem: &Problem) -> Option<usize> {
    let on_tensor_cores = match problem.dtype {
        DType::F16 | DType::BF16 => true,
        DType::F32 => float32_matmul_precision() == Float32Precision::High,
        _ => false,
    };
    let fusion_fits = !matches!(problem.fusion, Some(Conv2dFusion::ReluGrad | Conv2dFusion::ReluBiasGrad));
    let is_eligible = problem.benchmark && problem.format == Format::ChannelsLast && problem.rule.groups == 1;
    let (channels, row) = (problem.x[1], ROW / problem.dtype.size());
    (is_eligible && on_tensor_cores && fusion_fits && !channels.is_multiple_of(row))
        .then(|| channels.next_multiple_of(row))
}

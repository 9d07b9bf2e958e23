//! Precision-recall curves at equally spaced thresholds.

use kiln_tensor::{DType, Error, Result, Tensor};
use prost::Message;

/// The numbers of thresholds, and of what is computed at each.
pub(super) const THRESHOLDS: usize = 127;
pub(super) const ROWS: usize = 6;

/// What the plugin needs to show a curve.
#[derive(Clone, PartialEq, Message)]
struct PrCurvePluginData {
    #[prost(int32, tag = "1")]
    version: i32,
    #[prost(uint32, tag = "2")]
    num_thresholds: u32,
}

pub(super) fn plugin_content() -> Vec<u8> {
    PrCurvePluginData { version: 0, num_thresholds: THRESHOLDS as u32 }.encode_to_vec()
}

/// True positives, false positives, true negatives, false negatives, precision and recall, each at all thresholds from 0 to 1:
/// a prediction is positive if it is not below the threshold.
pub(super) fn of(labels: &Tensor, predictions: &Tensor) -> Result<Vec<f32>> {
    const OP: &str = "add_pr_curve";
    if labels.shape() != predictions.shape() {
        return Err(Error::shapes(OP, labels.shape(), predictions.shape(), "a prediction for each label"));
    }
    let values = |tensor: &Tensor| tensor.detach().to_dtype(DType::F64)?.to_vec::<f64>();
    let (labels, predictions) = (values(labels)?, values(predictions)?);
    let mut buckets = [[0.0f64; THRESHOLDS]; 2];
    for (label, prediction) in labels.into_iter().zip(predictions) {
        if label != 0.0 && label != 1.0 {
            return Err(Error::argument(OP, format!("label {label} is neither 0 nor 1")));
        }
        if !(0.0..=1.0).contains(&prediction) {
            return Err(Error::argument(OP, format!("prediction {prediction} is not a probability")));
        }
        buckets[usize::from(label == 0.0)][(prediction * (THRESHOLDS - 1) as f64) as usize] += 1.0;
    }
    // How many are at a threshold or above.
    let [tp, fp] = buckets.map(|counts| {
        let mut sums = counts;
        for i in (0..THRESHOLDS - 1).rev() {
            sums[i] += sums[i + 1];
        }
        sums
    });
    let (tn, fn_) = (fp.map(|count| fp[0] - count), tp.map(|count| tp[0] - count));
    let ratio = |part: f64, rest: f64| part / (part + rest).max(1e-7);
    let precision: Vec<f64> = tp.iter().zip(&fp).map(|(tp, fp)| ratio(*tp, *fp)).collect();
    let recall: Vec<f64> = tp.iter().zip(&fn_).map(|(tp, fn_)| ratio(*tp, *fn_)).collect();
    Ok([&tp[..], &fp, &tn, &fn_, &precision, &recall].concat().into_iter().map(|value| value as f32).collect())
}

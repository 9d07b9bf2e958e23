//! Histograms with TensorFlow's bucket edges.

use kiln_tensor::{DType, Error, Result, Tensor};

use super::events::Histogram;

/// The edges of the buckets: 0, and in both directions from 1e-12 to 1e20 in steps of 10 %, as in TensorFlow.
fn edges() -> Vec<f64> {
    let right: Vec<f64> =
        std::iter::successors(Some(1e-12), |edge| Some(edge * 1.1)).take_while(|&edge| edge < 1e20).collect();
    right.iter().rev().map(|edge| -edge).chain([0.0]).chain(right.iter().copied()).collect()
}

/// The histogram of a tensor's finite values.
pub(super) fn of(values: &Tensor) -> Result<Histogram> {
    let values = values.detach().to_dtype(DType::F64)?.to_vec::<f64>()?;
    let finite: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
    if finite.is_empty() {
        return Err(Error::argument("add_histogram", "there is no finite value to count"));
    }
    let edges = edges();
    let mut counts = vec![0f64; edges.len() + 1];
    for &value in &finite {
        // A bucket includes its left edge but not its right one, as in NumPy.
        counts[edges.partition_point(|&edge| edge <= value)] += 1.0;
    }
    // Only the buckets from the first nonempty one to the last, preceded by an empty one, which gives the first its
    // left edge. After the last edge there is one more bucket.
    let first = counts.iter().position(|&n| n > 0.0).unwrap_or(0).saturating_sub(1);
    let last = counts.iter().rposition(|&n| n > 0.0).unwrap_or(0);
    let edge = |bucket: usize| edges.get(bucket).copied().unwrap_or(f64::MAX);
    Ok(Histogram {
        min: finite.iter().copied().fold(f64::INFINITY, f64::min),
        max: finite.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        num: finite.len() as f64,
        sum: finite.iter().sum(),
        sum_squares: finite.iter().map(|value| value * value).sum(),
        bucket_limit: (first..=last).map(edge).collect(),
        bucket: counts[first..=last].to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use kiln_tensor::Device;

    use super::*;

    #[test]
    fn counts_add_up_and_lie_in_their_buckets() -> Result<()> {
        let values = vec![0.0, 0.0, 1.0, -2.5, 3.0, 1e-30, 1e300, -1e300, f64::NAN, f64::INFINITY];
        let histogram = of(&Tensor::from_vec(values, 10, Device::Cpu)?)?;
        assert_eq!((histogram.num, histogram.min, histogram.max), (8.0, -1e300, 1e300));
        assert_eq!(histogram.bucket.iter().sum::<f64>(), 8.0);
        assert_eq!(histogram.bucket.len(), histogram.bucket_limit.len());
        assert!(histogram.bucket_limit.windows(2).all(|pair| pair[0] < pair[1]));
        let one = of(&Tensor::full(5, 0.3f32, Device::Cpu)?)?;
        assert_eq!(one.bucket, [0.0, 5.0]);
        assert!(one.bucket_limit[0] <= 0.3 && 0.3 < one.bucket_limit[1] && one.bucket_limit[1] < 0.34);
        assert!(of(&Tensor::zeros(0, Device::Cpu)?).is_err());
        assert!(of(&Tensor::full(2, f64::NAN, Device::Cpu)?).is_err());
        assert_eq!(of(&Tensor::ones([2, 2], DType::I64)?)?.sum, 4.0);
        Ok(())
    }
}

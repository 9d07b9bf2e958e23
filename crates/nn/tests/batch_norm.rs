//! Batch normalization without a momentum: running statistics are the average of all batches.

use kiln_nn::{BatchNorm1d, BatchNormOptions, Module};
use kiln_tensor::{Device, Result, Tensor};

#[test]
fn statistics_without_momentum_are_averages_of_all_batches() -> Result<()> {
    let norm = BatchNorm1d::with_options(1, BatchNormOptions::default().momentum(None))?;
    // Means 2, 5 and 11 with unbiased variances 2, 8 and 18.
    for batch in [vec![1.0f32, 3.0], vec![3.0, 7.0], vec![8.0, 14.0]] {
        norm.forward(&Tensor::from_vec(batch, (2, 1), Device::Cpu)?)?;
    }
    let value = |buffer: &Option<kiln_nn::Buffer>| buffer.as_deref().unwrap().item::<f32>();
    assert!((value(&norm.running_mean)? - 6.0).abs() < 1e-5);
    assert!((value(&norm.running_var)? - 28.0 / 3.0).abs() < 1e-5);
    assert_eq!(norm.num_batches_tracked.as_deref().unwrap().item::<i64>()?, 3);
    Ok(())
}

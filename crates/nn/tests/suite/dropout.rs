//! What dropout layers draw: shares, whole channels, and the moments that `AlphaDropout` keeps.

use crate::common::values;
use kiln_nn::{AlphaDropout, Dropout1d, Dropout2d, Dropout3d, FeatureAlphaDropout, Module};
use kiln_tensor::{DType, Device, Result, Tensor};

const P: f64 = 0.25;

/// The values of each channel, which must be equal, of samples `[N, C, …]`.
fn channels(y: &Tensor) -> Result<Vec<f64>> {
    let count = y.dims()[0] * y.dims()[1];
    let rows = values(&y.reshape([count, y.numel() / count])?);
    Ok(rows
        .chunks(y.numel() / count)
        .map(|channel| {
            assert!(channel.iter().all(|&v| v == channel[0]), "{channel:?}");
            channel[0]
        })
        .collect())
}

/// Of `n` draws with probability `P`, within 5 standard deviations.
fn assert_share(dropped: usize, n: usize) {
    let deviation = (P * (1.0 - P) * n as f64).sqrt();
    assert!((dropped as f64 - P * n as f64).abs() < 5.0 * deviation, "{dropped} of {n}");
}

#[test]
fn whole_channels_are_dropped() -> Result<()> {
    let ones = |dims: &[usize]| Tensor::ones(dims, Device::Cpu);
    let [one, two, three]: [Box<dyn Module>; 3] =
        [Box::new(Dropout1d::new(P)?), Box::new(Dropout2d::new(P)?), Box::new(Dropout3d::new(P)?)];
    let samples = [
        one.forward(&ones(&[20, 100, 3])?)?,
        // A single sample, whose channels come first.
        one.forward(&ones(&[2000, 3])?)?.unsqueeze(0)?,
        two.forward(&ones(&[20, 100, 2, 2])?)?,
        three.forward(&ones(&[20, 100, 2, 1, 2])?)?,
        three.forward(&ones(&[2000, 2, 1, 2])?)?.unsqueeze(0)?,
    ];
    for y in samples {
        let channels = channels(&y)?;
        let dropped = channels.iter().filter(|&&v| v == 0.0).count();
        assert!(channels.iter().all(|&v| v == 0.0 || (v - 1.0 / (1.0 - P)).abs() < 1e-6));
        assert_share(dropped, channels.len());
    }
    Ok(())
}

#[test]
fn alpha_dropout_keeps_mean_and_variance() -> Result<()> {
    let x = Tensor::randn([400, 500], (DType::F64, Device::Cpu))?;
    let x = x.sub(&x.mean(())?)?.div(&x.std((), 0.0)?)?.requires_grad_(true)?;
    let layer = AlphaDropout::new(P)?;
    let y = layer.forward(&x)?;
    let (mean, variance) = (y.mean(())?.item::<f64>()?, y.var((), 0.0)?.item::<f64>()?);
    assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03, "mean {mean}, variance {variance}");
    // What is dropped has one value, and no gradient; the rest is scaled and shifted.
    y.sum(())?.backward()?;
    let (x, y, grad) = (values(&x), values(&y), values(&x.grad().unwrap()));
    let limit = -1.758_099_340_847_376_6;
    let scale = ((limit * limit * P + 1.0) * (1.0 - P)).sqrt().recip();
    let mut dropped = 0;
    for ((x, y), grad) in x.iter().zip(&y).zip(&grad) {
        let value = if *grad == 0.0 { limit } else { *x };
        dropped += usize::from(*grad == 0.0);
        assert!((y - scale * (value - P * limit)).abs() < 1e-12, "{x} became {y}");
        assert!(*grad == 0.0 || (grad - scale).abs() < 1e-12);
    }
    assert_share(dropped, x.len());
    Ok(())
}

#[test]
fn feature_alpha_dropout_drops_whole_channels() -> Result<()> {
    let y = FeatureAlphaDropout::new(P)?.forward(&Tensor::ones([20, 100, 2, 3], Device::Cpu)?)?;
    let channels = channels(&y)?;
    assert_share(channels.iter().filter(|&&v| v < 0.0).count(), channels.len());
    assert_eq!(values(&FeatureAlphaDropout::new(1.0)?.forward(&Tensor::ones([1, 2, 2], Device::Cpu)?)?), [0.0; 4]);
    Ok(())
}

#[test]
fn inputs_of_other_ranks_are_errors() -> Result<()> {
    let vector = Tensor::ones(3, Device::Cpu)?;
    for layer in [&Dropout1d::new(P)? as &dyn Module, &Dropout3d::new(P)?, &FeatureAlphaDropout::new(P)?] {
        assert!(layer.forward(&vector).is_err());
    }
    assert!(Dropout1d::new(P)?.forward(&Tensor::ones([2, 2, 2, 2], Device::Cpu)?).is_err());
    assert!(AlphaDropout::new(1.5).is_err());
    Ok(())
}

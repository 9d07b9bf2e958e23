//! Stochastic depth drops whole samples, at its rate.

use kiln_models::StochasticDepth;
use kiln_nn::{Module, ModuleTree};
use kiln_tensor::{Device, Result, Tensor};

/// A sample is either 0 or scaled, all of it, and about as many stay as should.
#[test]
fn whole_samples_are_dropped() -> Result<()> {
    let layer = StochasticDepth::rows(0.25)?;
    let x = Tensor::ones([20_000, 2, 3], Device::Cpu)?.requires_grad_(true)?;
    let y = layer.forward(&x)?;
    y.sum(())?.backward()?;
    assert_eq!(x.grad().unwrap().to_vec::<f32>()?, y.to_vec::<f32>()?);
    let rows = y.reshape([20_000, 6])?.to_vec::<f32>()?;
    let kept = rows.chunks(6).filter(|row| row[0] != 0.0).count();
    assert!(rows.chunks(6).all(|row| row.iter().all(|v| *v == row[0] && (*v == 0.0 || *v == 1.0 / 0.75))));
    // 15,000, up to seven standard deviations.
    assert!((14_570..15_430).contains(&kept), "{kept}");

    assert_eq!(layer.forward(&Tensor::zeros([0, 3], Device::Cpu)?)?.dims(), [0, 3]);
    assert!(layer.forward(&Tensor::zeros((), Device::Cpu)?).is_err());
    layer.eval();
    assert_eq!(layer.forward(&x)?.to_vec::<f32>()?, x.to_vec::<f32>()?);
    assert_eq!(StochasticDepth::rows(1.0)?.forward(&x)?.sum(())?.item::<f32>()?, 0.0);
    assert!(StochasticDepth::rows(1.5).is_err() && StochasticDepth::rows(f64::NAN).is_err());
    Ok(())
}

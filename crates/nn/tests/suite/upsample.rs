//! What `Upsample`, `TripletMarginWithDistanceLoss` and others refuse, as PyTorch does. Values are compared in the tests of modules.

use kiln_nn::{
    Module, TripletMarginWithDistanceLoss, Unflatten, Upsample, UpsampleMode, UpsamplingBilinear2d, UpsamplingNearest2d,
};
use kiln_tensor::{DType, Device, Result, Tensor, autocast::autocast};

fn images() -> Result<Tensor> {
    Tensor::ones([1, 2, 3, 4], Device::Cpu)
}

fn message<T>(result: Result<T>) -> String {
    result.err().expect("an error").to_string()
}

#[test]
fn modes_are_for_one_rank() -> Result<()> {
    let up = |mode| Upsample::size(5).mode(mode);
    for mode in [UpsampleMode::Linear, UpsampleMode::Trilinear] {
        let message = message(up(mode).forward(&images()?));
        assert!(message.contains("Upsample") && message.contains("[1, 2, 3, 4]"), "{message}");
    }
    assert!(up(UpsampleMode::Bicubic).forward(&Tensor::ones([1, 2, 3], Device::Cpu)?).is_err());
    let two = Tensor::ones([2, 3], Device::Cpu)?;
    assert!(up(UpsampleMode::Nearest).forward(&two).is_err());
    assert!(UpsamplingNearest2d::size(5).forward(&Tensor::ones([1, 2, 3], Device::Cpu)?).is_err());
    assert!(UpsamplingBilinear2d::scale_factor(2.0).forward(&two).is_err());
    Ok(())
}

#[test]
fn settings_without_a_meaning_are_errors() -> Result<()> {
    for mode in [UpsampleMode::Nearest, UpsampleMode::NearestExact, UpsampleMode::Area] {
        let message = message(Upsample::size(5).mode(mode).align_corners(false).forward(&images()?));
        assert!(message.contains("align_corners"), "{message}");
    }
    let recomputed = Upsample::size(5).recompute_scale_factor(true);
    assert!(message(recomputed.forward(&images()?)).contains("recompute_scale_factor"));
    assert!(Upsample::scale_factor([2.0, 2.0, 2.0]).forward(&images()?).is_err(), "three factors for images");
    assert!(Upsample::scale_factor([2.0, 2.0, 2.0]).recompute_scale_factor(true).forward(&images()?).is_err());
    assert!(Upsample::scale_factor(0.1).forward(&images()?).is_err(), "a size of 0");
    assert!(Upsample::scale_factor(-1.0).forward(&images()?).is_err());
    Ok(())
}

#[test]
fn other_layers_check_their_inputs() -> Result<()> {
    assert!(Unflatten::new(1, &[3, 2]).forward(&images()?).is_err());
    let loss = TripletMarginWithDistanceLoss::new();
    let x = Tensor::ones([2, 3], Device::Cpu)?;
    assert!(loss.forward(&x, &x, &images()?).is_err());
    assert!(TripletMarginWithDistanceLoss::new().margin(0.0).forward(&x, &x, &x).is_err());
    let own = TripletMarginWithDistanceLoss::new().distance(|a, b| a.sub(b)?.abs()?.sum(1));
    let apart = own.forward(&x, &x.add(1)?, &x.add(0.5)?)?.item::<f32>()?;
    assert_eq!(apart, 3.0 - 1.5 + 1.0);
    Ok(())
}

#[test]
fn autocast_interpolates_in_f32_and_moves_in_any_dtype() -> Result<()> {
    let half = images()?.to_dtype(DType::BF16)?;
    let dtype = |layer: &dyn Module| autocast(DType::BF16, || Ok(layer.forward(&half)?.dtype()));
    assert_eq!(dtype(&Upsample::scale_factor(2.0).mode(UpsampleMode::Bilinear))?, DType::F32);
    assert_eq!(dtype(&kiln_nn::PixelUnshuffle::new(1))?, DType::BF16);
    Ok(())
}

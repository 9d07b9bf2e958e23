//! The other results of an adaptive softmax, which follow from those that `modules` compares with PyTorch, and what it refuses.

use kiln_nn::{AdaptiveLogSoftmaxOptions, AdaptiveLogSoftmaxWithLoss};
use kiln_tensor::{DType, Device, Result, Tensor, manual_seed};

#[test]
fn all_probabilities_and_the_best_class_fit_the_loss() -> Result<()> {
    manual_seed(4);
    let options = AdaptiveLogSoftmaxOptions::default().div_value(2.0).head_bias(true).tensor(DType::F64);
    let softmax = AdaptiveLogSoftmaxWithLoss::with_options(6, 11, &[4, 5, 9], options)?;
    let x = Tensor::randn([11, 6], DType::F64)?.mul(4.0)?;
    let classes = Tensor::arange(0, 11, Device::Cpu)?;
    let all = softmax.log_prob(&x)?;
    assert_eq!(all.dims(), [11, 11]);
    let close = |a: &Tensor, b: &Tensor| a.allclose(b, 1e-12, 1e-12).unwrap();
    assert!(close(&all.exp()?.sum(1)?, &Tensor::ones(11, DType::F64)?));
    let (output, loss) = softmax.forward(&x, &classes)?;
    assert!(
        close(&output, &all.gather(1, &classes.unsqueeze(1)?)?.squeeze(1)?) && close(&loss, &output.mean(())?.neg()?)
    );
    // Some samples are of frequent classes and some of clusters; each batch of one kind alone, too.
    let best = all.argmax(1)?;
    assert_eq!(softmax.predict(&x)?.to_vec::<i64>()?, best.to_vec::<i64>()?);
    let frequent = best.lt(4)?;
    for kind in [frequent.clone(), frequent.logical_not()?] {
        let samples = kind.nonzero()?.squeeze(1)?;
        assert!(samples.numel() > 0);
        let got = softmax.predict(&x.index_select(0, &samples)?)?;
        assert_eq!(got.to_vec::<i64>()?, best.index_select(0, &samples)?.to_vec::<i64>()?);
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused() -> Result<()> {
    let new = |cutoffs: &[usize]| AdaptiveLogSoftmaxWithLoss::new(6, 10, cutoffs);
    for cutoffs in [&[][..], &[0], &[0, 3], &[3, 3], &[5, 2], &[10], &[4, 12]] {
        assert!(new(cutoffs).unwrap_err().to_string().contains("cutoffs"), "{cutoffs:?}");
    }
    let options = AdaptiveLogSoftmaxOptions::default();
    assert!(AdaptiveLogSoftmaxWithLoss::with_options(6, 10, &[3], options.div_value(0.0)).is_err());
    assert!(AdaptiveLogSoftmaxWithLoss::with_options(6, 10, &[3], options.tensor(DType::I64)).is_err());
    let softmax = new(&[3, 7])?;
    let x = Tensor::ones([2, 6], Device::Cpu)?;
    for wrong in [10i64, -1] {
        let error = softmax.forward(&x, &Tensor::new(&[1, wrong], Device::Cpu)?).unwrap_err().to_string();
        assert!(error.contains(&wrong.to_string()) && error.contains("10"), "{error}");
    }
    let classes = Tensor::new(&[1i64, 2, 3], Device::Cpu)?;
    assert!(softmax.forward(&x, &classes).is_err() && softmax.forward(&x, &classes.select(0, 0)?).is_err());
    assert!(softmax.forward(&x, &Tensor::new(&[0.5f32, 1.0], Device::Cpu)?).is_err(), "classes that are no integers");
    // An empty batch has no mean.
    let (output, loss) = softmax.forward(&Tensor::ones([0, 6], Device::Cpu)?, &classes.narrow(0, 0, 0)?)?;
    assert!(output.numel() == 0 && loss.item::<f32>()?.is_nan());
    Ok(())
}

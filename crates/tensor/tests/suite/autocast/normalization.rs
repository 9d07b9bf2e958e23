//! Normalizations in a region of autocast, which round neither their parameters nor their images.

use kiln_tensor::{
    BatchNorm, DType, Device, ErrorKind, Result, Running, Tensor, autocast,
    autograd::{self, BackwardOptions},
};

use super::{LOW, bits, parameter, randn, values};

/// As PyTorch's kernels read them: neither parameters nor their gradients are rounded to the dtype of the images.
#[test]
fn normalizations_do_not_round_their_parameters() -> Result<()> {
    let (running, count) = ([randn(&[3]), randn(&[3]).exp()?], Tensor::zeros((), DType::I64)?);
    type Norm<'a> = &'a dyn Fn(&Tensor, &Tensor, &Tensor, &Tensor) -> Result<Tensor>;
    let with = |training: bool, x: &Tensor, w: &Tensor, b: &Tensor, before: &Tensor| {
        let [mean, var] = [running[0].copy()?, running[1].copy()?];
        let residual = x.mul(0.5)?;
        x.batch_norm_with(&BatchNorm {
            weight: Some(w),
            bias: Some(b),
            running: Some(Running { mean: &mean, var: &var }),
            count: Some(&count),
            training,
            momentum: 0.1,
            eps: 1e-5,
            bias_before: training.then_some(before),
            residual: training.then_some(&residual),
            relu: true,
        })
    };
    let norms: [Norm<'_>; 6] = [
        &|x, w, b, _| x.batch_norm(Some(w), Some(b), None, true, 0.1, 1e-5),
        &|x, w, _, _| x.batch_norm(Some(w), None, None, true, 0.1, 1e-5),
        &|x, _, b, _| x.batch_norm(None, Some(b), None, true, 0.1, 1e-5),
        &|x, w, b, before| with(true, x, w, b, before),
        &|x, w, b, before| with(false, x, w, b, before),
        &|x, w, b, _| x.instance_norm(None, Some(w), Some(b), true, 0.1, 1e-5),
    ];
    for (i, norm) in norms.iter().enumerate() {
        for low in LOW {
            for dims in [&[4, 3, 5, 5][..], &[0, 3, 5, 5], &[6, 3, 4]] {
                // Numbers that half precision does not have.
                let vectors = || [1.0001, 1.0002, 1.0003].map(|value| Tensor::full(3, value, Device::Cpu).unwrap());
                let images = randn(dims).to_dtype(low)?;
                let run = |wide: bool, second: bool| -> Result<(Tensor, Vec<Option<Tensor>>)> {
                    let [w, b, before] = vectors().map(|t| t.requires_grad_(true).unwrap());
                    let x = images.detach().requires_grad_(true)?;
                    let y = if wide {
                        norm(&x.to_dtype(DType::F32)?, &w, &b, &before)?.to_dtype(low)?
                    } else {
                        autocast(low, || norm(&x, &w, &b, &before))?
                    };
                    assert_eq!(y.dtype(), low);
                    let loss = y.to_dtype(DType::F32)?.square()?.sum(())?;
                    let all = [&x, &w, &b, &before];
                    if second {
                        let grads = autograd::grad_with(&[(loss, None)], &all, BackwardOptions::create_graph())?;
                        return Ok((y, grads));
                    }
                    loss.backward()?;
                    Ok((y, all.map(Tensor::grad).into()))
                };
                let (want, want_grads) = run(true, false)?;
                let (got, grads) = run(false, false)?;
                assert_eq!(bits(&got), bits(&want), "{i}, {low}, {dims:?}");
                for (at, (grad, want)) in grads.iter().zip(&want_grads).enumerate() {
                    let Some((grad, want)) = grad.as_ref().zip(want.as_ref()) else {
                        assert!(grad.is_none() && want.is_none(), "{i}, gradient {at}");
                        continue;
                    };
                    assert_eq!(grad.dtype(), if at == 0 { low } else { DType::F32 }, "{i}, gradient {at}");
                    if at > 0 {
                        // Only where ReLU lets a rounded 0 through may they differ.
                        assert_eq!(bits(grad), bits(want), "{i}, {low}, {dims:?}, gradient {at}");
                    }
                }
                let (_, recorded) = run(false, true)?;
                for (at, (grad, own)) in recorded.iter().zip(&grads).enumerate() {
                    let Some((grad, own)) = grad.as_ref().zip(own.as_ref()) else { continue };
                    assert_eq!(grad.dtype(), own.dtype(), "{i}, recorded gradient {at}");
                    let largest = values(own).iter().fold(1e-3f32, |most, value| most.max(value.abs()));
                    let far = values(&grad.sub(own)?).iter().fold(0f32, |most, value| most.max(value.abs()));
                    assert!(
                        largest.is_nan() || far <= 0.02 * largest,
                        "{i}, {low}, {dims:?}, recorded gradient {at}: {far} of {largest}"
                    );
                }
            }
        }
    }
    // Outside regions as well; but not one of the two alone.
    let (x, w) = (randn(&[4, 3, 5, 5]).to_dtype(DType::F16)?, randn(&[3]));
    assert_eq!(x.batch_norm(Some(&w), Some(&w), None, true, 0.1, 1e-5)?.dtype(), DType::F16);
    let error = x.batch_norm(Some(&w), Some(&w.to_dtype(DType::F16)?), None, true, 0.1, 1e-5).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::DTypeMismatch { .. }), "{error}");
    Ok(())
}

#[test]
fn batch_normalization_keeps_the_dtype_of_its_images() -> Result<()> {
    let (x, w, b) = (randn(&[4, 3, 5, 5]), parameter(&[3]), parameter(&[3]));
    let low = x.to_dtype(DType::BF16)?;
    let y = autocast(DType::BF16, || low.batch_norm(Some(&w), Some(&b), None, true, 0.1, 1e-5))?;
    assert_eq!(y.dtype(), DType::BF16);
    let want = x.batch_norm(Some(&w), Some(&b), None, true, 0.1, 1e-5)?;
    assert!(values(&y.sub(&want)?).iter().all(|difference| difference.abs() < 0.06));
    let wide = autocast(DType::BF16, || x.batch_norm(Some(&w), Some(&b), None, true, 0.1, 1e-5))?;
    assert_eq!((wide.dtype(), values(&wide)), (DType::F32, values(&want)));
    Ok(())
}

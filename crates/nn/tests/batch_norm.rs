//! Batch normalization without a momentum, whose running statistics are the average of all batches; and in evaluation,
//! folded into the convolution before it.

use kiln_nn::{
    BatchNorm1d, BatchNorm2d, BatchNormOptions, Conv2d, Conv2dOptions, Module, ModuleTree, PaddingMode, ReLU,
    Sequential, seq,
};
use kiln_tensor::{DType, Device, Result, Tensor, autograd::trace, enable_grad, manual_seed, no_grad};

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

/// Random statistics and affine parameters, as training leaves them.
fn trained(norm: &BatchNorm2d) -> Result<()> {
    no_grad(|| {
        let like = |t: &Tensor| Tensor::randn(t.dims(), Device::Cpu)?.to_dtype(t.dtype());
        for tensor in [norm.weight.as_deref(), norm.bias.as_deref(), norm.running_mean.as_deref()] {
            tensor.map_or(Ok(()), |tensor| tensor.copy_(&like(tensor)?))?;
        }
        norm.running_var.as_deref().map_or(Ok(()), |var| var.copy_(&like(var)?.square()?.add(0.1)?))
    })
}

/// The largest difference, in terms of the largest value of `want`.
fn apart(got: &Tensor, want: &Tensor) -> Result<f64> {
    let (got, want) = (got.to_dtype(DType::F64)?, want.to_dtype(DType::F64)?);
    let most = |t: Tensor| t.abs()?.max(())?.item::<f64>();
    Ok(most(got.sub(&want)?)? / most(want)?)
}

/// The layers one after the other: with gradients recorded, nothing is folded.
fn in_layers(conv: &Conv2d, norm: &BatchNorm2d, x: &Tensor, residual: Option<&Tensor>, relu: bool) -> Result<Tensor> {
    enable_grad(|| {
        let y = norm.forward(&conv.forward(x)?)?;
        let y = residual.map_or_else(|| Ok(y.clone()), |residual| y.add(residual))?;
        Ok(if relu { y.relu()? } else { y }.detach())
    })
}

#[test]
fn evaluation_folded_into_convolutions_is_that_of_the_layers() -> Result<()> {
    manual_seed(5);
    let conv = |options: Conv2dOptions, affine: bool, dtype: DType| {
        let (conv, norm) = (
            Conv2d::with_options(4, 6, (3, 2), options.tensor(dtype))?,
            BatchNorm2d::with_options(6, BatchNormOptions::default().affine(affine).eps(1e-3).tensor(dtype))?,
        );
        trained(&norm)?;
        norm.eval();
        Ok::<_, kiln_tensor::Error>((conv, norm))
    };
    let plain = Conv2dOptions::default();
    let kinds = [
        (plain, true),
        (plain.bias(false).stride(2).padding((1, 2)), true),
        (plain.groups(2).dilation(2).padding([2, 0, 1, 3]), false),
        (plain.bias(false).padding(1).padding_mode(PaddingMode::Circular), true),
    ];
    let mut differs = false;
    // In half precision weight and bias are rounded once more: 2^-11 and 2^-8 each, of sums of 24.
    for (dtype, most) in [(DType::F32, 1e-5), (DType::F64, 1e-14), (DType::F16, 4e-3), (DType::BF16, 3e-2)] {
        for (options, affine) in kinds {
            let (conv, norm) = conv(options, affine, dtype)?;
            for channels_last in [false, true] {
                let x = Tensor::randn([3, 4, 9, 8], Device::Cpu)?.to_dtype(dtype)?;
                let x = if channels_last { x.channels_last()? } else { x };
                let relu = ReLU::new();
                for (residual, relu) in [(false, None), (false, Some(&relu)), (true, Some(&relu)), (true, None)] {
                    let residual = residual.then(|| conv.forward(&x)?.randn_like()).transpose()?;
                    let got = no_grad(|| conv.forward_norm(&x, &norm, residual.as_ref(), relu))?;
                    let want = in_layers(&conv, &norm, &x, residual.as_ref(), relu.is_some())?;
                    assert_eq!(got.dtype(), dtype);
                    assert!(residual.is_some() || got.strides() == want.strides(), "{:?}", got.strides());
                    let apart = apart(&got, &want)?;
                    assert!(apart <= most, "{dtype} {conv} {relu:?}: {apart}");
                    differs |= apart > 0.0;
                }
            }
            let none = Tensor::zeros([0, 4, 9, 8], dtype)?;
            assert_eq!(no_grad(|| conv.forward_norm(&none, &norm, None, None))?.dims()[..2], [0, 6]);
        }
    }
    assert!(differs, "nothing was folded: all bits are the same");
    Ok(())
}

/// A chain, its parts, and an input.
fn chain() -> Result<(Sequential, Tensor)> {
    manual_seed(6);
    let norm = BatchNorm2d::new(5)?;
    trained(&norm)?;
    let net = seq![Conv2d::new(3, 5, 3)?, norm, ReLU::new(), Conv2d::new(5, 2, 1)?];
    net.eval();
    Ok((net, Tensor::randn([2, 3, 7, 7], Device::Cpu)?))
}

#[test]
fn what_was_folded_is_dropped_when_it_changes() -> Result<()> {
    let (net, x) = chain()?;
    // Exact, since a chain that is folded is one that is not the layers' bit for bit.
    let compare = |what: &str| -> Result<Tensor> {
        let (got, want) = (no_grad(|| net.forward(&x))?, net.forward(&x)?.detach());
        let apart = apart(&got, &want)?;
        assert!(apart < 1e-5, "{what}: {apart}");
        Ok(got)
    };
    let mut last = compare("as it was")?;
    assert!(!last.equal(&net.forward(&x)?.detach())?, "it was not folded");
    assert!(last.equal(&compare("again")?)?);
    let state = net.state_dict();
    for name in ["0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"] {
        no_grad(|| state[name].mul_(1.5))?;
        let now = compare(name)?;
        assert!(!now.equal(&last)?, "{name} was changed");
        last = now;
    }
    // Training: statistics of the batch, which then are those of evaluation.
    net.train();
    let got = no_grad(|| net.forward(&x))?;
    let training = got.clone();
    net.eval();
    let now = compare("after a batch of training")?;
    assert!(!now.equal(&last)? && !now.equal(&training)?);
    // Other values, and other tensors.
    let (other, _) = chain()?;
    no_grad(|| net.state_dict().iter().try_for_each(|(name, to)| to.copy_(&other.state_dict()[name])))?;
    assert!(compare("loaded")?.equal(&no_grad(|| other.forward(&x))?)?);
    let (wide, x) = (net.to_dtype(DType::F64)?, x.to_dtype(DType::F64)?);
    let got = no_grad(|| wide.forward(&x))?;
    assert!(got.dtype() == DType::F64 && apart(&got, &wide.forward(&x)?.detach())? < 1e-14);
    Ok(())
}

/// Where the layers themselves are asked for, or have errors, or values that are not finite.
#[test]
fn layers_that_are_not_folded_compute_as_they_are() -> Result<()> {
    let (net, x) = chain()?;
    let layers = net.forward(&x)?.detach();
    // An exporter sees the normalization.
    let (got, steps) = no_grad(|| trace(|| net.forward(&x)))?;
    assert!(got.equal(&layers)? && steps.steps().iter().any(|step| step.op == Some("batch_norm")));
    // One image is refused by the normalization, and a wrong number of channels is.
    let error = no_grad(|| net.forward(&x.select(0, 0)?)).unwrap_err().to_string();
    assert!(error.contains("BatchNorm2d") && error.contains("unsqueeze(0)"), "{error}");
    let wrong = seq![Conv2d::new(3, 5, 3)?, BatchNorm2d::new(4)?];
    wrong.eval();
    let error = no_grad(|| wrong.forward(&x)).unwrap_err().to_string();
    assert!(error.contains("batch_norm"), "{error}");
    // Statistics of the batch.
    let untracked = BatchNorm2d::with_options(5, BatchNormOptions::default().track_running_stats(false))?;
    let untracked = seq![Conv2d::new(3, 5, 3)?, untracked];
    untracked.eval();
    assert!(no_grad(|| untracked.forward(&x))?.equal(&untracked.forward(&x)?.detach())?);
    // An infinite scale of a weight of 0 would be NaN, where the layers compute an infinity.
    let state = net.state_dict();
    no_grad(|| state["1.weight"].select(0, 2)?.fill_(f64::INFINITY))?;
    let (got, want) = (no_grad(|| net.forward(&x))?, net.forward(&x)?.detach());
    assert_eq!(format!("{:?}", got.to_vec::<f32>()?), format!("{:?}", want.to_vec::<f32>()?));
    // A residual that would be broadcast.
    let (conv, norm) = (Conv2d::new(3, 5, 3)?, BatchNorm2d::new(5)?);
    let residual = Tensor::zeros([5, 1, 1], Device::Cpu)?;
    for training in [true, false] {
        if training {
            norm.train();
        } else {
            norm.eval();
        }
        assert!(no_grad(|| conv.forward_norm(&x, &norm, Some(&residual), Some(&ReLU::new()))).is_err());
    }
    Ok(())
}

/// In training a convolution leaves its bias to the normalization, which adds it to the running mean alone; the residual and ReLU
/// are part of it. Values, gradients and statistics are those of the layers one by one.
#[test]
fn training_of_a_convolution_and_its_normalization_is_that_of_the_layers() -> Result<()> {
    for (bias, momentum, residual) in [(true, Some(0.3), true), (true, None, false), (false, Some(0.1), true)] {
        // Drawn once: other tests draw from the same generator.
        let options = Conv2dOptions::default().bias(bias).tensor(DType::F64);
        let (conv, norm) = (
            Conv2d::with_options(3, 5, 3, options)?,
            BatchNorm2d::with_options(5, BatchNormOptions::default().momentum(momentum).tensor(DType::F64))?,
        );
        trained(&norm)?;
        let at_first: Vec<Tensor> = norm.state_dict().values().map(Tensor::copy).collect::<Result<_>>()?;
        let (image, added) = (Tensor::randn([2, 3, 6, 7], DType::F64)?, Tensor::randn([2, 5, 4, 5], DType::F64)?);
        let run = |fused: bool| -> Result<Vec<Tensor>> {
            let (parameters, state) = ([conv.parameters(), norm.parameters()].concat(), norm.state_dict());
            no_grad(|| state.values().zip(&at_first).try_for_each(|(now, first)| now.copy_(first)))?;
            parameters.iter().for_each(Tensor::zero_grad);
            let (x, z) = (image.copy()?.requires_grad_(true)?, added.copy()?.requires_grad_(true)?);
            let (z, relu) = (residual.then_some(z), ReLU::new());
            let mut out = Vec::new();
            for _ in 0..2 {
                let y = match (fused, &z) {
                    (true, z) => conv.forward_norm(&x, &norm, z.as_ref(), Some(&relu))?,
                    (false, None) => norm.forward(&conv.forward(&x)?)?.relu()?,
                    (false, Some(z)) => norm.forward(&conv.forward(&x)?)?.add(z)?.relu()?,
                };
                y.mul(&y.exp()?)?.sum(())?.backward()?;
                out.push(y.detach());
            }
            out.extend([&x].into_iter().chain(&z).filter_map(Tensor::grad));
            out.extend(parameters.iter().filter_map(|parameter| parameter.grad()));
            out.extend(state.values().map(|tensor| tensor.copy()).collect::<Result<Vec<_>>>()?);
            out.iter().map(|tensor| tensor.detach().copy()).collect()
        };
        let (got, want) = (run(true)?, run(false)?);
        assert_eq!(got.len(), want.len(), "everything has a gradient");
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            let (got, want) = (got.to_dtype(DType::F64)?, want.to_dtype(DType::F64)?);
            let most = got.sub(&want)?.abs()?.max(())?.item::<f64>()?;
            let scale = want.abs()?.max(())?.item::<f64>()?.max(1.0);
            assert!(most <= 1e-10 * scale, "{bias} {momentum:?} {residual}: tensor {i} differs by {most}");
        }
    }
    Ok(())
}

//! Layers and losses under autocast: on the device their results and gradients have the dtypes that they have on the CPU, and the
//! same values within what the low dtype rounds. Anomaly mode names the operation and the line there as well.

use kiln::{
    ErrorKind, autocast,
    autograd::detect_anomaly,
    nn::{
        BatchNorm1d, BatchNorm2d, Bilinear, CTCLoss, Conv1d, Conv2d, Conv3d, ConvTranspose2d, CosineEmbeddingLoss,
        CrossEntropyLoss, Field, GRU, GroupNorm, InstanceNorm2d, InstanceNormOptions, LSTM, LayerNorm, Linear,
        ModuleTree, PReLU, RMSNorm, RNN, TransformerEncoderLayer, TransformerOptions, functional,
    },
    optim::{Adam, GradScaler},
    prelude::*,
};

use crate::support::{TURN, device};

const LOW: [(DType, f32); 2] = [(DType::BF16, 0.04), (DType::F16, 0.006)];

/// Compares what a layer makes of inputs of these extents, and its gradients.
fn alike<M: ModuleTree + Field>(
    name: &str,
    dims: &[usize],
    make: impl Fn() -> kiln::Result<M>,
    forward: impl Fn(&M, &Tensor) -> kiln::Result<Tensor>,
) -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    for (low, tolerance) in LOW {
        let run = |device: Device| -> kiln::Result<Vec<Tensor>> {
            manual_seed(6);
            let (model, x) =
                (make()?.to(device)?, Tensor::randn(dims, Device::Cpu)?.to_device(device)?.requires_grad_(true)?);
            let y = autocast(low, || forward(&model, &x))?;
            y.to_dtype(DType::F32)?.square()?.mean(())?.backward()?;
            let mut all = vec![y.detach()];
            for leaf in model.parameters().iter().chain([&x]) {
                let grad = leaf.grad();
                assert!(grad.as_ref().is_none_or(|grad| grad.dtype() == DType::F32), "{name}, {low}");
                all.extend(grad);
            }
            all.into_iter().map(|tensor| tensor.to_device(Device::Cpu)).collect()
        };
        let (got, want) = (run(device)?, run(Device::Cpu)?);
        assert_eq!(got.len(), want.len(), "{name}, {low}");
        assert!(got.len() > 1, "{name}");
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert_eq!((got.dtype(), got.dims()), (want.dtype(), want.dims()), "{name}, {low}, {i}");
            let values = |t: &Tensor| t.to_dtype(DType::F32)?.flatten(0, -1)?.to_vec::<f32>();
            let (got, want) = (values(got)?, values(want)?);
            let largest = want.iter().fold(1e-3f32, |most, value| most.max(value.abs()));
            for (got, want) in got.iter().zip(&want) {
                assert!(
                    (got - want).abs() <= tolerance * largest,
                    "{name}, {low}, {i}: {got}, not {want} of {largest}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn layers() -> kiln::Result<()> {
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    alike("Linear", &[3, 5, 7], || Linear::new(7, 4), |layer, x| layer.forward(x)?.gelu())?;
    alike("Conv1d", &[2, 3, 9], || Conv1d::new(3, 4, 3), Module::forward)?;
    alike("Conv2d", &[2, 3, 6, 5], || Conv2d::new(3, 4, 3), |layer, x| layer.forward(x)?.relu())?;
    alike("Conv3d", &[2, 2, 4, 5, 3], || Conv3d::new(2, 3, 2), Module::forward)?;
    alike("ConvTranspose2d", &[2, 3, 4, 4], || ConvTranspose2d::new(3, 2, 3), Module::forward)?;
    alike("Bilinear", &[4, 3], || Bilinear::new(3, 3, 5), |layer, x| layer.forward(x, &x.add(1)?))?;
    alike("PReLU", &[3, 4], || PReLU::new(1), Module::forward)?;
    alike("LayerNorm", &[3, 4, 6], || LayerNorm::new(&[6]), Module::forward)?;
    alike("GroupNorm", &[2, 6, 4], || GroupNorm::new(3, 6), Module::forward)?;
    alike("RMSNorm", &[3, 6], || RMSNorm::new(&[6]), Module::forward)?;
    alike("BatchNorm1d", &[6, 4], || BatchNorm1d::new(4), Module::forward)
}

/// Images in the low dtype, parameters in `f32`.
#[test]
fn normalizations_of_low_images() -> kiln::Result<()> {
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for last in [false, true] {
        let block = || Ok((Conv2d::new(3, 8, 3)?, BatchNorm2d::new(8)?));
        let images = move |conv: &Conv2d, x: &Tensor| conv.forward(&if last { x.channels_last()? } else { x.clone() });
        alike("batch norm", &[4, 3, 6, 6], block, |(conv, norm), x| norm.forward(&images(conv, x)?)?.relu())?;
        alike("in evaluation", &[4, 3, 6, 6], block, |(conv, norm), x| {
            norm.eval();
            norm.forward(&images(conv, x)?)
        })?;
    }
    let block =
        || Ok((Conv2d::new(3, 8, 3)?, InstanceNorm2d::with_options(8, InstanceNormOptions::default().affine(true))?));
    alike("InstanceNorm2d", &[2, 3, 6, 6], block, |(conv, norm), x| norm.forward(&conv.forward(x)?))
}

#[test]
fn recurrent_layers_and_attention() -> kiln::Result<()> {
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    alike("RNN", &[4, 2, 3], || RNN::new(3, 5), Module::forward)?;
    alike("GRU", &[4, 2, 3], || GRU::new(3, 5), Module::forward)?;
    alike("LSTM", &[4, 2, 3], || LSTM::new(3, 5), Module::forward)?;
    let options = TransformerOptions::default().dim_feedforward(16).dropout(0.0).batch_first(true);
    alike("attention", &[2, 5, 8], || TransformerEncoderLayer::new(8, 2, options), Module::forward)?;
    // As many queries as cuDNN's attention is for.
    alike("fused attention", &[2, 66, 16], || TransformerEncoderLayer::new(16, 2, options), Module::forward)
}

/// Operations that autocast converts to `f32`, those that it leaves alone, and newer ones that are composed of both.
#[test]
fn operations_and_losses() -> kiln::Result<()> {
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    type Operation = fn(&Tensor) -> kiln::Result<Tensor>;
    let operations: [(&str, Operation); 18] = [
        ("softmax", |x| x.softmax(-1)),
        ("logsumexp", |x| x.logsumexp(-1)),
        ("pow", |x| x.abs()?.add(0.5)?.pow(1.5)),
        ("cumsum", |x| x.cumsum(0)),
        ("norm", |x| x.norm(2.0, ())),
        ("var", |x| x.var(0, 1)),
        ("cat", |x| Tensor::cat(&[x, &x.to_dtype(DType::F32)?], 0)),
        ("gelu", |x| x.gelu()),
        ("addmm", |x| x.addmm(x, &x.narrow(0, 0, 4)?, 0.5, 2.0)),
        ("logcumsumexp", |x| x.logcumsumexp(0)),
        ("bmm", |x| x.unsqueeze(0)?.bmm(&x.t()?.unsqueeze(0)?)),
        ("einsum", |x| Tensor::einsum("ij,kj->ik", &[x, x])),
        ("cross_entropy", |x| CrossEntropyLoss::new().forward(x, &labels(x)?)),
        ("smooth_l1_loss", |x| functional::smooth_l1_loss(x, &x.detach().roll(1, 0)?)),
        ("kl_div", |x| functional::kl_div(&x.log_softmax(-1)?, &x.detach().softmax(-1)?)),
        ("binary_cross_entropy_with_logits", |x| {
            functional::binary_cross_entropy_with_logits(x, &x.detach().sigmoid()?.to_dtype(DType::F32)?)
        }),
        ("cosine_embedding_loss", |x| {
            let signs = Tensor::ones(x.dims()[0], x.device())?;
            CosineEmbeddingLoss::new().forward(x, &x.detach().roll(1, 0)?, &signs)
        }),
        ("ctc_loss", |x| {
            let scores = x.unsqueeze(1)?.log_softmax(-1)?;
            let targets = Tensor::new([[1i64, 2]], Device::Cpu)?.to_device(x.device())?;
            CTCLoss::new().forward(&scores, &targets, &[x.dims()[0]], &[2])
        }),
    ];
    for (name, operation) in operations {
        alike(name, &[6, 4], || Linear::new(4, 4), |layer, x| operation(&layer.forward(x)?))?;
    }
    Ok(())
}

fn labels(x: &Tensor) -> kiln::Result<Tensor> {
    Tensor::arange(0, x.dims()[0], x.device())?.remainder(x.dims()[1] as i64)?.to_dtype(DType::I64)
}

#[test]
fn anomalies_are_named() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let w = Tensor::ones([4, 4], device)?.requires_grad_(true)?;
    let x = Tensor::full([2, 4], 60000.0, device)?;
    let mut line = 0;
    let result = detect_anomaly(|| {
        autocast(DType::F16, || {
            line = line!() + 1;
            let y = x.matmul(&w)?;
            y.sum(())
        })
    });
    let error = result.unwrap_err();
    let ErrorKind::Anomaly { op, .. } = error.kind() else { panic!("{error}") };
    let at = error.location().map(|at| (at.file().ends_with("captured_cuda/autocast.rs"), at.line()));
    assert_eq!((op.as_str(), at), ("matmul", Some((true, line))), "{error}");
    // A gradient that only the scale makes infinite, and the step that is skipped because of it.
    let mut optimizer = Adam::new([("w", &w)], 0.1)?;
    let mut scaler = GradScaler::new().init_scale(2f64.powi(40));
    let loss = autocast(DType::F16, || Tensor::ones([2, 4], device)?.matmul(&w)?.square()?.mean(()))?;
    let scaled = scaler.scale(&loss)?;
    let error = detect_anomaly(|| scaled.backward()).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Anomaly { .. }), "{error}");
    w.zero_grad();
    let loss = autocast(DType::F16, || Tensor::ones([2, 4], device)?.matmul(&w)?.square()?.mean(()))?;
    scaler.scale(&loss)?.backward()?;
    scaler.step(&mut optimizer)?;
    scaler.update()?;
    assert_eq!((w.detach().to_vec::<f32>()?, scaler.get_scale()?), (vec![1.0; 16], 2f64.powi(39)));
    Ok(())
}

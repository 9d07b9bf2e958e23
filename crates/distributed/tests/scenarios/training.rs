//! Training with `DistributedDataParallel`, compared with one process that has the whole batch.

use std::sync::Arc;

use kiln_data::{DataLoader, DistributedSampler, TensorDataset};
use kiln_distributed::{DdpOptions, DistributedDataParallel, ProcessGroup};
use kiln_nn::{
    BatchNorm1d, Dropout, Linear, Module, ModuleTree, ReLU, Sequential,
    functional::{cross_entropy, mse_loss},
    optim::{Adam, GradScaler, Optimizer, SGD, SGDOptions, clip_grad_norm_},
    seq,
};
use kiln_tensor::{DType, Device, Result, Tensor, autocast, manual_seed};

use crate::common::{assert_same_on_all_ranks, bits, device_of};

pub fn network(dtype: DType, device: Device) -> Result<Sequential> {
    let stack = seq![Linear::new(20, 32)?, ReLU::new(), Linear::new(32, 32)?, ReLU::new(), Linear::new(32, 5)?];
    stack.to_dtype(dtype)?.to(device)
}

pub fn data(rows: usize, dtype: DType, device: Device) -> Result<(Tensor, Tensor)> {
    Ok((Tensor::randn([rows, 20], (dtype, device))?, Tensor::randint(0, 5, [rows], device)?))
}

pub fn bit_equal(group: &Arc<dyn ProcessGroup>) -> Result<()> {
    let device = device_of(group);
    let rank = group.rank();
    // Another model on each rank at first.
    manual_seed(rank as u64);
    let model = seq![network(DType::F32, device)?, BatchNorm1d::new(5)?, Dropout::new(0.1)?].to(device)?;
    let ddp =
        DistributedDataParallel::with_options(&model, group, DdpOptions::default().bucket_bytes(1 << 10, 4 << 10))?;
    let mut optimizer = Adam::new(model.named_parameters(), 1e-2)?;
    manual_seed(100);
    let (x, y) = data(301, DType::F32, device)?;
    // 301 samples are no multiple of the ranks: shares are equal all the same, or ranks would wait for ever.
    let sampler = DistributedSampler::new(301, rank, group.size())?;
    let loader = DataLoader::builder(TensorDataset::new(vec![x, y])?).batch_size(8).sampler(sampler).build()?;
    manual_seed(rank as u64);
    let (mut steps, mut losses) = (0, Vec::new());
    while steps < 100 {
        for batch in &loader {
            let batch = batch?;
            let loss = cross_entropy(&model.forward(&batch[0])?, &batch[1])?;
            optimizer.zero_grad();
            loss.backward()?;
            optimizer.step()?;
            losses.push(loss.item::<f32>()?);
            steps += 1;
        }
    }
    assert!(losses.iter().all(|loss| loss.is_finite()));
    for (name, tensor) in model.named_parameters().iter().chain(&model.named_buffers()) {
        assert!(!name.is_empty());
        assert_same_on_all_ranks(tensor, group)?;
    }
    // Ranks saw different samples, or this would be no test.
    let all = group.sums(&[f64::from(losses[0])])?[0] / group.size() as f64;
    assert!((all - f64::from(losses[0])).abs() > 1e-6);
    drop(ddp);
    // Without it gradients are the rank's own.
    let (x, y) = (Tensor::full([4, 20], rank as f64, device)?, Tensor::zeros([4], (DType::I64, device))?);
    model.eval();
    model.zero_grad();
    cross_entropy(&model.forward(&x)?, &y)?.backward()?;
    let own = model.parameters()[0].grad().unwrap();
    let sums = group.sums(&own.to_dtype(DType::F64)?.reshape(own.numel())?.to_vec::<f64>()?)?;
    assert!(sums.iter().zip(own.to_vec::<f32>()?).any(|(sum, own)| (sum - 2.0 * f64::from(own)).abs() > 1e-3));
    Ok(())
}

pub fn as_one_process(group: &Arc<dyn ProcessGroup>) -> Result<()> {
    let device = device_of(group);
    for optimizer in ["sgd", "adam"] {
        manual_seed(1);
        let one = network(DType::F64, device)?;
        let shared = network(DType::F64, device)?;
        shared.load_state_dict(&one.state_dict(), true)?;
        let _ddp = DistributedDataParallel::new(&shared, group)?;
        let new = |model: &Sequential| -> Result<Box<dyn Optimizer>> {
            Ok(match optimizer {
                "sgd" => Box::new(SGD::new(model.named_parameters(), SGDOptions::new(0.1).momentum(0.9))?),
                _ => Box::new(Adam::new(model.named_parameters(), 1e-3)?),
            })
        };
        let mut optimizers = [new(&one)?, new(&shared)?];
        for _ in 0..40 {
            let (x, y) = data(64, DType::F64, device)?;
            let start = 32 * group.rank();
            let mine = (x.narrow(0, start, 32)?, y.narrow(0, start, 32)?);
            let mut losses = Vec::new();
            for ((model, (x, y)), optimizer) in [(&one, (x, y)), (&shared, mine)].into_iter().zip(&mut optimizers) {
                let loss = cross_entropy(&model.forward(&x)?, &y)?;
                optimizer.zero_grad();
                loss.backward()?;
                optimizer.step()?;
                losses.push(loss.item::<f64>()?);
            }
            let mean = group.sums(&losses[1..])?[0] / 2.0;
            assert!((mean - losses[0]).abs() < 1e-12, "{mean} and {}", losses[0]);
        }
        for ((name, a), (_, b)) in one.named_parameters().iter().zip(&shared.named_parameters()) {
            let difference = a.detach().sub(&b.detach())?.abs()?.amax(())?.item::<f64>()?;
            assert!(difference < 1e-12, "{name} by {optimizer}: {difference}");
        }
    }
    Ok(())
}

pub fn accumulation(group: &Arc<dyn ProcessGroup>) -> Result<()> {
    let device = device_of(group);
    manual_seed(2);
    let (one, shared) = (network(DType::F64, device)?, network(DType::F64, device)?);
    shared.load_state_dict(&one.state_dict(), true)?;
    let ddp =
        DistributedDataParallel::with_options(&shared, group, DdpOptions::default().bucket_bytes(8 << 10, 8 << 10))?;
    for round in 0..3 {
        let (x, y) = data(32, DType::F64, device)?;
        let part = |i: usize| Ok::<_, kiln_tensor::Error>((x.narrow(0, 8 * i, 8)?, y.narrow(0, 8 * i, 8)?));
        let loss = |model: &Sequential, (x, y): (Tensor, Tensor)| cross_entropy(&model.forward(&x)?, &y);
        one.zero_grad();
        loss(&one, (x.clone(), y.clone()))?.mul(2.0)?.backward()?;
        shared.zero_grad();
        // Two batches a rank, of which the second averages the sum of both.
        ddp.no_sync(|| loss(&shared, part(2 * group.rank())?)?.backward())?;
        let kept: Vec<Tensor> = shared.parameters().iter().map(|p| p.grad().unwrap()).collect();
        loss(&shared, part(2 * group.rank() + 1)?)?.backward()?;
        for ((a, b), kept) in one.parameters().iter().zip(shared.parameters()).zip(kept) {
            let (a, b) = (a.grad().unwrap(), b.grad().unwrap());
            assert!(b.is_same(&kept), "gradients stay in their bucket");
            let difference = a.sub(&b)?.abs()?.amax(())?.item::<f64>()?;
            assert!(difference < 1e-14, "round {round}: {difference}");
        }
        // Gradients of several parameters are views of one bucket: there is no second copy.
        let grads: Vec<Tensor> = shared.parameters().iter().map(|p| p.grad().unwrap()).collect();
        assert!(grads.iter().any(|a| grads.iter().any(|b| !a.is_same(b) && a.shares_memory(b))));
        let bytes: usize = grads.iter().map(|grad| grad.numel() * 8).sum();
        let report = ddp.last_step();
        assert!(report.buckets == 2 && (bytes..bytes + 6 * 64).contains(&report.bytes), "{report:?}");
        let norms = [&one, &shared].map(|model| clip_grad_norm_(model.parameters(), 0.01, 2.0)?.item::<f64>());
        let [a, b] = norms.map(Result::unwrap);
        assert!((a - b).abs() < 1e-14 && a > 0.01);
        let clipped = clip_grad_norm_(shared.parameters(), 1.0, 2.0)?.item::<f64>()?;
        assert!((clipped - 0.01).abs() < 1e-6);
    }
    // Without `zero_grad` in between the next average is added, as in one process.
    let before = shared.parameters()[0].grad().unwrap().copy()?;
    let (x, y) = data(8, DType::F64, device)?;
    cross_entropy(&shared.forward(&x)?, &y)?.backward()?;
    let after = shared.parameters()[0].grad().unwrap();
    one.zero_grad();
    cross_entropy(&one.forward(&x)?, &y)?.backward()?;
    let own = one.parameters()[0].grad().unwrap();
    assert!(after.sub(&before)?.sub(&own)?.abs()?.amax(())?.item::<f64>()? < 1e-14);
    Ok(())
}

/// Two ways through a network, and a layer that is used by both.
#[derive(kiln_nn::Module)]
struct Branches {
    shared: Linear,
    left: Linear,
    right: Linear,
    never: Linear,
}

impl Branches {
    fn new(device: Device) -> Result<Branches> {
        let linear = || Linear::new(4, 4)?.to_dtype(DType::F64)?.to(device);
        Ok(Branches { shared: linear()?, left: linear()?, right: linear()?, never: linear()? })
    }

    fn through(&self, left: bool, x: &Tensor) -> Result<Tensor> {
        let x = self.shared.forward(x)?;
        let x = if left { self.left.forward(&x)? } else { self.right.forward(&x)? };
        self.shared.forward(&x)?.square()?.mean(())
    }
}

pub fn unused(group: &Arc<dyn ProcessGroup>) -> Result<()> {
    let device = device_of(group);
    manual_seed(3);
    let x = Tensor::randn([6, 4], (DType::F64, device))?;
    let grads = |left: bool| {
        let model = Branches::new(device)?;
        model.through(left, &x)?.backward()?;
        Ok::<_, kiln_tensor::Error>(model.parameters().iter().map(Tensor::grad).collect::<Vec<_>>())
    };
    let state = |seed| {
        manual_seed(seed);
        Branches::new(device)
    };
    manual_seed(9);
    let left = grads(true)?;
    manual_seed(9);
    let right = grads(false)?;
    // Ranks go different ways; what nobody uses has no gradient.
    let model = state(9)?;
    let ddp = DistributedDataParallel::with_options(
        &model,
        group,
        DdpOptions::default().find_unused(true).bucket_bytes(1, 1),
    )?;
    for _ in 0..2 {
        model.through(group.rank() == 0, &x)?.backward()?;
        for (i, parameter) in model.parameters().iter().enumerate() {
            match (&left[i], &right[i]) {
                (None, None) => assert!(parameter.grad().is_none(), "{i}"),
                (a, b) => {
                    let zero = parameter.detach().zeros_like()?;
                    let mean = a.as_ref().unwrap_or(&zero).add(b.as_ref().unwrap_or(&zero))?.div(2.0)?;
                    let difference = parameter.grad().unwrap().sub(&mean)?.abs()?.amax(())?.item::<f64>()?;
                    assert!(difference < 1e-14, "{i}: {difference}");
                }
            }
        }
        model.zero_grad();
    }
    drop(ddp);
    // Frozen parameters are none of its business.
    let model = state(9)?;
    model.never.requires_grad_(false)?;
    model.right.requires_grad_(false)?;
    let _ddp = DistributedDataParallel::new(&model, group)?;
    for _ in 0..2 {
        model.through(true, &x)?.backward()?;
        let grad = model.shared.weight.grad().unwrap();
        assert!(grad.sub(left[0].as_ref().unwrap())?.abs()?.amax(())?.item::<f64>()? < 1e-14);
        model.zero_grad();
    }
    Ok(())
}

/// An error lists them, and the group is given up.
pub fn unused_error(group: &Arc<dyn ProcessGroup>) -> Result<()> {
    let device = device_of(group);
    let model = Branches::new(device)?;
    let _ddp = DistributedDataParallel::new(&model, group)?;
    model.through(true, &Tensor::randn([6, 4], (DType::F64, device))?)?.backward()
}

pub fn overlap(group: &Arc<dyn ProcessGroup>) -> Result<()> {
    let device = device_of(group);
    let layers = (0..8).map(|_| Linear::new(64, 64)).collect::<Result<Vec<_>>>()?;
    let model = layers.into_iter().fold(seq![], |model, layer| model.add(layer)).to(device)?;
    // A layer a bucket.
    let ddp =
        DistributedDataParallel::with_options(&model, group, DdpOptions::default().bucket_bytes(1 << 14, 1 << 14))?;
    for _ in 0..3 {
        model.zero_grad();
        model.forward(&Tensor::randn([4, 64], device)?)?.square()?.mean(())?.backward()?;
        let report = ddp.last_step();
        assert_eq!((report.buckets, report.begun_early), (8, 7));
    }
    for parameter in model.parameters() {
        assert_same_on_all_ranks(&parameter.grad().unwrap(), group)?;
    }
    Ok(())
}

pub fn mixed_precision(group: &Arc<dyn ProcessGroup>) -> Result<()> {
    let device = device_of(group);
    manual_seed(4);
    let model = Linear::new(4, 1)?.to(device)?;
    let _ddp = DistributedDataParallel::new(&model, group)?;
    let (mut optimizer, mut scaler) = (SGD::new(model.named_parameters(), 1e-3)?, GradScaler::new());
    let mut skipped = Vec::new();
    for step in 0..6 {
        let x = Tensor::ones([2, 4], device)?.mul(if step == 3 && group.rank() == 1 { 1e9 } else { 1.0 })?;
        let before = bits(&model.weight.detach())?;
        let zeros = Tensor::zeros([2, 1], device)?;
        let loss = autocast(DType::F16, || mse_loss(&model.forward(&x)?, &zeros))?;
        optimizer.zero_grad();
        scaler.scale(&loss)?.backward()?;
        scaler.step(&mut optimizer)?;
        scaler.update()?;
        skipped.push(before == bits(&model.weight.detach())?);
        let scale = scaler.get_scale()?;
        assert_eq!(group.sums(&[scale])?[0], 2.0 * scale);
        assert_same_on_all_ranks(&model.weight.detach(), group)?;
    }
    // One rank's overflow is that of all.
    assert!(skipped[3], "{skipped:?}");
    Ok(())
}

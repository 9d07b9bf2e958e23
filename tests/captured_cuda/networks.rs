//! Networks that learn the same by launches of a graph: losses, parameters, gradients, versions, averages, states, random
//! numbers.

use kiln::{
    data::DataLoader,
    models::{LeNet, Vgg, VggDepth, VggOptions},
    nn::{CrossEntropyLoss, Field, GRU, LSTM, Linear, Module, ModuleTree, RNNOptions, StateDict},
    optim::{
        Adam, AdamW, AdamWOptions, Average, AveragedModel, Optimizer, RMSprop, SGD, SGDOptions, clip_grad_norm_,
        lr_scheduler::{LrScheduler, StepLR},
    },
    prelude::*,
};

use crate::{
    batch, bits, dropping, step,
    support::{TURN, device},
};

/// All that is left of a run.
#[derive(PartialEq)]
struct Left {
    losses: Vec<Vec<u64>>,
    tensors: Vec<(String, Vec<u64>)>,
    versions: Vec<u32>,
    random: (u64, u64),
}

impl Left {
    fn of(losses: &[Tensor], model: &dyn ModuleTree, others: &[&StateDict]) -> kiln::Result<Left> {
        let mut tensors = Vec::new();
        let mut versions = Vec::new();
        for (name, tensor) in model.named_parameters() {
            versions.push(tensor.version());
            if let Some(grad) = tensor.grad() {
                tensors.push((format!("{name}.grad"), bits(&grad)?));
            }
        }
        for (name, tensor) in [&model.state_dict()].into_iter().chain(others.iter().copied()).flatten() {
            tensors.push((name.clone(), bits(tensor)?));
        }
        let losses = losses.iter().map(bits).collect::<kiln::Result<_>>()?;
        Ok(Left { losses, tensors, versions, random: kiln::random_state() })
    }

    fn assert_same(&self, other: &Left, what: &str) {
        for (i, (own, other)) in self.losses.iter().zip(&other.losses).enumerate() {
            assert_eq!(own, other, "{what}: the loss of step {i}");
        }
        for ((name, own), (other_name, other)) in self.tensors.iter().zip(&other.tensors) {
            assert_eq!(name, other_name, "{what}");
            assert!(own == other, "{what}: {name} differs");
        }
        assert_eq!(self.versions, other.versions, "{what}");
        assert!(self == other, "{what}: random numbers {:?}, not {:?}", self.random, other.random);
    }
}

/// Trains twice, by launches and by graphs, on batches of these extents, of which some are smaller.
fn compare<M: Module + ModuleTree + Field>(
    name: &str,
    dims: &[usize],
    steps: u64,
    make: impl Fn() -> kiln::Result<M>,
    optimizer: impl Fn(&M) -> kiln::Result<Box<dyn Optimizer>>,
) -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    // Some convolutions add in another order each time otherwise.
    kiln::use_deterministic_algorithms(true);
    let run = |captured: bool| -> kiln::Result<(Left, usize)> {
        manual_seed(5);
        let (model, ema) = (make()?.to(device)?, AveragedModel::new(make()?.to(device)?, Average::Exponential(0.9))?);
        let mut state = optimizer(&model)?;
        let mut scheduler = LrScheduler::new(&mut *state, StepLR::new(3).gamma(0.9))?;
        let mut train = step(device, captured, |optimizer: &mut Box<dyn Optimizer>, (x, y): &(Tensor, Tensor)| {
            optimizer.zero_grad();
            let loss = CrossEntropyLoss::new().forward(&model.forward(x)?, y)?;
            loss.backward()?;
            clip_grad_norm_(model.parameters(), 1.0, 2.0)?;
            optimizer.step()?;
            ema.update_parameters(&model)?;
            Ok(loss)
        });
        let mut losses = Vec::new();
        for number in 0..steps {
            let mut dims = dims.to_vec();
            if number % 10 == 9 {
                dims[0] -= 1;
            }
            losses.push(train.run(&mut state, &batch(number, &dims, device)?)?);
            scheduler.step(&mut *state)?;
            if number % 13 == 12 {
                // What else happens between steps.
                drop(Tensor::rand(3, device)?);
            }
        }
        let graphs = train.graphs();
        Ok((Left::of(&losses, &model, &[&state.state_dict()?, &ema.state_dict()])?, graphs))
    };
    let runs = run(false).and_then(|want| Ok((want, run(true)?)));
    kiln::use_deterministic_algorithms(false);
    let ((want, none), (got, graphs)) = runs?;
    assert_eq!((none, graphs), (0, if steps > 40 { 2 } else { 1 }), "{name}");
    got.assert_same(&want, name);
    assert!(want.losses[0] != want.losses[steps as usize - 1], "{name} learns");
    Ok(())
}

/// An LSTM and a GRU that read the rows of images.
#[derive(Module)]
struct Recurrent {
    lstm: LSTM,
    gru: GRU,
    head: Linear,
}

impl Module for Recurrent {
    fn forward(&self, x: &Tensor) -> kiln::Result<Tensor> {
        let x = self.gru.forward(&self.lstm.forward(&x.squeeze(1)?)?)?;
        self.head.forward(&x.select(1, -1)?)
    }
}

#[test]
fn recurrent() -> kiln::Result<()> {
    let options = RNNOptions::default().batch_first(true);
    let make = || {
        let (lstm, gru) = (LSTM::with_options(6, 8, options)?, GRU::with_options(8, 5, options)?);
        Ok(Recurrent { lstm, gru, head: Linear::new(5, 10)? })
    };
    compare("recurrent layers", &[4, 1, 5, 6], 20, make, |model| {
        Ok(Box::new(Adam::new(model.named_parameters(), 1e-2)?))
    })
}

#[test]
fn mlp() -> kiln::Result<()> {
    let make = || dropping(Device::Cpu);
    compare("AdamW", &[8, 1, 28, 28], 100, make, |model| {
        Ok(Box::new(AdamW::new(model.named_parameters(), AdamWOptions::new(1e-2))?))
    })?;
    compare("an unfused rule", &[8, 1, 28, 28], 20, make, |model| {
        Ok(Box::new(RMSprop::new(model.named_parameters(), 1e-3)?.fused(false)))
    })
}

#[test]
fn lenet() -> kiln::Result<()> {
    compare(
        "LeNet",
        &[3, 1, 32, 32],
        100,
        || LeNet::new(10),
        |model| Ok(Box::new(Adam::new(model.named_parameters(), 1e-3)?)),
    )
}

fn vgg(batch_norm: bool, steps: u64) -> kiln::Result<()> {
    let options = || VggOptions::default().batch_norm(batch_norm).width(1.0 / 64.0).num_classes(10);
    let name = if batch_norm { "VGG-BN" } else { "VGG16" };
    compare(
        name,
        &[3, 3, 32, 32],
        steps,
        || Vgg::new(VggDepth::Vgg16, options()),
        |model| {
            let options = SGDOptions::new(0.01).momentum(0.9).weight_decay(1e-4);
            Ok(Box::new(SGD::new(model.named_parameters(), options)?))
        },
    )
}

#[test]
fn vgg16() -> kiln::Result<()> {
    vgg(false, 12)
}

#[test]
fn vgg16_bn() -> kiln::Result<()> {
    vgg(true, 12)
}

/// These go on where the tests above stop.
#[test]
#[ignore = "takes minutes on the simulated device"]
fn a_hundred_steps_of_vgg16() -> kiln::Result<()> {
    vgg(false, 100)
}

#[test]
#[ignore = "takes minutes on the simulated device"]
fn a_hundred_steps_of_vgg16_bn() -> kiln::Result<()> {
    vgg(true, 100)
}

/// Batches that threads upload on a stream of their own, also while a step is captured.
#[test]
fn loaders_go_on_meanwhile() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let run = |captured: bool| -> kiln::Result<Left> {
        let model = dropping(device)?;
        let mut optimizer = SGD::new(model.named_parameters(), 0.1)?;
        // 64 pictures are more than 64 KiB, and so travel beside the compute stream.
        let samples: Vec<_> = (0..64 * 9 + 5)
            .map(|i| {
                let pixels = (0..784).map(|at| ((at * 31 + i * 97) % 255) as f32 / 255.0).collect::<Vec<_>>();
                Ok((Tensor::from_vec(pixels, [1, 28, 28], Device::Cpu)?, (i % 10) as i64))
            })
            .collect::<kiln::Result<_>>()?;
        let samples: kiln::data::Samples<(Tensor, i64)> = samples.into_iter().map(Ok).collect::<kiln::Result<_>>()?;
        let loader = DataLoader::builder(samples).batch_size(64).num_workers(2).prefetch(2).device(device).build()?;
        let mut train = step(device, captured, |optimizer: &mut SGD, (x, y): &(Tensor, Tensor)| {
            optimizer.zero_grad();
            let loss = CrossEntropyLoss::new().forward(&model.forward(x)?, y)?;
            loss.backward()?;
            optimizer.step()?;
            Ok(loss)
        });
        let mut losses = Vec::new();
        for _epoch in 0..2 {
            for batch in &loader {
                losses.push(train.run(&mut optimizer, &batch?)?);
            }
        }
        assert_eq!(train.graphs(), usize::from(captured));
        Left::of(&losses, &model, &[])
    };
    run(true)?.assert_same(&run(false)?, "loaders");
    Ok(())
}

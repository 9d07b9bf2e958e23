//! Copies of parameters in half precision that the optimizer's launch writes for autocast, in captured steps: training is that
//! of parameters converted by hand, whatever happens to them between launches, and no launch converts one.

use kiln::{
    Conv2d, autocast,
    optim::{Adam, AdamW, GradScaler, Optimizer, RMSprop, RMSpropOptions, SGD},
    prelude::*,
};
use serde_json::Value;

use crate::{
    account::recorded,
    bits, step,
    support::{TURN, device},
};

struct Net([Tensor; 4]);

impl Net {
    fn new(device: Device) -> kiln::Result<Net> {
        manual_seed(3);
        let filters = Tensor::randn([8, 8, 3, 3], device)?.channels_last()?;
        let all =
            [filters, Tensor::randn([16, 128], device)?, Tensor::randn([16], device)?, Tensor::randn([3, 16], device)?];
        let [a, b, c, d] = all.map(|t| t.mul(0.2).and_then(|t| t.requires_grad_(true)));
        Ok(Net([a?, b?, c?, d?]))
    }

    fn named(&self) -> Vec<(String, Tensor)> {
        self.0.iter().enumerate().map(|(i, t)| (i.to_string(), t.clone())).collect()
    }

    /// The loss in half precision: by a region, or by operands that are converted here.
    fn loss(&self, x: &Tensor, low: DType, by_hand: bool) -> kiln::Result<Tensor> {
        let to = |t: &Tensor| if by_hand { t.to_dtype(low) } else { Ok(t.clone()) };
        let forward = || {
            let [filters, weight, bias, head] = &self.0;
            let images = to(x)?.conv2d(&to(filters)?, None, &Conv2d::default())?.relu()?;
            let features = images.reshape([x.dims()[0], 128])?.linear(&to(weight)?, Some(&to(bias)?))?;
            features.relu()?.linear(&to(head)?, None)
        };
        let y = if by_hand { forward() } else { autocast(low, forward) }?;
        y.to_dtype(DType::F32)?.square()?.mean(())
    }
}

fn images(number: u64, n: usize, device: Device) -> kiln::Result<Tensor> {
    let state = kiln::random_state();
    manual_seed(100 + number);
    let x = Tensor::randn([n, 8, 6, 6], Device::Cpu)?;
    kiln::set_random_state(state);
    // Every sixth one makes infinite gradients in f16.
    let x = if number % 6 == 4 { x.mul(1e6)? } else { x };
    x.to_device(device)?.channels_last()
}

type State = (Box<dyn Optimizer>, GradScaler);
type Make = fn(&Net) -> kiln::Result<Box<dyn Optimizer>>;

const OPTIMIZERS: [(&str, Make); 4] = [
    ("SGD", |net| Ok(Box::new(SGD::new(net.named(), 0.05)?))),
    ("AdamW", |net| Ok(Box::new(AdamW::new(net.named(), 1e-2)?))),
    ("RMSprop", |net| Ok(Box::new(RMSprop::new(net.named(), RMSpropOptions::new(1e-3).momentum(0.5).centered(true))?))),
    ("Adam, by operations", |net| Ok(Box::new(Adam::new(net.named(), 1e-2)?.fused(false)))),
];

/// Losses and parameters of a run, and how many graphs there were.
fn run(make: Make, low: DType, apart: bool, captured: bool, device: Device) -> kiln::Result<(Vec<Vec<u64>>, usize)> {
    let by_hand = !captured;
    let net = Net::new(device)?;
    let mut state: State = (make(&net)?, GradScaler::new().init_scale(256.0).growth_interval(4));
    let finish = |(optimizer, scaler): &mut State| -> kiln::Result<()> {
        scaler.step(optimizer.as_mut())?;
        scaler.update()
    };
    let mut train = step(device, captured, |state: &mut State, (x, _): &(Tensor, Tensor)| {
        state.0.zero_grad();
        let loss = net.loss(x, low, by_hand)?;
        state.1.scale(&loss)?.backward()?;
        if !apart {
            finish(state)?;
        }
        Ok(loss)
    });
    let mut left = Vec::new();
    for number in 0..26 {
        match number {
            9 => no_grad(|| net.0[1].mul_(0.5))?,
            // What a launch reads is gone, and made anew.
            13 => no_grad(|| net.0[0].copy_(&net.0[0].mul(1.5)?))?,
            17 => {
                // A step in f32, and one whose tape is used when the parameters have changed.
                let x = images(50, 2, device)?;
                let later = net.loss(&x, low, by_hand)?;
                state.0.zero_grad();
                state.1.scale(&net.loss(&x, DType::F32, true)?)?.backward()?;
                finish(&mut state)?;
                state.0.zero_grad();
                later.backward()?;
                left.extend(net.0.iter().map(|t| bits(&t.grad().unwrap())).collect::<kiln::Result<Vec<_>>>()?);
            }
            _ => {}
        }
        let n = if number == 11 { 2 } else { 4 };
        let x = images(number, n, device)?;
        left.push(bits(&train.run(&mut state, &(x.clone(), x))?)?);
        if apart {
            finish(&mut state)?;
        }
        for parameter in &net.0 {
            left.push(bits(parameter)?);
        }
    }
    Ok((left, train.graphs()))
}

#[test]
fn launches_train_as_parameters_converted_by_hand() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    kiln::use_deterministic_algorithms(true);
    let compared = OPTIMIZERS.iter().enumerate().try_for_each(|(i, (name, make))| {
        let (low, apart) = if i % 2 == 0 { (DType::F16, false) } else { (DType::BF16, true) };
        let (want, none) = run(*make, low, apart, false, device)?;
        let (got, graphs) = run(*make, low, apart, true, device)?;
        assert!(none == 0 && graphs > 0, "{name}: {graphs} graphs");
        let first = got.iter().zip(&want).position(|(got, want)| got != want);
        assert_eq!((first, got.len()), (None, want.len()), "{name}, {low}, the step apart: {apart}");
        Ok(())
    });
    kiln::use_deterministic_algorithms(false);
    compared
}

/// How many of the kernels that were launched convert `f32` to half precision, and how many the other way.
fn casts(account: &Value) -> [usize; 2] {
    let operations = account["operations"].as_array().unwrap();
    let names = || operations.iter().filter_map(|name| name.as_str()).filter(|name| name.starts_with("cast_"));
    [
        names().filter(|name| name.starts_with("cast_f32_")).count(),
        names().filter(|name| name.ends_with("_f32")).count(),
    ]
}

#[test]
fn no_step_converts_a_parameter_but_the_first() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for (scaled, low) in [(false, DType::BF16), (true, DType::F16)] {
        let net = Net::new(device)?;
        let (mut optimizer, mut scaler) =
            (AdamW::new(net.named(), 1e-2)?, GradScaler::new().enabled(scaled).init_scale(16.0));
        let mut counted = Vec::new();
        for number in 0..8 {
            match number {
                4 => no_grad(|| net.0[1].mul_(0.5))?,
                6 => net.0[3].set_requires_grad(false)?,
                7 => net.0[3].set_requires_grad(true)?,
                _ => {}
            }
            let x = images(number, 4, device)?;
            optimizer.zero_grad();
            let ((), account) = recorded(|| {
                scaler.scale(&net.loss(&x, low, false)?)?.backward()?;
                scaler.step(&mut optimizer)?;
                scaler.update()
            })?;
            let Some(account) = account else { return Ok(()) };
            counted.push(casts(&account));
        }
        // The scores for the loss are; gradients of parameters are not.
        assert!(counted.iter().all(|[_, to_f32]| *to_f32 == 1), "{counted:?}");
        // The images and the gradient of the scores are converted in every step.
        let counted: Vec<usize> = counted.into_iter().map(|[to_low, _]| to_low).collect();
        let [first, others @ ..] = &counted[..] else { unreachable!("there are steps") };
        let initial = if scaled { 4 } else { 0 };
        assert_eq!(*first, 2 + 4 + initial, "{counted:?}");
        assert_eq!(others[..3], [2, 2, 2], "{counted:?}");
        assert_eq!(others[3..5], [3, 2], "one parameter was changed by hand: {counted:?}");
        // Frozen, it is a tensor like any other, and its copy is as it was afterwards.
        assert_eq!(others[5..], [3, 2], "{counted:?}");
    }
    Ok(())
}

#[test]
fn a_launch_of_the_graph_is_all_there_is_to_a_step() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let net = Net::new(device)?;
    let mut optimizer = AdamW::new(net.named(), 1e-2)?;
    let mut train = step(device, true, |optimizer: &mut AdamW, (x, _): &(Tensor, Tensor)| {
        optimizer.zero_grad();
        let loss = net.loss(x, DType::BF16, false)?;
        loss.backward()?;
        optimizer.step()?;
        Ok(loss)
    });
    for number in 0..9 {
        let x = images(number, 4, device)?;
        if number == 7 {
            no_grad(|| net.0[1].mul_(0.5))?;
        }
        let (_, account) = recorded(|| train.run(&mut optimizer, &(x.clone(), x)))?;
        let Some(account) = account else { return Ok(()) };
        let count = |name: &str| account["counts"][name].as_u64();
        if number > 3 {
            // What was changed by hand is converted before the launch.
            let changed = u64::from(number == 7);
            assert_eq!((count("graph launches"), count("launches")), (Some(1), Some(changed)), "{number}: {account:#}");
        }
    }
    assert_eq!(train.graphs(), 1);
    Ok(())
}

/// A step that adds to the gradients that it finds is valid for these tensors, also if they are read between launches.
#[test]
fn gradients_that_a_step_adds_to_are_converted_in_it() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let run = |captured: bool| -> kiln::Result<(Vec<Vec<u64>>, usize)> {
        let net = Net::new(device)?;
        let mut train = step(device, captured, |(): &mut (), (x, _): &(Tensor, Tensor)| {
            let loss = net.loss(x, DType::BF16, false)?;
            loss.backward()?;
            Ok(loss)
        });
        let mut left = Vec::new();
        for number in 0..24 {
            if number % 3 == 0 {
                net.0.iter().for_each(Tensor::zero_grad);
            }
            let x = images(number, 4, device)?;
            train.run(&mut (), &(x.clone(), x))?;
            left.extend(net.0.iter().map(|t| bits(&t.grad().unwrap())).collect::<kiln::Result<Vec<_>>>()?);
        }
        Ok((left, train.graphs()))
    };
    let ((want, none), (got, graphs)) = (run(false)?, run(true)?);
    assert_eq!((got == want, none, graphs), (true, 0, 2));
    Ok(())
}

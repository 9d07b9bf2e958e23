//! Steps in f16 with a gradient scaler: whether a step is skipped is decided on the device, so nothing waits for it and the step
//! can be a graph.

use std::cell::Cell;

use kiln::{
    ErrorKind, autocast,
    nn::{CrossEntropyLoss, Module, ModuleTree},
    optim::{Adam, AdamW, GradScaler, NAdam, Optimizer, clip_grad_norm_},
    prelude::*,
};

use crate::{
    account::{caching, recorded},
    batch, bits, dropping, step,
    support::{TURN, device},
};

const DIMS: [usize; 4] = [8, 1, 28, 28];

/// A batch whose gradients are infinite or NaN in every seventh call.
fn wild(number: u64, device: Device) -> kiln::Result<(Tensor, Tensor)> {
    let (x, y) = batch(number, &DIMS, device)?;
    Ok((if number % 7 == 5 { x.mul(1e30)? } else { x }, y))
}

type State = (Box<dyn Optimizer>, GradScaler);

fn train(model: &dyn Module, state: &mut State, (x, y): &(Tensor, Tensor)) -> kiln::Result<Tensor> {
    let (optimizer, scaler) = state;
    optimizer.zero_grad();
    let loss = autocast(DType::F16, || CrossEntropyLoss::new().forward(&model.forward(x)?, y))?;
    scaler.scale(&loss)?.backward()?;
    scaler.unscale_(optimizer.as_mut())?;
    clip_grad_norm_(optimizer.parameters(), 1.0, 2.0)?;
    scaler.step(optimizer.as_mut())?;
    scaler.update()?;
    Ok(loss)
}

fn scaler() -> GradScaler {
    GradScaler::new().init_scale(4096.0).growth_interval(3)
}

#[test]
fn f16_steps_are_those_of_launches_also_where_some_are_skipped() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    type Make = fn(Vec<(String, Tensor)>) -> kiln::Result<Box<dyn Optimizer>>;
    let optimizers: [(&str, u64, Make); 2] = [
        ("AdamW", 60, |parameters| Ok(Box::new(AdamW::new(parameters, 1e-2)?))),
        ("NAdam, by operations", 24, |parameters| Ok(Box::new(NAdam::new(parameters, 1e-2)?))),
    ];
    for (name, steps, make) in optimizers {
        let run = |captured: bool| -> kiln::Result<(Vec<Vec<u64>>, usize)> {
            let model = dropping(device)?;
            let mut state = (make(model.named_parameters())?, scaler());
            let mut graphs =
                step(device, captured, |state: &mut State, batch: &(Tensor, Tensor)| train(&model, state, batch));
            let (mut left, mut skipped) = (Vec::new(), 0);
            for number in 0..steps {
                let before = bits(&model.parameters()[0])?;
                left.push(bits(&graphs.run(&mut state, &wild(number, device)?)?)?);
                left.push(bits(&model.parameters()[0])?);
                let is_skipped = left.last() == Some(&before);
                // Others are skipped, too, when the scale has grown too large for f16.
                assert!(is_skipped || number % 7 != 5, "{name}, captured: {captured}, step {number}");
                skipped += i64::from(is_skipped);
                if number == 20 {
                    // What was captured with other settings is captured anew.
                    state.1.set_growth_interval(2);
                }
            }
            assert!((3..steps as i64 / 2).contains(&skipped), "{name}: {skipped} of {steps} steps are skipped");
            let optimizer = state.0.state_dict()?;
            for (name, tensor) in optimizer.iter().filter(|(name, _)| name.ends_with(".step")) {
                assert_eq!(tensor.item::<i64>()?, steps as i64 - skipped, "{name}");
            }
            for tensor in optimizer.values().chain(model.state_dict().values()).chain(state.1.state_dict()?.values()) {
                left.push(bits(tensor)?);
            }
            left.extend(model.parameters().iter().map(|p| u64::from(p.version())).map(|version| vec![version]));
            Ok((left, graphs.graphs()))
        };
        let ((want, none), (got, graphs)) = (run(false)?, run(true)?);
        assert!(none == 0 && graphs > 0, "{name}: {graphs} graphs");
        assert!(got == want, "{name}");
    }
    Ok(())
}

#[test]
fn an_f16_step_does_not_wait_for_the_device() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for captured in [false, true] {
        let model = dropping(device)?;
        let optimizer: Box<dyn Optimizer> = Box::new(Adam::new(model.named_parameters(), 1e-2)?);
        let mut state = (optimizer, scaler());
        let mut graphs =
            step(device, captured, |state: &mut State, batch: &(Tensor, Tensor)| train(&model, state, batch));
        for number in 0..8 {
            graphs.run(&mut state, &wild(number, device)?)?;
        }
        let last = wild(12, device)?;
        let before = bits(&model.parameters()[0])?;
        let (_, account) = recorded(|| graphs.run(&mut state, &last))?;
        assert_eq!(graphs.graphs(), usize::from(captured));
        assert!(before == bits(&model.parameters()[0])?, "the step is one that is skipped");
        let Some(account) = account else { return Ok(()) };
        let count = |name: &str| account["counts"][name].as_u64().unwrap();
        assert_eq!(count("synchronizations") + count("bytes to host"), 0, "{account:#}");
        assert_eq!(count("bytes to device"), 0, "{account:#}");
        assert_eq!(count("graph launches"), u64::from(captured), "{account:#}");
        assert!(!captured || count("launches") + count("library calls") == 0, "{account:#}");
        assert!(!caching() || !captured || count("device allocations") == 0, "{account:#}");
    }
    Ok(())
}

/// A capture that fails has done nothing, also to the scaler.
#[test]
fn a_scaler_is_usable_after_a_capture_that_failed() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let model = dropping(device)?;
    let mut state = (Adam::new(model.named_parameters(), 1e-2)?, scaler());
    let reads = Cell::new(false);
    let mut graphs = step(device, true, |(optimizer, scaler): &mut (Adam, GradScaler), (x, y): &(Tensor, Tensor)| {
        optimizer.zero_grad();
        let loss = autocast(DType::F16, || CrossEntropyLoss::new().forward(&model.forward(x)?, y))?;
        scaler.scale(&loss)?.backward()?;
        scaler.unscale_(optimizer)?;
        if reads.get() {
            scaler.get_scale()?;
        }
        scaler.step(optimizer)?;
        scaler.update()?;
        Ok(loss)
    });
    for number in 0..3 {
        graphs.run(&mut state, &wild(number, device)?)?;
    }
    reads.set(true);
    let error = graphs.run(&mut state, &wild(3, device)?).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Capture { .. }), "{error}");
    reads.set(false);
    for number in 4..8 {
        graphs.run(&mut state, &wild(number, device)?)?;
    }
    assert_eq!(graphs.graphs(), 1);
    // A scaler that is first used in the captured call would be made anew in each launch.
    state.1 = scaler();
    let scales = Cell::new(false);
    let mut fresh = step(device, true, |(optimizer, scaler): &mut (Adam, GradScaler), (x, y): &(Tensor, Tensor)| {
        optimizer.zero_grad();
        let loss = CrossEntropyLoss::new().forward(&model.forward(x)?, y)?;
        if scales.get() {
            scaler.scale(&loss)?.backward()?;
            scaler.step(optimizer)?;
            scaler.update()?;
        }
        Ok(loss)
    })
    .warm_up(1);
    fresh.run(&mut state, &wild(0, device)?)?;
    scales.set(true);
    let error = fresh.run(&mut state, &wild(1, device)?).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Capture { .. }), "{error}");
    Ok(())
}

//! Operations that cannot be captured: each returns an error that names the operation and the line, and leaves everything usable.

use std::{cell::Cell, env, process};

use kiln::{
    CapturedStep, ErrorKind,
    nn::ModuleTree,
    optim::{Optimizer, SGD},
    prelude::*,
    random_state,
};

use crate::{
    batch, bits, dropping, loss_of, step,
    support::{TURN, device},
};

const DIMS: [usize; 4] = [4, 1, 28, 28];

type Refused = fn(&Tensor, &mut SGD) -> kiln::Result<()>;

/// The operation that the error names, and what does it.
const CASES: &[(&str, Refused)] = &[
    ("item", |loss, _| loss.item::<f32>().map(drop)),
    ("to_vec", |loss, _| loss.to_vec::<f32>().map(drop)),
    ("to_vec", |loss, _| {
        // Printing shows the error instead of values.
        assert!(format!("{loss}").contains("cannot be captured"), "{loss}");
        Ok(())
    }),
    ("synchronize", |loss, _| loss.device().synchronize()),
    ("new", |loss, _| Tensor::new([1f32, 2.0], loss.device()).map(drop)),
    ("to_device", |loss, _| loss.to_device(Device::Cpu).map(drop)),
    ("a tensor", |_, _| Tensor::ones(3, Device::Cpu).map(drop)),
    ("manual_seed", |_, _| {
        manual_seed(3);
        Ok(())
    }),
    ("set_rates", |_, optimizer| {
        let rates = optimizer.rates();
        optimizer.set_rates(&rates)
    }),
    ("multinomial", |loss, _| loss.exp()?.reshape([1])?.multinomial(1, true).map(drop)),
    // The error is ignored, but the step is not what it would be.
    ("to_vec", |loss, _| {
        let _ = loss.item::<f32>();
        Ok(())
    }),
];

#[test]
fn errors_name_the_operation_and_the_line() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for (i, (op, refused)) in CASES.iter().enumerate() {
        let model = dropping(device)?;
        let mut optimizer = SGD::new(model.named_parameters(), 0.1)?;
        let on = Cell::new(false);
        let mut train = step(device, true, |optimizer: &mut SGD, batch: &(Tensor, Tensor)| {
            optimizer.zero_grad();
            let loss = loss_of(&model, batch)?;
            loss.backward()?;
            if on.get() {
                refused(&loss, optimizer)?;
            }
            optimizer.step()?;
            Ok(loss)
        });
        for number in 0..3 {
            train.run(&mut optimizer, &batch(number, &DIMS, device)?)?;
        }
        on.set(true);
        let grads = || -> Vec<usize> { model.parameters().iter().filter_map(|p| Some(p.grad()?.id())).collect() };
        let before = (random_state(), grads(), bits(&model.parameters()[0])?);
        let error = train.run(&mut optimizer, &batch(3, &DIMS, device)?).unwrap_err();
        let ErrorKind::Capture { op: named, .. } = error.kind() else { panic!("case {i}: {error:?}") };
        assert_eq!(named, op, "case {i}: {error}");
        let file = error.location().map_or("", |line| line.file());
        assert!(file.ends_with("captured_cuda/refused.rs"), "case {i}: {error:?}");
        assert!((random_state(), grads(), bits(&model.parameters()[0])?) == before, "case {i}: nothing has changed");
        // Everything is usable: also the same step, whose next call is captured.
        on.set(false);
        assert!(train.run(&mut optimizer, &batch(3, &DIMS, device)?)?.item::<f32>()?.is_finite());
        assert_eq!(train.graphs(), 1);
        assert!(train.run(&mut optimizer, &batch(4, &DIMS, device)?)?.item::<f32>()?.is_finite());
    }
    Ok(())
}

#[test]
fn a_step_may_go_on_eagerly() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let run = |fallback: bool| -> kiln::Result<Vec<Vec<u64>>> {
        let model = dropping(device)?;
        let mut optimizer = SGD::new(model.named_parameters(), 0.1)?;
        let mut train = step(device, fallback, |optimizer: &mut SGD, batch: &(Tensor, Tensor)| {
            optimizer.zero_grad();
            let loss = loss_of(&model, batch)?;
            loss.backward()?;
            if loss.item::<f32>()? < 100.0 {
                optimizer.step()?;
            }
            Ok(loss)
        })
        .eager_fallback(fallback);
        let losses = (0..6).map(|number| bits(&train.run(&mut optimizer, &batch(number, &DIMS, device)?)?));
        let losses = losses.collect::<kiln::Result<_>>()?;
        assert_eq!(train.graphs(), 0);
        Ok(losses)
    };
    assert!(run(true)? == run(false)?);
    Ok(())
}

#[test]
fn going_on_eagerly_is_said_once() {
    if device().is_none() {
        return;
    }
    let mut command = process::Command::new(env::current_exe().unwrap());
    command.args(["--exact", "refused::a_step_may_go_on_eagerly", "--nocapture"]);
    let process::Output { status, stdout, stderr } = command.output().unwrap();
    let text = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    assert!(status.success() && text.contains("1 passed"), "{text}");
    // One of its two steps falls back, in the fourth of six calls.
    let said: Vec<&str> = text.lines().filter(|line| line.contains("the step runs eagerly")).collect();
    assert_eq!(said.len(), 1, "{text}");
    assert!(said[0].contains("item") && said[0].contains("captured_cuda/refused.rs"), "{}", said[0]);
}

#[test]
fn errors_and_panics_of_the_function_are_its_own() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let what = Cell::new(0);
    let mut step = CapturedStep::new(device, |(): &mut (), x: &Tensor| {
        let y = x.add(1.0)?;
        match what.get() {
            0 => Ok(y),
            1 => y.matmul(&y),
            _ => panic!("on purpose"),
        }
    })
    .warm_up(1)
    .eager_fallback(true);
    let x = Tensor::ones([2, 3], device)?;
    step.run(&mut (), &x)?;
    what.set(1);
    let error = step.run(&mut (), &x).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::ShapeMismatch { .. }), "{error}");
    what.set(2);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| step.run(&mut (), &x)));
    assert!(panicked.is_err());
    what.set(0);
    for _ in 0..3 {
        assert_eq!(step.run(&mut (), &x)?.to_vec::<f32>()?, [2.0; 6]);
    }
    assert_eq!(step.graphs(), 1);
    Ok(())
}

//! The state of captured steps: gradient accumulation, checkpoints, modes, options and memory are those of eager execution; and
//! how few calls a launch takes.

use std::cell::RefCell;

use kiln::{
    CapturedStep, ErrorKind,
    io::Checkpoint,
    nn::{ModuleTree, Sequential},
    optim::{AdamW, AdamWOptions, Optimizer, SGD},
    prelude::*,
    random_state, set_random_state,
};

use crate::{
    account::{caching, recorded},
    batch, bits, dropping, loss_of, step,
    support::{TURN, device},
    training_step,
};

const DIMS: [usize; 4] = [8, 1, 28, 28];

/// Of each tensor.
type Bits = Vec<Vec<u64>>;

fn all_bits(tensors: &[Tensor]) -> kiln::Result<Bits> {
    tensors.iter().map(bits).collect()
}

/// Every fourth call takes a step: as two cases of one function, and as a step for the micro-batches alone.
#[test]
fn gradients_accumulate() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let run = |captured: bool, apart: bool| -> kiln::Result<(Bits, Bits, (u64, u64))> {
        let model = dropping(device)?;
        let mut optimizer = AdamW::new(model.named_parameters(), 1e-2)?;
        let is_last = RefCell::new(false);
        let mut train = step(device, captured, |optimizer: &mut AdamW, batch: &(Tensor, Tensor)| {
            let loss = loss_of(&model, batch)?.div(4.0)?;
            loss.backward()?;
            if *is_last.borrow() {
                optimizer.step()?;
                optimizer.zero_grad();
            }
            Ok(loss)
        })
        .max_graphs(if captured { 8 } else { 0 });
        let mut losses = Vec::new();
        for number in 0..60 {
            let last = number % 4 == 3;
            is_last.replace(last && !apart);
            losses.push(train.run_variant(
                u64::from(last && !apart),
                &mut optimizer,
                &batch(number, &DIMS, device)?,
            )?);
            if last && apart {
                optimizer.step()?;
                optimizer.zero_grad();
            }
        }
        // The first of four finds no gradients, the others find some.
        assert_eq!(train.graphs() >= 2, captured, "{} graphs", train.graphs());
        Ok((all_bits(&losses)?, all_bits(&model.parameters())?, random_state()))
    };
    let want = run(false, false)?;
    for (captured, apart) in [(true, false), (true, true), (false, true)] {
        assert!(run(captured, apart)? == want, "captured: {captured}, the optimizer apart: {apart}");
    }
    Ok(())
}

#[test]
fn a_run_goes_on_from_a_checkpoint() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    type Run<'a> = dyn FnMut(&mut AdamW, &(Tensor, Tensor)) -> kiln::Result<Tensor> + 'a;
    let steps = |run: &mut Run<'_>, optimizer: &mut AdamW, from: u64| -> kiln::Result<Bits> {
        let losses = (from..from + 8).map(|number| run(optimizer, &batch(number, &DIMS, device)?));
        all_bits(&losses.collect::<kiln::Result<Vec<_>>>()?)
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.ckpt");
    let model = dropping(device)?;
    let mut optimizer = AdamW::new(model.named_parameters(), 1e-2)?;
    let mut train = step(device, true, training_step(&model));
    steps(&mut |optimizer, batch| train.run(optimizer, batch), &mut optimizer, 0)?;
    Checkpoint { model: model.state_dict(), optimizer: optimizer.state_dict()?, ..Checkpoint::now() }.save(&path)?;
    let went_on = steps(&mut |optimizer, batch| train.run(optimizer, batch), &mut optimizer, 8)?;
    assert_eq!(train.graphs(), 1);
    // With the same step, it runs until it is captured with the states that were loaded; with a new one as in another program.
    let fresh = dropping(device)?;
    let mut fresh_optimizer = AdamW::new(fresh.named_parameters(), 1e-2)?;
    let mut fresh_train = step(device, true, training_step(&fresh));
    manual_seed(77);
    steps(&mut |optimizer, batch| train.run(optimizer, batch), &mut optimizer, 30)?;
    let resume = |model: &Sequential, optimizer: &mut AdamW, run: &mut Run<'_>| -> kiln::Result<()> {
        let saved = Checkpoint::load(&path, device)?;
        model.load_state_dict(&saved.model, true)?;
        optimizer.load_state_dict(&saved.optimizer)?;
        set_random_state(saved.random_state);
        assert!(steps(run, optimizer, 8)? == went_on);
        Ok(())
    };
    for _ in 0..2 {
        resume(&model, &mut optimizer, &mut |optimizer, batch| train.run(optimizer, batch))?;
    }
    resume(&fresh, &mut fresh_optimizer, &mut |optimizer, batch| fresh_train.run(optimizer, batch))?;
    assert!(train.graphs() > 0 && fresh_train.graphs() == 1);
    Ok(())
}

/// The first shapes get graphs. Others run eagerly with the same results, and take no more memory.
#[test]
fn there_are_no_more_graphs_than_allowed() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let before = device.memory_stats()?.allocated;
    for (allowed, want) in [(None, 4), (Some(2), 2), (Some(0), 0)] {
        let mut twice = CapturedStep::new(device, |(): &mut (), x: &Tensor| x.add(x)?.sum(0));
        if let Some(allowed) = allowed {
            twice = twice.max_graphs(allowed);
        }
        let mut held = Vec::new();
        for _ in 0..6 {
            for rows in 1..8u8 {
                let sums = twice.run(&mut (), &Tensor::ones([usize::from(rows), 1000], device)?)?;
                assert_eq!(sums.to_vec::<f32>()?, [2.0 * f32::from(rows); 1000]);
            }
            assert!(twice.graphs() <= want);
            held.push(device.memory_stats()?.allocated);
        }
        assert_eq!(twice.graphs(), want);
        assert_eq!(held[4], held[5], "{held:?}");
        assert!(want > 0 || held[5] == before, "{held:?}");
    }
    device.synchronize()?;
    assert_eq!(device.memory_stats()?.allocated, before);
    Ok(())
}

#[test]
fn modes_and_options_are_those_of_the_call() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let run = |captured: bool| -> kiln::Result<(Bits, Bits)> {
        let model = dropping(device)?;
        let (some, others): (Vec<_>, Vec<_>) =
            model.named_parameters().into_iter().partition(|(name, _)| name.ends_with("weight"));
        let mut optimizer = AdamW::with_groups([(some, AdamWOptions::new(1e-3)), (others, AdamWOptions::new(1e-2))])?;
        let mut train = step(device, captured, training_step(&model));
        let mut losses = Vec::new();
        for number in 0..40 {
            match number {
                10 => model.eval(),
                12 | 20 => model.train(),
                // Through the options themselves, not the optimizer.
                15 => optimizer.param_groups_mut()[0].options.lr = 1e-4,
                18 => optimizer.set_lr(1e-3)?,
                22 => optimizer.param_groups_mut()[1].options.betas = (0.5, 0.9),
                30 => optimizer.param_groups_mut()[1].options.betas = (0.9, 0.999),
                _ => {}
            }
            losses.push(train.run(&mut optimizer, &batch(number, &DIMS, device)?)?);
        }
        Ok((all_bits(&losses)?, all_bits(&model.parameters())?))
    };
    assert!(run(true)? == run(false)?);
    Ok(())
}

#[test]
fn a_launch_asks_little_of_the_driver() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let model = dropping(device)?;
    let mut optimizer = AdamW::new(model.named_parameters(), 1e-2)?;
    let mut train = step(device, true, training_step(&model));
    let mut losses = Vec::new();
    for number in 0..8 {
        losses.push(train.run(&mut optimizer, &batch(number, &DIMS, Device::Cpu)?)?);
    }
    let last = batch(8, &DIMS, Device::Cpu)?;
    device.synchronize()?;
    let (loss, account) = recorded(|| train.run(&mut optimizer, &last))?;
    losses.push(loss);
    assert_eq!(train.graphs(), 1);
    let Some(account) = account else { return Ok(()) };
    let count = |name: &str| account["counts"][name].as_u64().unwrap();
    assert_eq!(count("graph launches"), 1, "{account:#}");
    assert_eq!(count("launches") + count("library calls") + count("fills"), 0, "{account:#}");
    assert_eq!(count("copies"), 2, "the images and the labels: {account:#}");
    assert_eq!(count("pinned allocations") + count("synchronizations") + count("event waits"), 0, "{account:#}");
    assert!(!caching() || count("device allocations") == 0, "{account:#}");
    Ok(())
}

#[test]
fn results_are_tensors_of_their_own() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut twice = CapturedStep::new(device, |(): &mut (), x: &Tensor| {
        let y = x.add(x)?;
        Ok((y.clone(), vec![y.t()?, x.clone()]))
    });
    let mut results = Vec::new();
    for value in 0..8 {
        results.push(twice.run(&mut (), &Tensor::full([3, 5], f64::from(value), Device::Cpu)?)?);
    }
    assert_eq!(twice.graphs(), 1);
    for (value, (sum, rest)) in (0u8..).zip(&results) {
        assert_eq!(sum.to_vec::<f32>()?, [2.0 * f32::from(value); 15]);
        assert_eq!((rest[0].dims(), rest[0].to_vec::<f32>()?), (&[5, 3][..], vec![2.0 * f32::from(value); 15]));
        assert_eq!(rest[1].to_vec::<f32>()?, [f32::from(value); 15]);
    }
    // Strided, broadcast, empty.
    let wide = Tensor::rand([5, 6], device)?;
    for x in [wide.t()?, wide.narrow(1, 1, 3)?, Tensor::rand([5, 1], device)?.expand([5, 4])?, wide.narrow(0, 0, 0)?] {
        for _ in 0..5 {
            let (sum, _) = twice.run(&mut (), &x)?;
            assert!(bits(&sum)? == bits(&x.add(&x)?)?, "{:?}", x.dims());
        }
    }
    Ok(())
}

/// What a graph uses stays its own when everybody else has given it up, and goes back with the graph.
#[test]
fn memory_is_kept_for_as_long_as_the_graph() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let (before, grad) = (device.memory_stats()?.allocated, RefCell::new(None));
    {
        let weights = RefCell::new(Some([
            Tensor::full(1000, 2.0, device)?.requires_grad_(true)?,
            // Large enough to arrive beside the compute stream.
            Tensor::full(100_000, 3.0, Device::Cpu)?.to_device(device)?,
        ]));
        let mut step = CapturedStep::new(device, |(): &mut (), x: &Tensor| {
            let Some([small, large]) = &*weights.borrow() else { return x.copy() };
            small.zero_grad();
            small.mul(x)?.sum(())?.backward()?;
            *grad.borrow_mut() = small.grad();
            x.mul(&small.sum(())?)?.add(&large.sum(())?)
        });
        let x = Tensor::full(1000, 1.0, device)?;
        let want = step.run(&mut (), &x)?.to_vec::<f32>()?;
        for _ in 0..6 {
            step.run(&mut (), &x)?;
        }
        assert_eq!(step.graphs(), 1);
        drop(weights.take());
        device.empty_cache()?;
        // Whoever wants memory of their sizes gets other memory.
        let others = (0..4).map(|_| Tensor::full(1000, 7.0, device)).collect::<kiln::Result<Vec<_>>>()?;
        let large = Tensor::full(100_000, 9.0, Device::Cpu)?.to_device(device)?;
        // The leaf no longer exists, so the function runs, while earlier launches may still be executing in their own memory.
        assert_eq!(step.run(&mut (), &x)?.to_vec::<f32>()?, [1.0; 1000]);
        assert_eq!(want[0], 2000.0 + 300_000.0);
        for other in &others {
            assert_eq!(other.to_vec::<f32>()?, [7.0; 1000]);
        }
        assert_eq!(large.to_vec::<f32>()?, [9.0; 100_000]);
    }
    // The graph is gone, and the gradient that it made is not.
    assert_eq!(grad.borrow().as_ref().map(Tensor::to_vec::<f32>).transpose()?, Some(vec![1.0; 1000]));
    drop(grad.take());
    device.empty_cache()?;
    assert_eq!(device.memory_stats()?.allocated, before);
    Ok(())
}

#[test]
fn labels_out_of_range_are_reported_after_a_launch() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let model = dropping(device)?;
    let mut optimizer = SGD::new(model.named_parameters(), 0.1)?;
    let mut train = step(device, true, |optimizer: &mut SGD, batch: &(Tensor, Tensor)| {
        optimizer.zero_grad();
        let loss = loss_of(&model, batch)?;
        loss.backward()?;
        optimizer.step()?;
        Ok(loss)
    });
    let mut last = None;
    for number in 0..6 {
        last = Some(train.run(&mut optimizer, &batch(number, &DIMS, device)?)?);
    }
    assert!(last.is_some_and(|loss| loss.item::<f32>().is_ok_and(f32::is_finite)));
    let (x, y) = batch(6, &DIMS, device)?;
    let loss = train.run(&mut optimizer, &(x, y.add(10)?))?;
    let error = loss.item::<f32>().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::IndexOutOfRange { op: "cross_entropy", .. }), "{error}");
    // It is reported once, and training goes on.
    assert!(train.run(&mut optimizer, &batch(7, &DIMS, device)?)?.item::<f32>().is_ok());
    Ok(())
}

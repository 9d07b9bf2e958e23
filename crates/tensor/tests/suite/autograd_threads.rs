//! Tensors used from several threads.

use std::{sync::mpsc, thread, time::Duration};

use crate::common::compare::floats;
use kiln_tensor::{
    DType, OptimRule, OptimTensors, Result, Tensor, autograd::is_grad_enabled, no_grad, no_grad_guard, optimizer_step,
};

fn ones(n: usize) -> Tensor {
    Tensor::ones(n, DType::F64).unwrap()
}

/// Runs all jobs at once and fails (instead of hanging) if they wait for each other.
fn all_finish(jobs: Vec<Box<dyn FnOnce() + Send>>) {
    let (sender, receiver) = mpsc::channel();
    let count = jobs.len();
    for job in jobs {
        let sender = sender.clone();
        thread::spawn(move || {
            job();
            sender.send(()).unwrap();
        });
    }
    drop(sender);
    for done in 0..count {
        let waited = receiver.recv_timeout(Duration::from_secs(60));
        assert!(waited.is_ok(), "{done} of {count} threads finished: {waited:?}");
    }
}

#[test]
fn tensors_move_between_threads() -> Result<()> {
    let x = ones(3).requires_grad_(true)?;
    let y = {
        let x = x.clone();
        thread::spawn(move || x.mul(2)).join().unwrap()?
    };
    thread::spawn(move || y.sum(())?.backward()).join().unwrap()?;
    assert_eq!(floats(&x.grad().unwrap()), [2.0; 3]);
    Ok(())
}

#[test]
fn the_grad_mode_belongs_to_a_thread() {
    let _guard = no_grad_guard();
    assert!(!is_grad_enabled());
    thread::spawn(|| assert!(is_grad_enabled())).join().unwrap();
}

#[test]
fn crossed_in_place_additions_never_deadlock() {
    let (a, b) = (ones(64), ones(64));
    let crossed = |a: &Tensor, b: &Tensor| {
        let (a, b) = (a.clone(), b.clone());
        Box::new(move || {
            for _ in 0..2000 {
                a.add_(&b).unwrap();
                a.mul_(0.5).unwrap();
                a.copy_(&b).unwrap();
            }
        }) as Box<dyn FnOnce() + Send>
    };
    all_finish(vec![crossed(&a, &b), crossed(&b, &a), crossed(&a, &b), crossed(&b, &a)]);
}

#[test]
fn readers_in_any_order_and_writers_never_deadlock() {
    let (a, b) = (ones(64), ones(64));
    let read = |a: &Tensor, b: &Tensor| {
        let (a, b) = (a.clone(), b.clone());
        Box::new(move || (0..2000).for_each(|_| drop(a.mul(&b).unwrap()))) as Box<dyn FnOnce() + Send>
    };
    let write = |a: &Tensor, b: &Tensor| {
        let (a, b) = (a.clone(), b.clone());
        Box::new(move || (0..2000).for_each(|_| a.copy_(&b).unwrap())) as Box<dyn FnOnce() + Send>
    };
    all_finish(vec![read(&a, &b), read(&b, &a), write(&a, &b), write(&b, &a)]);
}

/// An optimizer that updates parameters while other threads evaluate the model ("Hogwild").
#[test]
fn optimizer_steps_and_forward_passes_never_deadlock() {
    let (a, b, grad) = (ones(64), ones(64), ones(64));
    let rule = OptimRule::Sgd { momentum: 0.0, dampening: 0.0, nesterov: false, weight_decay: 0.0, maximize: false };
    let step = |first: &Tensor, second: &Tensor| {
        let (first, second, grad) = (first.clone(), second.clone(), grad.clone());
        Box::new(move || {
            let lr = Tensor::full((), 1e-3, DType::F64).unwrap();
            let counts = [(); 2].map(|()| Tensor::zeros((), DType::I64).unwrap());
            for _ in 1..2000 {
                let slot = |param, count| OptimTensors { param, grad: &grad, states: &[], count, low: None };
                optimizer_step(&rule, &lr, None, &[slot(&first, &counts[0]), slot(&second, &counts[1])]).unwrap();
            }
        }) as Box<dyn FnOnce() + Send>
    };
    let read = |a: &Tensor, b: &Tensor| {
        let (a, b) = (a.clone(), b.clone());
        Box::new(move || (0..2000).for_each(|_| drop(a.mul(&b).unwrap()))) as Box<dyn FnOnce() + Send>
    };
    all_finish(vec![step(&a, &b), step(&b, &a), read(&a, &b), read(&b, &a)]);
}

#[test]
fn backward_passes_of_several_threads_add_up() -> Result<()> {
    let x = ones(3).requires_grad_(true)?;
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..50).for_each(|_| x.mul(2).unwrap().sum(()).unwrap().backward().unwrap()));
        }
    });
    assert_eq!(floats(&x.grad().unwrap()), [800.0; 3]);
    Ok(())
}

#[test]
fn one_retained_graph_is_walked_by_several_threads() -> Result<()> {
    let x = ones(3).requires_grad_(true)?;
    let loss = x.mul(&x)?.exp()?.sum(())?;
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..50).for_each(|_| loss.backward_retain_graph().unwrap()));
        }
    });
    let expected = 400.0 * 2.0 * 1f64.exp();
    assert!(floats(&x.grad().unwrap()).iter().all(|g| (g - expected).abs() < 1e-6));
    Ok(())
}

#[test]
fn no_update_is_lost() -> Result<()> {
    let x = ones(1).requires_grad_(true)?;
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..1000).for_each(|_| no_grad(|| x.add_(1)).unwrap()));
        }
    });
    assert_eq!(floats(&x), [4001.0]);
    Ok(())
}

//! Hooks and retained gradients.

use std::sync::Arc;

use kiln_tensor::{
    DType, Device, Error, Result, Tensor,
    autograd::{self, BackwardCtx, Function, FunctionCtx, apply},
};
use parking_lot::Mutex;

use super::{RETAIN, assert_error, constant, leaf};
use crate::common::compare::floats;

#[test]
fn a_leaf_hook_sees_the_whole_gradient_once() -> Result<()> {
    let x = leaf(&[1.0, 2.0]);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    x.register_hook(move |grad| {
        log.lock().push(floats(grad));
        Ok(None)
    })?;
    // Two paths lead to the leaf.
    x.mul(2)?.add(x.mul(3)?)?.sum(())?.backward()?;
    assert_eq!(*seen.lock(), [[5.0, 5.0]]);
    autograd::grad(&[&x.mul(2)?.add(&x)?.sum(())?], &[&x])?;
    assert_eq!(seen.lock().len(), 2);
    assert_eq!(floats(&x.grad().unwrap()), [5.0, 5.0]);
    Ok(())
}

#[test]
fn hooks_replace_gradients_and_can_be_removed() -> Result<()> {
    let x = leaf(&[1.0]);
    let y = x.mul(2)?;
    let doubled = y.register_hook(|grad| grad.mul(2).map(Some))?;
    y.register_hook(|grad| grad.add(1).map(Some))?;
    let z = y.mul(3)?.sum(())?;
    z.backward_retain_graph()?;
    // (3 * 2 + 1) * 2
    assert_eq!(floats(&x.grad().unwrap()), [14.0]);
    doubled.remove();
    x.zero_grad();
    z.backward_retain_graph()?;
    assert_eq!(floats(&x.grad().unwrap()), [8.0]);
    y.register_hook(|_| Tensor::zeros([2, 2], DType::F64).map(Some))?;
    assert_error(z.backward_retain_graph(), &["hook", "[1]", "[2, 2]"]);
    assert_error(constant(&[1.0]).register_hook(|_| Ok(None)), &["register_hook", "no gradients"]);
    Ok(())
}

#[test]
fn a_retained_gradient_is_what_flows_on() -> Result<()> {
    let x = leaf(&[1.0]);
    let y = x.mul(2)?;
    y.retain_grad()?;
    y.retain_grad()?; // asked for twice, kept once
    y.register_hook(|grad| grad.mul(10).map(Some))?;
    y.mul(3)?.sum(())?.backward()?;
    assert_eq!(floats(&y.grad().unwrap()), [30.0]);
    assert_eq!(floats(&x.grad().unwrap()), [60.0]);
    // `retain_grad` stays with the tensor through an in-place change.
    let y = x.mul(2)?;
    y.retain_grad()?;
    y.mul_(5)?;
    y.sum(())?.backward()?;
    assert_eq!(floats(&y.grad().unwrap()), [1.0]);
    assert_error(constant(&[1.0]).retain_grad(), &["retain_grad", "no gradients"]);
    Ok(())
}

#[test]
fn gradients_are_not_shared_by_accident() -> Result<()> {
    let (x, y) = (leaf(&[1.0, 2.0]), leaf(&[3.0, 4.0]));
    let cotangent = constant(&[1.0, 1.0]);
    x.add(&y)?.backward_with(&cotangent, RETAIN)?;
    x.grad().unwrap().fill_(7)?;
    assert_eq!(floats(&y.grad().unwrap()), [1.0, 1.0]);
    assert_eq!(floats(&cotangent), [1.0, 1.0]);
    // An identity hands the cotangent itself down to the leaf.
    let z = leaf(&[0.0, 0.0]);
    z.reshape([1, 2])?.backward_with(&cotangent.reshape([1, 2])?, RETAIN)?;
    z.grad().unwrap().fill_(9)?;
    assert_eq!(floats(&cotangent), [1.0, 1.0]);
    Ok(())
}

/// As PyTorch's `register_post_accumulate_grad_hook`: once a pass, after the last of
/// several gradients, while other leaves still wait for theirs.
#[test]
fn post_accumulate_hooks_see_whole_gradients() -> Result<()> {
    let leaf = |value: f32| Tensor::new([value, 2.0], Device::Cpu)?.requires_grad_(true);
    let (first, last, other) = (leaf(3.0)?, leaf(5.0)?, leaf(0.0)?);
    let calls = Arc::new(Mutex::new(Vec::new()));
    let watch = |name: &'static str, tensor: &Tensor, another: &Tensor| {
        let (calls, another) = (calls.clone(), another.clone());
        tensor.register_post_accumulate_grad_hook(move |leaf, pass| {
            let grad = leaf.grad().unwrap().to_vec::<f32>()?;
            calls.lock().push((name, grad, pass.reaches(&another)));
            let end = calls.clone();
            pass.at_end(move || {
                end.lock().push(("end", Vec::new(), false));
                Ok(())
            });
            Ok(())
        })
    };
    watch("first", &first, &last)?;
    let handle = watch("last", &last, &other)?;
    watch("other", &other, &first)?;
    // `last` is read three times, at the end and at the beginning.
    let forward = || first.mul(&last)?.mul(&last)?.add(&last)?.sum(());
    forward()?.backward()?;
    // d/dlast = 2 first last + 1, d/dfirst = last².
    let expected = [
        ("first", vec![25., 4.], true),
        ("last", vec![31., 9.], false),
        ("end", Vec::new(), false),
        ("end", Vec::new(), false),
    ];
    // The order among the two is that of the tape, which adds the last gradient of each in one node.
    let mut seen = std::mem::take(&mut *calls.lock());
    seen.sort_by_key(|(name, ..)| ["first", "last", "end"].iter().position(|known| known == name));
    assert_eq!(seen, expected);

    // Also beside a hook that changes the gradient, and no more after it is removed.
    handle.remove();
    first.zero_grad();
    first.register_hook(|grad| grad.mul(10.0).map(Some))?;
    forward()?.backward()?;
    let seen = std::mem::take(&mut *calls.lock());
    assert_eq!((seen[0].0, &seen[0].1, seen[1].0, seen.len()), ("first", &vec![250., 40.], "end", 2));
    // Gradients that are only returned are added to nothing.
    autograd::grad(&[&forward()?], &[&first])?;
    assert!(calls.lock().is_empty());
    Ok(())
}

#[test]
fn post_accumulate_hooks_of_leaves_that_get_fewer_gradients_than_edges_run_at_the_end() -> Result<()> {
    /// Hands on a gradient for its first input only.
    struct First;
    impl Function for First {
        fn name(&self) -> &str {
            "First"
        }
        fn forward(&self, _: &mut FunctionCtx, inputs: &[Tensor]) -> Result<Tensor> {
            inputs[0].add(&inputs[1])
        }
        fn backward(&self, _: &BackwardCtx, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
            Ok(vec![Some(grad.clone()), None])
        }
    }
    let leaf = |value: f32| Tensor::new(value, Device::Cpu)?.requires_grad_(true);
    let (x, y, calls) = (leaf(2.0)?, leaf(3.0)?, Arc::new(Mutex::new(Vec::new())));
    for (name, tensor) in [("x", &x), ("y", &y)] {
        let calls = calls.clone();
        tensor.register_post_accumulate_grad_hook(move |leaf, _| {
            calls.lock().push((name, leaf.grad().unwrap().item::<f32>()?));
            Ok(())
        })?;
    }
    // x has two edges, of which one brings a gradient; y has one, which brings none.
    apply(First, &[&x, &y.mul(&x)?])?.backward()?;
    assert_eq!(*calls.lock(), [("x", 1.0)]);
    // An error of a hook is that of the pass.
    x.register_post_accumulate_grad_hook(|_, _| Err(Error::argument("hook", "no")))?;
    assert_eq!(x.square()?.backward().unwrap_err().to_string(), "hook: no");
    assert!(x.square()?.register_post_accumulate_grad_hook(|_, _| Ok(())).is_err());
    assert!(x.detach().register_post_accumulate_grad_hook(|_, _| Ok(())).is_err());
    Ok(())
}

//! Gradients of a region of autocast: their dtypes, who sees them, second derivatives, custom functions.

use std::sync::{Arc, Mutex};

use kiln_tensor::{
    DType, Device, Result, Tensor, autocast,
    autograd::{self, BackwardCtx, BackwardOptions, Function, FunctionCtx, apply},
};

use super::{LOW, parameter, randn, values};

#[test]
fn gradients_arrive_in_the_parameters_dtype() -> Result<()> {
    for low in LOW {
        let (x, w, b) = (randn(&[5, 7]), parameter(&[3, 7]), parameter(&[3]));
        let loss = autocast(low, || x.linear(&w, Some(&b))?.square()?.mean(()))?;
        assert_eq!(loss.dtype(), DType::F32);
        loss.backward()?;
        let grads = [&w, &b].map(|t| t.grad().unwrap());
        assert_eq!(grads.each_ref().map(Tensor::dtype), [DType::F32; 2]);
        // The same, converted by hand; the backward pass may run in the region.
        let own = [&w, &b].map(|t| t.detach().requires_grad_(true).unwrap());
        let y = x.to_dtype(low)?.linear(&own[0].to_dtype(low)?, Some(&own[1].to_dtype(low)?))?;
        let loss = y.to_dtype(DType::F32)?.square()?.mean(())?;
        autocast(low, || loss.backward())?;
        for (grad, own) in grads.iter().zip(&own) {
            assert_eq!(values(grad), values(&own.grad().unwrap()));
        }
    }
    Ok(())
}

/// The loss of a linear layer in half precision.
fn loss(x: &Tensor, w: &Tensor, low: DType) -> Result<Tensor> {
    autocast(low, || x.linear(w, None)?.square()?.mean(()))
}

#[test]
fn gradients_are_converted_when_they_are_read() -> Result<()> {
    for low in LOW {
        let (x, w) = (randn(&[5, 7]), parameter(&[3, 7]));
        loss(&x, &w, low)?.backward()?;
        let computed = w.unconverted_grad().unwrap();
        assert_eq!(computed.dtype(), low);
        let grad = w.grad().unwrap();
        assert_eq!((grad.dtype(), values(&grad)), (DType::F32, values(&computed)));
        assert!(w.grad().unwrap().is_same(&grad) && w.unconverted_grad().unwrap().is_same(&grad), "only once");
        // What is added to it is added in f32: twice the gradient, and that of an operand that is not in the region.
        loss(&x, &w, low)?.backward()?;
        assert!(w.grad().unwrap().is_same(&grad), "in place");
        assert_eq!(values(&grad), values(&computed.to_dtype(DType::F32)?.mul(2.0)?));
        w.zero_grad();
        loss(&x, &w, low)?.backward()?;
        loss(&x, &w, low)?.backward()?;
        assert_eq!(values(&w.grad().unwrap()), values(&grad), "not read in between");
        // A sum that half precision would round.
        let other = randn(&[5, 7]);
        w.zero_grad();
        loss(&other, &w, low)?.backward()?;
        let want = w.grad().unwrap().add(&computed.to_dtype(DType::F32)?)?;
        assert_ne!(values(&want), values(&want.to_dtype(low)?), "{low}");
        w.zero_grad();
        loss(&x, &w, low)?.backward()?;
        loss(&other, &w, low)?.backward()?;
        assert_eq!((w.unconverted_grad().unwrap().dtype(), values(&w.grad().unwrap())), (DType::F32, values(&want)));
        for wide_first in [false, true] {
            w.zero_grad();
            let mut losses = [loss(&x, &w, low)?, w.mul(0.123)?.sum(())?];
            if wide_first {
                losses.reverse();
            }
            losses[0].add(&losses[1])?.backward()?;
            let want = computed.to_dtype(DType::F32)?.add(&w.detach().zeros_like()?.add(0.123)?)?;
            assert_eq!(
                (w.unconverted_grad().unwrap().dtype(), values(&w.grad().unwrap())),
                (DType::F32, values(&want))
            );
        }
    }
    Ok(())
}

#[test]
fn hooks_and_callers_see_gradients_in_the_parameters_dtype() -> Result<()> {
    let (x, w) = (randn(&[5, 7]), parameter(&[3, 7]));
    loss(&x, &w, DType::BF16)?.backward()?;
    let want = values(&w.grad().unwrap());
    w.zero_grad();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    let hook = w.register_hook(move |grad| {
        noted.lock().unwrap().push((grad.dtype(), values(grad)));
        Ok(Some(grad.mul(2.0)?))
    })?;
    let noted = seen.clone();
    let after = w.register_post_accumulate_grad_hook(move |w, _| {
        let grad = w.grad().unwrap();
        noted.lock().unwrap().push((grad.dtype(), values(&grad)));
        Ok(())
    })?;
    loss(&x, &w, DType::BF16)?.backward()?;
    let twice: Vec<f32> = want.iter().map(|value| value * 2.0).collect();
    assert_eq!(*seen.lock().unwrap(), [(DType::F32, want.clone()), (DType::F32, twice)]);
    hook.remove();
    w.zero_grad();
    seen.lock().unwrap().clear();
    loss(&x, &w, DType::BF16)?.backward()?;
    assert_eq!(*seen.lock().unwrap(), [(DType::F32, want.clone())]);
    after.remove();
    w.zero_grad();
    let [grad] = &autograd::grad(&[&loss(&x, &w, DType::BF16)?], &[&w])?[..] else { unreachable!("one input") };
    assert_eq!((grad.dtype(), values(grad)), (DType::F32, want.clone()));
    assert!(w.grad().is_none());
    // A pass that is recorded converts, and the conversion has a history.
    loss(&x, &w, DType::BF16)?.backward_with(&Tensor::ones((), Device::Cpu)?, BackwardOptions::create_graph())?;
    let grad = w.unconverted_grad().unwrap();
    assert_eq!((grad.dtype(), grad.requires_grad()), (DType::F32, true));
    Ok(())
}

#[test]
fn gradients_of_parameters_that_threads_share_are_added_up() -> Result<()> {
    let (x, w) = (randn(&[5, 7]), parameter(&[3, 7]));
    loss(&x, &w, DType::BF16)?.backward()?;
    let once = w.grad().unwrap().copy()?;
    for _ in 0..20 {
        w.zero_grad();
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    loss(&x, &w, DType::BF16).and_then(|loss| loss.backward()).unwrap();
                    w.grad().unwrap();
                });
            }
        });
        assert_eq!(values(&w.grad().unwrap()), values(&once.mul(4.0)?));
    }
    Ok(())
}

#[test]
fn second_derivatives() -> Result<()> {
    let (x, w) = (randn(&[3, 4]), parameter(&[4, 4]));
    let penalty = |explicit: bool, w: &Tensor| -> Result<Tensor> {
        let product = |x: &Tensor| {
            if explicit { x.to_dtype(DType::BF16)?.matmul(&w.to_dtype(DType::BF16)?) } else { x.matmul(w) }
        };
        let loss = if explicit {
            product(&product(&x)?.tanh()?)?.to_dtype(DType::F32)?.square()?.mean(())?
        } else {
            autocast(DType::BF16, || product(&product(&x)?.tanh()?)?.square()?.mean(()))?
        };
        let grad = autograd::grad_with(&[(loss, None)], &[w], BackwardOptions::create_graph())?.remove(0).unwrap();
        assert_eq!(grad.dtype(), DType::F32);
        grad.square()?.sum(())?.backward()?;
        Ok(w.grad().unwrap())
    };
    let got = penalty(false, &w)?;
    let want = penalty(true, &w.detach().requires_grad_(true)?)?;
    assert_eq!(got.dtype(), DType::F32);
    let scale = values(&want).iter().fold(0f32, |most, v| most.max(v.abs()));
    // The copies' gradients are summed in another order.
    assert!(values(&got.sub(&want)?).iter().all(|v| v.abs() < 0.03 * scale), "{got:?} {want:?}");
    assert!(scale > 0.0);
    Ok(())
}

/// `a · b`, whose gradient is written with products, too.
struct Product;

impl Function for Product {
    fn name(&self) -> &str {
        "Product"
    }

    fn forward(&self, ctx: &mut FunctionCtx, inputs: &[Tensor]) -> Result<Tensor> {
        inputs.iter().for_each(|input| ctx.save(input));
        inputs[0].matmul(&inputs[1])
    }

    fn backward(&self, ctx: &BackwardCtx<'_>, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let (a, b) = (ctx.saved(0)?, ctx.saved(1)?);
        Ok(vec![Some(grad.matmul(&b.t()?)?), Some(a.t()?.matmul(grad)?)])
    }
}

#[test]
fn custom_functions_run_in_the_region_in_both_directions() -> Result<()> {
    let (a, b) = (parameter(&[3, 4]), parameter(&[4, 2]));
    let y = autocast(DType::BF16, || apply(Product, &[&a, &b]))?;
    assert_eq!(y.dtype(), DType::BF16);
    y.sum(())?.backward()?;
    let grads = [&a, &b].map(|t| t.grad().unwrap());
    assert_eq!(grads.each_ref().map(Tensor::dtype), [DType::F32; 2]);
    let (own_a, own_b) = (a.detach().requires_grad_(true)?, b.detach().requires_grad_(true)?);
    autocast(DType::BF16, || own_a.matmul(&own_b)?.sum(()))?.backward()?;
    assert_eq!(grads.each_ref().map(values), [own_a, own_b].map(|t| values(&t.grad().unwrap())));
    // Outside of regions the dtypes stay those that there are.
    assert_eq!(apply(Product, &[&a, &b])?.dtype(), DType::F32);
    Ok(())
}

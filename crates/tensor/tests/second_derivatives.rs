//! Gradients of gradients: a recorded backward pass with hooks, accumulation, custom functions and in-place changes,
//! and the derivatives of `autograd::functional` against formulas. (`gradcheck` compares every operation with finite
//! differences.)

#![cfg(feature = "cpu")]

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use kiln_tensor::{
    DType, Device, Result, Tensor,
    autograd::{
        BackwardCtx, BackwardOptions, Function, FunctionCtx, apply, grad, grad_with, gradgradcheck, hessian, hvp,
        jacobian, jvp, no_grad, vjp,
    },
};

fn leaf(values: &[f64]) -> Tensor {
    Tensor::new(values, Device::Cpu).unwrap().requires_grad_(true).unwrap()
}

/// The gradient of `y` by `x`, recorded.
fn slope(y: &Tensor, x: &Tensor) -> Result<Tensor> {
    Ok(grad_with(&[(y.clone(), None)], &[x], BackwardOptions::create_graph())?.swap_remove(0).unwrap())
}

fn values(t: &Tensor) -> Vec<f64> {
    t.to_vec().unwrap()
}

#[test]
fn derivatives_of_derivatives() -> Result<()> {
    let x = leaf(&[2.0]);
    let mut y = x.pow(4)?.sum(())?;
    for expected in [32.0, 48.0, 48.0, 24.0] {
        y = slope(&y, &x)?.sum(())?;
        assert_eq!(values(&y), [expected]);
    }
    assert!(x.grad().is_none());
    Ok(())
}

#[test]
fn gradients_of_leaves_have_a_history_and_add_up() -> Result<()> {
    let x = leaf(&[3.0]);
    x.pow(3)?.sum(())?.backward_with(&Tensor::ones((), DType::F64)?, BackwardOptions::create_graph())?;
    let first = x.grad().unwrap();
    assert!(first.requires_grad());
    x.pow(2)?.sum(())?.backward_with(&Tensor::ones((), DType::F64)?, BackwardOptions::create_graph())?;
    // 3x² + 2x; the first gradient is still what it was.
    let sum = x.grad().unwrap();
    assert_eq!((values(&first), values(&sum)), (vec![27.0], vec![33.0]));
    x.zero_grad();
    sum.sum(())?.backward()?;
    assert_eq!(values(&x.grad().unwrap()), [20.0]);
    assert!(!x.grad().unwrap().requires_grad());
    // Without `create_graph` there is nothing to differentiate, and the error says how.
    x.zero_grad();
    x.pow(3)?.sum(())?.backward()?;
    let error = x.grad().unwrap().sum(())?.backward().unwrap_err().to_string();
    assert!(error.contains("create_graph"), "{error}");
    Ok(())
}

#[test]
fn a_cotangent_is_differentiated_too() -> Result<()> {
    let (x, v) = (leaf(&[1.0, 2.0]), leaf(&[3.0, 4.0]));
    let y = x.square()?;
    let products = grad_with(&[(y, Some(v.clone()))], &[&x], BackwardOptions::create_graph())?.swap_remove(0).unwrap();
    let grads = grad(&[&products.sum(())?], &[&x, &v])?;
    assert_eq!((values(&grads[0]), values(&grads[1])), (vec![6.0, 8.0], vec![2.0, 4.0]));
    Ok(())
}

/// A fused operation is computed again from others, whose passes end before hooks of its inputs.
#[test]
fn hooks_are_called_once_a_pass() -> Result<()> {
    let x = leaf(&[1.0, 2.0, 4.0]);
    let hidden = x.mul(2)?.reshape([1, 3])?;
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = calls.clone();
    let _hook = hidden.register_hook(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(None)
    })?;
    let y = hidden.layer_norm(&[3], None, None, 1e-5)?.pow(3)?.sum(())?;
    let first = slope(&y, &x)?;
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    slope(&first.square()?.sum(())?, &x)?;
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    Ok(())
}

#[test]
fn what_was_changed_in_place_is_an_error_the_second_time() -> Result<()> {
    let x = leaf(&[1.0, 2.0]);
    let y = x.mul(3)?;
    let z = y.exp()?;
    let first = slope(&z.sum(())?, &x)?;
    no_grad(|| z.zero_())?;
    let error = grad(&[&first.sum(())?], &[&x]).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains("changed by an in-place operation"), "{error}");
    Ok(())
}

/// Views that were written to, whose gradients go through the base.
#[test]
fn changes_through_views_have_second_derivatives() -> Result<()> {
    let x = leaf(&[0.5, -1.0, 2.0, 3.0, 0.25, 1.0]);
    gradgradcheck(
        |x| {
            let y = x[0].mul(&x[0])?.reshape([2, 3])?;
            let row = y.select(0, 1)?;
            row.mul_(&y.select(0, 0)?.copy()?)?;
            let column = y.t()?.select(0, 2)?;
            column.mul_(&column.copy()?.sin()?)?;
            y.mul(&y)?.add(&row)
        },
        &[&x],
    )
}

struct Cube {
    /// Save `x²` instead of `x`.
    saves_square: bool,
}

impl Function for Cube {
    fn name(&self) -> &str {
        "Cube"
    }
    fn forward(&self, ctx: &mut FunctionCtx, inputs: &[Tensor]) -> Result<Tensor> {
        let square = inputs[0].square()?;
        ctx.save(if self.saves_square { &square } else { &inputs[0] });
        square.mul(&inputs[0])
    }
    fn backward(&self, ctx: &BackwardCtx, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let saved = ctx.saved(0)?;
        let square = if self.saves_square { saved } else { saved.square()? };
        Ok(vec![Some(square.mul(3)?.mul(grad)?)])
    }
}

#[test]
fn functions_of_the_user() -> Result<()> {
    let x = leaf(&[2.0, -1.0]);
    gradgradcheck(|x| apply(Cube { saves_square: false }, &[&x[0].mul(2)?]), &[&x])?;
    let y = apply(Cube { saves_square: true }, &[&x])?.sum(())?;
    assert_eq!(
        values(&grad_with(&[(y.clone(), None)], &[&x], BackwardOptions::retain_graph())?[0].clone().unwrap()),
        [12.0, 3.0]
    );
    // How x² depends on x is not known.
    let error = slope(&y, &x).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains("CubeBackward") && error.contains("create_graph"), "{error}");
    Ok(())
}

#[test]
fn jacobians_and_products() -> Result<()> {
    // f(x, y) = [x₀ y, x₀ x₁]
    let f = |t: &[Tensor]| {
        let (x, y) = (&t[0], &t[1]);
        Tensor::stack(&[x.select(0, 0)?.mul(y)?, x.select(0, 0)?.mul(&x.select(0, 1)?)?], 0)
    };
    let (x, y) = (Tensor::new(&[2f64, 3.], Device::Cpu)?, Tensor::new(5f64, Device::Cpu)?);
    let j = jacobian(f, &[&x, &y])?;
    assert_eq!((j[0].dims(), j[1].dims()), (&[2, 2][..], &[2][..]));
    assert_eq!((values(&j[0]), values(&j[1])), (vec![5., 0., 3., 2.], vec![2., 0.]));
    assert!(!j[0].requires_grad());
    let v = Tensor::new(&[1f64, 10.], Device::Cpu)?;
    let (out, products) = vjp(f, &[&x, &y], Some(&v))?;
    assert_eq!((values(&out), values(&products[0]), values(&products[1])), (vec![10., 6.], vec![35., 20.], vec![2.]));
    let (out, derivative) = jvp(f, &[&x, &y], &[&v, &Tensor::new(100f64, Device::Cpu)?])?;
    assert_eq!((values(&out), values(&derivative)), (vec![10., 6.], vec![205., 23.]));
    Ok(())
}

#[test]
fn hessians_and_products() -> Result<()> {
    // f(x, y) = x₀² y + x₁³
    let f = |t: &[Tensor]| t[0].select(0, 0)?.square()?.mul(&t[1])?.add(&t[0].select(0, 1)?.pow(3)?);
    let (x, y) = (Tensor::new(&[2f64, 3.], Device::Cpu)?, Tensor::new(5f64, Device::Cpu)?);
    let h = hessian(f, &[&x, &y])?;
    assert_eq!((values(&h[0][0]), values(&h[0][1])), (vec![10., 0., 0., 18.], vec![4., 0.]));
    assert_eq!((values(&h[1][0]), values(&h[1][1])), (vec![4., 0.], vec![0.]));
    let (v, w) = (Tensor::new(&[1f64, 2.], Device::Cpu)?, Tensor::new(3f64, Device::Cpu)?);
    let (out, products) = hvp(f, &[&x, &y], &[&v, &w])?;
    assert_eq!((values(&out), values(&products[0]), values(&products[1])), (vec![47.], vec![22., 36.], vec![4.]));
    // Of inputs that require gradients the result is recorded.
    let x = leaf(&[2.0, 3.0]);
    let (_, products) = hvp(f, &[&x, &y], &[&v, &w])?;
    assert_eq!(values(&grad(&[&products[0].sum(())?], &[&x])?[0]), [6., 12.]);
    Ok(())
}

#[test]
fn what_does_not_fit_is_an_error() -> Result<()> {
    let x = Tensor::new(&[2f64, 3.], Device::Cpu)?;
    assert!(hessian(|x| x[0].square(), &[&x]).is_err());
    assert!(hvp(|x| x[0].sum(()), &[&x], &[]).is_err());
    assert!(jvp(|x| x[0].sum(()), &[&x], &[&x.narrow(0, 0, 1)?]).is_err());
    assert!(jacobian(|x| x[0].add(1), &[&x.to_dtype(DType::I64)?]).is_err());
    // A function that does not depend on its inputs has derivatives of 0.
    assert_eq!(values(&hessian(|_| Tensor::ones((), DType::F64), &[&x])?[0][0]), [0.; 4]);
    Ok(())
}

/// Where two operations draw the same mask or choose the same elements again.
#[test]
fn draws_and_choices_are_the_same_both_times() -> Result<()> {
    let x = Tensor::rand([4, 5], DType::F64)?.requires_grad_(true)?;
    kiln_tensor::manual_seed(3);
    let y = x.square()?.dropout(0.5, true)?;
    let kept = y.ne(0)?.to_dtype(DType::F64)?;
    let first = slope(&y.mul(&x)?.sum(())?, &x)?;
    // Kept elements are doubled: the function is 2x³ there.
    let second = grad(&[&first.sum(())?], &[&x])?.swap_remove(0);
    assert!(second.allclose(&x.mul(12)?.mul(&kept)?, 1e-12, 1e-12)?);
    Ok(())
}

/// The branch of a function that is not taken has infinite slopes here, which must not meet the gradient of 0.
#[test]
fn branches_that_are_not_taken_do_not_overflow() -> Result<()> {
    let functions: [fn(&Tensor) -> Result<Tensor>; 5] = [
        |x| x.elu(1.0),
        |x| x.celu(1.0),
        |x| x.selu(),
        |x| x.abs()?.pow(&Tensor::new(&[2f64, 0.], Device::Cpu)?),
        |x| x.atan2(&Tensor::new(&[1f64, 0.], Device::Cpu)?),
    ];
    for (i, f) in functions.iter().enumerate() {
        let x = leaf(&[1000.0, 0.0]);
        let first = slope(&f(&x)?.sum(())?, &x)?;
        let second = values(&grad(&[&first.sum(())?], &[&x])?[0]);
        assert!(second.iter().all(|value| value.is_finite()), "function {i}: {second:?}");
    }
    Ok(())
}

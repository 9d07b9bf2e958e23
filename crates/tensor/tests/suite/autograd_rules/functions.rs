//! Functions with the user's own gradients.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use kiln_tensor::{
    DType, Error, Result, Tensor,
    autograd::{BackwardCtx, Function, FunctionCtx, apply, gradcheck},
    no_grad,
};

use super::{assert_error, constant, leaf};
use crate::common::compare::floats;

/// x · y with its gradient written by hand.
struct Product {
    backward_calls: Arc<AtomicUsize>,
}

impl Function for Product {
    fn name(&self) -> &str {
        "Product"
    }
    fn forward(&self, ctx: &mut FunctionCtx, inputs: &[Tensor]) -> Result<Tensor> {
        inputs.iter().for_each(|input| ctx.save(input));
        inputs[0].mul(&inputs[1])
    }
    fn backward(&self, ctx: &BackwardCtx, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        self.backward_calls.fetch_add(1, Ordering::Relaxed);
        let first = if ctx.needs(0) { Some(grad.mul(ctx.saved(1)?)?) } else { None };
        let second = if ctx.needs(1) { Some(grad.mul(ctx.saved(0)?)?) } else { None };
        Ok(vec![first, second])
    }
}

/// Passes its input on; `backward` does what the closure says.
struct Identity(fn(&Tensor) -> Result<Vec<Option<Tensor>>>);

impl Function for Identity {
    fn name(&self) -> &str {
        "Identity"
    }
    fn forward(&self, _: &mut FunctionCtx, inputs: &[Tensor]) -> Result<Tensor> {
        Ok(inputs[0].clone())
    }
    fn backward(&self, _: &BackwardCtx, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        (self.0)(grad)
    }
}

#[test]
fn custom_functions_are_part_of_the_graph() -> Result<()> {
    let calls = Arc::new(AtomicUsize::new(0));
    let product = |inputs: &[Tensor]| {
        apply(Product { backward_calls: calls.clone() }, &[&inputs[0], &inputs[1]])?.mul(&inputs[0])
    };
    gradcheck(product, &[&constant(&[1.0, 2.0]), &constant(&[3.0, 4.0])])?;
    assert!(calls.load(Ordering::Relaxed) > 0);
    let (x, y) = (leaf(&[1.0]), constant(&[2.0]));
    let out = apply(Product { backward_calls: calls.clone() }, &[&x, &y])?;
    assert_eq!(out.grad_fn().unwrap().name(), "ProductBackward");
    let inside = no_grad(|| apply(Product { backward_calls: calls.clone() }, &[&x, &y]))?;
    assert!(!inside.requires_grad());
    no_grad(|| y.add_(1))?;
    assert_error(out.backward(), &["ProductBackward", "in-place"]);
    Ok(())
}

#[test]
fn gradient_reversal_and_wrong_gradients() -> Result<()> {
    let x = leaf(&[1.0, 2.0]);
    let reversed = apply(Identity(|grad| Ok(vec![Some(grad.neg()?)])), &[&x])?;
    assert!(!reversed.is_leaf() && x.is_leaf());
    reversed.sum(())?.backward()?;
    assert_eq!(floats(&x.grad().unwrap()), [-1.0, -1.0]);
    // The output shares the input's memory: changing it in place would go past the input's history.
    assert_error(apply(Identity(|_| Ok(vec![None])), &[&x])?.add_(1), &["add_"]);
    let run = |f| apply(Identity(f), &[&x])?.sum(())?.backward();
    assert_error(run(|_| Ok(vec![])), &["IdentityBackward", "0 gradients for 1 inputs"]);
    assert_error(run(|_| Ok(vec![Some(Tensor::zeros(3, DType::F64)?)])), &["IdentityBackward", "[3]", "[2]"]);
    assert_error(run(|grad| Ok(vec![Some(grad.to_dtype(DType::F32)?)])), &["IdentityBackward", "f32", "f64"]);
    assert_error(run(|_| Err(Error::argument("mine", "went wrong"))), &["mine: went wrong"]);
    run(|_| Ok(vec![None]))
}

#[test]
fn gradcheck_finds_wrong_gradients() -> Result<()> {
    let x = constant(&[1.0, 2.0]);
    let wrong = |inputs: &[Tensor]| apply(Identity(|grad| Ok(vec![Some(grad.mul(1.01)?)])), &[&inputs[0]]);
    assert_error(gradcheck(wrong, &[&x]), &["gradcheck", "input 0", "element 0", "1.01", "differences"]);
    let missing = |inputs: &[Tensor]| apply(Identity(|_| Ok(vec![None])), &[&inputs[0]])?.add(&inputs[0].mul(0)?);
    assert_error(gradcheck(missing, &[&x]), &["is 0 by"]);
    assert_error(gradcheck(|inputs| inputs[0].detach().mul(2), &[&x]), &["does not depend"]);
    assert_error(gradcheck(|inputs| inputs[0].mul(2), &[&x.to_dtype(DType::F32)?]), &["f64"]);
    gradcheck(|inputs| inputs[0].mul(2), &[&x])
}

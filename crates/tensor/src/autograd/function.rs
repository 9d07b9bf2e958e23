//! Custom operations: written by the user, with their own gradient.

use std::{borrow::Cow, sync::Arc};

use kiln_backend::{Error, Result};
use kiln_derive::located;

use super::{
    anomaly::ResultsUnseen,
    mode::{GradModeGuard, grad_enabled, no_grad},
    record::record_node,
    rule::Ctx,
};
use crate::{
    autocast::{autocast_dtype, restored},
    tensor::Tensor,
};

/// An operation with a custom gradient, like `torch.autograd.Function`. Both passes are written with tensor operations,
/// so it runs on every device; [`apply`] calls it.
///
/// ```
/// use kiln_tensor::{Device, Result, Tensor, autograd::{BackwardCtx, Function, FunctionCtx, apply}};
///
/// /// x², with its gradient written by hand.
/// struct Square;
///
/// impl Function for Square {
///     fn name(&self) -> &str { "Square" }
///     fn forward(&self, ctx: &mut FunctionCtx, inputs: &[Tensor]) -> Result<Tensor> {
///         ctx.save(&inputs[0]);
///         inputs[0].mul(&inputs[0])
///     }
///     fn backward(&self, ctx: &BackwardCtx, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
///         Ok(vec![Some(ctx.saved(0)?.mul(2.0)?.mul(grad)?)])
///     }
/// }
///
/// # fn main() -> Result<()> {
/// let x = Tensor::new(&[3.0f32], Device::Cpu)?.requires_grad_(true)?;
/// apply(Square, &[&x])?.backward()?;
/// assert_eq!(x.grad().unwrap().to_vec::<f32>()?, [6.0]);
/// # Ok(())
/// # }
/// ```
pub trait Function: Send + Sync + 'static {
    /// The name; the graph shows it with `Backward` appended.
    fn name(&self) -> &str;

    /// Computes the output. Nothing inside is recorded. [Save](FunctionCtx::save) what `backward` needs.
    ///
    /// # Errors
    /// Any error of the computation.
    fn forward(&self, ctx: &mut FunctionCtx, inputs: &[Tensor]) -> Result<Tensor>;

    /// The gradient of every input (`None` where there is none), from the gradient of the output.
    ///
    /// If the operation was called in a region of [`autocast`](crate::autocast()), this runs in such a region as well
    /// (PyTorch's `custom_bwd`), and gradients are converted to the dtypes of the inputs.
    ///
    /// With [`create_graph`](super::BackwardOptions::create_graph) its operations are recorded, and a saved tensor has its
    /// history if it is an input or the output.
    ///
    /// # Errors
    /// Any error of the computation.
    fn backward(&self, ctx: &BackwardCtx, grad: &Tensor) -> Result<Vec<Option<Tensor>>>;
}

/// The context of [`Function::forward`], which saves tensors for the backward pass.
#[derive(Default)]
pub struct FunctionCtx {
    saved: Vec<Tensor>,
}

impl FunctionCtx {
    /// Saves a tensor for the backward pass, where [`BackwardCtx::saved`] returns it by its index.
    pub fn save(&mut self, tensor: &Tensor) {
        self.saved.push(tensor.clone());
    }
}

/// The context of [`Function::backward`]: saved tensors, and which gradients are needed.
pub struct BackwardCtx<'a>(&'a Ctx<'a>);

impl BackwardCtx<'_> {
    /// The saved tensor with index `i`.
    ///
    /// # Errors
    /// If there is none; if it was changed in place since; or if the pass computes gradients of gradients
    /// ([`create_graph`](super::BackwardOptions::create_graph)) and it is a floating-point tensor that is neither an input
    /// nor the output, so that its history is not known: save inputs, and recompute it from them.
    pub fn saved(&self, i: usize) -> Result<Tensor> {
        self.0.saved(i)
    }

    /// Whether the gradient of input `i` is needed; otherwise it may be `None`.
    #[must_use]
    pub fn needs(&self, i: usize) -> bool {
        self.0.needs(i)
    }
}

/// Calls a [`Function`] and records it.
///
/// # Errors
/// Those of `forward`; or if the output has a history that `forward` did not record.
#[located(site)]
pub fn apply<F: Function>(function: F, inputs: &[&Tensor]) -> Result<Tensor> {
    let mut ctx = FunctionCtx::default();
    let owned: Vec<Tensor> = inputs.iter().map(|t| t.detach()).collect();
    let out = {
        let _guard = GradModeGuard::new(false);
        // Anomaly mode looks at what it returns.
        let _unseen = ResultsUnseen::new();
        function.forward(&mut ctx, &owned)?
    };
    if grad_enabled() && out.requires_grad() {
        let message = "`forward` returned a tensor that has a history of its own; return a new one";
        return Err(Error::autograd(function.name(), message));
    }
    // A separate tensor, even where `forward` returned an input or a view of one. Such a view must not be changed in
    // place while recording, since the input's history would not include the change.
    let out = match inputs.iter().find(|input| input.shares_memory(&out)) {
        Some(input) => no_grad(|| input.alias(*out.layout())),
        None => out.detach(),
    };
    // A saved input is the caller's tensor, with its history.
    let as_input = |tensor: &Tensor| owned.iter().position(|own| own.is_same(tensor));
    let saved: Vec<&Tensor> = ctx.saved.iter().map(|t| as_input(t).map_or(t, |i| inputs[i])).collect();
    let (name, function) = (Cow::Owned(format!("{}Backward", function.name())), Arc::new(function));
    let (low, dtypes) = (autocast_dtype(), inputs.iter().map(|input| input.dtype()).collect::<Vec<_>>());
    record_node(out, name, inputs, &saved, None, move |ctx| {
        let _region = low.map(|low| restored(Some(low)));
        let grads = function.backward(&BackwardCtx(ctx), &ctx.grad()?)?;
        // In a region operations choose the dtype, and the gradient may have another one than the input.
        let converted = |(i, grad): (usize, Option<Tensor>)| match (grad, dtypes.get(i)) {
            (Some(grad), Some(&dtype)) if low.is_some() => grad.to_dtype(dtype).map(Some),
            (grad, _) => Ok(grad),
        };
        grads.into_iter().enumerate().map(converted).collect()
    })
}

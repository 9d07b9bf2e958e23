//! Derivatives of functions of tensors: Jacobians, Hessians and their products with vectors, as in
//! `torch.autograd.functional` (<https://docs.pytorch.org/docs/stable/autograd.html#functional-higher-level-api>).
//!
//! The functions are called with tensors that share the inputs' memory and require gradients, and no tensor's
//! [`grad`](Tensor::grad) changes. The results are recorded if recording is on and an input has a history or requires
//! gradients, as with PyTorch's `create_graph=True`; to avoid this, call them in [`no_grad`](super::no_grad).

use kiln_backend::{Error, Result};
use kiln_derive::located;

use super::{
    engine::grad_with,
    mode::enable_grad,
    options::BackwardOptions,
    record::{is_recorded, record},
    rule::one,
};
use crate::tensor::Tensor;

/// A call of a function with inputs to differentiate with respect to.
struct Call {
    inputs: Vec<Tensor>,
    output: Tensor,
    /// Whether the results are recorded.
    recorded: bool,
}

impl Call {
    fn new(op: &'static str, f: impl FnOnce(&[Tensor]) -> Result<Tensor>, inputs: &[&Tensor]) -> Result<Call> {
        let recorded = is_recorded(inputs);
        if let Some(input) = inputs.iter().find(|input| !input.dtype().is_float()) {
            return Err(Error::dtype(op, input.dtype(), "only floating-point tensors have derivatives"));
        }
        enable_grad(|| {
            let inputs = inputs.iter().map(|input| variable(input, recorded)).collect::<Result<Vec<_>>>()?;
            let output = f(&inputs)?;
            Ok(Call { inputs, output, recorded })
        })
    }

    /// The gradients with respect to all inputs; zeros where the output does not depend on an input.
    fn gradients(&self, cotangent: Option<&Tensor>, options: BackwardOptions) -> Result<Vec<Tensor>> {
        gradients(&self.output, cotangent, &self.inputs.iter().collect::<Vec<_>>(), options)
    }

    fn options(&self) -> BackwardOptions {
        if self.recorded { BackwardOptions::create_graph() } else { BackwardOptions::retain_graph() }
    }

    fn scalar_output(&self, op: &'static str) -> Result<()> {
        if self.output.numel() == 1 {
            return Ok(());
        }
        Err(Error::shape(op, "a function whose result has one element", self.output.shape()))
    }
}

/// The input as a variable to differentiate with respect to, with or without its history.
fn variable(input: &Tensor, recorded: bool) -> Result<Tensor> {
    if recorded && input.requires_grad() {
        return record(input.detach(), "AliasBackward0", &[input], &[], |ctx| Ok(one(ctx.grad()?)));
    }
    input.detach().requires_grad_(true)
}

fn gradients(
    output: &Tensor,
    cotangent: Option<&Tensor>,
    inputs: &[&Tensor],
    options: BackwardOptions,
) -> Result<Vec<Tensor>> {
    if !output.requires_grad() {
        return inputs.iter().map(|input| input.zeros_like()).collect();
    }
    let found = grad_with(&[(output.clone(), cotangent.cloned())], inputs, options)?;
    found.into_iter().zip(inputs).map(|(grad, input)| grad.map_or_else(|| input.zeros_like(), Ok)).collect()
}

/// The vector-Jacobian product: the result of `f`, and for each input the gradient of `sum(v * f(inputs))`. `v` has the
/// shape of the result; `None` stands for 1 if the result has one element. PyTorch's `autograd.functional.vjp`.
///
/// ```
/// use kiln_tensor::{Device, Tensor, autograd::vjp};
///
/// let x = Tensor::new(&[1f32, 2.], Device::Cpu)?;
/// let (y, grads) = vjp(|x| x[0].square(), &[&x], Some(&x))?;
/// assert_eq!((y.to_vec::<f32>()?, grads[0].to_vec::<f32>()?), (vec![1., 4.], vec![2., 8.]));
/// # Ok::<(), kiln_tensor::Error>(())
/// ```
///
/// # Errors
/// If an input is not floating-point, `f` fails, or `v` does not have the result's shape, dtype and device.
#[located(site)]
pub fn vjp(
    f: impl FnOnce(&[Tensor]) -> Result<Tensor>,
    inputs: &[&Tensor],
    v: Option<&Tensor>,
) -> Result<(Tensor, Vec<Tensor>)> {
    let call = Call::new("vjp", f, inputs)?;
    let grads = call.gradients(v, call.options())?;
    Ok((if call.recorded { call.output } else { call.output.detach() }, grads))
}

/// The Jacobian-vector product: the result of `f`, and its derivative along `v`, which has a tensor of each input's
/// shape. Computed with the double-backward trick (two backward passes), as in PyTorch's `autograd.functional.jvp`.
///
/// # Errors
/// If an input is not floating-point, `f` fails or uses an operation whose gradient is not differentiable, or `v` does
/// not fit the inputs.
#[located(site)]
pub fn jvp(f: impl FnOnce(&[Tensor]) -> Result<Tensor>, inputs: &[&Tensor], v: &[&Tensor]) -> Result<(Tensor, Tensor)> {
    fits("jvp", inputs, v)?;
    let call = Call::new("jvp", f, inputs)?;
    let out = if call.recorded { call.output.clone() } else { call.output.detach() };
    // `uᵀJ` is linear in u: its own vector-Jacobian product with v is Jv.
    let u = call.output.detach().zeros_like()?.requires_grad_(true)?;
    let products = call.gradients(Some(&u), BackwardOptions::create_graph())?;
    let along = enable_grad(|| sum_of_products(&products, v))?;
    let derivative = gradients(&along, None, &[&u], call.options())?.swap_remove(0);
    Ok((out, derivative))
}

/// The Jacobian: for each input, the derivative of every element of the result of `f` with respect to every element of
/// the input. Its shape is the result's followed by the input's. One backward pass per element of the result. PyTorch's
/// `autograd.functional.jacobian`.
///
/// # Errors
/// If an input is not floating-point, `f` fails, or the two shapes together have more than 8 dimensions.
#[located(site)]
pub fn jacobian(f: impl FnOnce(&[Tensor]) -> Result<Tensor>, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
    let call = Call::new("jacobian", f, inputs)?;
    rows(&call.output, &call.inputs.iter().collect::<Vec<_>>(), call.options())
}

/// The Hessian of a function whose result has one element: `[i][j]` is the derivative of the gradient of input `i` with
/// respect to input `j`. Its shape is that of input `i` followed by that of input `j`. PyTorch's
/// `autograd.functional.hessian`.
/// ```
/// use kiln_tensor::{Device, Tensor, autograd::hessian};
///
/// let x = Tensor::new(&[1f32, 2.], Device::Cpu)?;
/// let h = hessian(|x| x[0].pow(3)?.sum(()), &[&x])?;
/// assert_eq!(h[0][0].to_vec::<f32>()?, [6., 0., 0., 12.]);
/// # Ok::<(), kiln_tensor::Error>(())
/// ```
///
/// # Errors
/// Those of [`jacobian`]; or if the result has more than one element, or `f` uses an operation whose gradient is not
/// differentiable.
#[located(site)]
pub fn hessian(f: impl FnOnce(&[Tensor]) -> Result<Tensor>, inputs: &[&Tensor]) -> Result<Vec<Vec<Tensor>>> {
    let call = Call::new("hessian", f, inputs)?;
    call.scalar_output("hessian")?;
    let slopes = call.gradients(None, BackwardOptions::create_graph())?;
    let inputs: Vec<&Tensor> = call.inputs.iter().collect();
    slopes.iter().map(|slope| rows(slope, &inputs, call.options())).collect()
}

/// The Hessian-vector product of a function whose result has one element: that result, and for each input the
/// derivative of the gradient along `v`, which has a tensor of each input's shape. Two backward passes, without
/// computing the Hessian. PyTorch's `autograd.functional.vhp` (and `hvp`, since the Hessian is symmetric).
///
/// # Errors
/// Those of [`hessian`]; or if `v` does not fit the inputs.
#[located(site)]
pub fn hvp(
    f: impl FnOnce(&[Tensor]) -> Result<Tensor>,
    inputs: &[&Tensor],
    v: &[&Tensor],
) -> Result<(Tensor, Vec<Tensor>)> {
    fits("hvp", inputs, v)?;
    let call = Call::new("hvp", f, inputs)?;
    call.scalar_output("hvp")?;
    let slopes = call.gradients(None, BackwardOptions::create_graph())?;
    let along = enable_grad(|| sum_of_products(&slopes, v))?;
    let products = gradients(&along, None, &call.inputs.iter().collect::<Vec<_>>(), call.options())?;
    Ok((if call.recorded { call.output } else { call.output.detach() }, products))
}

fn fits(op: &'static str, inputs: &[&Tensor], v: &[&Tensor]) -> Result<()> {
    if inputs.len() != v.len() {
        return Err(Error::argument(op, format!("{} vectors for {} inputs", v.len(), inputs.len())));
    }
    for (input, v) in inputs.iter().zip(v) {
        if input.shape() != v.shape() {
            return Err(Error::shapes(op, input.shape(), v.shape(), "a vector must have the shape of its input"));
        }
    }
    Ok(())
}

fn sum_of_products(slopes: &[Tensor], v: &[&Tensor]) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    for (slope, v) in slopes.iter().zip(v) {
        let product = slope.mul(v)?.sum(())?;
        sum = Some(match sum {
            Some(sum) => sum.add(&product)?,
            None => product,
        });
    }
    sum.ok_or_else(|| Error::argument("hvp", "there are no inputs"))
}

/// The gradients of each element of `output`, stacked.
fn rows(output: &Tensor, inputs: &[&Tensor], options: BackwardOptions) -> Result<Vec<Tensor>> {
    let n = output.numel();
    let mut found: Vec<Vec<Tensor>> = vec![Vec::with_capacity(n); inputs.len()];
    for element in 0..n {
        let cotangent = Tensor::zeros([n], output.options())?;
        cotangent.narrow(0, element, 1)?.fill_(1)?;
        let grads = gradients(output, Some(&cotangent.reshape(output.shape())?), inputs, options)?;
        found.iter_mut().zip(grads).for_each(|(rows, grad)| rows.push(grad));
    }
    let stacked = |(rows, input): (Vec<Tensor>, &&Tensor)| {
        let dims: Vec<usize> = output.dims().iter().chain(input.dims()).copied().collect();
        if rows.is_empty() {
            Tensor::zeros(&dims[..], input.options())
        } else {
            Tensor::stack(&rows, 0)?.reshape(&dims[..])
        }
    };
    found.into_iter().zip(inputs).map(stacked).collect()
}

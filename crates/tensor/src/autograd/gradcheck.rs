//! Gradient checking: compares gradients with finite differences.

use kiln_backend::{DType, Error, Result};
use kiln_derive::located;

use super::{
    engine::grad_with,
    mode::{enable_grad, no_grad},
    options::BackwardOptions,
};
use crate::tensor::Tensor;

const OP: &str = "gradcheck";

/// Tolerances of a gradient check. The defaults are PyTorch's.
#[derive(Clone, Copy, Debug)]
pub struct GradcheckOptions {
    /// How far each element is moved in either direction.
    pub eps: f64,
    /// The permitted absolute difference.
    pub atol: f64,
    /// The permitted difference relative to the numerical gradient.
    pub rtol: f64,
}

impl Default for GradcheckOptions {
    fn default() -> Self {
        GradcheckOptions { eps: 1e-6, atol: 1e-5, rtol: 1e-3 }
    }
}

/// Compares every gradient of `f` with the central difference `(f(x + eps) - f(x - eps)) / 2 eps`, as
/// PyTorch's `torch.autograd.gradcheck`. Use it to test a [`Function`](super::Function) of your own.
///
/// The inputs must be `f64` (differences in `f32` are too inaccurate); those that require gradients are checked, or all
/// if none does. `f` must be smooth near the inputs and deterministic. It is called with the inputs as they are laid
/// out for the gradients, and with contiguous copies for the differences, so that mistakes with strides show as well.
///
/// ```
/// use kiln_tensor::{DType, Tensor, autograd::gradcheck};
///
/// let x = Tensor::rand([2, 3], DType::F64)?;
/// gradcheck(|inputs| inputs[0].sin()?.mul(&inputs[0]), &[&x])?;
/// # Ok::<(), kiln_tensor::Error>(())
/// ```
///
/// # Errors
/// If a gradient differs from the slope: the message names the input, the element and both numbers. Or if an input is
/// not `f64`, the result does not depend on any input, or `f` fails.
#[located(site)]
pub fn gradcheck(f: impl Fn(&[Tensor]) -> Result<Tensor>, inputs: &[&Tensor]) -> Result<()> {
    gradcheck_with(f, inputs, GradcheckOptions::default())
}

/// [`gradcheck`] with other tolerances.
///
/// # Errors
/// Those of [`gradcheck`].
#[located(site)]
pub fn gradcheck_with(
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
    inputs: &[&Tensor],
    options: GradcheckOptions,
) -> Result<()> {
    let checked = checked(inputs);
    if let Some(&i) = checked.iter().find(|&&i| inputs[i].dtype() != DType::F64) {
        return Err(Error::dtype(OP, inputs[i].dtype(), format!("input {i} must be f64")));
    }
    let leaves = leaves_of(inputs, &checked)?;
    let output = enable_grad(|| f(&leaves))?;
    if output.dtype() != DType::F64 {
        return Err(Error::dtype(OP, output.dtype(), "the result must be f64"));
    }
    if !output.requires_grad() {
        return Err(Error::autograd(OP, "the result does not depend on the inputs"));
    }
    let copies: Vec<Tensor> = no_grad(|| inputs.iter().map(|t| t.copy()).collect::<Result<_>>())?;
    check_values(&output, &no_grad(|| f(&copies))?)?;
    let analytic = jacobian(&output, &checked.iter().map(|&i| &leaves[i]).collect::<Vec<_>>())?;
    for (&input, analytic) in checked.iter().zip(analytic) {
        let values = copies[input].to_vec::<f64>()?;
        for element in 0..values.len() {
            let at = |offset: f64| {
                let (mut moved, mut arguments) = (values.clone(), copies.clone());
                moved[element] += offset;
                arguments[input] = Tensor::from_vec(moved, *copies[input].shape(), copies[input].device())?;
                no_grad(|| f(&arguments))?.to_vec::<f64>()
            };
            for (out, (above, below)) in at(options.eps)?.into_iter().zip(at(-options.eps)?).enumerate() {
                let (got, want) = (analytic[out][element], (above - below) / (2.0 * options.eps));
                let close = (got - want).abs() <= options.atol + options.rtol * want.abs();
                if !(close || got.is_nan() && want.is_nan()) {
                    let message = format!(
                        "input {input} of shape {}, element {element}: the slope of output element {out} is {got} by \
                         the backward pass and {want} by differences",
                        copies[input].shape()
                    );
                    return Err(Error::autograd(OP, message));
                }
            }
        }
    }
    Ok(())
}

/// [`gradcheck`] of the gradients of `f`, by the inputs and by the gradient of its result: PyTorch's
/// `torch.autograd.gradgradcheck`. The gradient of the result has fixed, irregular values.
///
/// # Errors
/// Those of [`gradcheck`]; or if `f` has an operation whose gradient is not differentiable.
#[located(site)]
pub fn gradgradcheck(f: impl Fn(&[Tensor]) -> Result<Tensor>, inputs: &[&Tensor]) -> Result<()> {
    gradgradcheck_with(f, inputs, GradcheckOptions::default())
}

/// [`gradgradcheck`] with other tolerances.
///
/// # Errors
/// Those of [`gradgradcheck`].
#[located(site)]
pub fn gradgradcheck_with(
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
    inputs: &[&Tensor],
    options: GradcheckOptions,
) -> Result<()> {
    let checked = checked(inputs);
    let sample = no_grad(|| f(&inputs.iter().map(|t| t.detach()).collect::<Vec<_>>()))?;
    // Irregular values, so that no gradient is right by chance.
    let cotangent: Vec<f64> = (0..sample.numel()).map(|i| 0.25 + (1.7 * i as f64 + 0.3).sin()).collect();
    let cotangent = Tensor::from_vec(cotangent, *sample.shape(), sample.device())?.requires_grad_(true)?;
    let leaves = leaves_of(inputs, &checked)?;
    let mut arguments: Vec<&Tensor> = leaves.iter().collect();
    arguments.push(&cotangent);
    // All gradients in one vector.
    let gradients = |arguments: &[Tensor]| {
        enable_grad(|| {
            let (cotangent, inputs) =
                arguments.split_last().ok_or_else(|| Error::argument(OP, "there are no inputs"))?;
            let as_variable = |(i, t): (usize, &Tensor)| {
                if t.requires_grad() || !checked.contains(&i) { Ok(t.clone()) } else { t.detach().requires_grad_(true) }
            };
            let inputs: Vec<Tensor> = inputs.iter().enumerate().map(as_variable).collect::<Result<_>>()?;
            let wanted: Vec<&Tensor> = checked.iter().map(|&i| &inputs[i]).collect();
            let output = f(&inputs)?;
            let found = grad_with(&[(output, Some(cotangent.clone()))], &wanted, BackwardOptions::create_graph())?;
            // A gradient that is constantly zero has no history; the sum gives it one.
            let nothing = cotangent.mul(0)?.sum(())?;
            let mut rows = Vec::new();
            for (grad, input) in found.into_iter().zip(&wanted) {
                rows.push(grad.map_or_else(|| input.zeros_like(), Ok)?.flatten_all()?.add(&nothing)?);
            }
            Tensor::cat(&rows, 0)
        })
    };
    gradcheck_with(gradients, &arguments, options)
}

/// The inputs that are checked: those that require gradients, or all if none does.
fn checked(inputs: &[&Tensor]) -> Vec<usize> {
    let all = !inputs.iter().any(|input| input.requires_grad());
    (0..inputs.len()).filter(|&i| all || inputs[i].requires_grad()).collect()
}

/// The inputs as leaves, of which those that are checked require gradients.
fn leaves_of(inputs: &[&Tensor], checked: &[usize]) -> Result<Vec<Tensor>> {
    inputs.iter().enumerate().map(|(i, t)| t.detach().requires_grad_(checked.contains(&i))).collect()
}

/// The slope for each input, output element and input element.
fn jacobian(output: &Tensor, inputs: &[&Tensor]) -> Result<Vec<Vec<Vec<f64>>>> {
    let mut rows = vec![Vec::new(); inputs.len()];
    // An empty output has no slopes, but its backward pass must still run.
    for out in 0..output.numel().max(1) {
        let mut cotangent = vec![0.0; output.numel()];
        if let Some(element) = cotangent.get_mut(out) {
            *element = 1.0;
        }
        let cotangent = Tensor::from_vec(cotangent, *output.shape(), output.device())?;
        let options = BackwardOptions::retain_graph();
        let grads = grad_with(&[(output.clone(), Some(cotangent))], inputs, options)?;
        for ((rows, grad), input) in rows.iter_mut().zip(grads).zip(inputs) {
            rows.push(grad.map_or_else(|| Ok(vec![0.0; input.numel()]), |grad| grad.to_vec::<f64>())?);
        }
    }
    Ok(rows)
}

/// Compares the results for the inputs as they are laid out, and for contiguous copies.
fn check_values(strided: &Tensor, contiguous: &Tensor) -> Result<()> {
    if strided.shape() != contiguous.shape() {
        let expected = "the result's shape depends on the memory layout of the inputs";
        return Err(Error::shapes(OP, strided.shape(), contiguous.shape(), expected));
    }
    let pairs = strided.to_vec::<f64>()?.into_iter().zip(contiguous.to_vec::<f64>()?);
    for (i, (a, b)) in pairs.enumerate() {
        let close = a == b || (a - b).abs() <= 1e-9 * b.abs().max(1.0) || a.is_nan() && b.is_nan();
        if !close {
            let message =
                format!("output element {i} is {a} for the inputs as they are laid out, {b} for contiguous copies");
            return Err(Error::autograd(OP, message));
        }
    }
    Ok(())
}

//! Results and derivatives of operands in any memory layout against those of contiguous copies.

use kiln_tensor::{
    Device, Result, Tensor,
    autograd::{BackwardOptions, grad_with},
};

/// A tensor of a shape with fixed, irregular values, so that no sum of products with them is right by chance.
fn irregular(like: &Tensor) -> Result<Tensor> {
    let values: Vec<f64> = (0..like.numel()).map(|i| 0.25 + (1.7 * i as f64 + 0.3).sin()).collect();
    Tensor::from_vec(values, *like.shape(), like.device())
}

/// The result of a call, its gradients, and the gradients of these: by the operands, and by the gradient of the result.
/// Nothing where there is no gradient.
fn derivatives(call: impl Fn(&[Tensor]) -> Result<Tensor>, operands: &[Tensor]) -> Result<Vec<Option<Tensor>>> {
    let leaves: Vec<Tensor> = operands.iter().map(|t| t.detach().requires_grad_(true)).collect::<Result<_>>()?;
    let output = call(&leaves)?;
    let of_output = irregular(&output)?.requires_grad_(true)?;
    let mut by: Vec<&Tensor> = leaves.iter().collect();
    let first = grad_with(&[(output.clone(), Some(of_output.clone()))], &by, BackwardOptions::create_graph())?;
    // Gradients that are constant have no history, and this one gives it to them.
    let mut sum = of_output.mul(0)?.sum(())?;
    for grad in first.iter().flatten() {
        sum = sum.add(&grad.mul(&irregular(grad)?)?.sum(())?)?;
    }
    by.push(&of_output);
    let second = grad_with(&[(sum, None)], &by, BackwardOptions::default())?;
    Ok([Some(output)].into_iter().chain(first).chain(second).collect())
}

/// What depends on the layout of the operands, if anything does.
pub fn difference(call: impl Fn(&[Tensor]) -> Result<Tensor>, operands: &[Tensor]) -> Result<Option<String>> {
    let copies: Vec<Tensor> = operands.iter().map(Tensor::copy).collect::<Result<_>>()?;
    let pairs = derivatives(&call, operands)?.into_iter().zip(derivatives(&call, &copies)?);
    for (number, (got, want)) in pairs.enumerate() {
        let alike = match (&got, &want) {
            (None, None) => true,
            (Some(got), Some(want)) => got.dims() == want.dims() && near(&got.to_vec()?, &want.to_vec()?),
            _ => false,
        };
        if !alike {
            let what = match number {
                0 => "the result".to_owned(),
                i if i <= operands.len() => format!("the gradient of operand {}", i - 1),
                i => format!("the second derivative by operand {}", i - 1 - operands.len()),
            };
            return Ok(Some(format!("{what} is {got:?}, and {want:?} for contiguous copies")));
        }
    }
    Ok(None)
}

fn near(got: &[f64], want: &[f64]) -> bool {
    let close = |(a, b): (&f64, &f64)| a == b || (a - b).abs() <= 1e-9 * b.abs().max(1.0) || a.is_nan() && b.is_nan();
    got.iter().zip(want).all(close)
}

/// A function of which only the result, only the gradient, or only the second derivative depends on the layout.
#[test]
fn what_depends_on_the_layout_is_found() -> Result<()> {
    type Wrong = fn(&Tensor) -> Result<Tensor>;
    let wrong: [(Wrong, &str); 3] = [
        (|x| x.square()?.add(1), "the result"),
        (|x| x.square()?.sub(x)?.add(&x.detach()), "the gradient of operand 0"),
        (|x| x.mul(&x.detach())?.mul(2)?.sub(&x.detach().square()?), "the second derivative by operand 0"),
    ];
    let transposed = Tensor::from_vec(vec![0.5, -1.5, 2.0, 0.25, 3.0, -0.75], [2, 3], Device::Cpu)?.t()?;
    for (wrong, what) in wrong {
        let call = |x: &[Tensor]| if x[0].is_contiguous() { x[0].square() } else { wrong(&x[0]) };
        let found = difference(call, std::slice::from_ref(&transposed))?.expect("it depends on the layout");
        assert!(found.starts_with(what), "{found}");
        assert_eq!(difference(|x| x[0].square(), std::slice::from_ref(&transposed))?, None);
    }
    Ok(())
}

//! Gradients where an operation is not differentiable: PyTorch's values at kinks, jumps and ties.

use kiln_tensor::{Device, Result, Tensor};

type Case = (&'static str, &'static [f64], fn(&Tensor) -> Result<Tensor>, &'static [f64]);

const CASES: &[Case] = &[
    ("relu at 0", &[-1.0, 0.0, -0.0, 2.0], |x| x.relu(), &[0.0, 0.0, 0.0, 1.0]),
    ("abs at 0", &[-1.0, 0.0, 2.0], |x| x.abs(), &[-1.0, 0.0, 1.0]),
    ("leaky_relu at 0", &[-1.0, 0.0, 2.0], |x| x.leaky_relu(0.5), &[0.5, 0.5, 1.0]),
    ("sign", &[-1.0, 0.0, 2.0], |x| x.sign(), &[0.0, 0.0, 0.0]),
    ("floor", &[-1.0, 0.5, 2.0], |x| x.floor(), &[0.0, 0.0, 0.0]),
    ("sqrt at 0", &[0.0, 4.0], |x| x.sqrt(), &[f64::INFINITY, 0.25]),
    ("log at 0", &[0.0, 4.0], |x| x.log(), &[f64::INFINITY, 0.25]),
    ("pow 0 at 0", &[0.0, 2.0], |x| x.pow(0), &[0.0, 0.0]),
    ("pow 1 at 0", &[0.0, 2.0], |x| x.pow(1), &[1.0, 1.0]),
    ("pow 2 at 0", &[0.0, -2.0], |x| x.pow(2), &[0.0, -4.0]),
    ("maximum of equals", &[1.0, 3.0], |x| x.maximum(&Tensor::new([1.0, 2.0], Device::Cpu)?), &[0.5, 1.0]),
    ("minimum of equals", &[1.0, 3.0], |x| x.minimum(&Tensor::new([1.0, 2.0], Device::Cpu)?), &[0.5, 0.0]),
    ("max with itself", &[1.0, 3.0], |x| x.maximum(x), &[1.0, 1.0]),
    ("clamp at its bounds", &[-1.0, 0.0, 1.0], |x| x.clamp(-1, 1), &[0.0, 1.0, 0.0]),
    ("max shares", &[3.0, 1.0, 3.0, 3.0], |x| x.max(()), &[1.0 / 3.0, 0.0, 1.0 / 3.0, 1.0 / 3.0]),
    ("amin shares", &[1.0, 1.0, 3.0, 1.0], |x| x.amin(0), &[1.0 / 3.0, 1.0 / 3.0, 0.0, 1.0 / 3.0]),
    ("max_dim takes the first", &[3.0, 1.0, 3.0], |x| Ok(x.max_dim(0)?.0), &[1.0, 0.0, 0.0]),
    ("min_dim takes the first", &[3.0, 1.0, 1.0], |x| Ok(x.min_dim(0)?.0), &[0.0, 1.0, 0.0]),
    (
        "topk takes the first (PyTorch leaves it open)",
        &[3.0, 1.0, 3.0, 3.0],
        |x| Ok(x.topk(2, 0, true)?.0),
        &[1.0, 0.0, 1.0, 0.0],
    ),
    ("prod with one 0", &[2.0, 0.0, 3.0], |x| x.prod(()), &[0.0, 6.0, 0.0]),
    ("prod with two 0s", &[2.0, 0.0, 0.0], |x| x.prod(()), &[0.0, 0.0, 0.0]),
    ("std of equals", &[2.0, 2.0, 2.0], |x| x.std((), 1.0), &[0.0, 0.0, 0.0]),
    ("norm at 0", &[0.0, 0.0], |x| x.norm(2, ()), &[0.0, 0.0]),
    ("where keeps NaN out", &[0.0, 4.0], |x| x.gt(0)?.where_cond(&x.mul(2)?, 0.0), &[0.0, 2.0]),
    ("an element read twice", &[1.0, 2.0], |x| x.i(Tensor::new([1i64, 1], Device::Cpu)?), &[0.0, 2.0]),
];

#[test]
fn gradients_at_ties_are_pytorchs() -> Result<()> {
    let mut failures = Vec::new();
    for (name, values, call, want) in CASES {
        let x = Tensor::new(*values, Device::Cpu)?.requires_grad_(true)?;
        call(&x)?.sum(())?.backward()?;
        let got = x.grad().unwrap().to_vec::<f64>()?;
        let equal = got.iter().zip(*want).all(|(got, want)| got == want || (got - want).abs() < 1e-12);
        if !equal {
            failures.push(format!("{name}: {got:?}, expected {want:?}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

//! `calc!` and the operators of tensors and results.
use kiln_tensor::{DType, Device, Result, Tensor, calc};

fn numbers(values: &[f32]) -> Tensor {
    Tensor::new(values, Device::Cpu).unwrap()
}

struct Layer {
    weight: Tensor,
    rate: f32,
}

#[test]
fn operators_are_those_of_tensors() -> Result<()> {
    let (a, b) = (numbers(&[1., 2.]), numbers(&[3., -4.]));
    let layer = Layer { weight: numbers(&[0.5, 8.]), rate: 0.25 };
    let list = [a.copy()?, b.copy()?];
    let by_reference = &a;
    let twice = &by_reference;
    let got =
        calc!(a * b + 2.0 * layer.weight - list[1] / (by_reference + 1) % 3.0 + twice * layer.rate - layer.rate * b)?;
    let mut want = a.mul(&b)?.add(&layer.weight.mul(2)?)?.sub(&b.div(&a.add(1)?)?.remainder(3.0)?)?;
    want = want.add(&a.mul(0.25)?)?.sub(&b.mul(0.25)?)?;
    assert_eq!(got.to_vec::<f32>()?, want.to_vec::<f32>()?);
    assert_eq!(calc!(-(a * b) * 2.0)?.to_vec::<f32>()?, [-6., 16.]);
    assert_eq!(calc!(1 - a)?.to_vec::<f32>()?, [0., -1.]);
    assert_eq!(calc!(7 / (a * 2))?.to_vec::<f32>()?, [3.5, 1.75]);
    assert_eq!(calc!(a)?.to_vec::<f32>()?, [1., 2.]);
    Ok(())
}

/// Methods, calls, `?`, macros and blocks are used as they are, with or without an error in them.
#[test]
fn other_expressions_stay_as_they_are() -> Result<()> {
    let (a, b) = (numbers(&[1., 2.]), numbers(&[3., -4.]));
    let n = 3usize;
    let square = |x: &Tensor| x.square();
    let got = calc!(a.abs() * square(&b)? + (n - 1) as f64 - if n > 2 { a.sum(())? } else { b.copy()? })?;
    assert_eq!(got.to_vec::<f32>()?, [8., 31.]);
    assert_eq!(calc!((a - b)?.square()? / 2.0)?.to_vec::<f32>()?, [2., 18.]);
    assert_eq!(calc!((n + 1).min(2) * a)?.to_vec::<f32>()?, [2., 4.]);
    assert_eq!(calc!(a * calc!(a + 1.0)?)?.to_vec::<f32>()?, [2., 6.]);
    assert_eq!(calc!(&a + &b)?.to_vec::<f32>()?, [4., -2.]);
    // The tensors are still there.
    assert_eq!(a.dims(), b.dims());
    Ok(())
}

/// Operators among numbers are Rust's.
#[test]
fn numbers_are_computed_by_rust() -> Result<()> {
    let (a, rate, n) = (numbers(&[1., 2.]), 0.5f32, 4i64);
    assert_eq!(calc!(2.0 * rate * a)?.to_vec::<f32>()?, [1., 2.]);
    assert_eq!(calc!(1 / 2 * a)?.to_vec::<f32>()?, [0., 0.]);
    assert_eq!(calc!(-n * a + -rate)?.to_vec::<f32>()?, [-4.5, -8.5]);
    // A whole number keeps a tensor of integers what it is.
    assert_eq!(calc!(2 * a.to_dtype(DType::I64)? + n)?.dtype(), DType::I64);
    Ok(())
}

#[test]
fn comparisons_and_bits() -> Result<()> {
    let (a, b) = (numbers(&[1., 2.]), numbers(&[3., -4.]));
    assert_eq!(calc!((a < b) & !(b == 3.0))?.to_vec::<bool>()?, [false, false]);
    assert_eq!(calc!((0.0 < b) | (a != b) ^ (2 <= a))?.to_vec::<bool>()?, [true, false]);
    assert_eq!(calc!((a >= 2.0) * a)?.to_vec::<f32>()?, [0., 2.]);
    assert_eq!(calc!((1.5 > a) & (1.5 >= a))?.to_vec::<bool>()?, [true, false]);
    let bits = Tensor::new([6i64, 9], Device::Cpu)?;
    assert_eq!(calc!(bits << 1 >> 2 & 3 ^ 1 | 4)?.to_vec::<i64>()?, [6, 5]);
    assert_eq!(calc!(!bits)?.to_vec::<i64>()?, [!6, !9]);
    Ok(())
}

/// Without `calc!`, an operator takes a result and a tensor, owned or not, on either side.
#[test]
fn results_are_operands() -> Result<()> {
    let (a, b) = (numbers(&[1., 2.]), numbers(&[3., -4.]));
    let same = calc!((a - 1.0) * b + a)?;
    assert_eq!((&a * &b - &b + &a)?.to_vec::<f32>()?, same.to_vec::<f32>()?);
    assert_eq!((a.clone() * &b - b.clone() + a.clone())?.to_vec::<f32>()?, same.to_vec::<f32>()?);
    assert_eq!((&a - 0.5 * &b)?.to_vec::<f32>()?, [-0.5, 4.]);
    assert_eq!((a.clone() / (b.clone() % 3.0))?.to_vec::<f32>()?, [f32::INFINITY, 1.]);
    Ok(())
}

/// The first error in the order of evaluation arrives.
#[test]
fn the_first_error_is_passed_on() {
    let (a, b, c) = (numbers(&[1., 2.]), numbers(&[1., 2., 3.]), numbers(&[1., 2., 3., 4.]));
    let message = |result: Result<Tensor>| result.unwrap_err().to_string();
    for result in [
        calc!(a * b + 1.0),
        calc!(1.0 - a * b),
        calc!(-(a * b)),
        calc!((a * b) > 0.0),
        calc!(!(a * b)),
        calc!(a * b - a / c),
        calc!(c - a * b),
        calc!(a.mul(&b) + c),
        calc!(0.0 < a * b),
        calc!(2 & (a * b)),
    ] {
        assert!(message(result).starts_with("mul: shapes [2] and [3]"));
    }
    assert!(message(calc!(a - (a * a - b))).starts_with("sub: shapes [2] and [3]"));
}

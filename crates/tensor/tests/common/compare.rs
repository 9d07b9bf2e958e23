//! Whether two tensors hold the same values, up to rounding.

use kiln_tensor::{DType, Element, Result, Scalar, Tensor};

/// The values in row-major order, whatever the dtype.
pub fn scalars(tensor: &Tensor) -> Result<Vec<Scalar>> {
    fn read<T: Element>(tensor: &Tensor) -> Result<Vec<Scalar>> {
        Ok(tensor.to_vec::<T>()?.into_iter().map(T::to_scalar).collect())
    }
    kiln_backend::dispatch_dtype!(tensor.dtype(), T => read::<T>(tensor))
}

/// The values as `f64`.
pub fn floats(tensor: &Tensor) -> Vec<f64> {
    scalars(tensor).unwrap().into_iter().map(Scalar::to_f64).collect()
}

/// How far values of a dtype may be apart, relative to the larger one (and absolutely, for values below 1).
pub fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-9,
        DType::F32 => 1e-5,
        DType::F16 => 2e-3,
        DType::BF16 => 1e-2,
        _ => 0.0,
    }
}

/// Whether two numbers are equal up to `tolerance`. NaN equals NaN, and infinities only themselves.
pub fn is_close(got: f64, want: f64, tolerance: f64) -> bool {
    if got.is_nan() || want.is_nan() {
        return got.is_nan() && want.is_nan();
    }
    got == want || (got - want).abs() <= tolerance * want.abs().max(1.0)
}

/// What differs between two tensors, if anything does.
pub fn difference(got: &Tensor, want: &Tensor) -> Option<String> {
    if got.dtype() != want.dtype() {
        return Some(format!("dtype {}, expected {}", got.dtype(), want.dtype()));
    }
    if got.shape() != want.shape() {
        return Some(format!("shape {}, expected {}", got.shape(), want.shape()));
    }
    let (got_values, want_values) = match (scalars(got), scalars(want)) {
        (Ok(got), Ok(want)) => (got, want),
        (Err(error), _) | (_, Err(error)) => return Some(format!("cannot be read: {error}")),
    };
    // Where large terms cancel, what is left has the error of the terms.
    let largest = want_values.iter().map(|value| value.to_f64().abs()).filter(|value| value.is_finite());
    let tolerance = tolerance(want.dtype()) * (largest.fold(0.0, f64::max) / 100.0).max(1.0);
    got_values.iter().zip(&want_values).enumerate().find_map(|(i, (got, want))| {
        let equal = match (got, want) {
            (Scalar::Float(got), Scalar::Float(want)) => is_close(*got, *want, tolerance),
            (got, want) => got == want,
        };
        (!equal).then(|| format!("element {i} is {got}, expected {want}"))
    })
}

/// What is worse about `got` than about PyTorch's `torch`, both half-precision results whose `exact` values are known:
/// an element is further off than the worst of PyTorch's in units of that error, or of half a unit in the last place.
pub fn worse(got: &Tensor, torch: &Tensor, exact: &Tensor) -> Option<String> {
    if got.dtype() != torch.dtype() || got.shape() != torch.shape() {
        return difference(got, torch);
    }
    let (half_ulp, largest) = match got.dtype() {
        DType::BF16 => (1.0 / 256.0, 3.3e38),
        DType::F16 => (1.0 / 2048.0, 65504.0),
        _ => (0.5 * f64::from(f32::EPSILON), f64::from(f32::MAX)),
    };
    // Algorithms of linear algebra, which has references in `f32`, round in other orders.
    let times = if got.dtype() == DType::F32 { 4.0 } else { 1.0 };
    let (got, torch, exact) = (floats(got), floats(torch), floats(exact));
    let off = |value: f64, exact: f64| if value.is_finite() && exact.is_finite() { (value - exact).abs() } else { 0.0 };
    let theirs = torch.iter().zip(&exact).map(|(t, e)| off(*t, *e)).fold(0.0, f64::max);
    got.iter().zip(&torch).zip(&exact).enumerate().find_map(|(i, ((&got, &torch), &exact))| {
        let allowed = (times * theirs).max(exact.abs() * half_ulp * 1.001).max(1e-7);
        let overflows = exact.abs() > largest && got.is_infinite() && got.signum() == exact.signum();
        let fine = got == torch
            || (got.is_nan() && torch.is_nan())
            || overflows
            || (got - exact).abs() <= allowed
            || (exact.is_nan() && got.is_nan());
        (!fine).then(|| format!("element {i} is {got}, exactly {exact}, PyTorch has {torch}"))
    })
}

/// Panics if the tensors differ.
#[track_caller]
pub fn assert_close(got: &Tensor, want: &Tensor) {
    if let Some(difference) = difference(got, want) {
        panic!("{difference}");
    }
}

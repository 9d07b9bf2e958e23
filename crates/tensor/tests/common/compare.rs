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
    let tolerance = tolerance(want.dtype());
    got_values.iter().zip(&want_values).enumerate().find_map(|(i, (got, want))| {
        let equal = match (got, want) {
            (Scalar::Float(got), Scalar::Float(want)) => is_close(*got, *want, tolerance),
            (got, want) => got == want,
        };
        (!equal).then(|| format!("element {i} is {got}, expected {want}"))
    })
}

/// Panics if the tensors differ.
#[track_caller]
pub fn assert_close(got: &Tensor, want: &Tensor) {
    if let Some(difference) = difference(got, want) {
        panic!("{difference}");
    }
}

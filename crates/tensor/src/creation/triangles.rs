//! Places of triangles, and numbers at equal ratios: `tril_indices`, `triu_indices`, `logspace`.

use kiln_backend::{DType, Result};
use kiln_derive::located;

use super::TensorOptions;
use crate::tensor::Tensor;

/// Rows and columns of the places of a matrix that a condition on both holds for, as `[2, count]`.
fn places(rows: usize, columns: usize, options: TensorOptions, inside: impl Fn(i64, i64) -> bool) -> Result<Tensor> {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for row in 0..rows as i64 {
        for column in (0..columns as i64).filter(|&column| inside(row, column)) {
            first.push(row);
            second.push(column);
        }
    }
    let count = first.len();
    first.append(&mut second);
    let places = Tensor::from_vec(first, [2, count], options.device)?;
    places.to_dtype(options.dtype_or(DType::I64))?.requires_grad_(options.requires_grad)
}

#[located]
impl Tensor {
    /// Rows and columns (`[2, count]`, `i64` by default) of the elements on and below diagonal number `offset` of a matrix
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.tril_indices.html>).
    ///
    /// # Errors
    /// If memory runs out, or the device is not available.
    pub fn tril_indices(rows: usize, columns: usize, offset: i64, options: impl Into<TensorOptions>) -> Result<Tensor> {
        places(rows, columns, options.into(), |row, column| column - row <= offset)
    }

    /// Rows and columns (`[2, count]`, `i64` by default) of the elements on and above diagonal number `offset` of a matrix
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.triu_indices.html>).
    ///
    /// # Errors
    /// If memory runs out, or the device is not available.
    pub fn triu_indices(rows: usize, columns: usize, offset: i64, options: impl Into<TensorOptions>) -> Result<Tensor> {
        places(rows, columns, options.into(), |row, column| column - row >= offset)
    }

    /// `steps` numbers at equal ratios from `base^start` to `base^end`, both included
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.logspace.html>). They are computed in `f64`; as in PyTorch, for an
    /// integer dtype the bounds and the numbers are truncated to integers.
    ///
    /// # Errors
    /// If memory runs out, or the device is not available.
    pub fn logspace(
        start: f64,
        end: f64,
        steps: usize,
        base: f64,
        options: impl Into<TensorOptions>,
    ) -> Result<Tensor> {
        let options: TensorOptions = options.into();
        let dtype = options.dtype_or(DType::F32);
        let [start, end] = [start, end].map(|bound| if dtype.is_float() { bound } else { bound.trunc() });
        let exponents = Tensor::linspace(start, end, steps, (DType::F64, options.device))?;
        let numbers = crate::no_grad(|| exponents.rpow(base)?.to_dtype(dtype))?;
        numbers.requires_grad_(options.requires_grad)
    }
}

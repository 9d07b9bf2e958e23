//! Sorting.

use kiln_backend::{DType, Dim, Result};

use crate::Tensor;

impl Tensor {
    /// The elements in order along a dimension, and where they stood (`i64`). Stable; NaN is the largest.
    ///
    /// # Errors
    /// The dimension is out of range.
    pub fn sort(&self, dim: impl Dim, descending: bool) -> Result<(Tensor, Tensor)> {
        let dim = dim.resolve("sort", self.rank())?;
        let reading = self.read();
        let mut values = None;
        let indices = Tensor::compute(self.device(), DType::I64, *self.shape(), |backend, indices| {
            values = Some(Tensor::compute(self.device(), self.dtype(), *self.shape(), |_, out| {
                backend.sort(reading.view(), dim, descending, out, indices)
            })?);
            Ok(())
        })?;
        let values = values.map_or_else(|| self.copy(), Ok)?;
        Ok((values, indices))
    }
}

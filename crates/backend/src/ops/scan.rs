//! Scans along a dimension: `cumsum`, `cummax`, `cummin`.

use crate::{
    contract::{Arguments, Checked, has_dim, has_dtype, same_shape},
    dtype::DType,
    error::Result,
    view::{View, ViewMut},
};

/// Arguments of [`cumsum`](ScanBackend::cumsum).
#[derive(Debug)]
pub struct CumsumArgs<'a> {
    /// The tensor to scan.
    pub x: View<'a>,
    /// The dimension to scan along.
    pub dim: usize,
    /// Receives the running sums, in the shape of `x`; `i64` for integers and `bool`, else the dtype of `x`.
    pub out: ViewMut<'a>,
}

/// Which extreme a scan finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CumExtreme {
    /// The largest element so far.
    Cummax,
    /// The smallest element so far.
    Cummin,
}

impl CumExtreme {
    /// The name of the tensor's method.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            CumExtreme::Cummax => "cummax",
            CumExtreme::Cummin => "cummin",
        }
    }
}

/// Arguments of [`cum_extreme`](ScanBackend::cum_extreme): `cummax` and `cummin`.
#[derive(Debug)]
pub struct CumExtremeArgs<'a> {
    /// Which of the two.
    pub op: CumExtreme,
    /// The tensor to scan.
    pub x: View<'a>,
    /// The dimension to scan along.
    pub dim: usize,
    /// Receives the extreme so far, in the shape of `x`.
    pub values: ViewMut<'a>,
    /// Receives its position (`i64`), in the same shape.
    pub indices: ViewMut<'a>,
}

impl Arguments for CumsumArgs<'_> {
    fn check(&self) -> Result<()> {
        const OP: &str = "cumsum";
        let CumsumArgs { x, dim, out } = self;
        has_dim(OP, x.layout, *dim)?;
        has_dtype(OP, if x.dtype().is_float() { x.dtype() } else { DType::I64 }, out.dtype())?;
        same_shape(OP, &[x.layout, out.layout])
    }
}

impl Arguments for CumExtremeArgs<'_> {
    fn check(&self) -> Result<()> {
        let CumExtremeArgs { op, x, dim, values, indices } = self;
        let op = op.name();
        has_dim(op, x.layout, *dim)?;
        has_dtype(op, x.dtype(), values.dtype())?;
        has_dtype(op, DType::I64, indices.dtype())?;
        same_shape(op, &[x.layout, values.layout, indices.layout])
    }
}

/// Scans along a dimension.
pub trait ScanBackend {
    /// Running sums.
    fn cumsum(&self, args: Checked<CumsumArgs>) -> Result<()>;
    /// `cummax` or `cummin`: the extreme so far, and its position. Of equal elements, the position of the last; after a
    /// NaN, that of the last NaN.
    fn cum_extreme(&self, args: Checked<CumExtremeArgs>) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Memory, layout};

    #[test]
    fn operands_are_checked() {
        let (int, matrix, vector) = (Memory(DType::I32), layout(&[2, 3]), layout(&[6]));
        let sum = |dim, dtype, out| {
            CumsumArgs { x: int.view(&matrix), dim, out: Memory(dtype).view_mut(out) }.check().is_ok()
        };
        assert!(sum(1, DType::I64, &matrix));
        assert!(!sum(2, DType::I64, &matrix) && !sum(1, DType::I32, &matrix) && !sum(1, DType::I64, &vector));
        let extreme = |dim, of_values, of_indices, out| {
            let (mut values, mut indices) = (Memory(of_values), Memory(of_indices));
            let (x, values, indices) = (int.view(&matrix), values.view_mut(&matrix), indices.view_mut(out));
            CumExtremeArgs { op: CumExtreme::Cummin, x, dim, values, indices }.check()
        };
        assert!(extreme(0, DType::I32, DType::I64, &matrix).is_ok());
        for error in [
            extreme(2, DType::I32, DType::I64, &matrix),
            extreme(0, DType::I64, DType::I64, &matrix),
            extreme(0, DType::I32, DType::I32, &matrix),
            extreme(0, DType::I32, DType::I64, &vector),
        ] {
            let error = error.unwrap_err().to_string();
            assert!(error.starts_with("cummin: "), "{error}");
        }
    }
}

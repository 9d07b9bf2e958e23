//! Positions of the largest and smallest elements: `argmax`, `argmin`, and `max`, `min` along a dimension.

use crate::{
    contract::{Arguments, Checked, has_dim, has_dtype, has_shape, same_shape},
    dtype::DType,
    error::{Error, Result},
    shape::MAX_RANK,
    view::{View, ViewMut},
};

/// Which element's position a reduction of one dimension returns. NaN counts as the largest for `Max` and as the
/// smallest for `Min`; of equal elements the first is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgReduceOp {
    /// The position of the largest element.
    Max,
    /// The position of the smallest element.
    Min,
}

impl ArgReduceOp {
    /// The name for errors.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ArgReduceOp::Max => "argmax",
            ArgReduceOp::Min => "argmin",
        }
    }
}

/// Arguments of [`arg_reduce`](ArgReduceBackend::arg_reduce).
#[derive(Debug)]
pub struct ArgReduceArgs<'a> {
    /// Whether to find the largest or the smallest element.
    pub op: ArgReduceOp,
    /// The tensor to search.
    pub x: View<'a>,
    /// The dimension to reduce.
    pub dim: usize,
    /// Receives the elements found, in the shape of `x` with extent 1 along `dim`.
    pub values: Option<ViewMut<'a>>,
    /// Receives their positions (`i64`), in the same shape.
    pub indices: ViewMut<'a>,
}

impl Arguments for ArgReduceArgs<'_> {
    fn check(&self) -> Result<()> {
        let ArgReduceArgs { op, x, dim, values, indices } = self;
        let op = op.name();
        has_dim(op, x.layout, *dim)?;
        has_dtype(op, DType::I64, indices.dtype())?;
        let mut dims = [0; MAX_RANK];
        let dims = &mut dims[..x.layout.rank()];
        dims.copy_from_slice(x.layout.dims());
        dims.iter_mut().skip(*dim).take(1).for_each(|extent| *extent = 1);
        has_shape(op, "a result", indices.layout, dims)?;
        if let Some(values) = values {
            has_dtype(op, x.dtype(), values.dtype())?;
            same_shape(op, &[values.layout, indices.layout])?;
        }
        if indices.layout.numel() > 0 && x.layout.numel() == 0 {
            return Err(Error::shape(op, "at least one element to choose from", x.layout.shape()));
        }
        Ok(())
    }
}

/// Reductions of a dimension to the position of one element.
pub trait ArgReduceBackend {
    /// Finds the position of an extreme element along a dimension, and the element itself if `values` is given.
    fn arg_reduce(&self, args: Checked<ArgReduceArgs>) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Memory, layout};

    #[test]
    fn operands_are_checked() {
        let check = |x: &[usize], dim, out: &[usize], of_values: DType| {
            let (memory, mut indices, mut values) = (Memory(DType::F32), Memory(DType::I64), Memory(of_values));
            let (x, out) = (layout(x), layout(out));
            let (x, values, indices) = (memory.view(&x), Some(values.view_mut(&out)), indices.view_mut(&out));
            ArgReduceArgs { op: ArgReduceOp::Max, x, dim, values, indices }.check().is_ok()
        };
        assert!(check(&[2, 3], 1, &[2, 1], DType::F32) && check(&[], 0, &[], DType::F32));
        assert!(!check(&[2, 3], 2, &[2, 3], DType::F32) && !check(&[], 1, &[], DType::F32));
        assert!(!check(&[2, 3], 1, &[2, 3], DType::F32) && !check(&[2, 3], 1, &[2, 1], DType::F64));
        assert!(!check(&[3, 0], 1, &[3, 1], DType::F32) && check(&[0, 3], 1, &[0, 1], DType::F32));
    }
}

//! Sorting and binary search: `sort`, `searchsorted`.

use crate::{
    contract::{Arguments, Checked, has_dim, has_dtype, same_shape},
    dtype::DType,
    error::{Error, Result},
    view::{View, ViewMut},
};

/// Arguments of [`sort`](SortBackend::sort).
#[derive(Debug)]
pub struct SortArgs<'a> {
    /// The tensor to sort.
    pub x: View<'a>,
    /// The dimension to sort along.
    pub dim: usize,
    /// Whether to sort from the largest element to the smallest.
    pub descending: bool,
    /// Receives the sorted elements, in the shape of `x`.
    pub values: ViewMut<'a>,
    /// Receives their positions in `x` (`i64`), in the same shape.
    pub indices: ViewMut<'a>,
}

/// Arguments of [`searchsorted`](SortBackend::searchsorted).
#[derive(Debug)]
pub struct SearchsortedArgs<'a> {
    /// Sorted sequences, `[…, n]`.
    pub sorted: View<'a>,
    /// The values to search for in each sequence, `[…, m]`.
    pub values: View<'a>,
    /// Whether elements equal to the value are counted.
    pub right: bool,
    /// Receives the counts (`i64`), in the shape of `values`.
    pub out: ViewMut<'a>,
}

impl Arguments for SortArgs<'_> {
    fn check(&self) -> Result<()> {
        const OP: &str = "sort";
        let SortArgs { x, dim, values, indices, .. } = self;
        has_dim(OP, x.layout, *dim)?;
        has_dtype(OP, x.dtype(), values.dtype())?;
        has_dtype(OP, DType::I64, indices.dtype())?;
        same_shape(OP, &[x.layout, values.layout, indices.layout])
    }
}

impl Arguments for SearchsortedArgs<'_> {
    fn check(&self) -> Result<()> {
        const OP: &str = "searchsorted";
        let SearchsortedArgs { sorted, values, out, .. } = self;
        has_dtype(OP, sorted.dtype(), values.dtype())?;
        has_dtype(OP, DType::I64, out.dtype())?;
        same_shape(OP, &[values.layout, out.layout])?;
        let (sorted, values) = (sorted.layout, values.layout);
        let Some(lead) = sorted.rank().checked_sub(1) else {
            return Err(Error::shape(OP, "a sorted sequence", sorted.shape()));
        };
        if values.rank() == sorted.rank() && values.dims()[..lead] == sorted.dims()[..lead] {
            return Ok(());
        }
        Err(Error::shapes(OP, sorted.shape(), values.shape(), "all extents but the last must be equal"))
    }
}

/// Sorting and binary search.
pub trait SortBackend {
    /// A stable sort along a dimension; NaN is the largest.
    fn sort(&self, args: Checked<SortArgs>) -> Result<()>;
    /// For each value, counts the elements of its sequence that are less than it (with `right`: less or equal).
    fn searchsorted(&self, args: Checked<SearchsortedArgs>) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Memory, layout};

    #[test]
    fn operands_are_checked() {
        let (float, long, mut to, mut at) = (DType::F32, DType::I64, Memory(DType::F32), Memory(DType::I64));
        let (matrix, vector) = (layout(&[2, 3]), layout(&[6]));
        let x = Memory(float);
        let mut sort = |dim, out| {
            let (values, indices) = (to.view_mut(&matrix), at.view_mut(out));
            SortArgs { x: x.view(&matrix), dim, descending: false, values, indices }.check().is_ok()
        };
        assert!(sort(1, &matrix) && !sort(2, &matrix) && !sort(1, &vector));
        let search = |sorted: &[usize], of, values: &[usize], to| {
            let (memory, mut target, sorted, values) = (Memory(of), Memory(to), layout(sorted), layout(values));
            let (sorted, wanted, out) = (x.view(&sorted), memory.view(&values), target.view_mut(&values));
            SearchsortedArgs { sorted, values: wanted, right: true, out }.check().is_ok()
        };
        assert!(search(&[2, 3], float, &[2, 5], long) && search(&[3], float, &[0], long));
        for (sorted, values) in [(&[2usize, 3][..], &[3usize, 5][..]), (&[3], &[2, 5]), (&[], &[]), (&[3], &[])] {
            assert!(!search(sorted, float, values, long), "{sorted:?} {values:?}");
        }
        assert!(!search(&[3], DType::F64, &[2], long) && !search(&[3], float, &[2], DType::I32));
    }
}

//! Layouts: shape, strides and offset of a tensor's elements in its buffer.

use crate::{
    error::{Error, Result},
    shape::{MAX_RANK, Shape},
};

/// Shape, strides and offset, all in elements: element `[i, j, …]` is at
/// `offset + i * strides[0] + j * strides[1] + …`. Views (transposes, slices, broadcasts) are other layouts
/// over the same buffer.
///
/// Strides of tensors are never negative; a layout that is only read through (`flip`) may have negative ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    shape: Shape,
    strides: [isize; MAX_RANK],
    offset: usize,
}

impl Layout {
    /// The row-major layout that starts at the beginning of its buffer.
    #[must_use]
    pub fn contiguous(shape: Shape) -> Layout {
        let mut strides = [0; MAX_RANK];
        let mut next = 1;
        for dim in (0..shape.rank()).rev() {
            strides[dim] = next;
            next *= shape[dim].max(1) as isize;
        }
        Layout { shape, strides, offset: 0 }
    }

    /// A layout with the given strides. The caller must check it against the buffer ([`span`](Self::span)).
    ///
    /// # Errors
    /// If the number of strides is not the number of dimensions.
    pub fn strided(shape: Shape, strides: &[isize], offset: usize) -> Result<Layout> {
        if strides.len() != shape.rank() {
            return Err(Error::argument("as_strided", format!("{} strides for shape {shape}", strides.len())));
        }
        let mut all = [0; MAX_RANK];
        all[..strides.len()].copy_from_slice(strides);
        Ok(Layout { shape, strides: all, offset })
    }

    /// The extents.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The extents as a slice.
    #[must_use]
    pub fn dims(&self) -> &[usize] {
        self.shape.dims()
    }

    /// Distance in elements between neighbors along each dimension.
    #[must_use]
    pub fn strides(&self) -> &[isize] {
        &self.strides[..self.rank()]
    }

    /// Position of the first element in the buffer.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Number of dimensions.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.shape.rank()
    }

    /// Number of elements.
    #[must_use]
    pub fn numel(&self) -> usize {
        self.shape.numel()
    }

    /// Whether the elements are in row-major order without gaps, at any offset.
    #[must_use]
    pub fn is_contiguous(&self) -> bool {
        let mut next = 1;
        if self.numel() == 0 {
            return true;
        }
        for dim in (0..self.rank()).rev() {
            let extent = self.shape[dim];
            if extent != 1 {
                if self.strides[dim] != next {
                    return false;
                }
                next *= extent as isize;
            }
        }
        true
    }

    /// Whether two indices may map to the same element, as in a broadcast view. Conservative for exotic strides: it may
    /// return `true` for a layout without overlap, never `false` for one with overlap.
    #[must_use]
    pub fn may_overlap(&self) -> bool {
        if self.numel() == 0 {
            return false;
        }
        let mut order: [usize; MAX_RANK] = std::array::from_fn(|i| i);
        let order = &mut order[..self.rank()];
        order.sort_by_key(|&dim| self.strides[dim].unsigned_abs());
        let mut reach = 0;
        for &mut dim in order {
            if self.shape[dim] > 1 {
                let stride = self.strides[dim].unsigned_abs();
                if stride <= reach {
                    return true;
                }
                reach += stride * (self.shape[dim] - 1);
            }
        }
        false
    }

    /// The range of buffer positions that the elements span, `None` if it would begin before the buffer. Empty layouts
    /// give an empty range. A backend checks it against the buffer's length before it accesses memory.
    #[must_use]
    pub fn span(&self) -> Option<std::ops::Range<usize>> {
        if self.numel() == 0 {
            return Some(0..0);
        }
        let (mut low, mut high) = (self.offset as i128, self.offset as i128);
        for (&extent, &stride) in self.dims().iter().zip(self.strides()) {
            let reach = (extent as i128 - 1) * stride as i128;
            if reach < 0 { low += reach } else { high += reach }
        }
        (low >= 0 && high < isize::MAX as i128).then_some(low as usize..high as usize + 1)
    }

    /// The same elements with dimensions in the order `order` (a permutation, checked by the caller).
    #[must_use]
    pub fn permute(&self, order: &[usize]) -> Layout {
        let mut out = *self;
        let mut dims = [0; MAX_RANK];
        for (to, &from) in order.iter().enumerate() {
            dims[to] = self.shape[from];
            out.strides[to] = self.strides[from];
        }
        out.shape = Shape::from_valid(&dims[..order.len()]);
        out
    }

    /// The same elements with two dimensions exchanged.
    #[must_use]
    pub fn transpose(&self, a: usize, b: usize) -> Layout {
        let mut order: [usize; MAX_RANK] = std::array::from_fn(|i| i);
        order.swap(a, b);
        self.permute(&order[..self.rank()])
    }

    /// Every `step`-th of the elements `start..end` of dimension `dim` (checked by the caller; `step >= 1`).
    #[must_use]
    pub fn slice(&self, dim: usize, start: usize, end: usize, step: usize) -> Layout {
        let mut out = *self;
        let mut dims = [0; MAX_RANK];
        dims[..self.rank()].copy_from_slice(self.dims());
        dims[dim] = end.saturating_sub(start).div_ceil(step);
        out.shape = Shape::from_valid(&dims[..self.rank()]);
        if out.shape[dim] > 1 {
            // Here the step is below the extent. (A dimension of one element may have any stride.)
            out.strides[dim] *= step as isize;
        }
        if out.numel() > 0 {
            out.offset = (self.offset as isize + start as isize * self.strides[dim]) as usize;
        }
        out
    }

    /// The elements with index `index` along `dim`, which is dropped (checked by the caller).
    #[must_use]
    pub fn select(&self, dim: usize, index: usize) -> Layout {
        self.slice(dim, index, index + 1, 1).squeeze(dim)
    }

    /// Removes dimension `dim`, whose extent is 1.
    #[must_use]
    pub fn squeeze(&self, dim: usize) -> Layout {
        let mut order: [usize; MAX_RANK] = std::array::from_fn(|i| i);
        order[dim..].rotate_left(1);
        self.permute(&order[..self.rank() - 1])
    }

    /// Inserts a dimension of extent 1 before dimension `dim` (`dim <= rank`).
    ///
    /// # Errors
    /// If the tensor already has [`MAX_RANK`] dimensions.
    pub fn unsqueeze(&self, dim: usize) -> Result<Layout> {
        let rank = self.rank();
        if rank == MAX_RANK {
            return Err(Error::shape("unsqueeze", format!("at most {} dimensions", MAX_RANK - 1), &self.shape));
        }
        let mut dims = [0; MAX_RANK];
        dims[..rank].copy_from_slice(self.dims());
        dims[dim..=rank].rotate_right(1);
        dims[dim] = 1;
        let mut out = *self;
        out.strides[dim..=rank].rotate_right(1);
        // A dimension of one element may have any stride; this one keeps the strides of a contiguous layout regular.
        out.strides[dim] = if dim < rank { self.strides[dim] * self.shape[dim].max(1) as isize } else { 1 };
        out.shape = Shape::from_valid(&dims[..=rank]);
        Ok(out)
    }

    /// Broadcasts to `shape`, with stride 0 along the repeated dimensions.
    ///
    /// # Errors
    /// If this shape does not broadcast to `shape`.
    pub fn expand(&self, op: &'static str, shape: &Shape) -> Result<Layout> {
        if *shape == self.shape {
            return Ok(*self);
        }
        let Some(lead) = shape.rank().checked_sub(self.rank()) else {
            return Err(Error::broadcast(op, &self.shape, shape));
        };
        let mut out = Layout { shape: *shape, strides: [0; MAX_RANK], offset: self.offset };
        for dim in 0..self.rank() {
            if self.shape[dim] == shape[lead + dim] {
                out.strides[lead + dim] = self.strides[dim];
            } else if self.shape[dim] != 1 {
                return Err(Error::broadcast(op, &self.shape, shape));
            }
        }
        Ok(out)
    }

    /// The same elements in the same order under another shape with equally many elements, if strides can express it;
    /// `None` if a copy is needed.
    #[must_use]
    pub fn reshape(&self, shape: &Shape) -> Option<Layout> {
        if self.is_contiguous() {
            return Some(Layout { offset: self.offset, ..Layout::contiguous(*shape) });
        }
        // Greedily matches groups of old dimensions with groups of new ones of equal product; memory must be regular
        // within each group of old dimensions. (`numel` is not 0: an empty layout is contiguous.)
        let mut out = Layout { shape: *shape, strides: [1; MAX_RANK], offset: self.offset };
        let (mut old, mut new) = (0, 0);
        while old < self.rank() && new < shape.rank() {
            let (mut old_end, mut new_end) = (old + 1, new + 1);
            let (mut old_count, mut new_count) = (self.shape[old], shape[new]);
            while old_count != new_count {
                if old_count < new_count {
                    old_count *= self.shape[old_end];
                    old_end += 1;
                } else {
                    new_count *= shape[new_end];
                    new_end += 1;
                }
            }
            let mut stride = None;
            for dim in (old..old_end).rev().filter(|&dim| self.shape[dim] != 1) {
                if stride.is_some_and(|next| self.strides[dim] != next) {
                    return None;
                }
                stride = Some(self.strides[dim] * self.shape[dim] as isize);
            }
            let innermost = (old..old_end).rev().find(|&dim| self.shape[dim] != 1);
            let mut next = innermost.map_or(1, |dim| self.strides[dim]);
            for dim in (new..new_end).rev() {
                out.strides[dim] = next;
                next *= shape[dim] as isize;
            }
            (old, new) = (old_end, new_end);
        }
        Some(out)
    }

    /// Reverses dimension `dim`. The result has a negative stride and may only be read through.
    #[must_use]
    pub fn flip(&self, dim: usize) -> Layout {
        let mut out = *self;
        if self.numel() > 0 {
            let reach = (self.shape[dim] as isize - 1) * self.strides[dim];
            out.offset = (self.offset as isize + reach) as usize;
            out.strides[dim] = -self.strides[dim];
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(dims: &[usize]) -> Shape {
        Shape::new(dims).unwrap()
    }

    fn contiguous(dims: &[usize]) -> Layout {
        Layout::contiguous(shape(dims))
    }

    #[test]
    fn views_move_strides_and_offset() {
        let x = contiguous(&[2, 3, 4]);
        let t = x.transpose(0, 2);
        assert_eq!((t.dims(), t.strides()), (&[4, 3, 2][..], &[1, 4, 12][..]));
        let s = x.slice(2, 1, 4, 2);
        assert_eq!((s.dims(), s.strides(), s.offset()), (&[2, 3, 2][..], &[12, 4, 2][..], 1));
        let c = x.select(1, 2);
        assert_eq!((c.dims(), c.strides(), c.offset()), (&[2, 4][..], &[12, 1][..], 8));
        assert_eq!(x.unsqueeze(3).unwrap().dims(), &[2, 3, 4, 1]);
        assert_eq!(x.flip(2).span(), Some(0..24));
        assert!(x.is_contiguous() && !t.is_contiguous() && x.unsqueeze(1).unwrap().is_contiguous());
    }

    #[test]
    fn reshape_is_a_view_where_memory_is_regular() {
        let x = contiguous(&[2, 3, 4]);
        assert_eq!(x.reshape(&shape(&[6, 4])).unwrap().strides(), &[4, 1]);
        let t = x.transpose(0, 1);
        assert_eq!(t.reshape(&shape(&[3, 8])), None);
        assert_eq!(t.reshape(&shape(&[3, 2, 2, 2])).unwrap().strides(), &[4, 12, 2, 1]);
        let narrow = x.slice(0, 0, 1, 1).slice(2, 0, 2, 1);
        assert_eq!(narrow.reshape(&shape(&[3, 1, 2])).unwrap().strides(), &[4, 2, 1]);
        assert_eq!(contiguous(&[0, 3]).reshape(&shape(&[3, 0, 5])).unwrap().dims(), &[3, 0, 5]);
        // Without elements, any strides are contiguous.
        let empty = contiguous(&[3, 0]).transpose(0, 1);
        assert!(empty.is_contiguous() && empty.reshape(&shape(&[2, 0])).is_some());
        let expanded = contiguous(&[1, 3]).expand("t", &shape(&[2, 3])).unwrap();
        assert_eq!(expanded.reshape(&shape(&[6])), None);
    }

    #[test]
    fn overlap_and_span() {
        let x = contiguous(&[3]);
        assert!(x.expand("t", &shape(&[2, 3])).unwrap().may_overlap());
        assert!(!contiguous(&[2, 3]).transpose(0, 1).may_overlap());
        assert!(!contiguous(&[4, 4]).slice(1, 0, 4, 2).may_overlap());
        assert_eq!(contiguous(&[0, 3]).span(), Some(0..0));
        let bad = Layout::strided(shape(&[2]), &[-5], 1).unwrap();
        assert_eq!(bad.span(), None);
    }
}

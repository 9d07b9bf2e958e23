//! Strided views of storages: checks their bounds, and copies their elements in row-major order.

use std::ops::Range;

/// A view of a storage, in units of elements; `size` is the size of one in bytes.
pub(super) struct View<'a> {
    pub dims: &'a [usize],
    pub strides: &'a [usize],
    pub offset: usize,
    pub size: usize,
}

impl View<'_> {
    /// The number of bytes, if all elements lie in a storage of `length` bytes and none of them twice.
    pub fn check(&self, length: usize) -> Result<usize, String> {
        let numel = self.dims.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim)).ok_or("is too large")?;
        if numel == 0 {
            return Ok(0);
        }
        let reach = self.dims.iter().zip(self.strides).try_fold(0usize, |reach, (&dim, &stride)| {
            (dim - 1).checked_mul(stride).and_then(|more| reach.checked_add(more))
        });
        let extent = reach.and_then(|reach| reach.checked_add(1));
        let end = extent.and_then(|extent| extent.checked_add(self.offset)).and_then(|end| end.checked_mul(self.size));
        let (Some(extent), Some(_)) = (extent, end.filter(|&end| end <= length)) else {
            return Err(format!("does not lie inside its storage of {length} bytes"));
        };
        if numel > extent {
            return Err("is a view that overlaps itself".into());
        }
        Ok(numel * self.size)
    }

    /// The range of bytes from the first element to the last. The view must have been checked and have elements.
    pub fn span(&self) -> Range<usize> {
        let reach: usize = self.dims.iter().zip(self.strides).map(|(dim, stride)| (dim - 1) * stride).sum();
        self.offset * self.size..(self.offset + reach + 1) * self.size
    }

    /// The number of outer dimensions that are not contiguous, and the number of contiguous elements inside them.
    fn runs(&self) -> (usize, usize) {
        let (mut run, mut outer) = (1, self.dims.len());
        while outer > 0 && (self.dims[outer - 1] == 1 || self.strides[outer - 1] == run) {
            outer -= 1;
            run *= self.dims[outer];
        }
        (outer, run)
    }

    /// Whether the elements are contiguous in row-major order.
    pub fn is_contiguous(&self) -> bool {
        self.runs().0 == 0
    }

    /// Copies the elements in row-major order to `out`. `bytes` are those of the storage from byte `from` on. The view
    /// must have been checked, have elements, and lie within these bytes.
    pub fn gather(&self, bytes: &[u8], from: usize, out: &mut [u8]) {
        let (outer, run) = self.runs();
        let mut index = vec![0; outer];
        let mut at = self.offset;
        for piece in out.chunks_exact_mut(run * self.size) {
            let start = at * self.size - from;
            piece.copy_from_slice(&bytes[start..start + piece.len()]);
            for dim in (0..outer).rev() {
                index[dim] += 1;
                at += self.strides[dim];
                if index[dim] < self.dims[dim] {
                    break;
                }
                at -= self.strides[dim] * self.dims[dim];
                index[dim] = 0;
            }
        }
    }
}

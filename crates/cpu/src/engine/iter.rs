//! Loop nests over strided layouts.

use std::ops::Range;

use kiln_backend::{Layout, MAX_RANK};

/// The loop nest of one layout: its dimensions, without those of extent 1, and merged where memory is regular across
/// neighbors. Positions count elements in row-major order; offsets are relative to the layout's first element.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walk {
    rank: usize,
    dims: [usize; MAX_RANK],
    strides: [isize; MAX_RANK],
}

impl Walk {
    /// The loop nest of all dimensions.
    pub(crate) fn new(layout: &Layout) -> Walk {
        Walk::of(layout.dims().iter().copied().zip(layout.strides().iter().copied()))
    }

    /// The loop nest of all dimensions but `dim`: it visits the starts of the lines along `dim`. A scalar, which has no
    /// dimension to leave out, is one line.
    pub(crate) fn across(layout: &Layout, dim: usize) -> Walk {
        let all = layout.dims().iter().copied().zip(layout.strides().iter().copied());
        Walk::of(all.enumerate().filter(|&(d, _)| d != dim).map(|(_, pair)| pair))
    }

    /// The loop nest of the given extents and strides, outermost first.
    pub(crate) fn of(pairs: impl Iterator<Item = (usize, isize)>) -> Walk {
        let mut walk = Walk { rank: 0, dims: [1; MAX_RANK], strides: [1; MAX_RANK] };
        for (extent, stride) in pairs.filter(|&(extent, _)| extent != 1) {
            let last = walk.rank.wrapping_sub(1);
            if walk.rank > 0 && walk.strides[last] == stride * extent as isize {
                walk.dims[last] *= extent;
                walk.strides[last] = stride;
            } else {
                walk.dims[walk.rank] = extent;
                walk.strides[walk.rank] = stride;
                walk.rank += 1;
            }
        }
        // A single element is a row of one element.
        walk.rank = walk.rank.max(1);
        walk
    }

    /// Number of positions.
    pub(crate) fn len(&self) -> usize {
        self.dims[..self.rank].iter().product()
    }

    /// Whether positions equal offsets.
    pub(crate) fn is_contiguous(&self) -> bool {
        self.rank == 1 && self.strides[0] == 1
    }

    /// Whether all positions have offset 0.
    pub(crate) fn is_constant(&self) -> bool {
        self.rank == 1 && (self.strides[0] == 0 || self.dims[0] == 1)
    }

    /// The offset of one position.
    #[inline]
    pub(crate) fn offset(&self, position: usize) -> isize {
        let (mut rest, mut offset) = (position, 0);
        for dim in (1..self.rank).rev() {
            offset += (rest % self.dims[dim]) as isize * self.strides[dim];
            rest /= self.dims[dim];
        }
        offset + rest as isize * self.strides[0]
    }

    /// How many elements are contiguous from a position on; `None` if the innermost stride is not 1.
    #[inline]
    pub(crate) fn run_from(&self, position: usize) -> Option<usize> {
        let last = self.rank - 1;
        let extent = self.dims[last];
        let done = if self.rank == 1 { position } else { position % extent };
        (self.strides[last] == 1).then(|| extent.saturating_sub(done))
    }

    /// Visits the positions of `range` (inside `0..len()`) as `row(offset, stride, len)`, in runs of constant stride.
    #[inline]
    pub(crate) fn rows(&self, range: Range<usize>, mut row: impl FnMut(isize, isize, usize)) {
        let mut left = range.len();
        if left == 0 {
            return;
        }
        let last = self.rank - 1;
        let stride = self.strides[last];
        let mut index = [0; MAX_RANK];
        let mut rest = range.start;
        for dim in (0..self.rank).rev() {
            index[dim] = rest % self.dims[dim];
            rest /= self.dims[dim];
        }
        let mut start: isize = (0..last).map(|dim| index[dim] as isize * self.strides[dim]).sum();
        let mut first = index[last];
        loop {
            let len = (self.dims[last] - first).min(left);
            row(start + first as isize * stride, stride, len);
            left -= len;
            if left == 0 {
                return;
            }
            first = 0;
            for dim in (0..last).rev() {
                index[dim] += 1;
                start += self.strides[dim];
                if index[dim] < self.dims[dim] {
                    break;
                }
                start -= self.dims[dim] as isize * self.strides[dim];
                index[dim] = 0;
            }
        }
    }

    /// Visits the positions of `range` (inside `0..len()`) one at a time, as `each(position, offset)`.
    #[inline]
    pub(crate) fn offsets(&self, range: Range<usize>, mut each: impl FnMut(usize, isize)) {
        let mut position = range.start;
        self.rows(range, |offset, stride, len| {
            for i in 0..len {
                each(position, offset + i as isize * stride);
                position += 1;
            }
        });
    }
}

/// The order of dimensions in which the smallest strides of `out` come last. An element-wise operation may visit
/// elements in any order, and one that follows the output's memory writes whole cache lines.
pub(crate) fn memory_order(out: &Layout) -> [usize; MAX_RANK] {
    let mut order: [usize; MAX_RANK] = std::array::from_fn(|i| i);
    if !out.is_contiguous() {
        order[..out.rank()].sort_by_key(|&dim| std::cmp::Reverse(out.strides()[dim].unsigned_abs()));
    }
    order
}

#[cfg(test)]
mod tests {
    use kiln_backend::Shape;

    use super::*;

    fn contiguous(dims: &[usize]) -> Layout {
        Layout::contiguous(Shape::new(dims).unwrap())
    }

    fn naive(layout: &Layout) -> Vec<isize> {
        let mut out = vec![0];
        for (&extent, &stride) in layout.dims().iter().zip(layout.strides()) {
            out = out.iter().flat_map(|&o| (0..extent).map(move |i| o + i as isize * stride)).collect();
        }
        out
    }

    #[test]
    fn visits_in_row_major_order() {
        let x = contiguous(&[3, 4, 5]);
        let wide = Shape::new(&[2, 3, 4, 5]).unwrap();
        for layout in [
            x,
            x.transpose(0, 2),
            x.transpose(1, 2),
            x.flip(1),
            x.slice(2, 1, 5, 2),
            x.expand("t", &wide).unwrap(),
            x.select(1, 2).unsqueeze(1).unwrap(),
            contiguous(&[]),
            contiguous(&[1, 1]),
            contiguous(&[2, 0, 3]),
        ] {
            let (walk, want) = (Walk::new(&layout), naive(&layout));
            assert_eq!(walk.len(), want.len());
            for start in 0..want.len() {
                assert_eq!(walk.offset(start), want[start]);
                for end in [start, start + 1, (start + 7).min(want.len()), want.len()] {
                    let mut got = Vec::new();
                    walk.offsets(start..end, |position, offset| {
                        assert_eq!(position, start + got.len());
                        got.push(offset);
                    });
                    assert_eq!(got, want[start..end], "{layout:?}");
                }
            }
        }
        assert!(Walk::new(&x).is_contiguous() && Walk::new(&contiguous(&[])).is_contiguous());
        assert!(Walk::new(&contiguous(&[1, 1]).expand("t", &Shape::new(&[4, 5]).unwrap()).unwrap()).is_constant());
    }

    #[test]
    fn across_leaves_one_dimension_out() {
        let mut got = Vec::new();
        Walk::across(&contiguous(&[2, 3, 4]), 1).offsets(0..8, |_, o| got.push(o));
        assert_eq!(got, [0, 1, 2, 3, 12, 13, 14, 15]);
        assert_eq!(Walk::across(&contiguous(&[]), 0).len(), 1);
    }
}

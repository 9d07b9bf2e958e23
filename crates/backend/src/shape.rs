//! Shapes, and the ways in which a caller names dimensions.

use std::{fmt, ops::Deref};

use crate::error::{Error, Result};

/// The largest number of dimensions that a tensor can have.
pub const MAX_RANK: usize = 8;

/// The extents of a tensor, outermost first: at most [`MAX_RANK`] of them, each may be 0. Copied freely; it
/// dereferences to `[usize]`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [usize; MAX_RANK],
    rank: u8,
}

impl Shape {
    /// The shape of a scalar: no dimensions, one element.
    pub const SCALAR: Shape = Shape { dims: [0; MAX_RANK], rank: 0 };

    /// A shape with the given extents.
    ///
    /// # Errors
    /// If more than [`MAX_RANK`] dimensions, or more than `isize::MAX` elements.
    pub fn new(dims: &[usize]) -> Result<Shape> {
        if dims.len() > MAX_RANK {
            return Err(Error::argument("shape", format!("{dims:?} has more than {MAX_RANK} dimensions")));
        }
        // Zero extents are left out of the product: strides are products of the other extents and must not overflow
        // either.
        let elements = dims.iter().filter(|&&d| d > 0).try_fold(1usize, |n, &d| n.checked_mul(d));
        if elements.is_none_or(|n| n > isize::MAX as usize / 8) {
            return Err(Error::argument("shape", format!("{dims:?} has more elements than memory can address")));
        }
        Ok(Self::from_valid(dims))
    }

    /// For extents derived from a checked shape by shrinking them or repeating extents of 1.
    pub(crate) fn from_valid(dims: &[usize]) -> Shape {
        let mut out = Shape::SCALAR;
        out.rank = dims.len() as u8;
        out.dims[..dims.len()].copy_from_slice(dims);
        out
    }

    /// Number of dimensions.
    #[must_use]
    pub fn rank(&self) -> usize {
        usize::from(self.rank)
    }

    /// The extents.
    #[must_use]
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank()]
    }

    /// Number of elements: the product of the extents, 1 for a scalar.
    #[must_use]
    pub fn numel(&self) -> usize {
        self.dims().iter().product()
    }

    /// This shape with dimension `dim` replaced.
    ///
    /// # Errors
    /// If the new shape has too many elements.
    pub fn with_dim(&self, dim: usize, extent: usize) -> Result<Shape> {
        let mut dims = self.dims;
        dims[dim] = extent;
        Shape::new(&dims[..self.rank()])
    }

    /// The shape that two operands broadcast to by NumPy's rule: aligned at the right, extents equal or 1.
    ///
    /// # Errors
    /// [`ErrorKind::Broadcast`](crate::ErrorKind::Broadcast), naming `op` and both shapes.
    pub fn broadcast(op: &'static str, lhs: &Shape, rhs: &Shape) -> Result<Shape> {
        if lhs == rhs {
            return Ok(*lhs);
        }
        let rank = lhs.rank().max(rhs.rank());
        let mut dims = [0; MAX_RANK];
        for (i, out) in dims[..rank].iter_mut().enumerate() {
            let at = |s: &Shape| (i + s.rank()).checked_sub(rank).map_or(1, |j| s[j]);
            *out = match (at(lhs), at(rhs)) {
                (a, b) if a == b => a,
                (1, b) => b,
                (a, 1) => a,
                _ => return Err(Error::broadcast(op, lhs, rhs)),
            };
        }
        Shape::new(&dims[..rank])
    }
}

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        self.dims()
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl PartialEq<[usize]> for Shape {
    fn eq(&self, other: &[usize]) -> bool {
        self.dims() == other
    }
}

impl<const N: usize> PartialEq<[usize; N]> for Shape {
    fn eq(&self, other: &[usize; N]) -> bool {
        self.dims() == other
    }
}

/// One dimension as a caller names it: `0` is the first, `-1` the last.
pub trait Dim: Copy {
    /// The number as given; one that is too large becomes one that no tensor has.
    fn number(self) -> i64;

    /// The index in `0..rank`. A scalar accepts 0 and -1, as in PyTorch.
    ///
    /// # Errors
    /// [`ErrorKind::DimOutOfRange`](crate::ErrorKind::DimOutOfRange).
    fn resolve(self, op: &'static str, rank: usize) -> Result<usize> {
        resolve_number(self.number(), op, rank)
    }
}

fn resolve_number(dim: i64, op: &'static str, rank: usize) -> Result<usize> {
    let rank_or_1 = rank.max(1) as i64;
    let index = if dim < 0 { dim.saturating_add(rank_or_1) } else { dim };
    if (0..rank_or_1).contains(&index) { Ok(index as usize) } else { Err(Error::dim(op, dim, rank)) }
}

macro_rules! dim {
    ($($ty:ty)*) => {$(
        impl Dim for $ty {
            fn number(self) -> i64 { i64::try_from(self).unwrap_or(i64::MAX) }
        }
    )*};
}
dim!(i32 i64 isize usize);

/// Zero or more dimensions: `()` (all of them), `1`, `-1`, `[0, 2]`, `&[0, 2][..]`.
pub trait Dims {
    /// The dimensions as given.
    fn list(&self) -> DimList;

    /// A mask with `true` for each dimension named. `()` and an empty list name all of them, as in PyTorch's
    /// reductions.
    ///
    /// # Errors
    /// If a dimension out of range, or one named twice.
    fn resolve(&self, op: &'static str, rank: usize) -> Result<[bool; MAX_RANK]> {
        self.list().mask(op, rank)
    }

    /// [`resolve`](Dims::resolve) where an empty list names no dimension, as in PyTorch's `flip`, `squeeze`, `any` and
    /// `all`; `()` names all of them.
    ///
    /// # Errors
    /// Those of [`resolve`](Dims::resolve).
    fn resolve_listed(&self, op: &'static str, rank: usize) -> Result<[bool; MAX_RANK]> {
        if self.is_empty_list() { Ok([false; MAX_RANK]) } else { self.resolve(op, rank) }
    }

    /// Whether no dimension is named, which means all of them.
    fn names_none(&self) -> bool {
        self.list().count == 0
    }

    /// Whether this is an empty list.
    fn is_empty_list(&self) -> bool {
        let list = self.list();
        list.count == 0 && !list.is_all
    }
}

/// The dimensions that any [`Dims`] names.
#[derive(Clone, Copy, Debug)]
pub struct DimList {
    /// The dimensions; only the first `count` are meaningful.
    dims: [i64; MAX_RANK],
    /// How many were given, possibly more than any tensor has.
    count: usize,
    /// Whether `()` was given.
    is_all: bool,
}

impl DimList {
    fn new(dims: impl ExactSizeIterator<Item = i64>) -> DimList {
        let mut list = DimList { dims: [0; MAX_RANK], count: dims.len(), is_all: false };
        list.dims.iter_mut().zip(dims).for_each(|(place, dim)| *place = dim);
        list
    }

    fn mask(&self, op: &'static str, rank: usize) -> Result<[bool; MAX_RANK]> {
        let mut mask = [false; MAX_RANK];
        if self.count == 0 {
            mask[..rank].fill(true);
            return Ok(mask);
        }
        let Some(dims) = self.dims.get(..self.count) else {
            return Err(Error::argument(op, format!("{} dimensions given; tensors have at most 8", self.count)));
        };
        for &dim in dims {
            let dim = resolve_number(dim, op, rank)?;
            if std::mem::replace(&mut mask[dim], true) {
                return Err(Error::argument(op, format!("dimension {dim} is named twice")));
            }
        }
        // A scalar accepts dimension 0, but has none to reduce.
        mask[rank..].fill(false);
        Ok(mask)
    }
}

impl Dims for DimList {
    fn list(&self) -> DimList {
        *self
    }
}

impl Dims for () {
    fn list(&self) -> DimList {
        DimList { dims: [0; MAX_RANK], count: 0, is_all: true }
    }
}

impl<D: Dim> Dims for [D] {
    fn list(&self) -> DimList {
        DimList::new(self.iter().map(|dim| dim.number()))
    }
}

impl<D: Dim> Dims for D {
    fn list(&self) -> DimList {
        DimList::new([self.number()].into_iter())
    }
}

impl<D: Dim, const N: usize> Dims for [D; N] {
    fn list(&self) -> DimList {
        self.as_slice().list()
    }
}

impl<D: Dim> Dims for &[D] {
    fn list(&self) -> DimList {
        (**self).list()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(dims: &[usize]) -> Shape {
        Shape::new(dims).unwrap()
    }

    #[test]
    fn broadcast_follows_numpy() {
        for (a, b, want) in [
            (&[3, 1][..], &[1, 4][..], Some(&[3, 4][..])),
            (&[], &[2, 3], Some(&[2, 3])),
            (&[0, 3], &[1, 3], Some(&[0, 3])),
            (&[2, 0], &[2, 1], Some(&[2, 0])),
            (&[5, 4], &[4], Some(&[5, 4])),
            (&[2, 3], &[3, 2], None),
            (&[0], &[2], None),
        ] {
            let got = Shape::broadcast("add", &shape(a), &shape(b));
            assert_eq!(got.as_ref().ok().map(Shape::dims), want, "{a:?} {b:?}");
        }
    }

    #[test]
    fn too_large_or_too_many_is_an_error() {
        assert!(Shape::new(&[1; 9]).is_err());
        assert!(Shape::new(&[usize::MAX, 2]).is_err());
        assert!(Shape::new(&[0, usize::MAX, 4]).is_err());
    }

    #[test]
    fn dims_resolve_negative_and_reject_repeats() {
        assert_eq!([0i64, -1].resolve("sum", 3).unwrap()[..3], [true, false, true]);
        assert!([0i64, -3].resolve("sum", 3).is_err());
        assert!(3i64.resolve("sum", 3).is_err() && Dims::resolve(&-4i64, "sum", 3).is_err());
        assert_eq!(Dims::resolve(&0, "sum", 0).unwrap(), [false; MAX_RANK]);
    }
}

//! `Shape`: the extents of a tensor.

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
}

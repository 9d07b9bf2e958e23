//! The ways in which a caller names dimensions: one ([`Dim`]) or several ([`Dims`]), from either end.

use crate::{
    error::{Error, Result},
    shape::MAX_RANK,
};

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
    /// If a dimension is out of range or named twice.
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

    #[test]
    fn dims_resolve_negative_and_reject_repeats() {
        assert_eq!([0i64, -1].resolve("sum", 3).unwrap()[..3], [true, false, true]);
        assert!([0i64, -3].resolve("sum", 3).is_err());
        assert!(3i64.resolve("sum", 3).is_err() && Dims::resolve(&-4i64, "sum", 3).is_err());
        assert_eq!(Dims::resolve(&0, "sum", 0).unwrap(), [false; MAX_RANK]);
    }
}

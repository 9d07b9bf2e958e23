//! Shapes as callers write them.

use kiln_backend::{Error, MAX_RANK, Result, Shape};

/// A shape as an argument: `[2, 3]`, `(2, 3)`, `5`, `()`, a slice, or a [`Shape`]. In `reshape` and `view`
/// one extent may be -1: it is worked out from the others. In `expand` -1 keeps an extent.
pub trait Extents {
    /// The extents, as they are.
    ///
    /// # Errors
    /// There are more than 8.
    fn extents(&self, op: &'static str) -> Result<([i64; MAX_RANK], usize)>;

    /// As a shape.
    ///
    /// # Errors
    /// One is negative, or there are too many elements.
    fn to_shape(&self, op: &'static str) -> Result<Shape> {
        let (extents, rank) = self.extents(op)?;
        let mut dims = [0; MAX_RANK];
        for (dim, &extent) in dims.iter_mut().zip(&extents[..rank]) {
            let message = || Error::argument(op, format!("{extent} in {:?} is no extent", &extents[..rank]));
            *dim = usize::try_from(extent).map_err(|_| message())?;
        }
        Shape::new(&dims[..rank])
    }

    /// As a shape of `numel` elements, of which one extent may be -1.
    ///
    /// # Errors
    /// The number of elements cannot be `numel`.
    fn to_shape_of(&self, op: &'static str, from: &Shape) -> Result<Shape> {
        let (mut extents, rank) = self.extents(op)?;
        let numel = from.numel();
        let asked = || format!("{:?}", &extents[..rank]);
        let wrong =
            || Error::argument(op, format!("a tensor of shape {from} ({numel} elements) does not fit {}", asked()));
        let mut inferred = None;
        let mut known = 1usize;
        for (i, &extent) in extents[..rank].iter().enumerate() {
            match extent {
                -1 if inferred.is_none() => inferred = Some(i),
                extent => known = usize::try_from(extent).ok().and_then(|e| known.checked_mul(e)).ok_or_else(wrong)?,
            }
        }
        if let Some(i) = inferred {
            if known == 0 || !numel.is_multiple_of(known) {
                return Err(wrong());
            }
            extents[i] = (numel / known) as i64;
        } else if known != numel {
            return Err(wrong());
        }
        extents[..rank].to_shape(op)
    }
}

/// An integer that can be an extent.
pub trait Extent: Copy {
    /// The value; too large ones become one that no memory holds.
    fn value(self) -> i64;
}

macro_rules! extent {
    ($($ty:ty)*) => {$(
        impl Extent for $ty {
            fn value(self) -> i64 { i64::try_from(self).unwrap_or(i64::MAX) }
        }
        impl Extents for $ty {
            fn extents(&self, op: &'static str) -> Result<([i64; MAX_RANK], usize)> { [*self].extents(op) }
        }
    )*};
}
extent!(i32 i64 usize);

impl<E: Extent> Extents for [E] {
    fn extents(&self, op: &'static str) -> Result<([i64; MAX_RANK], usize)> {
        if self.len() > MAX_RANK {
            return Err(Error::argument(op, format!("{} dimensions are more than {MAX_RANK}", self.len())));
        }
        let mut out = [0; MAX_RANK];
        out.iter_mut().zip(self).for_each(|(o, e)| *o = e.value());
        Ok((out, self.len()))
    }
}

impl<E: Extent, const N: usize> Extents for [E; N] {
    fn extents(&self, op: &'static str) -> Result<([i64; MAX_RANK], usize)> {
        self.as_slice().extents(op)
    }
}

impl<E: Extent> Extents for Vec<E> {
    fn extents(&self, op: &'static str) -> Result<([i64; MAX_RANK], usize)> {
        self.as_slice().extents(op)
    }
}

impl Extents for Shape {
    fn extents(&self, op: &'static str) -> Result<([i64; MAX_RANK], usize)> {
        self.dims().extents(op)
    }
}

impl<T: Extents + ?Sized> Extents for &T {
    fn extents(&self, op: &'static str) -> Result<([i64; MAX_RANK], usize)> {
        (**self).extents(op)
    }
}

impl Extents for () {
    fn extents(&self, _: &'static str) -> Result<([i64; MAX_RANK], usize)> {
        Ok(([0; MAX_RANK], 0))
    }
}

macro_rules! tuple {
    ($($ty:ident $i:tt),*) => {
        impl<$($ty: Extent),*> Extents for ($($ty,)*) {
            fn extents(&self, op: &'static str) -> Result<([i64; MAX_RANK], usize)> {
                [$(self.$i.value()),*].extents(op)
            }
        }
    };
}
tuple!(A 0);
tuple!(A 0, B 1);
tuple!(A 0, B 1, C 2);
tuple!(A 0, B 1, C 2, D 3);
tuple!(A 0, B 1, C 2, D 3, E 4);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5);

//! Shape arguments: the forms in which callers write shapes.

use kiln_backend::{Error, MAX_RANK, Result, Shape};

/// A shape as an argument: `[2, 3]`, `(2, 3)`, `5`, `()`, a slice, or a [`Shape`]. In `reshape` and `view` one extent
/// may be -1 and is inferred from the others. In `expand`, -1 keeps an extent.
pub trait Extents {
    /// The extents as given.
    fn list(&self) -> ExtentList;

    /// The extents and how many there are.
    ///
    /// # Errors
    /// If there are more than 8.
    fn extents(&self, op: &'static str) -> Result<([i64; MAX_RANK], usize)> {
        self.list().checked(op)
    }

    /// Converts to a shape.
    ///
    /// # Errors
    /// If one is negative, or there are too many elements.
    fn to_shape(&self, op: &'static str) -> Result<Shape> {
        self.list().shape(op)
    }

    /// Converts to a shape with as many elements as `from`; one extent may be -1.
    ///
    /// # Errors
    /// If the number of elements cannot match.
    fn to_shape_of(&self, op: &'static str, from: &Shape) -> Result<Shape> {
        self.list().shape_of(op, from)
    }
}

/// The extents of any [`Extents`].
#[derive(Clone, Copy, Debug)]
pub struct ExtentList {
    /// The extents; only the first `count` are meaningful.
    extents: [i64; MAX_RANK],
    /// How many were given, possibly more than any tensor has.
    count: usize,
}

impl ExtentList {
    fn new(extents: impl ExactSizeIterator<Item = i64>) -> ExtentList {
        let mut list = ExtentList { extents: [0; MAX_RANK], count: extents.len() };
        list.extents.iter_mut().zip(extents).for_each(|(place, extent)| *place = extent);
        list
    }

    fn checked(&self, op: &'static str) -> Result<([i64; MAX_RANK], usize)> {
        if self.count > MAX_RANK {
            return Err(Error::argument(
                op,
                format!("{} dimensions given; tensors have at most {MAX_RANK}", self.count),
            ));
        }
        Ok((self.extents, self.count))
    }

    fn shape(&self, op: &'static str) -> Result<Shape> {
        let (extents, rank) = self.checked(op)?;
        let mut dims = [0; MAX_RANK];
        for (dim, &extent) in dims.iter_mut().zip(&extents[..rank]) {
            let message = || Error::argument(op, format!("{extent} in {:?} is not a valid extent", &extents[..rank]));
            *dim = usize::try_from(extent).map_err(|_| message())?;
        }
        Shape::new(&dims[..rank])
    }

    fn shape_of(&self, op: &'static str, from: &Shape) -> Result<Shape> {
        let (mut extents, rank) = self.checked(op)?;
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
        ExtentList { extents, count: rank }.shape(op)
    }
}

/// An integer type for extents.
pub trait Extent: Copy {
    /// The value; one that is too large becomes one that no memory holds.
    fn value(self) -> i64;
}

macro_rules! extent {
    ($($ty:ty)*) => {$(
        impl Extent for $ty {
            fn value(self) -> i64 { i64::try_from(self).unwrap_or(i64::MAX) }
        }
        impl Extents for $ty {
            fn list(&self) -> ExtentList { [*self].list() }
        }
    )*};
}
extent!(i32 i64 usize);

impl Extents for ExtentList {
    fn list(&self) -> ExtentList {
        *self
    }
}

impl<E: Extent> Extents for [E] {
    fn list(&self) -> ExtentList {
        ExtentList::new(self.iter().map(|extent| extent.value()))
    }
}

impl<E: Extent, const N: usize> Extents for [E; N] {
    fn list(&self) -> ExtentList {
        self.as_slice().list()
    }
}

impl<E: Extent> Extents for Vec<E> {
    fn list(&self) -> ExtentList {
        self.as_slice().list()
    }
}

impl Extents for Shape {
    fn list(&self) -> ExtentList {
        self.dims().list()
    }
}

impl<T: Extents + ?Sized> Extents for &T {
    fn list(&self) -> ExtentList {
        (**self).list()
    }
}

impl Extents for () {
    fn list(&self) -> ExtentList {
        ExtentList { extents: [0; MAX_RANK], count: 0 }
    }
}

macro_rules! tuple {
    ($($ty:ident $i:tt),*) => {
        impl<$($ty: Extent),*> Extents for ($($ty,)*) {
            fn list(&self) -> ExtentList {
                [$(self.$i.value()),*].list()
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

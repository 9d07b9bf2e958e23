//! The items of an index: what can be written between the brackets of `x[…]`.

use std::ops::{Range, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive};

use smallvec::{SmallVec, smallvec};

use crate::tensor::Tensor;

/// One item of an index, made from the arguments of [`Tensor::i`].
#[derive(Clone, Debug)]
pub enum At {
    /// One index; the dimension is dropped. Negative ones count from the end.
    Select(i64),
    /// A range; the dimension stays. Bounds work as in Python: negative ones count from the end, and those out of range
    /// are clipped.
    Slice {
        /// The first index.
        start: Option<i64>,
        /// One past the last index.
        end: Option<i64>,
        /// The step between selected indices.
        step: usize,
    },
    /// A new dimension of extent 1.
    NewAxis,
    /// As many whole dimensions as the other items leave over.
    Ellipsis,
    /// The indices in an integer tensor, whose dimensions replace the indexed one; or a `bool` mask over as many
    /// dimensions as it has.
    List(Tensor),
}

/// A new dimension of extent 1, Python's `None`: `x.i((.., NewAxis))`.
#[derive(Clone, Copy, Debug)]
pub struct NewAxis;

/// As many whole dimensions as the other items leave over, Python's `...`: `x.i((Ellipsis, 0))` is `x[..., 0]`. (Rust's
/// `..` is Python's `:`, one whole dimension.)
#[derive(Clone, Copy, Debug)]
pub struct Ellipsis;

/// Every `by`-th index of a range: `x.i(step(1..9, 2))` is `x[1:9:2]`, `step(.., 2)` is `::2`.
pub fn step(range: impl IndexItem, by: usize) -> At {
    match range.at() {
        At::Slice { start, end, step } => At::Slice { start, end, step: step.saturating_mul(by) },
        other => other,
    }
}

/// An item of an index: an integer, a range of integers, `..`, [`step`], [`NewAxis`], [`Ellipsis`], or an
/// index tensor or mask.
pub trait IndexItem {
    /// The item.
    fn at(&self) -> At;
}

/// The argument of [`Tensor::i`]: one item, a tuple of up to 8, or a slice of [`At`].
pub trait Indexer {
    /// The items in order.
    fn items(&self) -> SmallVec<[At; 4]>;
}

impl<T: IndexItem> Indexer for T {
    fn items(&self) -> SmallVec<[At; 4]> {
        smallvec![self.at()]
    }
}

impl Indexer for [At] {
    fn items(&self) -> SmallVec<[At; 4]> {
        self.iter().cloned().collect()
    }
}

impl Indexer for &[At] {
    fn items(&self) -> SmallVec<[At; 4]> {
        (**self).items()
    }
}

impl IndexItem for At {
    fn at(&self) -> At {
        self.clone()
    }
}

impl IndexItem for NewAxis {
    fn at(&self) -> At {
        At::NewAxis
    }
}

impl IndexItem for Ellipsis {
    fn at(&self) -> At {
        At::Ellipsis
    }
}

impl IndexItem for RangeFull {
    fn at(&self) -> At {
        slice(None, None)
    }
}

impl IndexItem for Tensor {
    fn at(&self) -> At {
        At::List(self.clone())
    }
}

impl IndexItem for &Tensor {
    fn at(&self) -> At {
        At::List((*self).clone())
    }
}

fn slice(start: Option<i64>, end: Option<i64>) -> At {
    At::Slice { start, end, step: 1 }
}

/// The end of a range whose last index is `last`; `None` after -1, which has no successor that counts from the end.
fn after(last: i64) -> Option<i64> {
    if last == -1 { None } else { Some(last.saturating_add(1)) }
}

macro_rules! integer {
    ($($ty:ty)*) => {$(
        impl IndexItem for $ty {
            fn at(&self) -> At { At::Select(number(*self)) }
        }
        impl IndexItem for Range<$ty> {
            fn at(&self) -> At { slice(Some(number(self.start)), Some(number(self.end))) }
        }
        impl IndexItem for RangeFrom<$ty> {
            fn at(&self) -> At { slice(Some(number(self.start)), None) }
        }
        impl IndexItem for RangeTo<$ty> {
            fn at(&self) -> At { slice(None, Some(number(self.end))) }
        }
        impl IndexItem for RangeInclusive<$ty> {
            fn at(&self) -> At { slice(Some(number(*self.start())), after(number(*self.end()))) }
        }
        impl IndexItem for RangeToInclusive<$ty> {
            fn at(&self) -> At { slice(None, after(number(self.end))) }
        }
    )*};
}
integer!(i32 i64 isize usize);

/// The value; one that is too large becomes one that is out of range for every tensor.
fn number(value: impl TryInto<i64>) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}

macro_rules! tuple {
    ($($ty:ident $i:tt),*) => {
        impl<$($ty: IndexItem),*> Indexer for ($($ty,)*) {
            fn items(&self) -> SmallVec<[At; 4]> {
                smallvec![$(self.$i.at()),*]
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
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);

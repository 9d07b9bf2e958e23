//! `OneOrAll`: an argument that is one dimension, or the whole tensor.

/// Where [`argmax`](crate::Tensor::argmax) and [`argmin`](crate::Tensor::argmin) search: `()` is the whole tensor, a
/// number one dimension.
pub trait OneOrAll {
    /// The dimension, as the user wrote it; `None` for all.
    fn dim(&self) -> Option<i64>;
}

impl OneOrAll for () {
    fn dim(&self) -> Option<i64> {
        None
    }
}

macro_rules! one_dim {
    ($($ty:ty)*) => {$(
        impl OneOrAll for $ty {
            fn dim(&self) -> Option<i64> {
                Some(i64::try_from(*self).unwrap_or(i64::MAX))
            }
        }
    )*};
}
one_dim!(i32 i64 isize usize);

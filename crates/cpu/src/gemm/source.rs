//! The element types of products: how they are stored, and what they are computed in.

use crate::numeric::stored::Half;

/// What every element type can do.
pub trait Number: Copy + Send + Sync + PartialOrd + 'static {
    const ZERO: Self;
    /// The sum; integers wrap around.
    fn plus(self, other: Self) -> Self;
}

macro_rules! number {
    ($($t:ty: $zero:expr, $a:ident $b:ident $sum:expr;)*) => {$(
        impl Number for $t {
            const ZERO: $t = $zero;
            #[inline(always)]
            fn plus(self, $b: $t) -> $t {
                let $a = self;
                $sum
            }
        }
    )*};
}
number! {
    f32: 0.0, a b a + b;
    f64: 0.0, a b a + b;
}

macro_rules! half {
    ($($t:ty)*) => {$(
        impl Source<f32> for $t {
            const SAME: bool = false;
            #[inline(always)]
            fn widen(self) -> f32 {
                Half::widen(self)
            }
            #[inline(always)]
            fn narrow(x: f32) -> $t {
                Half::narrow(x)
            }
            #[inline]
            unsafe fn widen_run(src: *const $t, n: usize, dst: *mut f32) {
                // SAFETY: the caller's promise; the buffer is f32 memory, for which every bit
                // pattern is a value, and was written before or is only written here.
                let (src, dst) = unsafe { (core::slice::from_raw_parts(src, n), core::slice::from_raw_parts_mut(dst, n)) };
                Half::widen_slice(src, dst);
            }
        }
    )*};
}

macro_rules! number_rows {
    (()
        $(FLOAT($($float_rest:tt)*))*
        $(HALF($half:ident, $h:ident, $($half_rest:tt)*))*
        $(INT($int:ident, $i:ident, $($int_rest:tt)*))*
        BOOL($($bool_rest:tt)*)
    ) => {
        number! {
            $(kiln_backend::half::$h: kiln_backend::half::$h::ZERO, a b Half::narrow(Half::widen(a) + Half::widen(b));)*
            $($i: 0, a b a.wrapping_add(b);)*
        }
        half!($(kiln_backend::half::$h)*);
    };
}
kiln_backend::dtype_table!(number_rows);

/// A type the tile kernels compute with.
pub(crate) trait Float: Number {}
impl Float for f32 {}
impl Float for f64 {}

/// A stored type `Self` that is computed in `T`.
pub(crate) trait Source<T>: Number {
    /// `Self` is `T`, so packing may read and results may be written without conversion.
    const SAME: bool;
    fn widen(self) -> T;
    fn narrow(x: T) -> Self;
    /// Converts `n` consecutive elements.
    ///
    /// # Safety
    /// `src` must be readable and `dst` writable for `n` elements, and they must not overlap.
    unsafe fn widen_run(src: *const Self, n: usize, dst: *mut T);
}

macro_rules! same {
    ($($t:ty)*) => {$(
        impl Source<$t> for $t {
            const SAME: bool = true;
            #[inline(always)]
            fn widen(self) -> $t {
                self
            }
            #[inline(always)]
            fn narrow(x: $t) -> $t {
                x
            }
            #[inline(always)]
            unsafe fn widen_run(src: *const $t, n: usize, dst: *mut $t) {
                // SAFETY: the caller's promise, word for word.
                unsafe { core::ptr::copy_nonoverlapping(src, dst, n) }
            }
        }
    )*};
}
same!(f32 f64);

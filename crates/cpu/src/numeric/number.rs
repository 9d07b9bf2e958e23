//! Numbers of the compute types, and their conversion to any other type with the semantics of Rust's `as`.

use kiln_backend::half::round_to_odd;

/// Defines the trait with a method for each integer type, and implements it for the compute types.
macro_rules! numbers {
    (()
        $(FLOAT($float:ident, $f:ident, $($float_rest:tt)*))*
        $(HALF($half:ident, $h:ident, $($half_rest:tt)*))*
        $(INT($int:ident, $i:ident, $($int_rest:tt)*))*
        BOOL($($bool_rest:tt)*)
    ) => {
        /// A number of a compute type, which can be converted to any other.
        pub(crate) trait Number: Copy + PartialOrd {
            /// The smallest value.
            const LOWEST: Self;
            /// The largest value.
            const HIGHEST: Self;
            fn f32(self) -> f32;
            /// As `f32`, but rounded to odd, so that rounding the result to half precision equals a single rounding.
            fn f32_odd(self) -> f32;
            fn f64(self) -> f64;
            $(fn $i(self) -> $i;)*
            fn truth(self) -> u8;
        }

        number!([$($i)*] f32 NEG_INFINITY INFINITY |x| x);
        number!([$($i)*] f64 NEG_INFINITY INFINITY |x| round_to_odd(x));
        integers!([$($i)*] $($i)*);
    };
}

macro_rules! integers {
    ($ints:tt $($i:ident)*) => {
        // `f32` represents integers of at most 16 bits exactly.
        $(number!($ints $i MIN MAX |x| if size_of::<$i>() <= 2 { x as f32 } else { round_to_odd(x as f64) });)*
    };
}

macro_rules! number {
    ([$($i:ident)*] $ty:ident $low:ident $high:ident |$x:ident| $odd:expr) => {
        impl Number for $ty {
            const LOWEST: $ty = $ty::$low;
            const HIGHEST: $ty = $ty::$high;
            #[inline(always)]
            fn f32(self) -> f32 {
                self as f32
            }
            #[inline(always)]
            fn f32_odd(self) -> f32 {
                let $x = self;
                $odd
            }
            #[inline(always)]
            fn f64(self) -> f64 {
                self as f64
            }
            $(
                #[inline(always)]
                fn $i(self) -> $i {
                    self as $i
                }
            )*
            #[inline(always)]
            fn truth(self) -> u8 {
                u8::from(self != 0 as $ty)
            }
        }
    };
}
kiln_backend::dtype_table!(numbers);

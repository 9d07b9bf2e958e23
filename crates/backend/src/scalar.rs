//! A single number of any dtype, as it is passed to operations.

use std::fmt;

/// A number that knows its kind. `2` is an integer and `2.0` a float, as in Python, so that `x + 2` keeps an integer
/// tensor an integer tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    /// A floating-point number.
    Float(f64),
    /// An integer.
    Int(i64),
    /// A truth value.
    Bool(bool),
}

impl Scalar {
    /// The value as `f64`; `true` is 1.
    #[must_use]
    pub fn to_f64(self) -> f64 {
        match self {
            Scalar::Float(v) => v,
            Scalar::Int(v) => v as f64,
            Scalar::Bool(v) => f64::from(u8::from(v)),
        }
    }

    /// The value as `i64`; floats are truncated towards zero and saturate, `true` is 1.
    #[must_use]
    pub fn to_i64(self) -> i64 {
        match self {
            Scalar::Float(v) => v as i64,
            Scalar::Int(v) => v,
            Scalar::Bool(v) => i64::from(v),
        }
    }

    /// Whether the value is not zero.
    #[must_use]
    pub fn to_bool(self) -> bool {
        match self {
            Scalar::Float(v) => v != 0.0,
            Scalar::Int(v) => v != 0,
            Scalar::Bool(v) => v,
        }
    }

    /// Whether this is a floating-point number.
    #[must_use]
    pub fn is_float(self) -> bool {
        matches!(self, Scalar::Float(_))
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::Float(v) => v.fmt(f),
            Scalar::Int(v) => v.fmt(f),
            Scalar::Bool(v) => v.fmt(f),
        }
    }
}

macro_rules! from {
    ($variant:ident, |$v:ident| $convert:expr; $($ty:ty)*) => {$(
        impl From<$ty> for Scalar {
            fn from($v: $ty) -> Self { Scalar::$variant($convert) }
        }
    )*};
}

macro_rules! from_elements {
    (()
        $(FLOAT($float:ident, $f:ident, $($float_rest:tt)*))*
        $(HALF($half:ident, $h:ident, $($half_rest:tt)*))*
        $(INT($int:ident, $i:ident, $($int_rest:tt)*))*
        BOOL($($bool_rest:tt)*)
    ) => {
        from! { Float, |v| v.into(); $($f)* $(crate::half::$h)* }
        from! { Int, |v| v.into(); $($i)* u32 }
        from! { Int, |v| v as i64; usize }
        from! { Bool, |v| v; bool }
    };
}
crate::dtype_table!(from_elements);

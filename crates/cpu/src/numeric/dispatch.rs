//! Dispatch from a run-time [`DType`](kiln_backend::DType) to the Rust type behind it.
//!
//! Each `for_…!` evaluates `$body` with the type alias `$T`, and returns an error for dtypes outside its group:
//! `for_float!("softmax", x.dtype(), T => softmax::<T>(x, out))`. The groups are made of the kinds of
//! [`dtype_table!`](kiln_backend::dtype_table).

/// The floating-point types.
macro_rules! for_float {
    ($op:expr, $dtype:expr, $T:ident => $body:expr) => {
        ::kiln_backend::dtype_table!(
            $crate::numeric::dispatch::kinds, floats, ($dtype, $T => $body)
            other => Err(::kiln_backend::Error::dtype($op, other, "it takes floating-point tensors"))
        )
    };
}

/// The floating-point types that are computed as `f32`.
macro_rules! for_half {
    ($dtype:expr, $T:ident => $body:expr, $other:ident => $rest:expr) => {
        ::kiln_backend::dtype_table!(
            $crate::numeric::dispatch::kinds, halves, ($dtype, $T => $body) $other => $rest
        )
    };
}

/// The integer types.
macro_rules! for_int {
    ($op:expr, $dtype:expr, $T:ident => $body:expr) => {
        ::kiln_backend::dtype_table!(
            $crate::numeric::dispatch::kinds, ints, ($dtype, $T => $body)
            other => Err(::kiln_backend::Error::dtype($op, other, "it takes integer tensors"))
        )
    };
}

/// The types of bitwise operations: integers and truth values.
macro_rules! for_bits {
    ($dtype:expr, $T:ident => $body:expr, $other:ident => $rest:expr) => {
        ::kiln_backend::dtype_table!(
            $crate::numeric::dispatch::kinds, bits, ($dtype, $T => $body) $other => $rest
        )
    };
}

/// The numeric types: all but truth values.
macro_rules! for_number {
    ($dtype:expr, $T:ident => $body:expr, $other:ident => $rest:expr) => {
        ::kiln_backend::dtype_table!(
            $crate::numeric::dispatch::kinds, numbers, ($dtype, $T => $body) $other => $rest
        )
    };
}

/// The numeric types that are computed as they are stored.
macro_rules! for_direct {
    ($dtype:expr, $T:ident => $body:expr, $other:ident => $rest:expr) => {
        ::kiln_backend::dtype_table!(
            $crate::numeric::dispatch::kinds, direct, ($dtype, $T => $body) $other => $rest
        )
    };
}

/// All types.
macro_rules! for_all {
    ($dtype:expr, $T:ident => $body:expr) => {
        ::kiln_backend::dtype_table!($crate::numeric::dispatch::kinds, all, ($dtype, $T => $body))
    };
}

/// Passes the variants and types of the table, kind by kind, to the macro of a group.
macro_rules! kinds {
    (($group:ident, $call:tt $($other:tt)*)
        $(FLOAT($float:ident, $f:ident, $($float_rest:tt)*))*
        $(HALF($half:ident, $h:ident, $($half_rest:tt)*))*
        $(INT($int:ident, $i:ident, $($int_rest:tt)*))*
        BOOL($($bool_rest:tt)*)
    ) => {
        $crate::numeric::dispatch::group!($group $call
            [$($float $f,)*] [$($half ::kiln_backend::half::$h,)*] [$($int $i,)*] [Bool $crate::numeric::stored::Truth,] $($other)*)
    };
}

/// The kinds that form a group.
macro_rules! group {
    (floats $call:tt [$($f:tt)*] [$($h:tt)*] $i:tt $b:tt $($other:tt)*) => {
        $crate::numeric::dispatch::dispatch!($call [$($f)* $($h)*] $($other)*)
    };
    (halves $call:tt $f:tt $h:tt $i:tt $b:tt $($other:tt)*) => {
        $crate::numeric::dispatch::dispatch!($call $h $($other)*)
    };
    (ints $call:tt $f:tt $h:tt $i:tt $b:tt $($other:tt)*) => {
        $crate::numeric::dispatch::dispatch!($call $i $($other)*)
    };
    (bits $call:tt $f:tt $h:tt [$($i:tt)*] [$($b:tt)*] $($other:tt)*) => {
        $crate::numeric::dispatch::dispatch!($call [$($i)* $($b)*] $($other)*)
    };
    (numbers $call:tt [$($f:tt)*] [$($h:tt)*] [$($i:tt)*] $b:tt $($other:tt)*) => {
        $crate::numeric::dispatch::dispatch!($call [$($f)* $($h)* $($i)*] $($other)*)
    };
    (direct $call:tt [$($f:tt)*] $h:tt [$($i:tt)*] $b:tt $($other:tt)*) => {
        $crate::numeric::dispatch::dispatch!($call [$($f)* $($i)*] $($other)*)
    };
    (all $call:tt [$($f:tt)*] [$($h:tt)*] [$($i:tt)*] [$($b:tt)*]) => {
        $crate::numeric::dispatch::dispatch!($call [$($f)* $($h)* $($i)* $($b)*])
    };
}

/// One arm for each of the dtypes; `$rest` is the arm for others, if there are any.
macro_rules! dispatch {
    (($dtype:expr, $T:ident => $body:expr) [$($variant:ident $ty:ty,)*] $($other:ident => $rest:expr)?) => {
        match $dtype {
            $(::kiln_backend::DType::$variant => {
                type $T = $ty;
                $body
            })*
            $($other => $rest,)?
        }
    };
}

pub(crate) use {dispatch, for_all, for_bits, for_direct, for_float, for_half, for_int, for_number, group, kinds};

//! From a run-time [`DType`](kiln_backend::DType) to the Rust type behind it.
//!
//! Each macro evaluates `$body` with the type alias `$T` and returns a typed error for dtypes outside its
//! group: `for_float!("softmax", x.dtype(), T => softmax::<T>(x, out))`.

/// One arm for each of the named dtypes; `$rest` is the arm for others, if there are any.
macro_rules! dispatch {
    ($dtype:expr, $T:ident => $body:expr, [$($variant:ident $ty:ty),*] $($other:ident => $rest:expr)?) => {
        match $dtype {
            $(::kiln_backend::DType::$variant => {
                type $T = $ty;
                $body
            })*
            $($other => $rest,)?
        }
    };
}

/// The four floating-point types.
macro_rules! for_float {
    ($op:expr, $dtype:expr, $T:ident => $body:expr) => {
        $crate::numeric::dispatch::dispatch!($dtype, $T => $body, [F32 f32, F64 f64, F16 ::half::f16, BF16 ::half::bf16]
            other => Err(::kiln_backend::Error::dtype($op, other, "it takes floating-point tensors")))
    };
}

/// The three integer types.
macro_rules! for_int {
    ($op:expr, $dtype:expr, $T:ident => $body:expr) => {
        $crate::numeric::dispatch::dispatch!($dtype, $T => $body, [I64 i64, I32 i32, U8 u8]
            other => Err(::kiln_backend::Error::dtype($op, other, "it takes integer tensors")))
    };
}

/// All eight types.
macro_rules! for_all {
    ($dtype:expr, $T:ident => $body:expr) => {
        $crate::numeric::dispatch::dispatch!($dtype, $T => $body, [F32 f32, F64 f64, F16 ::half::f16, BF16 ::half::bf16,
            I64 i64, I32 i32, U8 u8, Bool $crate::numeric::stored::Truth])
    };
}

pub(crate) use {dispatch, for_all, for_float, for_int};

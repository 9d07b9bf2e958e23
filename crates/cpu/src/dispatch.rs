//! From a run-time [`DType`](kiln_backend::DType) to the Rust type behind it.
//!
//! Each macro evaluates `$body` with the type alias `$T` and returns a typed error for dtypes outside its
//! group: `for_float!("softmax", x.dtype(), T => softmax::<T>(x, out))`.

/// The four floating-point types.
macro_rules! for_float {
    ($op:expr, $dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            ::kiln_backend::DType::F32 => {
                type $T = f32;
                $body
            }
            ::kiln_backend::DType::F64 => {
                type $T = f64;
                $body
            }
            ::kiln_backend::DType::F16 => {
                type $T = ::half::f16;
                $body
            }
            ::kiln_backend::DType::BF16 => {
                type $T = ::half::bf16;
                $body
            }
            other => Err(::kiln_backend::Error::dtype($op, other, "it takes floating-point tensors")),
        }
    };
}

/// The three integer types.
macro_rules! for_int {
    ($op:expr, $dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            ::kiln_backend::DType::I64 => {
                type $T = i64;
                $body
            }
            ::kiln_backend::DType::I32 => {
                type $T = i32;
                $body
            }
            ::kiln_backend::DType::U8 => {
                type $T = u8;
                $body
            }
            other => Err(::kiln_backend::Error::dtype($op, other, "it takes integer tensors")),
        }
    };
}

/// All eight types.
macro_rules! for_all {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            ::kiln_backend::DType::F32 => {
                type $T = f32;
                $body
            }
            ::kiln_backend::DType::F64 => {
                type $T = f64;
                $body
            }
            ::kiln_backend::DType::F16 => {
                type $T = ::half::f16;
                $body
            }
            ::kiln_backend::DType::BF16 => {
                type $T = ::half::bf16;
                $body
            }
            ::kiln_backend::DType::I64 => {
                type $T = i64;
                $body
            }
            ::kiln_backend::DType::I32 => {
                type $T = i32;
                $body
            }
            ::kiln_backend::DType::U8 => {
                type $T = u8;
                $body
            }
            ::kiln_backend::DType::Bool => {
                type $T = $crate::stored::Truth;
                $body
            }
        }
    };
}

pub(crate) use {for_all, for_float, for_int};

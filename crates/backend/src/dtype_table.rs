//! The element types: **one row is one dtype**. It generates the enum, sizes, names, promotion, the traits of the Rust
//! type, the host's vectors, the CPU's dispatch, conversions and loops over integers, and the columns of the tables of
//! CUDA kernels.
//!
//! Rust reads this file as this module, the build script of kiln-cuda and C++ read it through kernels/dtype_table.cuh, a
//! link to it, as `unary_table.rs` explains. The C++ type behind a name, and its group, are in kernels/common.cuh.
//!
//! ```text
//! KIND(Variant, name, torch name, bytes, rank, "documentation")
//! ```
//!
//! - The kind is `FLOAT` or `INT` for types that are computed as they are stored, `HALF` for floats that are computed
//!   as `f32`, `BOOL` for truth values. Rows of a kind are consecutive, in this order.
//! - `name` is that of the Rust type (from the crate `half` for `HALF`); messages and kernels use it too.
//! - `rank` decides which of two dtypes they promote to. Two of equal rank (`f16` and `bf16`) promote to `f32`.

/// Passes all rows of the table to the macro `$expand`, after further arguments for it, in parentheses.
// \
#[macro_export] macro_rules! dtype_table { ($($expand:ident)::+ $(, $($more:tt)*)?) => { $($expand)::+! { ($($($more)*)?)

FLOAT(F32, f32, float32, 4, 5, "32-bit IEEE float, the default.")
FLOAT(F64, f64, float64, 8, 6, "64-bit IEEE float.")
HALF(F16, f16, float16, 2, 4, "16-bit IEEE float. Arithmetic is done in `f32` and rounded once.")
HALF(BF16, bf16, bfloat16, 2, 4, "bfloat16: the upper half of an `f32`. Arithmetic is done in `f32` and rounded once.")
INT(I64, i64, int64, 8, 3, "64-bit signed integer, the type of indices and class labels.")
INT(I32, i32, int32, 4, 2, "32-bit signed integer.")
INT(U8, u8, uint8, 1, 1, "8-bit unsigned integer.")
BOOL(Bool, bool, bool, 1, 0, "Truth value, one byte (0 or 1) an element.")

// \
}}}
